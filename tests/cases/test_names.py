"""Names that no two cases share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distill.cases.names import name_apart


def test_the_first_keeps_its_name_and_the_next_are_counted() -> None:
    assert name_apart(["a", "b", "a", "a", "a#2", "b"]) == ["a", "b", "a#2", "a#3", "a#2#2", "b#2"]


@given(st.lists(st.sampled_from(["a", "a#2", "a#2#2", "b", ""])))
def test_no_two_names_are_ever_the_same(names: list[str]) -> None:
    found = name_apart(names)
    assert len(set(found)) == len(found) == len(names)
