from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM

from distill.errors import PipelineError
from distill.gguf.chat import recognise_format
from distill.gguf.convert import Output, convert
from distill.gguf.external import QUANTISER, LlamaCpp, convert_to_f16, find_llama_cpp, run_program
from distill.gguf.making import Materials, make_files_with
from distill.gguf.merge import MergedWeights
from distill.gguf.shards import BaseWeights
from distill.gguf.verification import foreign, logits
from distill.gguf.verification.foreign import compare_quantised, compute_merged, describe_unknown, verify_foreign
from distill.gguf.verification.lines import describe_checks
from distill.gguf.verification.structure import open_gguf
from tests.gguf.llama_source import find_llama_cpp as find_source
from tests.gguf.tiny_families import write_tiny_model
from tests.tiny_models import write_random_lora

STAND_IN = """\
import json, os, sys
target = sys.argv[sys.argv.index("--outfile") + 1]
told = {"arguments": sys.argv[1:], "offline": os.environ.get("HF_HUB_OFFLINE"), "path": os.environ.get("PYTHONPATH")}
open(target, "w", encoding="utf-8").write(json.dumps(told))
"""


def make_sources(folder: Path, converter: str = STAND_IN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "convert_hf_to_gguf.py").write_text(converter, encoding="utf-8")
    return folder


@pytest.mark.parametrize("place", ["build/bin", "build/bin/Release", "bin", "."])
def test_the_quantiser_is_found_where_builds_and_releases_leave_it(tmp_path: Path, place: str) -> None:
    folder = make_sources(tmp_path / "llama.cpp")
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / QUANTISER).write_bytes(b"")
    assert find_llama_cpp(folder, ["q4_k_m"]).quantiser == folder / place / QUANTISER


def test_f16_needs_no_quantiser(tmp_path: Path) -> None:
    assert find_llama_cpp(make_sources(tmp_path / "llama.cpp"), ["f16"]).quantiser is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"convert_hf_to_gguf\.py is not there"):
        find_llama_cpp(tmp_path, ["f16"])
    with pytest.raises(PipelineError, match=f"{QUANTISER} is in none of build/bin.*quantization to"):
        find_llama_cpp(make_sources(tmp_path / "llama.cpp"), ["f16", "q4_k_m"])


def test_the_converter_works_offline_with_its_own_gguf_package(tmp_path: Path) -> None:
    tools = find_llama_cpp(make_sources(tmp_path / "llama.cpp"), ["f16"])
    convert_to_f16(tools, tmp_path / "merged", tmp_path / "a.gguf")
    told = json.loads((tmp_path / "a.gguf").read_text("utf-8"))
    assert told["arguments"][0] == str(tmp_path / "merged") and told["arguments"][-2:] == ["--outtype", "f16"]
    assert told["offline"] == "1" and told["path"] == str(tmp_path / "llama.cpp" / "gguf-py")


def test_a_failing_converter_is_one_line_with_its_last_words(tmp_path: Path) -> None:
    words = "import sys\nprint('reading')\nprint('BPE pre-tokenizer was not recognized')\nsys.exit(3)\n"
    tools = LlamaCpp(make_sources(tmp_path, words) / "convert_hf_to_gguf.py", None)
    with pytest.raises(PipelineError) as error:
        convert_to_f16(tools, tmp_path, tmp_path / "a.gguf")
    expected = "convert_hf_to_gguf.py failed with exit code 3: reading / BPE pre-tokenizer was not recognized"
    assert str(error.value) == expected


def test_a_program_that_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be started"):
        run_program([str(tmp_path / "nothing")], {})


def test_a_program_that_ends_well_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run_program([sys.executable, "-c", "print('chatter')"], {})
    assert capfd.readouterr() == ("", "")


# -----------------------------------------------------------------------------
# llama.cpp's real converter


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base whose tokenizer llama.cpp's converter takes without knowing its name, and an adapter."""
    return write_both(tmp_path_factory, "gemma3")


def write_both(tmp_path_factory: pytest.TempPathFactory, family: str) -> tuple[Path, Path]:
    base = write_tiny_model(tmp_path_factory.mktemp(family), family)
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return base, write_random_lora(base, tmp_path_factory.mktemp("lora"), target_modules=targets)


def make_materials(base: Path, adapter: Path, work: Path) -> Materials:
    texts = ["The relief valve opens at 4.5 bar.\n\nIt is tested every 250 hours."]
    return Materials(base, adapter, work, "quick", recognise_format(base), texts=texts)


def list_outputs(work: Path, quantization: str) -> list[Output]:
    return [Output(work / f"{name}.part", quantization, name, name == "tuned") for name in ("tuned", "base")]


def test_llama_cpp_itself_converts_and_its_file_is_proven(gemma: tuple[Path, Path], tmp_path: Path) -> None:
    tools = find_llama_cpp(find_source(), ["f16"])
    tuned, base = make_files_with(tools, make_materials(*gemma, tmp_path), list_outputs(tmp_path, "f16"), tmp_path / "merged")
    assert len(tuned.merged) % 7 == 0 and tuned.merged and not base.merged
    for made in (tuned, base):
        assert {"tokenization", "chat_template", "conversion", "structure", "quantisation"} == made.checks.keys()
        assert made.checks["conversion"]["mean_kl"] < 1e-4 and made.checks["quantisation"]["mean_kl"] < 1e-6
        assert GGUFReader(made.output.path).fields["general.architecture"].contents() == "gemma3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.part", "merged", "tuned.part"]


