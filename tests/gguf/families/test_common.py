from __future__ import annotations

import pytest
import torch
from gguf import GGUFWriter
from gguf.constants import GGUFValueType
from hypothesis import given
from hypothesis import strategies as st

from distill.gguf.families.common import Weight, add_value, limit_context, make_safe_name


@given(st.integers(0, 4), st.integers(1, 4), st.sampled_from([(), (1,), (3,)]), st.sampled_from([0.0, 1.0]))
def test_restoring_undoes_preparing(heads: int, half: int, columns: tuple[int, ...], offset: float) -> None:
    weight = Weight("a", "b", (max(heads, 1) * 2 * half, *columns), heads, offset)
    rows = torch.arange(float(torch.Size(weight.shape).numel())).reshape(weight.shape)
    assert torch.equal(weight.restore(weight.prepare(rows)), rows)


def test_a_head_at_a_time_or_all_at_once_is_the_same() -> None:
    weight = Weight("a", "b", (24, 5), heads=3)
    rows = torch.randn(24, 5)
    assert weight.row_step == 8
    assert torch.equal(torch.cat([weight.prepare(part) for part in rows.split(weight.row_step)]), weight.prepare(rows))


def test_the_halves_of_each_head_become_neighbours() -> None:
    rows = torch.arange(8.0).reshape(8, 1)
    assert Weight("a", "b", (8, 1), heads=2).prepare(rows).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert Weight("a", "b", (8, 1)).prepare(rows) is rows


@pytest.mark.parametrize(("value", "kind"), [
    (True, GGUFValueType.BOOL), (3, GGUFValueType.UINT32), (3.0, GGUFValueType.FLOAT32), ("3", GGUFValueType.STRING),
    ([3, 4], GGUFValueType.ARRAY),
])
def test_values_get_the_types_that_llama_cpp_reads(value: object, kind: GGUFValueType) -> None:
    writer = GGUFWriter(None, "llama")
    add_value(writer, "key", value)
    assert (writer.kv_data[0]["key"].value, writer.kv_data[0]["key"].type) == (value, kind)


@pytest.mark.parametrize(("name", "safe"), [
    ("hybridrag-phi4mini", "hybridrag-phi4mini"), ("my-Phi3-student", "my-phi-student"), ("phi-3-phi3", "phi-phi"),
])
def test_a_name_never_looks_like_phi_3(name: str, safe: str) -> None:
    assert make_safe_name(name) == safe


@pytest.mark.parametrize(("window", "context"), [(None, 8), (4, 4), (8, 8), (16, 8)])
def test_the_context_ends_where_a_window_does(window: int | None, context: int) -> None:
    assert limit_context(8, window)[0] == context
