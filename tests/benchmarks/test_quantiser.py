"""The quantiser's benchmark: the model that it writes, the table, and the race itself where a llama-quantize is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from benchmarks.quantiser import (
    LAYERS,
    QUANTISE_TIME,
    Race,
    compare_errors,
    format_race,
    list_shapes,
    measure,
    run_ours,
    use_threads,
    write_model,
)
from distill.gguf.quantisation.kquants import quantise
from distill.gguf.quantisation.recipe import choose_type, get_recipe


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantiser") / "source.gguf"
    write_model(path, {name: shape for name, shape in list_shapes(768).items() if "blk.0" in name})
    return path


def test_the_model_has_phi_4_minis_proportions() -> None:
    shapes = list_shapes(3072)
    assert shapes["token_embd.weight"] == (50_016, 3072) and shapes["blk.7.ffn_down.weight"] == (3072, 8192)
    assert shapes["blk.0.attn_qkv.weight"] == (5120, 3072) and len(shapes) == 1 + 4 * LAYERS


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    result = Race("q4_k_m", 10_000_000, ours=(1.0, 3.0, 10.0), theirs=(2.0, 2.0, 2.0), error_ratio=0.99987)
    assert result.ratio == 1.5
    assert format_race(result) == "| q4_k_m | 3.3 | 5.0 | 1.50 | 0.9999 |"


def test_llama_quantizes_own_clock_is_read() -> None:
    assert QUANTISE_TIME.search("llama_quantize: quantize time =  1234.56 ms\n")[1] == "1234.56"


def test_errors_are_compared_tensor_by_tensor(source: Path, tmp_path: Path) -> None:
    ours, reference = tmp_path / "ours.bin", tmp_path / "reference.gguf"
    write_quantised(source, reference, "q4_k_m")
    run_ours(source, ours, "q4_k_m")
    assert compare_errors(source, ours, reference) == pytest.approx(1)
    data = np.fromfile(ours, dtype=np.uint8)
    data[:144] = 0  # one block of the first tensor is lost
    data.tofile(ours)
    assert compare_errors(source, ours, reference) > 1.001


def write_quantised(source: Path, target: Path, quantization: str) -> None:
    writer = GGUFWriter(target, "phi3")
    for tensor in GGUFReader(source).tensors:
        rows = torch.from_numpy(np.array(tensor.data))
        kind = choose_type(get_recipe(quantization), tensor.name, tuple(rows.shape), layers=LAYERS, tied=True)
        writer.add_tensor(tensor.name, quantise(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif("LLAMA_QUANTIZE" not in os.environ, reason="LLAMA_QUANTIZE names no llama-quantize")
def test_the_race_with_llama_cpp_shows_the_same_error() -> None:
    (result,) = measure(Path(os.environ["LLAMA_QUANTIZE"]), threads=1, runs=1, hidden=768)
    assert result.error_ratio == pytest.approx(1, abs=0.01)
    assert result.values == sum(rows * columns for rows, columns in list_shapes(768).values())
    assert result.ratio > 0
