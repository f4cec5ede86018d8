from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.gguf import kquants
from distill.gguf.kquants import quantise

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


@pytest.mark.parametrize(("kind", "shape"), LLAMA_CPP_ERROR)
def test_error_is_that_of_llama_cpp(kind: Kind, shape: str) -> None:
    rows = draw()[shape]
    error = float(np.square(restore(rows, kind) - rows).mean(dtype=np.float64))
    assert error / LLAMA_CPP_ERROR[kind, shape] == pytest.approx(1, abs=2e-3)


finite = st.floats(-kquants.HALF_MAX, kquants.HALF_MAX, width=32)
blocks = st.one_of(
    st.lists(finite, min_size=256, max_size=256),
    st.lists(st.floats(-1, 1, width=32), min_size=32, max_size=32).map(lambda part: part * 8),
    finite.map(lambda value: [value] * 256),
    st.tuples(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=256, max_size=256), st.integers(-140, 15)).map(
        lambda pair: [sign * 2.0 ** pair[1] for sign in pair[0]]
    ),
)


@pytest.mark.parametrize("kind", K_QUANTS)
@settings(max_examples=150, deadline=None)
@given(values=blocks)
def test_error_is_bounded_by_the_range_of_the_block(kind: Kind, values: list[float]) -> None:
    rows = np.array([values], dtype=np.float32)
    found = restore(rows, kind)
    spread = max(rows.max(), 0) - min(rows.min(), 0)
    assert np.isfinite(found).all()
    assert np.abs(found - rows).max() <= WORST[kind] * spread + COARSEST


@pytest.mark.parametrize("kind", [*K_QUANTS, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.F16, Kind.F32])
def test_zeros_stay_zeros(kind: Kind) -> None:
    assert not restore(np.zeros((3, 512), dtype=np.float32), kind).any()


@pytest.mark.parametrize("kind", K_QUANTS)
@pytest.mark.parametrize("value", [1.0, -0.37, 60_000.0])
def test_a_constant_row_stays_nearly_constant(kind: Kind, value: float) -> None:
    found = restore(np.full((1, 256), value, dtype=np.float32), kind)
    assert found == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("kind", K_QUANTS)
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


def test_input_is_not_changed() -> None:
    rows = torch.from_numpy(draw()["normal"][:2])
    before = rows.clone()
    for kind in K_QUANTS:
        quantise(rows, kind)
    assert torch.equal(rows, before)


def test_rows_that_do_not_fill_their_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        quantise(torch.zeros(2, 320), Kind.Q4_K)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("kind", K_QUANTS)
def test_gpu_and_cpu_agree(kind: Kind) -> None:
    rows = draw()["laplace"]
    on_gpu = dequantize(quantise(torch.from_numpy(rows).cuda(), kind), kind)
    error, on_cpu = np.square(on_gpu - rows).mean(), np.square(restore(rows, kind) - rows).mean()
    assert error == pytest.approx(on_cpu, rel=1e-3)
