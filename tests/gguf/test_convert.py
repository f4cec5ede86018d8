from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file

from demo.tiny_phi3 import describe_rope
from distill.errors import PipelineError
from distill.gguf import convert as module
from distill.gguf.convert import Conversion, Output, convert, count_tensors, estimate_bytes
from tests.tiny_models import write_tiny_phi3


def convert_one(base: Path, adapter: Path | None, path: Path, quantization: str = "f16", **options: Any) -> Conversion:
    return convert(base, adapter, [Output(path, quantization, "tiny", adapter is not None)], **options)[0]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: dequantize(np.array(tensor.data), tensor.tensor_type) for tensor in GGUFReader(path).tensors}


def test_f16_holds_the_base_exactly(tiny_phi3: Path, tmp_path: Path) -> None:
    convert_one(tiny_phi3, None, tmp_path / "a.gguf")
    base = {name: tensor for shard in tiny_phi3.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    found = read_tensors(tmp_path / "a.gguf")
    for name, stored in (("model.embed_tokens", "token_embd"), ("model.layers.1.self_attn.qkv_proj", "blk.1.attn_qkv"),
                         ("model.layers.0.mlp.gate_up_proj", "blk.0.ffn_up"), ("model.norm", "output_norm")):
        assert (found[f"{stored}.weight"] == base[f"{name}.weight"].half().float().numpy()).all()
    assert found["rope_factors_short.weight"].tolist() == pytest.approx(describe_rope(24)["short_factor"])
    assert len(found) == len(base) + 2 == count_tensors(tiny_phi3)


def test_metadata(tuned_gguf: dict[str, Path]) -> None:
    fields = GGUFReader(tuned_gguf["q4_k_m"]).fields
    expected = {
        "general.architecture": "phi3", "general.name": "tiny", "general.file_type": 15, "general.quantization_version": 2,
        "phi3.context_length": 131072, "phi3.rope.scaling.original_context_length": 4096, "phi3.rope.dimension_count": 48,
        "phi3.attention.head_count": 4, "phi3.attention.head_count_kv": 2, "phi3.attention.sliding_window": 262144,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-4o", "tokenizer.ggml.add_bos_token": False,
    }
    assert {key: fields[key].contents() for key in expected} == expected
    assert fields["phi3.rope.scaling.attn_factor"].contents() == pytest.approx(1.1902380714)


def test_types_sizes_and_report(tiny_phi3: Path, tiny_lora: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    done = convert_one(tiny_phi3, tiny_lora, tmp_path / "a.gguf", "q4_k_m", advance=lambda: calls.append(1))
    tensors = {tensor.name: tensor.tensor_type for tensor in GGUFReader(done.path).tensors}
    assert tensors["token_embd.weight"] == tensors["blk.1.attn_qkv.weight"] == tensors["blk.1.ffn_down.weight"] == Kind.Q6_K
    assert tensors["blk.0.attn_qkv.weight"] == tensors["blk.1.ffn_up.weight"] == Kind.Q4_K
    assert done.types == {"F32": 7, "Q6_K": 3, "Q4_K": 6}
    assert len(done.merged) == 8
    assert done.bytes == done.path.stat().st_size
    assert 0 < done.bytes - estimate_bytes(tiny_phi3, "q4_k_m") < 100_000
    assert len(calls) == count_tensors(tiny_phi3)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_a_model_is_private_like_the_texts_it_learned(tuned_gguf: dict[str, Path]) -> None:
    assert {path.stat().st_mode & 0o777 for path in tuned_gguf.values()} == {0o600}


def test_the_adapter_reaches_the_file(tiny_phi3: Path, tuned_gguf: dict[str, Path], tmp_path: Path) -> None:
    convert_one(tiny_phi3, None, tmp_path / "base.gguf")
    base, tuned = read_tensors(tmp_path / "base.gguf"), read_tensors(tuned_gguf["f16"])
    changed = {name.split(".")[-2] for name in base if not np.array_equal(base[name], tuned[name])}
    assert changed == {"attn_qkv", "attn_output", "ffn_up", "ffn_down"}


def test_slices_make_no_difference(
    tiny_phi3: Path, tiny_lora: Path, tuned_gguf: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_VALUES", 5_000)
    convert_one(tiny_phi3, tiny_lora, tmp_path / "a.gguf")
    found, whole = read_tensors(tmp_path / "a.gguf"), read_tensors(tuned_gguf["f16"])
    for name in whole:
        # A matrix product over fewer rows may round its last bit otherwise.
        np.testing.assert_allclose(found[name], whole[name], rtol=2e-3, atol=1e-6)


def test_both_spellings_of_config_json_give_one_file(tiny_phi3: Path, tmp_path: Path) -> None:
    saved = write_tiny_phi3(tmp_path / "saved", hub_style=False)
    assert "rope_parameters" in json.loads((saved / "config.json").read_text("utf-8"))
    for base in (tiny_phi3, saved):
        convert_one(base, None, tmp_path / f"{base.name}.gguf")
    assert (tmp_path / f"{tiny_phi3.name}.gguf").read_bytes() == (tmp_path / "saved.gguf").read_bytes()


def test_untied_models_keep_their_output_matrix(tmp_path: Path) -> None:
    base = write_tiny_phi3(tmp_path / "untied", tied=False)
    convert_one(base, None, tmp_path / "a.gguf", "q4_k_m")
    tensors = {tensor.name: tensor.tensor_type for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    assert (tensors["output.weight"], tensors["token_embd.weight"]) == (Kind.Q6_K, Kind.Q4_K)


def test_rows_of_384_fall_back(tmp_path: Path) -> None:
    base = write_tiny_phi3(tmp_path / "odd", hidden=384)
    convert_one(base, None, tmp_path / "a.gguf", "q4_k_m")
    tensors = {tensor.name: tensor.tensor_type for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    assert tensors["token_embd.weight"] == Kind.Q8_0
    assert tensors["blk.0.ffn_up.weight"] == Kind.Q5_0
    assert tensors["blk.0.ffn_down.weight"] == Kind.Q4_K


def change_shard(base: Path, name: str, tensor: torch.Tensor | None) -> None:
    shard = next(path for path in sorted(base.glob("*.safetensors")) if name in load_file(path) or tensor is not None)
    tensors = {**load_file(shard), name: tensor}
    save_file({key: value for key, value in tensors.items() if value is not None}, shard)


@pytest.mark.parametrize(("name", "tensor", "problem"), [
    ("model.norm.weight", None, "model.norm.weight is missing"),
    ("model.layers.0.extra.weight", torch.ones(2), "extra.weight has no place in a phi3 GGUF"),
])
def test_tensors_too_few_or_too_many(
    tiny_phi3: Path, tmp_path: Path, name: str, tensor: torch.Tensor | None, problem: str
) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    change_shard(base, name, tensor)
    with pytest.raises(PipelineError, match=problem):
        convert_one(base, None, tmp_path / "a.gguf")
    assert list(tmp_path.glob("*.gguf*")) == []


def test_config_and_weights_must_fit(tiny_phi3: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "intermediate_size": 1024}), encoding="utf-8")
    with pytest.raises(PipelineError, match=r"is \(\d+, \d+\), config\.json says"):
        convert_one(base, None, tmp_path / "a.gguf")


def test_a_failure_half_way_leaves_no_file_of_any_output(
    tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_late(rows: torch.Tensor, kind: Kind) -> np.ndarray:
        if rows.shape[1] == 512:
            raise PipelineError("the disk is full")
        return np.zeros((rows.shape[0], rows.shape[1] * 2), dtype=np.uint8)

    monkeypatch.setattr(module, "quantise", fail_late)
    with pytest.raises(PipelineError, match="disk is full"):
        convert(tiny_phi3, None, [Output(tmp_path / f"{name}.gguf", "f16", "tiny", False) for name in "ab"])
    assert os.listdir(tmp_path) == []


def test_several_outputs_of_one_read_are_those_of_single_runs(
    tiny_phi3: Path, tiny_lora: Path, outputs: list[Output], tmp_path: Path
) -> None:
    for output in outputs:
        single = tmp_path / output.path.name
        convert(tiny_phi3, tiny_lora, [dataclasses.replace(output, path=single)])
        assert single.read_bytes() == output.path.read_bytes(), output


def test_base_and_tuned_of_one_read(base_gguf: dict[str, Path], tuned_gguf: dict[str, Path], tiny_phi3: Path) -> None:
    stored = {name: tensor for shard in tiny_phi3.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    base, tuned = (read_tensors(paths["f16"])["blk.1.ffn_up.weight"] for paths in (base_gguf, tuned_gguf))
    original = stored["model.layers.1.mlp.gate_up_proj.weight"].half().float().numpy()
    assert np.array_equal(base, original)
    assert not np.array_equal(tuned, original)


def test_only_tuned_outputs_name_what_was_merged(tiny_phi3: Path, tiny_lora: Path, tmp_path: Path) -> None:
    both = [Output(tmp_path / f"{tuned}.gguf", "f16", "tiny", tuned) for tuned in (True, False)]
    assert [len(done.merged) for done in convert(tiny_phi3, tiny_lora, both)] == [8, 0]
