"""Revisions, copies and excerpts are found; documents that share a notice or a template are not taken for them."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.build_index import build_index
from distill.config import IndexSection
from distill.errors import PipelineError
from distill.index.hybridrag import Index, load_index
from distill.rows import twins
from distill.rows.split import split_sources
from distill.rows.twins import (
    MULTIPLIERS,
    WORDS_IN_RUN,
    collect_runs,
    describe_twins,
    find_twins,
    group_twins,
    hash_runs,
    read_texts,
)
from tests.rows.small_world import DOCUMENTS
from tests.servers import embed_words

VOCABULARY = [f"word{number}" for number in range(5000)]
NOTICE = "This document is the property of the company and may not be copied or shown to others without its written consent."


def write(seed: str, sentences: int = 60) -> list[str]:
    """Sentences that no other seed has."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(VOCABULARY, k=12)).capitalize() + "." for _ in range(sentences)]


def make_index(folder: Path, documents: dict[str, list[str]], between: str = " ") -> Index:
    """An index of these documents, given as sentences, in chunks of 400 characters that overlap."""
    build_index(folder, [(path, between.join(text)) for path, text in documents.items()], embed_words, 400, 60)
    return load_index(folder, IndexSection())


def list_groups(index: Index) -> list[set[str]]:
    """The groups of more than one document."""
    groups = group_twins(index)
    assert set(groups) == set(index.sources)
    members = [{source for source in groups if groups[source] == name} for name in dict.fromkeys(groups.values())]
    assert all(groups[source] == min(each) for each in members for source in each)
    return [each for each in members if len(each) > 1]


def replace_each(text: list[str], step: int) -> list[str]:
    """The text with every `step`-th sentence written anew."""
    return [f"Revised {sentence} again." if place % step == 0 else sentence for place, sentence in enumerate(text)]


@pytest.mark.parametrize(
    "twin",
    [
        write("a"),
        replace_each(write("a"), 2),  # a revision
        write("new", 30) + write("a")[::-1],  # in another order, behind a new part
        write("a")[20:30],  # an excerpt
        [sentence.upper().replace(" ", " \n") for sentence in write("a")],  # other lines and letters
        write("a") + write("longer", 500),
    ],
    ids=["copy", "revision", "another order", "excerpt", "other lines", "appendix"],
)
def test_documents_that_share_much_are_one_group(tmp_path: Path, twin: list[str]) -> None:
    documents = {r"D:\new\a.pdf": write("a"), r"D:\x.pdf": write("x"), r"D:\y.pdf": write("y", 9), r"D:\backup\b.pdf": twin}
    assert list_groups(make_index(tmp_path, documents)) == [{r"D:\new\a.pdf", r"D:\backup\b.pdf"}]


@pytest.mark.parametrize(
    "other",
    [
        write("b"),
        write("b") + write("a")[:6],  # a quotation
        replace_each(write("b"), 3),
        ["See", "page", "7"],
        [*write("a")[0].split()[:9], "or", "not."],  # nine words in a row, but no more
    ],
)
def test_documents_that_share_little_are_apart(tmp_path: Path, other: list[str]) -> None:
    assert list_groups(make_index(tmp_path, {"a.md": write("a"), "b.md": other, "c.md": write("c")})) == []


def test_a_group_holds_what_others_link(tmp_path: Path) -> None:
    first, second = write("a"), write("b")
    documents = {"c.md": first, "a.md": first[:30] + second[:30], "b.md": second, "d.md": write("d")}
    assert list_groups(make_index(tmp_path, documents)) == [{"a.md", "b.md", "c.md"}]


def test_twins_are_found_between_documents_that_quote_them(tmp_path: Path) -> None:
    text = write("a")
    quoting = {f"b{part}.md": write(f"b{part}") + text[part * 6 : part * 6 + 6] for part in range(10)}
    assert list_groups(make_index(tmp_path, {"a.md": text, **quoting, "c.md": text})) == [{"a.md", "c.md"}]


@pytest.mark.parametrize("count", [5, 12, 30])
def test_a_notice_in_many_documents_joins_none(tmp_path: Path, count: int) -> None:
    """It is most of each of these short texts."""
    notice = [NOTICE, *write("notice", 3)]
    documents = {f"{number}.md": [*notice, *write(str(number), 3)] for number in range(count)}
    assert list_groups(make_index(tmp_path, documents)) == []


