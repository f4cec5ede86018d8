from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from distill.errors import PipelineError
from distill.gguf import convert as convert_module
from distill.gguf import verify
from distill.gguf.convert import convert
from distill.gguf.phi3 import read_phi3
from distill.gguf.verify import Agreement, ask_llama, check_structure, compute_reference, make_probe, measure_agreement
from distill.llamacpp import LlamaModel

# With a branch for tools, as Microsoft publishes it.
PHI_4_MINI_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)


@pytest.fixture(scope="module")
def peft_model(tiny_phi3: Path, tiny_lora: Path) -> Any:
    """The tuned model as Hugging Face and PEFT see it, which none of our code has touched."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(model, tiny_lora).merge_and_unload().eval()


@pytest.fixture(scope="module", params=["f16", "q4_k_m"])
def loaded(request: pytest.FixtureRequest, tuned_gguf: dict[str, Path]) -> Iterator[LlamaModel]:
    with LlamaModel(tuned_gguf[request.param], n_ctx=512, n_threads=1) as llama:
        yield llama


def predict(model: Any, probe: verify.Probe) -> verify.Distributions:
    with torch.inference_mode():
        return [
            model(torch.tensor([tokens])).logits[0, places].double().log_softmax(dim=-1).numpy()
            for tokens, places in zip(probe.sequences, probe.places)
        ]


def test_f16_in_llama_cpp_is_the_hugging_face_model(peft_model: Any, tiny_phi3: Path, tuned_gguf: dict[str, Path]) -> None:
    probe = make_probe(tiny_phi3, 270)
    with LlamaModel(tuned_gguf["f16"], n_ctx=512, n_threads=1) as llama:
        agreement = measure_agreement(predict(peft_model, probe), ask_llama(llama, probe))
    assert agreement.positions >= 260
    assert agreement.mean_kl < 1e-4
    assert agreement.top1 >= 0.995


def test_q4_k_m_in_llama_cpp_is_hugging_face_with_the_same_weights(tiny_phi3: Path, tuned_gguf: dict[str, Path]) -> None:
    path, probe = tuned_gguf["q4_k_m"], make_probe(tiny_phi3, 90)
    with LlamaModel(path, n_ctx=512, n_threads=1) as llama:
        found = ask_llama(llama, probe)
    own = compute_reference(tiny_phi3, verify.read_gguf_weights(path, tiny_phi3), probe)
    assert measure_agreement(own, found).mean_kl < 2e-3


def test_layers_brought_in_one_at_a_time_compute_the_same(peft_model: Any, tiny_phi3: Path, tiny_lora: Path) -> None:
    probe = make_probe(tiny_phi3, 30)
    streamed = verify.make_reference(tiny_phi3, tiny_lora, 30)()
    assert measure_agreement(predict(peft_model, probe), streamed).max_kl < 1e-9


def test_all_checks_together(tiny_phi3: Path, tiny_lora: Path, tuned_gguf: dict[str, Path]) -> None:
    reference = verify.make_reference(tiny_phi3, tiny_lora, 30)
    found = verify.verify_numbers(tuned_gguf["q4_k_m"], tiny_phi3, reference, 30)
    assert found["conversion"].mean_kl < found["against_16_bit"].mean_kl < 0.2


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q4_k_m"])
def test_rounded_activations_explain_the_difference(tiny_phi3: Path, tuned_gguf: dict[str, Path], quantization: str) -> None:
    path, probe = tuned_gguf[quantization], make_probe(tiny_phi3, 60)
    with LlamaModel(path, n_ctx=512, n_threads=1) as llama:
        found = ask_llama(llama, probe)
    weights = verify.read_gguf_weights(path, tiny_phi3)
    exact = compute_reference(tiny_phi3, weights, probe)
    rounded = compute_reference(tiny_phi3, weights, probe, verify.read_rounding(path, tiny_phi3))
    conversion, noise = measure_agreement(exact, found).mean_kl, measure_agreement(exact, rounded).mean_kl
    assert conversion < max(2 * noise, 1e-5)
    assert noise < max(2 * conversion, 1e-5)


@pytest.mark.parametrize("quantization", ["f16", "q4_k_m"])
@pytest.mark.parametrize("wrong", [
    {"attention_factor": 1.0}, {"rope_theta": 20_000.0}, {"norm_epsilon": 1e-3}, {"short_factors": (1.0,) * 24},
], ids=lambda wrong: next(iter(wrong)))
def test_a_wrong_conversion_is_noticed(
    tiny_phi3: Path, tmp_path: Path, wrong: dict[str, Any], quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "read_phi3", lambda folder: dataclasses.replace(read_phi3(folder), **wrong))
    convert(tiny_phi3, None, tmp_path / "wrong.gguf", quantization=quantization, name="tiny")
    with pytest.raises(PipelineError, match=r"wrong\.gguf failed verification: .* differ by 0\.\d+ nats"):
        verify.verify_numbers(tmp_path / "wrong.gguf", tiny_phi3, verify.make_reference(tiny_phi3, None, 30), 30)


def test_tokenizer_and_template_agree(loaded: LlamaModel, tiny_phi3: Path) -> None:
    verify.check_tokenizer(loaded, tiny_phi3)


def test_phi_4_minis_own_template_renders_the_same(tiny_phi3: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    (base / "chat_template.jinja").write_text(PHI_4_MINI_TEMPLATE, encoding="utf-8", newline="")
    convert(base, None, tmp_path / "a.gguf", quantization="f16", name="tiny")
    with LlamaModel(tmp_path / "a.gguf", n_ctx=512, n_threads=1) as llama:
        verify.check_tokenizer(llama, base)


def test_a_wrong_template_is_noticed(loaded: LlamaModel, tiny_phi3: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    with pytest.raises(PipelineError, match="chat template renders other"):
        verify.check_tokenizer(loaded, base)


def test_a_wrong_splitter_is_noticed(tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.gguf.tokenizer.recognise_splitter", lambda *_: "gpt-2")
    convert(tiny_phi3, None, tmp_path / "a.gguf", quantization="q4_k_m", name="tiny")
    with LlamaModel(tmp_path / "a.gguf", n_ctx=512, n_threads=1) as llama, pytest.raises(PipelineError, match="other tokens"):
        verify.check_tokenizer(llama, tiny_phi3)


def test_structure_of_a_good_file(tiny_phi3: Path, tuned_gguf: dict[str, Path]) -> None:
    for quantization, path in tuned_gguf.items():
        found = check_structure(path, tiny_phi3, quantization)
        assert found == {"tensors": 16, "tokens": 1024, "bytes": path.stat().st_size}


def test_types_of_another_quantisation_are_noticed(tiny_phi3: Path, tuned_gguf: dict[str, Path]) -> None:
    with pytest.raises(PipelineError, match=r"failed verification: .* is F16"):
        check_structure(tuned_gguf["f16"], tiny_phi3, "q4_k_m")


@pytest.mark.parametrize(("quantization", "tensor", "place"), [
    ("q4_k_m", "blk.0.ffn_up.weight", 2), ("q4_k_m", "token_embd.weight", 208), ("q8_0", "blk.0.ffn_up.weight", 0),
    ("f16", "output_norm.weight", 0),
])
def test_nan_is_noticed(
    tiny_phi3: Path, tuned_gguf: dict[str, Path], tmp_path: Path, quantization: str, tensor: str, place: int
) -> None:
    path = tmp_path / "nan.gguf"
    path.write_bytes(tuned_gguf[quantization].read_bytes())
    found = next(item for item in GGUFReader(path).tensors if item.name == tensor)
    nan = np.float32(np.nan).tobytes() if quantization == "f16" else np.float16(np.nan).tobytes()
    with open(path, "r+b") as file:
        file.seek(int(found.data_offset) + place)
        file.write(nan)
    with pytest.raises(PipelineError, match=f"{tensor} holds NaN"):
        check_structure(path, tiny_phi3, quantization)


def test_half_a_file_is_one_line(tiny_phi3: Path, tuned_gguf: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(tuned_gguf["q4_k_m"].read_bytes()[:400_000])
    with pytest.raises(PipelineError, match="is no complete GGUF"):
        check_structure(path, tiny_phi3, "q4_k_m")


def test_agreement_by_hand() -> None:
    reference = [np.log([[0.5, 0.5], [0.9, 0.1]])]
    found = measure_agreement(reference, [np.log([[0.5, 0.5], [0.1, 0.9]])])
    distance = 0.9 * np.log(9) - 0.1 * np.log(9)
    assert found == Agreement(pytest.approx(distance / 2), pytest.approx(distance), 0.5, 2)


def test_equally_likely_tokens_count_as_the_same() -> None:
    found = measure_agreement([np.log([[0.501, 0.499]])], [np.log([[0.499, 0.501]])])
    assert found.top1 == 1.0


def test_no_number_is_no_agreement(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="failed verification"):
        verify.require_agreement(tmp_path / "a.gguf", Agreement(float("nan"), 0.0, 1.0, 1), Agreement(0.0, 0.0, 1.0, 1))
