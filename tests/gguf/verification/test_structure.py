from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.errors import PipelineError
from distill.gguf import convert as convert_module
from distill.gguf.convert import Output, convert
from distill.gguf.families import read_model
from distill.gguf.families.common import Model
from distill.gguf.verification import structure
from distill.gguf.verification.structure import check_structure, describe_value, release_mappings
from tests.gguf.edited_gguf import edit_key, edit_tensor
from tests.tiny_models import write_tiny_phi3


@pytest.fixture(scope="module")
def model(tiny_phi3: Path) -> Model:
    return read_model(tiny_phi3)


def test_counts_of_good_files(model: Model, outputs: list[Output]) -> None:
    for output in outputs:
        found = check_structure(output.path, model, output.quantization)
        assert (found["tensors"], found["tokens"], found["bytes"]) == (16, 1024, output.path.stat().st_size)
        assert found["keys"] > len(model.metadata) + 10


@pytest.mark.parametrize("options", [{"tied": False}, {"hidden": 384}, {"hub_style": False}])
def test_other_shapes_are_good_too(tmp_path: Path, options: dict[str, Any]) -> None:
    base = write_tiny_phi3(tmp_path / "base", **options)
    for quantization in ("bf16", "q5_k_m"):
        convert(base, None, [Output(tmp_path / "a.gguf", quantization, "tiny", False)])
        check_structure(tmp_path / "a.gguf", read_model(base), quantization)


def test_types_of_another_quantisation_are_noticed(model: Model, tuned_gguf: dict[str, Path]) -> None:
    with pytest.raises(PipelineError, match=r"tuned-f16\.gguf failed verification: token_embd\.weight is F16, not Q6_K"):
        check_structure(tuned_gguf["f16"], model, "q4_k_m")


@pytest.mark.parametrize(("quantization", "tensor", "place"), [
    ("q4_k_m", "blk.0.ffn_up.weight", 2), ("q4_k_m", "token_embd.weight", 208), ("q8_0", "blk.0.ffn_up.weight", 0),
    ("f16", "blk.1.ffn_up.weight", 200_000), ("f16", "output_norm.weight", 0),
])
def test_nan_is_noticed(
    model: Model, tuned_gguf: dict[str, Path], tmp_path: Path, quantization: str, tensor: str, place: int
) -> None:
    nan = np.float32(np.nan) if "norm" in tensor else np.float16(np.nan)
    path = edit_tensor(tuned_gguf[quantization], tmp_path, tensor, nan.tobytes(), place)
    with pytest.raises(PipelineError, match=f"{tensor} holds NaN"):
        check_structure(path, model, quantization)


def test_nan_in_bf16_and_in_a_late_row_is_noticed(
    model: Model, tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "CHUNK_ROWS", 100)
    convert(tiny_phi3, None, [Output(tmp_path / "a.gguf", "bf16", "tiny", False)])
    path = edit_tensor(tmp_path / "a.gguf", tmp_path, "token_embd.weight", b"\xc0\x7f", 2 * 256 * 1_023)
    with pytest.raises(PipelineError, match=r"token_embd\.weight holds NaN"):
        check_structure(path, model, "bf16")


