from __future__ import annotations

import ctypes
import functools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.gguf.quantisation import kquants
from distill.gguf.quantisation.kquants import quantise
from distill.gguf.quantisation.recipe import RECIPES

K_QUANTS = (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K)
# Mean squared error of llama.cpp's own llama-quantize (as vendored in llama-cpp-python 0.3.36, October 2026) on the matrices of
# draw(), without an importance matrix.
LLAMA_CPP_ERROR = {
    (Kind.Q4_K, "normal"): 5.119759e-03, (Kind.Q4_K, "laplace"): 1.443571e-02, (Kind.Q4_K, "positive"): 1.784261e-03,
    (Kind.Q5_K, "normal"): 1.312118e-03, (Kind.Q5_K, "laplace"): 3.693508e-03, (Kind.Q5_K, "positive"): 4.307332e-04,
    (Kind.Q6_K, "normal"): 3.159996e-04, (Kind.Q6_K, "laplace"): 9.515545e-04, (Kind.Q6_K, "positive"): 3.127877e-04,
}
# Largest error of one value, as a share of the range (zero included) of its super-block.
WORST = {Kind.Q4_K: 0.13, Kind.Q5_K: 0.08, Kind.Q6_K: 0.07}
# Of the smallest half floats, which scale the blocks, a super-block can only hold multiples.
COARSEST = 63 * 31 * 2.0**-24


def draw() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    normal, laplace, other = rng.normal(size=(256, 1024)), rng.laplace(size=(256, 1024)), rng.normal(size=(256, 1024))
    return {"normal": normal.astype("f"), "laplace": laplace.astype("f"), "positive": np.abs(other).astype("f")}


def restore(rows: np.ndarray, kind: Kind) -> np.ndarray:
    return dequantize(quantise(torch.from_numpy(rows), kind), kind)


@pytest.fixture(params=["compiled", "torch"])
def search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with either search for block scales: the CPU's and the GPU's."""
    if request.param == "torch":
        monkeypatch.setattr(kquants, "load_compiled", lambda: None)
    return request.param


def test_the_standard_install_brings_the_compiled_search() -> None:
    assert kquants.load_compiled() is not None


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize(("kind", "shape"), LLAMA_CPP_ERROR)
def test_error_is_that_of_llama_cpp(kind: Kind, shape: str) -> None:
    rows = draw()[shape]
    error = float(np.square(restore(rows, kind) - rows).mean(dtype=np.float64))
    assert error / LLAMA_CPP_ERROR[kind, shape] == pytest.approx(1, abs=2e-3)


# -----------------------------------------------------------------------------
# Beside llama.cpp's own functions


WRITTEN = (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q8_0, Kind.Q5_0, Kind.Q5_1, Kind.F16, Kind.BF16, Kind.F32)


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    """llama.cpp's library inside xllamacpp; its Linux wheels export the quantiser."""
    xllamacpp = pytest.importorskip("xllamacpp")
    for path in sorted(Path(xllamacpp.__file__).parent.glob("xllamacpp.*")):
        if path.suffix in (".so", ".pyd"):
            library = ctypes.CDLL(str(path))
            if hasattr(library, "ggml_quantize_chunk"):
                library.ggml_quantize_chunk.restype = ctypes.c_size_t
                return library
    pytest.skip("this wheel of xllamacpp does not export ggml_quantize_chunk")


def quantise_with_llama_cpp(ggml: ctypes.CDLL, rows: np.ndarray, kind: Kind) -> np.ndarray:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    result = np.zeros(quantise(torch.zeros(rows.shape), kind).shape, dtype=np.uint8)
    count, columns = (ctypes.c_int64(size) for size in rows.shape)
    used = ggml.ggml_quantize_chunk(
        ctypes.c_int(kind), rows.ctypes.data_as(ctypes.c_void_p), result.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(0),
        count, columns, None,
    )
    assert used == result.nbytes
    return result


