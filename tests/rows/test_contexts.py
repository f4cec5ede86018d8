from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import MaskingSection
from distill.index.retrieval import Hit
from distill.masking import Masker
from distill.records import Chunk
from distill.rows.contexts import ChunkReader, choose_hits, count_extra, keep_others, measure_gap, order_by_gap, shuffle
from tests.rows.small_world import make_index

LONG = (
    "the relay holds the line at nine volts until the second timer opens the upper contact and the fan stops. "
    "the operator then waits for the green lamp, turns the key to the left, writes the time into the log and calls the tower "
    "for the next start of the line"
)


def make_hits(count: int) -> list[Hit]:
    """Hits at positions 0, 1, 2..., best first."""
    return [Hit(position, 1 - position / 100, 1 - position / 100) for position in range(count)]


@pytest.mark.parametrize(("sources", "top_k", "near_misses", "positions"), [
    ([0, 0, 0, 0, 1, 2], 3, 1, [0, 1, 4]),        # the next of another document, not the next
    ([0, 0, 0, 0, 1, 2], 4, 2, [0, 1, 4, 5]),
    ([0, 1, 2, 3, 4, 5], 3, 1, [0, 1, 2]),        # the next one is of another document
    ([0, 0, 0, 0, 0, 1], 3, 0, [0, 1, 2]),
    ([0, 0, 0, 0, 0, 0], 3, 2, [0, 1, 2]),        # there is no other document
    ([0, 0, 0, 0, 0, 1], 4, 3, [0, 1, 2, 5]),     # too few near misses: the next best fill up
    ([0, 0, 1, 1, 1, 1], 3, 9, [0, 2, 3]),        # the golden chunk keeps its place
    ([0, 0], 5, 1, [0, 1]),
    ([0, 1, 1], 1, 1, [0]),
    ([], 5, 1, []),
])
def test_places_go_to_the_best_and_to_near_misses(
    sources: list[int], top_k: int, near_misses: int, positions: list[int]
) -> None:
    chosen = choose_hits(make_hits(len(sources)), sources, top_k, near_misses)
    assert [hit.position for hit in chosen] == positions


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 6), st.integers(0, 8))
def test_places_are_filled_once_each_and_the_golden_chunk_is_first(sources: list[int], top_k: int, near_misses: int) -> None:
    chosen = [hit.position for hit in choose_hits(make_hits(len(sources)), sources, top_k, near_misses)]
    assert len(chosen) == len(set(chosen)) == min(top_k, len(sources))
    assert not chosen or (chosen[0] == 0 and chosen == sorted(chosen))


def make_chunk(name: str, source: str, text: str) -> Chunk:
    """A chunk whose score does not matter."""
    return Chunk(name, source, text, 0.5)


GOLDEN = make_chunk("g", "a.md", LONG)


@pytest.mark.parametrize(("text", "kept"), [
    (LONG, False),
    (LONG.upper().replace(" ", "\n"), False),
    (f"Preface of the copy. {LONG[:150]}", False),                     # a copy that was cut elsewhere
    (f"{LONG[100:]} and then another part of the copy follows", False),
    ("The operator then waits for the green lamp.", False),            # a scrap of it
    (LONG.replace("nine", "six").replace("fan", "pump").replace("green", "red").replace("tower", "deck"), True),  # a sibling
    ("the relay holds the door, and the fan stops the dust at nine sharp", True),
    ("A wholly different text on the colour of cables in the cellar", True),
    ("", True),
])
def test_copies_of_the_golden_text_are_taken_away_too(text: str, kept: bool) -> None:
    assert bool(keep_others([GOLDEN], [make_chunk("x", "b.md", text)], 5)) is kept


def test_everything_of_a_golden_document_is_taken_away() -> None:
    found = [make_chunk(str(number), "a.md" if number % 2 else "b.md", f"text {number} of many") for number in range(8)]
    assert [chunk.chunk_id for chunk in keep_others([GOLDEN], found, 3)] == ["0", "2", "4"]


def test_the_golden_chunk_gets_every_place_about_equally_often() -> None:
    chunks = [make_chunk(str(number), "a.md", "") for number in range(5)]
    places = Counter(shuffle(f"question {number}", chunks).index(chunks[0]) for number in range(1000))
    assert set(places) == set(range(5)) and min(places.values()) > 150


def test_the_order_hangs_on_the_question_and_the_chunks_alone() -> None:
    chunks = [make_chunk(str(number), "a.md", "") for number in range(5)]
    assert shuffle("why?", chunks) == shuffle("why?", chunks[::-1]) != shuffle("how?", chunks)


@given(st.floats(0, 0.5), st.integers(0, 500))
def test_extra_rows_are_the_configured_share_of_all(share: float, rows: int) -> None:
    extra = count_extra(share, rows)
    assert abs(extra - share * (rows + extra)) <= 0.5 + 1e-9


@pytest.mark.parametrize("share", [0.5, 0.6, 0.99])
def test_a_question_has_one_extra_row_at_most(share: float) -> None:
    assert count_extra(share, 10) == 10


def test_of_equal_gaps_which_rows_are_extra_hangs_on_their_texts_alone() -> None:
    texts, gaps = [f"question {number}" for number in range(20)], [0.2] * 20
    first = {texts[place] for place in order_by_gap(gaps, texts)[:5]}
    turned = texts[::-1]
    assert first == {turned[place] for place in order_by_gap(gaps, turned)[:5]} != set(texts[:5])


def test_extra_rows_come_by_how_far_the_rest_lies_behind_the_golden_chunk() -> None:
    assert order_by_gap([0.2, 0.05, 0.4, -0.1, 0.1], list("abcde")) == [2, 0, 4], "what lies near may hold the answer too"
    others = [replace(GOLDEN, score=score) for score in (0.3, 0.5, 0.1)]
    assert measure_gap(Hit(0, 0.75, 0.0), others) == 0.25


def test_a_chunk_is_masked_once_and_read_with_its_cosine(tmp_path: Path) -> None:
    name = r"D:\docs\crew of 192.168.1.10 (old).md"
    index = make_index(tmp_path, [(name, "Write to crew@example.com before the pump is started.")])
    masker = Masker(MaskingSection())
    reader = ChunkReader(index, masker)
    chunks = reader.load([Hit(0, 0.25, 0.9)]) + reader.load([Hit(0, 0.5, 0.1)])
    assert {chunk.text for chunk in chunks} == {"Write to [EMAIL] before the pump is started."}
    assert [chunk.score for chunk in chunks] == [0.25, 0.5] and masker.counts["EMAIL"] == 1
    assert chunks[0].source == name, "the split needs the true name"
    assert reader.names == {name: r"D:\docs\crew of [IP] (old).md"}