def test_half_a_file_is_one_line(model: Model, tuned_gguf: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(tuned_gguf["q4_k_m"].read_bytes()[:400_000])
    with pytest.raises(PipelineError, match="is no complete GGUF"):
        check_structure(path, model, "q4_k_m")


@pytest.mark.parametrize(("key", "value", "entry", "problem"), [
    ("tokenizer.ggml.tokens", "!", 60, "tokenizer.ggml.tokens is a list of 1024"),
    ("tokenizer.ggml.token_type", 3, 500, "tokenizer.ggml.token_type is a list of 1024"),
    ("tokenizer.ggml.pre", "tekken", -1, "tokenizer.ggml.pre is 'tekken', not 'gpt-4o'"),
    ("tokenizer.ggml.eos_token_id", 5, -1, "tokenizer.ggml.eos_token_id is 5, not 993"),
    ("tokenizer.ggml.add_bos_token", True, -1, "tokenizer.ggml.add_bos_token is True, not False"),
    ("general.name", "phi3", -1, "general.name 'phi3' makes llama.cpp take it for a Phi-3"),
    ("general.file_type", 7, -1, "general.file_type is 7, not 15"),
    ("phi3.context_length", 4096, -1, "phi3.context_length is 4096, not 131072"),
    ("phi3.rope.freq_base", 20_000.0, -1, r"phi3.rope.freq_base is 20000.0, not 10000.0"),
])
def test_a_wrong_key_is_named(
    model: Model, tuned_gguf: dict[str, Path], tmp_path: Path, key: str, value: Any, entry: int, problem: str
) -> None:
    path = edit_key(tuned_gguf["q4_k_m"], tmp_path, key, value, entry)
    with pytest.raises(PipelineError, match=problem):
        check_structure(path, model, "q4_k_m")


@pytest.mark.parametrize(("change", "problem"), [
    ({"phi3.attention.sliding_window": None}, "the key phi3.attention.sliding_window is missing"),
    ({"phi3.rope.scaling.attn_factor": 1}, "phi3.rope.scaling.attn_factor is not of type FLOAT32"),
    ({"phi3.rope.dimension_count": 48.0}, "phi3.rope.dimension_count is not of type UINT32"),
    ({"phi3.rope.scaling.type": "yarn"}, r"the key \['phi3.rope.scaling.type'\] belongs to no phi3 model"),
])
def test_metadata_as_no_model_has_it(
    model: Model, tiny_phi3: Path, tmp_path: Path, change: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {key: value for key, value in (model.metadata | change).items() if value is not None}
    monkeypatch.setattr(convert_module, "read_model", lambda _: dataclasses.replace(model, metadata=metadata))
    convert(tiny_phi3, None, [Output(tmp_path / "a.gguf", "q8_0", "tiny", False)])
    with pytest.raises(PipelineError, match=problem):
        check_structure(tmp_path / "a.gguf", model, "q8_0")


@pytest.mark.parametrize(("constants", "problem"), [
    ({}, r"tensors differ: \['rope_factors_long.weight', 'rope_factors_short.weight'\]"),
    ({"rope_factors_short.weight": (1.0,) * 24}, "rope_factors_short.weight holds other values than config.json"),
])
def test_lost_rope_factors(
    model: Model, tiny_phi3: Path, tmp_path: Path, constants: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(model, constants=model.constants | constants if constants else {})
    monkeypatch.setattr(convert_module, "read_model", lambda _: wrong)
    convert(tiny_phi3, None, [Output(tmp_path / "a.gguf", "q8_0", "tiny", False)])
    with pytest.raises(PipelineError, match=problem):
        check_structure(tmp_path / "a.gguf", model, "q8_0")


@pytest.mark.parametrize(("value", "kinds", "contents"), [
    (True, ["BOOL"], True), (7, ["UINT32"], 7), (0.1, ["FLOAT32"], float(np.float32(0.1))), ("x", ["STRING"], "x"),
    ([1, 2], ["ARRAY", "INT32"], [1, 2]), ([0.1], ["ARRAY", "FLOAT32"], [float(np.float32(0.1))]),
    ([True], ["ARRAY", "BOOL"], [True]),
])
def test_types_of_values(value: Any, kinds: list[str], contents: Any) -> None:
    types, found = describe_value(value)
    assert ([kind.name for kind in types], found) == (kinds, contents)


def test_release_forgets_what_an_error_holds(tuned_gguf: dict[str, Path], model: Model) -> None:
    try:
        check_structure(tuned_gguf["f16"], model, "q4_k_m")
    except PipelineError as error:
        frame = error.__traceback__.tb_next
        assert frame is not None and "reader" in frame.tb_frame.f_locals
        release_mappings(error)
        assert "reader" not in frame.tb_frame.f_locals