@functools.cache
def draw_weights() -> dict[str, np.ndarray]:
    """The shapes that weights come in, each [512, 1024]: of fewer values a handful of ties would decide the mean error."""
    rng = np.random.default_rng(1)
    normal, tailed = rng.normal(size=(512, 1024)), rng.standard_t(5, size=(512, 1024))
    trained = torch.from_numpy(tailed * 0.02).bfloat16().float().numpy()
    return {
        "normal": normal, "laplace": rng.laplace(size=normal.shape), "positive": np.abs(normal), "negative": -np.abs(normal),
        "outliers": np.where(rng.random(normal.shape) < 0.002, 50 * normal, normal), "trained, bfloat16": trained,
        "small": normal * 1e-3, "near the smallest half floats": normal * 1e-5, "large": np.clip(normal * 1e4, -6e4, 6e4),
        "sparse": np.where(rng.random(normal.shape) < 0.9, 0, normal), "shifted": normal + 3,
        "few levels": np.round(normal * 2) / 8, "rows of their own size": normal * np.geomspace(1e-4, 1e2, 512)[:, None],
    }


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", draw_weights())
def test_error_is_within_1_percent_of_llama_cpps(ggml: ctypes.CDLL, kind: Kind, shape: str) -> None:
    rows = draw_weights()[shape].astype(np.float32)
    theirs = dequantize(quantise_with_llama_cpp(ggml, rows, kind), kind)
    ours = restore(rows, kind)
    error, reference = (float(np.square(found - rows).mean(dtype=np.float64)) for found in (ours, theirs))
    assert error <= 1.01 * reference
    assert error >= 0.97 * reference  # much better than the reference would be another format


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q5_0, Kind.Q5_1, Kind.F16, Kind.BF16, Kind.F32], ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", draw_weights())
def test_types_without_a_search_are_llama_cpps_to_the_byte(ggml: ctypes.CDLL, kind: Kind, shape: str) -> None:
    rows = draw_weights()[shape].astype(np.float32)
    assert (quantise(torch.from_numpy(rows), kind) == quantise_with_llama_cpp(ggml, rows, kind)).all()


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16], ids=lambda kind: kind.name)
def test_16_bit_floats_round_as_in_llama_cpp_and_keep_what_is_not_finite(ggml: ctypes.CDLL, kind: Kind) -> None:
    """Halfway cases, numbers below the smallest normal one and above the largest, zeros of both signs, random bit patterns."""
    bits = np.random.default_rng(2).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 65519.9, 65520.0, 3.4e38, -3.4e38, 1e-45, 6e-8, 1 + 2**-8, 1 + 2**-11], "f")
    values = np.concatenate((special, bits.view(np.float32), (bits & 0xFFFF8000).view(np.float32)))
    finite_or_not = torch.from_numpy(values[~np.isnan(values)][None])
    found, expected = quantise(finite_or_not, kind), quantise_with_llama_cpp(ggml, finite_or_not.numpy(), kind)
    assert (found == expected).all()
    assert np.isnan(restore(np.array([[np.nan, -np.nan]], "f"), kind)).all()


def test_halves_go_away_from_zero_in_q8_0(ggml: ctypes.CDLL) -> None:
    row = np.tile(np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997], "f"), 4)[None]
    assert (quantise(torch.from_numpy(row), Kind.Q8_0) == quantise_with_llama_cpp(ggml, row, Kind.Q8_0)).all()
    assert restore(row, Kind.Q8_0)[0, :8].tolist() == [127, 1, 2, 3, -1, -2, -3, 0]


def test_every_type_of_every_quantisation_is_compared() -> None:
    kinds = {kind for recipe in RECIPES.values() for kind in (recipe.usual, recipe.sensitive, recipe.output)}
    assert kinds <= set(WRITTEN)


# -----------------------------------------------------------------------------
# Limits