def test_a_converter_that_loses_the_adapter_is_found_out(gemma: tuple[Path, Path], tmp_path: Path) -> None:
    real = find_source()
    program = f"import sys, runpy\nsys.argv[1] = {str(gemma[0])!r}\nsys.path.insert(0, {str(real)!r})\n"
    program += f"runpy.run_path({str(real / 'convert_hf_to_gguf.py')!r}, run_name='__main__')\n"
    tools = find_llama_cpp(make_sources(tmp_path / "llama.cpp", program), ["f16"])
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(PipelineError, match=r"llama\.cpp and the merged model differ by"):
        list(make_files_with(tools, make_materials(*gemma, work), list_outputs(work, "f16")[:1], None))
    assert [path.name for path in work.iterdir()] == []


def test_a_space_that_its_converter_doubles_is_found_out(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Mistral v0.3: it asks llama.cpp for a space behind every special token, where the tokenizer puts none."""
    materials = make_materials(*write_both(tmp_path_factory, "mistral_v3"), tmp_path)
    with pytest.raises(PipelineError, match="failed verification: tokenization of"):
        list(make_files_with(find_llama_cpp(find_source(), ["f16"]), materials, list_outputs(tmp_path, "f16"), None))


def test_the_lines_claim_no_plan_and_no_third_way(gemma: tuple[Path, Path], tmp_path: Path) -> None:
    tools = find_llama_cpp(find_source(), ["f16"])
    made = next(make_files_with(tools, make_materials(*gemma, tmp_path), list_outputs(tmp_path, "f16")[1:], None))
    assert (made.checks["chat_template"]["ways"], made.checks["structure"]["planned"]) == (2, False)
    lines = "\n".join(describe_checks("a.gguf", made.checks))
    assert "as planned" not in lines and "Ollama" not in lines
    assert " tokens, no NaN" in lines and "conversations alike by Jinja and llama.cpp" in lines


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("error", [None, PipelineError("wrong"), KeyboardInterrupt()])
def test_no_foreign_file_stays_mapped(
    gemma: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    output = Output(tmp_path / "mapped.gguf", "f16", "tiny", False)
    convert(gemma[0], None, [output])
    answers, held = verify_foreign(output.path, gemma[0], recognise_format(gemma[0]), [])[1], []

    def fail(path: Path, _: object) -> float:
        # As a check does that still holds a tensor when it fails.
        tensors = open_gguf(path).tensors
        held.append(len(tensors))
        if error:
            raise error
        return 1.0

    monkeypatch.setattr(foreign, "require_likeness", fail)
    try:
        compare_quantised(output, gemma[0], answers)
        assert error is None
    except (PipelineError, KeyboardInterrupt) as raised:
        assert raised is error
        assert str(output.path) not in Path("/proc/self/maps").read_text()
    assert held and str(output.path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("key", "name"), [("num_hidden_layers", "model.embed_tokens.weight"), ("", "transformer.wte.weight")])
def test_a_model_that_cannot_be_described_is_refused_in_one_line(tmp_path: Path, key: str, name: str) -> None:
    settings = {"num_hidden_layers": 2, "model_type": "other"}
    settings.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file({name: torch.zeros(8, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(PipelineError, match=r"is missing, so what llama\.cpp makes of this model cannot be proven: ") as raised:
        describe_unknown(tmp_path)
    assert "\n" not in str(raised.value) and (key or "embed_tokens.weight") in str(raised.value)


def test_a_mixture_of_experts_is_refused_in_one_line(tmp_path: Path, gemma: tuple[Path, Path]) -> None:
    """Its experts are single matrices in the safetensors and one tensor, under another name, in Hugging Face's model."""
    write_mixture(tmp_path)
    shutil.copy(gemma[0] / "tokenizer.json", tmp_path)
    model, probe = describe_unknown(tmp_path), logits.make_probe(tmp_path, 3)
    with pytest.raises(PipelineError, match=r"other parts \(.*model\.layers\.0\.mlp\..*\), so what llama\.cpp makes"):
        compute_merged(model, probe)


def write_mixture(folder: Path) -> None:
    """A random Mixtral with the tensors' names that are published."""
    config = MixtralConfig(
        vocab_size=1024, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, tie_word_embeddings=False,
    )
    MixtralForCausalLM(config).save_pretrained(folder)


def test_rounding_of_what_is_no_module_is_left_out(gemma: tuple[Path, Path]) -> None:
    model, probe = describe_unknown(gemma[0]), logits.make_probe(gemma[0], 3)
    with BaseWeights(gemma[0]) as base:
        weights = logits.read_merged_weights(MergedWeights(base), model)
        names = {"model.layers.0.mlp.experts.0.up_proj": lambda values: values * 0}
        exact, rounded = logits.compute_both(model, weights, probe, names)
    assert all((one == other).all() for one, other in zip(exact, rounded))


@pytest.mark.skipif("LLAMA_CPP" not in os.environ, reason="LLAMA_CPP names no built llama.cpp")
def test_a_built_llama_cpp_quantises(gemma: tuple[Path, Path], tmp_path: Path) -> None:
    tools = find_llama_cpp(Path(os.environ["LLAMA_CPP"]), ["q4_k_m"])
    made = list(make_files_with(tools, make_materials(*gemma, tmp_path), list_outputs(tmp_path, "q4_k_m"), None))
    assert all(each.types["Q4_K"] > 0 and 1e-4 < each.checks["quantisation"]["mean_kl"] < 1 for each in made)
