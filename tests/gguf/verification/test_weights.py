from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from distill.errors import PipelineError
from distill.gguf import convert as convert_module
from distill.gguf.convert import Output, convert
from distill.gguf.families import read_model
from distill.gguf.families.common import Model
from distill.gguf.merge import MergedWeights, load_adapter
from distill.gguf.shards import BaseWeights
from distill.gguf.verification.weights import check_weights, spread_rows
from tests.gguf.edited_gguf import edit_tensor


@pytest.fixture(scope="module")
def model(tiny_phi3: Path) -> Model:
    return read_model(tiny_phi3)


@pytest.fixture(scope="module")
def base(tiny_phi3: Path) -> Iterator[BaseWeights]:
    with BaseWeights(tiny_phi3) as weights:
        yield weights


@pytest.fixture(scope="module")
def merged(base: BaseWeights, tiny_lora: Path) -> MergedWeights:
    return MergedWeights(base, load_adapter(tiny_lora))


def test_good_files(model: Model, base: BaseWeights, merged: MergedWeights, outputs: list[Output]) -> None:
    for output in outputs:
        found = check_weights(output.path, model, merged if output.tuned else MergedWeights(base))
        assert found["worst_error_of_limit"] < 0.5
        assert found["adapter_share"] == (pytest.approx(1, abs=0.03) if output.tuned else None)


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q4_k_m"])
def test_a_forgotten_adapter_is_noticed(
    model: Model, merged: MergedWeights, base_gguf: dict[str, Path], quantization: str
) -> None:
    with pytest.raises(PipelineError, match=r"base-.* failed verification: weights: blk\.0\."):
        check_weights(base_gguf[quantization], model, merged)


def change_alpha(lora: Path, folder: Path, alpha: float) -> Path:
    """A copy of an adapter that was made with alpha 16."""
    other = Path(shutil.copytree(lora, folder / "lora"))
    settings = json.loads((other / "adapter_config.json").read_text("utf-8"))
    (other / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": alpha}), encoding="utf-8")
    return other


def test_a_small_update_that_rounding_hides_is_found_missing(
    model: Model, base: BaseWeights, tiny_lora: Path, base_gguf: dict[str, Path], tmp_path: Path
) -> None:
    # A tenth of the tests' update, far below what q4_k_m rounds off.
    merged = MergedWeights(base, load_adapter(change_alpha(tiny_lora, tmp_path, 1.6)))
    with pytest.raises(PipelineError, match=r"holds -?0\.\d\d of the adapter's update \(limit 1 \+- 0\.\d\d\)"):
        check_weights(base_gguf["q4_k_m"], model, merged)


def test_an_adapter_of_another_strength_is_noticed(
    model: Model, base: BaseWeights, tiny_lora: Path, tuned_gguf: dict[str, Path], tmp_path: Path
) -> None:
    merged = MergedWeights(base, load_adapter(change_alpha(tiny_lora, tmp_path, 20)))
    with pytest.raises(PipelineError, match=r"blk\.0\.attn_qkv\.weight holds 0\.\d\d of the adapter's update"):
        check_weights(tuned_gguf["q4_k_m"], model, merged)


def test_swapped_halves_are_noticed(
    model: Model, base: BaseWeights, tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(model, weights=tuple(
        dataclasses.replace(weight, heads=8) if "attn_qkv" in weight.name else weight for weight in model.weights
    ))
    monkeypatch.setattr(convert_module, "read_model", lambda _: wrong)
    convert(tiny_phi3, None, [Output(tmp_path / "a.gguf", "q4_k_m", "tiny", False)])
    with pytest.raises(PipelineError, match=r"weights: blk\.0\.attn_qkv\.weight is 1\.\d of its size from base and adapter"):
        check_weights(tmp_path / "a.gguf", model, MergedWeights(base))


def test_the_wrong_norm_is_noticed(
    model: Model, base: BaseWeights, tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = {"blk.1.attn_norm.weight": "blk.1.ffn_norm.weight", "blk.1.ffn_norm.weight": "blk.1.attn_norm.weight"}
    sources = {weight.name: weight.source for weight in model.weights}
    wrong = dataclasses.replace(model, weights=tuple(
        dataclasses.replace(weight, source=sources[swap.get(weight.name, weight.name)]) for weight in model.weights
    ))
    monkeypatch.setattr(convert_module, "read_model", lambda _: wrong)
    convert(tiny_phi3, None, [Output(tmp_path / "a.gguf", "f16", "tiny", False)])
    with pytest.raises(PipelineError, match=r"weights: blk\.1\.attn_norm\.weight is 0\.\d+ of its size"):
        check_weights(tmp_path / "a.gguf", model, MergedWeights(base))


def test_every_layout_is_compared_in_hugging_faces(model: Model, base: BaseWeights, tiny_phi3: Path, tmp_path: Path) -> None:
    # As Llama's rotary rows and Gemma's norms are.
    weights = tuple(
        dataclasses.replace(weight, heads=8 if "attn_qkv" in weight.name else 0, offset=1.0 if "norm" in weight.name else 0.0)
        for weight in model.weights
    )
    other = dataclasses.replace(model, weights=weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "read_model", lambda _: other)
        convert(tiny_phi3, None, [Output(tmp_path / "a.gguf", "f16", "tiny", False)])
    check_weights(tmp_path / "a.gguf", other, MergedWeights(base))
    with pytest.raises(PipelineError, match="from base and adapter"):
        check_weights(tmp_path / "a.gguf", model, MergedWeights(base))


@pytest.mark.parametrize("quantization", ["f16", "q8_0", "q4_k_m"])
@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_qkv.weight", "blk.0.ffn_down.weight"])
def test_permuted_rows_are_noticed_where_four_runs_of_rows_are_right(
    model: Model, base: BaseWeights, base_gguf: dict[str, Path], tmp_path: Path, quantization: str, name: str
) -> None:
    source = base_gguf[quantization]
    data = next(np.array(tensor.data) for tensor in GGUFReader(source).tensors if tensor.name == name)
    right = [range(start, start + 16) for start in np.linspace(0, len(data) - 16, 4).astype(int)]
    wrong = np.delete(np.arange(len(data)), np.concatenate(right))
    data[wrong] = data[np.roll(wrong, 1)]
    path = edit_tensor(source, tmp_path, name, data.tobytes())
    with pytest.raises(PipelineError, match=rf"edited\.gguf failed verification: weights: {re.escape(name)} is 1\.\d of"):
        check_weights(path, model, MergedWeights(base))


@pytest.mark.parametrize("rows", [129, 1_000, 8_192, 200_064])
def test_a_row_of_every_part_of_a_matrix_is_compared(rows: int) -> None:
    spans = spread_rows((rows, 32))
    assert len(spans) == 128
    assert all(stop == start + 1 for start, stop in spans)
    edges = [-1, *(start for start, _ in spans), rows]
    assert all(0 < after - before <= 2 * rows / 128 + 2 for before, after in pairwise(edges))
    assert spans == spread_rows((rows, 32))


@pytest.mark.parametrize("shape", [(1, 8), (128, 8), (200_064,)])
def test_vectors_and_small_matrices_are_compared_whole(shape: tuple[int, ...]) -> None:
    assert spread_rows(shape) == [(0, shape[0])]