@pytest.mark.parametrize("count", [5, 100])
def test_however_many_copies_are_one_group(tmp_path: Path, count: int) -> None:
    """Each has a date of its own."""
    copies = {f"copy {number}.md": [f"Printed in week {number}.", *write("a", 40)] for number in range(count)}
    assert list_groups(make_index(tmp_path, {**copies, "other.md": write("b")})) == [set(copies)]


@pytest.mark.parametrize("text", ["Pump.", "Close the valve before the pump is opened.", ""])
def test_tiny_copies_are_found(tmp_path: Path, text: str) -> None:
    documents = {"a.md": [text or "1 2 3"], "b.md": [text or "4"], "c.md": ["Another text."]}
    assert list_groups(make_index(tmp_path, documents)) == ([{"a.md", "b.md"}] if text else [])


def test_documents_of_one_template_are_apart(tmp_path: Path) -> None:
    build_index(tmp_path, DOCUMENTS, embed_words, chunk_characters=130, overlap=0)
    assert list_groups(load_index(tmp_path, IndexSection())) == []


def test_deleted_chunks_are_not_read(tmp_path: Path) -> None:
    index = make_index(tmp_path, {"a.md": write("a"), "b.md": write("a"), "c.md": write("c")})
    live = index.source_numbers == index.sources.index("a.md")
    numbers = index.source_numbers[live] * 0
    rest = replace(index, rows=index.rows[live], keys=index.keys[live], source_numbers=numbers, sources=("a.md",))
    assert [number for number, _ in read_texts(rest)] == [0] * live.sum()
    assert group_twins(rest) == {"a.md": "a.md"}


def test_a_database_that_is_gone_is_named(tmp_path: Path) -> None:
    index = make_index(tmp_path, {"a.md": write("a"), "b.md": write("b")})
    index.database.write_bytes(b"no database at all" * 100)
    with pytest.raises(PipelineError, match=r"hybridrag\.sqlite3"):
        group_twins(index)


def test_whole_groups_are_held_out(tmp_path: Path) -> None:
    documents = {f"{folder}/{number}.md": write(str(number), 8) for folder in ("docs", "backup") for number in range(12)}
    index = make_index(tmp_path, documents)
    split = split_sources(index.sources, 0.25, group_twins(index))
    sides = {source: split.side_of_source(source) for source in documents}
    assert [*sides.values()].count("heldout") == 6
    assert all(sides[f"docs/{number}.md"] == sides[f"backup/{number}.md"] for number in range(12))


def test_the_console_line() -> None:
    assert describe_twins({"a": "a", "b": "b"}) is None
    assert describe_twins({}) is None
    line = "[OK] 5 documents repeat others, in 2 group(s): each group stays on one side"
    assert describe_twins({"a": "a", "b": "a", "c": "c", "d": "d", "e": "d", "f": "d"}) == line


# -----------------------------------------------------------------------------
# Runs


@given(st.lists(st.text("abcXYZ09\u00e9\u4e2d", min_size=1, max_size=5), max_size=40))
def test_runs_are_what_the_formula_says_and_blanks_and_signs_do_not_matter(words: list[str]) -> None:
    numbers = [crc32(word.lower().encode()) for word in words]
    size = min(WORDS_IN_RUN, len(words))
    expected = [
        sum(number * int(factor) for number, factor in zip(numbers[start : start + size], MULTIPLIERS[:size][::-1])) % 2**64
        for start in range(len(words) - size + 1) if size
    ]
    assert hash_runs(" ".join(words)).tolist() == hash_runs("\n- ".join(words) + ".").tolist() == expected


def test_a_large_index_is_sampled_and_its_twins_are_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "MOST_RUNS", 4000)
    texts = [(number, " ".join(write(str(number // 2 if number < 10 else number)))) for number in range(100)]
    runs = collect_runs(texts)
    assert 2000 <= len(runs.numbers) <= 4000 and len({*(runs.numbers % 16).tolist()}) == 1
    assert set(find_twins(runs, 100)) == {(number, number + 1) for number in range(0, 10, 2)}


def test_a_run_counts_once_for_a_document() -> None:
    text = " ".join(write("a"))
    assert len(collect_runs([(0, text), (0, text)]).numbers) == len(np.unique(hash_runs(text)))


def test_no_text_at_all() -> None:
    assert find_twins(collect_runs([(0, ""), (1, " - ")]), 2) == []


def test_a_thousand_chunks_take_a_fraction_of_a_second() -> None:
    """1.6 million take about two minutes."""
    texts = [(number // 40, " ".join(write(str(number), 14))) for number in range(1000)]
    started = time.process_time()
    find_twins(collect_runs(texts), 25)
    assert time.process_time() - started < 1