finite = st.floats(-kquants.HALF_MAX, kquants.HALF_MAX, width=32)
blocks = st.one_of(
    st.lists(finite, min_size=256, max_size=256),
    st.lists(st.floats(-1, 1, width=32), min_size=32, max_size=32).map(lambda part: part * 8),
    finite.map(lambda value: [value] * 256),
    st.tuples(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=256, max_size=256), st.integers(-140, 15)).map(
        lambda pair: [sign * 2.0 ** pair[1] for sign in pair[0]]
    ),
)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", K_QUANTS)
@settings(max_examples=150, deadline=None)
@given(values=blocks)
def test_error_is_bounded_by_the_range_of_the_block(kind: Kind, compiled: bool, values: list[float]) -> None:
    rows = np.array([values], dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(kquants, "load_compiled", lambda: None)
        found = restore(rows, kind)
    spread = max(rows.max(), 0) - min(rows.min(), 0)
    assert np.isfinite(found).all()
    assert np.abs(found - rows).max() <= WORST[kind] * spread + COARSEST


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("kind", WRITTEN)
def test_zeros_stay_zeros(kind: Kind) -> None:
    assert not restore(np.zeros((3, 512), dtype=np.float32), kind).any()


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("kind", K_QUANTS)
@pytest.mark.parametrize("value", [1.0, -0.37, 60_000.0])
def test_a_constant_row_stays_nearly_constant(kind: Kind, value: float) -> None:
    found = restore(np.full((1, 256), value, dtype=np.float32), kind)
    assert found == pytest.approx(value, rel=0.01)


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("kind", [*K_QUANTS, Kind.Q8_0, Kind.Q5_0, Kind.BF16])
def test_slices_and_rows_do_not_touch_each_other(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.from_numpy(draw()["normal"][:7])
    together = quantise(rows, kind)
    monkeypatch.setitem(kquants.SLICE_VALUES, "cpu", 2 * rows.shape[1])
    assert (quantise(rows, kind) == together).all()
    assert (quantise(rows[3:4], kind) == together[3:4]).all()


@pytest.mark.parametrize("kind", K_QUANTS)
def test_what_was_quantised_once_hardly_changes_the_second_time(kind: Kind) -> None:
    once = restore(draw()["normal"][:16], kind)
    twice = restore(once, kind)
    assert np.square(twice - once).mean() < 0.1 * np.square(once - draw()["normal"][:16]).mean()


@pytest.mark.usefixtures("search")
def test_input_is_not_changed() -> None:
    rows = torch.from_numpy(draw()["normal"][:2])
    before = rows.clone()
    for kind in WRITTEN:
        quantise(rows, kind)
    assert torch.equal(rows, before)


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rows_are_quantised_as_their_float32_values(kind: Kind, dtype: torch.dtype) -> None:
    rows = torch.from_numpy(draw()["laplace"][:4]).to(dtype)
    assert (quantise(rows, kind) == quantise(rows.float(), kind)).all()


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
def test_rows_that_do_not_lie_one_after_another_in_memory(kind: Kind) -> None:
    wide = torch.from_numpy(draw()["normal"][:8])
    parts = (wide[:, 256:768], wide.t()[:, :8].contiguous().t(), wide[::2])
    for rows in parts:
        assert (quantise(rows, kind) == quantise(rows.clone(memory_format=torch.contiguous_format), kind)).all()


def test_threads_may_quantise_at_the_same_time() -> None:
    rows = torch.from_numpy(draw()["normal"])
    expected, found = quantise(rows, Kind.Q4_K), {}
    threads = [threading.Thread(target=lambda at=at: found.update({at: quantise(rows, Kind.Q4_K)})) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [bool((found[at] == expected).all()) for at in range(3)] == [True, True, True]


def test_a_library_that_may_not_be_loaded_leaves_the_torch_search(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real_import = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name == "numba" or name.startswith("numba."):
            raise OSError("Could not find/load shared object file 'llvmlite.dll'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.delitem(__import__("sys").modules, "distill.gguf.quantisation.compiled", raising=False)
    monkeypatch.delattr("distill.gguf.quantisation.compiled", raising=False)
    kquants.load_compiled.cache_clear()
    try:
        assert kquants.load_compiled() is None
    finally:
        kquants.load_compiled.cache_clear()


def test_rows_that_do_not_fill_their_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        quantise(torch.zeros(2, 320), Kind.Q4_K)
    with pytest.raises(ValueError, match="multiple of 32"):
        quantise(torch.zeros(2, 40), Kind.Q8_0)


def test_a_type_that_is_not_written_is_refused() -> None:
    with pytest.raises(ValueError, match="Q2_K can not be written"):
        quantise(torch.zeros(2, 256), Kind.Q2_K)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("kind", WRITTEN, ids=lambda kind: kind.name)
def test_gpu_and_cpu_agree(kind: Kind) -> None:
    rows = draw()["laplace"]
    on_gpu = dequantize(quantise(torch.from_numpy(rows).cuda(), kind), kind)
    error, on_cpu = np.square(on_gpu - rows).mean(), np.square(restore(rows, kind) - rows).mean()
    assert error == pytest.approx(on_cpu, rel=1e-3)
