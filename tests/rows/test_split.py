from __future__ import annotations

import random
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.build_index import build_index
from distill.config import IndexSection
from distill.errors import PipelineError
from distill.index.hybridrag import Index, load_index
from distill.records import SIDES, Chunk, ContextSpan, Side, TrainingExample
from distill.rows.curated import Curated
from distill.rows.split import (
    Split,
    choose_sides,
    find_sources,
    hash_source,
    index_texts,
    make_masks,
    place_all,
    require_disjoint,
    split_groups,
    split_sources,
)
from tests.servers import embed_words

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
TEXT = "The {name} unit. Its {name} limit is {row}.\n\nThe {name} check."
DOCUMENTS = [(f"{name}.md", TEXT.format(name=name, row=row)) for row, name in enumerate(NAMES)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Ten documents of two chunks each."""
    build_index(tmp_path, DOCUMENTS, embed_words, chunk_characters=40, overlap=0)
    return load_index(tmp_path, IndexSection())


@given(st.sets(st.text(max_size=20), min_size=2, max_size=60), st.floats(0.01, 0.49))
def test_the_share_of_documents_is_exact(sources: set[str], share: float) -> None:
    split = split_sources(sources, share)
    heldout = [source for source in sources if split.side_of_source(source) == "heldout"]
    assert len(heldout) == max(1, round(share * len(sources)))


def test_a_documents_side_does_not_hang_on_order_or_repetition() -> None:
    sources = [source for source, _ in DOCUMENTS]
    assert split_sources(sources, 0.2) == split_sources(sources[::-1] * 2, 0.2)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.floats(0.05, 0.5))
def test_documents_that_repeat_one_another_stay_together(sizes: list[int], share: float) -> None:
    groups = {f"{place}/{number}": f"group {place}" for place, size in enumerate(sizes) for number in range(size)}
    try:
        split = split_sources(groups, share, groups)
    except PipelineError:
        assert len(sizes) == 1 or max(sizes) > share * sum(sizes)
        return
    sides = {source: split.side_of_source(source) for source in groups}
    assert len({(group, sides[source]) for source, group in groups.items()}) == len(sizes)
    heldout = [*sides.values()].count("heldout")
    assert max(1, share * len(groups) / 2) <= heldout <= max(1, 2 * share * len(groups))


def test_a_group_that_is_too_large_is_for_training() -> None:
    """Its name has the smallest of all hashes, so that without the bound it would be held out, and nothing else."""
    sources = [f"document {number}" for number in range(40)]
    first = min(sources, key=hash_source)
    others = [source for source in sources if source != first]
    split = split_sources(sources, 0.1, {source: first for source in [first, *others[:20]]})
    assert {split.side_of_source(source) for source in [first, *others[:20]]} == {"train"}
    assert [split.side_of_source(source) for source in others].count("heldout") == 4


def test_documents_that_are_all_one_group_cannot_be_split() -> None:
    with pytest.raises(PipelineError, match=r"3 source document\(s\) cannot be split .*: 3 of them are one group"):
        split_sources("abc", 0.3, dict.fromkeys("abc", "a"))


def test_another_revision_with_a_later_name_moves_nothing() -> None:
    sources = [source for source, _ in DOCUMENTS]
    before = split_sources(sources, 0.3)
    after = split_sources([*sources, "zulu.md"], 0.3, {"zulu.md": "alpha.md"})
    assert [before.side_of_source(source) for source in sources] == [after.side_of_source(source) for source in sources]
    assert after.side_of_source("zulu.md") == after.side_of_source("alpha.md")


def test_a_document_that_the_index_does_not_hold_has_a_side_of_its_own() -> None:
    groups = dict.fromkeys("abcdefgh", "a") | {str(number): str(number) for number in range(30)}
    split = split_sources(groups, 0.2, groups)
    sides = {split.side_of_source(f"elsewhere {number}") for number in range(100)}
    assert sides == set(SIDES)


def test_too_few_documents_to_split() -> None:
    with pytest.raises(PipelineError, match=r"1 source document\(s\) cannot be split"):
        split_sources(["only.md"], 0.1)


@given(st.floats(0.05, 0.95))
def test_texts_without_sources_follow_the_share(share: float) -> None:
    split = Split("", share)
    heldout = sum(split.side_of_text(f"question {number}") == "heldout" for number in range(2000))
    assert abs(heldout / 2000 - share) < 0.05


def place(split: Split, *sources: str, instruction: str = "text", chunks: tuple[Chunk, ...] = ()) -> Side:
    """The side of a curated row that names these documents."""
    spans = tuple(ContextSpan(chunk_id="1", source=source, score=1, start=0, end=1) for source in sources)
    row = TrainingExample(instruction=instruction, output="answer", context=spans)
    rows = place_all(split, [Curated(row, "rows.jsonl:7")], chunks)
    return "train" if rows["train"] == [row] else "heldout"


def test_a_curated_row_goes_where_its_documents_are() -> None:
    sources = [source for source, _ in DOCUMENTS]
    split = split_sources(sources, 0.3)
    for source in sources:
        assert place(split, source, source) == split.side_of_source(source)
    assert place(split) == split.side_of_text("text")


def test_a_curated_row_that_straddles_is_refused() -> None:
    sources = [source for source, _ in DOCUMENTS]
    with pytest.raises(PipelineError, match=r"rows\.jsonl:7 holds documents of both"):
        place(split_sources(sources, 0.3), *sources)


def test_a_curated_row_with_a_whole_chunk_goes_where_its_document_is(capsys: pytest.CaptureFixture[str]) -> None:
    split = split_sources([source for source, _ in DOCUMENTS], 0.3)
    chunks = tuple(Chunk("1", f"{name}.md", f"The {name} unit is described at length in this chunk.\n", 0.5) for name in NAMES)
    for chunk in chunks:
        for number in range(5):
            assert place(split, instruction=f"{chunk.text}Why {number}?", chunks=chunks) == split.side_of_source(chunk.source)
    assert "[WARN]" not in capsys.readouterr().out
    with pytest.raises(PipelineError, match=r"rows\.jsonl:7 holds documents of both"):
        place(split, instruction="".join(chunk.text for chunk in chunks), chunks=chunks)


def test_a_hundred_thousand_chunks_are_looked_up_quickly() -> None:
    """Trying each of them in each prompt takes 14 seconds for 20 rows."""
    page = "A page of text. " * 70
    chunks = [Chunk("1", f"{number}.md", f"Unit {number} stands here. {page}Unit {number}.", 0.5) for number in range(100_000)]
    split = split_sources([chunk.source for chunk in chunks], 0.3)
    held = [chunk for chunk in chunks[:100] if split.side_of_source(chunk.source) == "heldout"]
    texts = ["\n\n".join(f"[{number}] {chunk.text}" for chunk in held[number : number + 5]) for number in range(20)]
    rows = [Curated(TrainingExample(instruction=text, output="answer"), "rows.jsonl:7") for text in texts]
    started = time.process_time()
    assert place_all(split, rows, chunks) == {"train": [], "heldout": [each.row for each in rows]}
    assert time.process_time() - started < 3


def test_chunks_that_begin_alike_are_told_apart() -> None:
    head = "Property of the company. Do not copy without consent. "
    chunks = [Chunk("1", f"{name}.md", head + name * 10, 0.5) for name in NAMES]
    known = index_texts([*chunks, Chunk("1", "short.md", "Property", 0.5)])
    for chunk in chunks:
        assert find_sources(TrainingExample(instruction=f"{head}{chunk.text}?", output="a"), known) == {chunk.source}
    assert find_sources(TrainingExample(instruction=head * 3, output="a"), known) == set()


def test_curated_rows_of_unknown_source_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert place(Split("", 0.5), chunks=(Chunk("1", "a.md", "text", 0.5),)) == Split("", 0.5).side_of_text("text")
    assert "[WARN] 1 curated rows name no source documents: they are split by their text alone" in capsys.readouterr().out


def test_a_side_that_is_too_small_for_top_k_says_what_to_change(index: Index) -> None:
    split = split_sources(index.sources, 0.1)
    with pytest.raises(PipelineError, match=r"the heldout side has 2 chunks of 20, fewer than generate\.top_k 3"):
        make_masks(index, split, 3)


def test_the_masks_part_the_chunks_by_document(index: Index) -> None:
    split = split_sources(index.sources, 0.3)
    train, heldout = make_masks(index, split, 1)
    assert (train ^ heldout).all() and heldout.sum() == 6
    for mask, side in zip((train, heldout), SIDES):
        assert {split.side_of_source(index.sources[number]) for number in index.source_numbers[mask]} == {side}


def test_a_group_of_questions_goes_where_its_best_chunk_is() -> None:
    best = np.array([[0.5, 0.4], [0.3, 0.9], [0.8, 0.2], [0.6, 0.6]], np.float32)
    assert choose_sides(best, [0, 1, 2, 3]) == ["train", "heldout", "train", "train"]
    assert choose_sides(best, [0, 0, 2, 3]) == ["heldout", "heldout", "train", "train"]
    assert choose_sides(best, [0, 1, 1, 1]) == ["train", "heldout", "heldout", "heldout"]
    assert choose_sides(best[:0], []) == []


def test_rows_with_sources_do_not_hang_on_the_numbers_of_their_groups() -> None:
    sources = [{f"document {number}"} for number in range(40)]
    assert split_groups(sources, range(40), 0.2) == split_groups(sources, range(100, 140), 0.2)


# -----------------------------------------------------------------------------
# Rows whose sources are fixed

SOURCES = st.sets(st.sampled_from("abcdefghijklmnop"), max_size=2)
LINKS = st.lists(st.tuples(SOURCES, st.integers(0, 30)), min_size=2, max_size=30)


@given(LINKS, st.floats(0.05, 0.5), st.randoms())
def test_linked_rows_stay_together_whatever_their_order(
    links: list[tuple[set[str], int]], share: float, chance: random.Random
) -> None:
    keys = [f"question {number}" for number in range(len(links))]
    rows = [*zip(links, keys)]
    sides = try_split(rows, share)
    shuffled = rows.copy()
    chance.shuffle(shuffled)
    again = try_split(shuffled, share)
    if sides is None:
        assert again is None
        return
    assert {key: side for (_, key), side in zip(rows, sides)} == {key: side for (_, key), side in zip(shuffled, again)}
    heldout = sides.count("heldout")
    assert max(1, share * len(rows) / 2) <= heldout <= min(max(1, 2 * share * len(rows), len(rows) / 2), len(rows) - 1)
    for (first, _), side in zip(rows, sides):
        for (second, _), other in zip(rows, sides):
            if first[0] & second[0] or first[1] == second[1]:
                assert side == other


def try_split(rows: list[tuple[tuple[set[str], int], str]], share: float) -> list[Side] | None:
    """The sides, or None where there is no split."""
    try:
        return split_groups([link[0] for link, _ in rows], [link[1] for link, _ in rows], share, [key for _, key in rows])
    except PipelineError:
        return None


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.floats(0.05, 0.5))
def test_it_refuses_only_where_no_choice_of_components_would_do(sizes: list[int], share: float) -> None:
    sources = [{f"document {number}"} for number, size in enumerate(sizes) for _ in range(size)]
    rows = sum(sizes)
    sums = {sum(chosen) for count in range(len(sizes) + 1) for chosen in combinations(sizes, count)}
    most = min(max(1, min(2 * share, 0.5) * rows), rows - 1)
    possible = any(max(1, share * rows / 2) <= held <= most for held in sums)
    try:
        split_groups(sources, range(rows), share)
    except PipelineError:
        assert not possible
    else:
        assert possible


def test_the_refusal_says_how_large_the_largest_component_is() -> None:
    chain = [{f"document {number}", f"document {number + 1}"} for number in range(9)] + [{"another"}]
    message = r"the 10 rows cannot .*heldout_share 0\.45.* 2 group\(s\).* 90% of all: record questions"
    with pytest.raises(PipelineError, match=message):
        split_groups(chain, range(10), 0.45)
    with pytest.raises(PipelineError, match="the 1 rows cannot be split"):
        split_groups([{"a"}], [0], 0.1)


def test_another_document_moves_only_what_is_near_the_cut() -> None:
    sources = [{f"document {number}"} for number in range(200)]
    before = split_groups(sources, range(200), 0.1)
    after = split_groups([*sources, {"new"}], range(201), 0.1)
    assert sum(first != second for first, second in zip(before, after)) <= 1


def test_rows_without_sources_are_split_by_their_keys() -> None:
    keys = [f"question {number}" for number in range(50)]
    sides = split_groups([()] * 50, range(50), 0.2, keys)
    assert sides.count("heldout") == 10
    assert split_groups([()] * 50, range(50), 0.2, keys[::-1]) == sides[::-1]


# -----------------------------------------------------------------------------
# The proof on the rows themselves


def show(row_id: str, *sources: str) -> TrainingExample:
    spans = tuple(ContextSpan(chunk_id=source, source=source, score=1, start=0, end=1) for source in sources)
    return TrainingExample(id=row_id, instruction="x", output="y", context=spans)


def test_rows_that_share_no_document_pass() -> None:
    require_disjoint({"train": [show("t", "a.md", "b.md"), show("u")], "heldout": [show("h", "c.md"), show("i")]})


def test_a_document_behind_both_sides_names_both_rows() -> None:
    with pytest.raises(PipelineError, match=r"b\.md stands behind training row t and held-out row h: leave one"):
        require_disjoint({"train": [show("t", "a.md", "b.md")], "heldout": [show("h", "c.md", "b.md")]})
