from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from demo.build_index import build_index
from distill.config import IndexSection
from distill.errors import PipelineError
from distill.index import keywords as module
from distill.index.hybridrag import Index, load_index
from distill.index.keywords import list_terms, quote_term, rank_keywords
from tests.servers import embed_words

UNITS = ("pump", "valve", "antenna", "modem", "router", "sensor", "battery", "heater", "mixer", "filter", "cable", "laser")
FACTS = ("limit of 20 C", "bus is MIL-STD-1553", "spare is RF-2450-A", "colour is blue", "check near the dock")
DOCUMENTS = [
    (f"{unit}.md", "\n\n".join(f"The {unit} {fact}; {other} follows the {unit} in row {row}." for fact in FACTS))
    for row, (unit, other) in enumerate(zip(UNITS, UNITS[1:] + UNITS[:1]))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of sixty short chunks."""
    folder = tmp_path_factory.mktemp("keywords") / "index"
    build_index(folder, DOCUMENTS, embed_words, chunk_characters=70, overlap=0)
    return folder


def rank(index: Index, question: str, depth: int = 10, mask: np.ndarray | None = None) -> list[tuple[int, float]]:
    """Positions and scores for one question."""
    ranking = rank_keywords(index, [question], [np.ones(len(index), bool) if mask is None else mask], depth)[0][0]
    return list(zip(ranking.positions.tolist(), ranking.scores.tolist()))


def rank_by_sqlite(folder: Path, question: str) -> dict[int, float]:
    """Position and score of everything that one MATCH of all terms finds."""
    query = "SELECT rowid - 1, -bm25(chunks_fts) FROM chunks_fts WHERE chunks_fts MATCH ?"
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as database:
        return dict(database.execute(query, (" OR ".join(map(quote_term, list_terms(question))),)).fetchall())


def read_texts(index: Index, found: list[tuple[int, float]]) -> list[str]:
    """The texts of the chunks found."""
    return [chunk.text for chunk in index.load_chunks([position for position, _ in found], [0.0] * len(found))]


@pytest.mark.parametrize(("question", "terms"), [
    ("What is the pump's limit?", ["what", "is", "the", "pump", "limit"]),
    ("MIL-STD-1553 or mil std 1553", ["mil-std-1553", "mil", "std", "1553", "or"]),
    ("RF-2450-A v2.1, a/b_c", ["rf-2450-a", "rf", "2450", "v2.1", "v2", "a/b_c"]),
    ("--x-- (AND) \"NEAR/5\" col:val^2 *", ["and", "near/5", "near", "col", "val"]),
    ("Größe der Straße, \u043d\u0430\u0441\u043e\u0441 \u6cf5", ["größe", "der", "straße", "\u043d\u0430\u0441\u043e\u0441"]),
    ("\u201cquoted\u201d \u2014 it\u2019s", ["quoted", "it"]),
    ("a b c ? \x00 \ud83d", []),
    ("", []),
])
def test_terms(question: str, terms: list[str]) -> None:
    assert list_terms(question) == terms


SIGNS = [*"abAND OR NOT NEAR\"'()*-:^+{},.;/_\\%\x00\n\t\u201c\u00e9\u0301\u4e2d\U0001f600", "\ud800"]


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(st.sampled_from(SIGNS), max_size=40), st.text(max_size=60)))
@example('"')
@example('pump" OR "x')
@example("pump AND NOT valve NEAR(modem antenna, 5)")
@example("text : pump ^ * - pump")
@example("\x00pump\x00")
@example("\U0001f600 \u0301\u0301 \u200d\u200d")
@example("\ud800\udfff")
@example(" ".join(f"word{number}" for number in range(10_000)))
def test_no_question_can_break_it(folder: Path, question: str) -> None:
    index = load_index(folder)
    for position, score in rank(index, question):
        assert 0 <= position < len(index) and score > 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([*UNITS, "limit", "20", "MIL-STD-1553", "RF-2450-A", "colours", "the", "is"]), max_size=9))
def test_scores_are_those_of_one_match_of_all_words(folder: Path, words: list[str]) -> None:
    question = " ".join(words)
    expected = rank_by_sqlite(folder, question) if words else {}
    found = rank(load_index(folder), question, depth=100)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    for position, score in found:
        assert score == pytest.approx(expected[position], abs=1e-4)
    lost = set(expected) - {position for position, _ in found}
    assert all(expected[position] < 1e-4 for position in lost), "only words without weight may be left out"


@pytest.mark.parametrize(("question", "part"), [
    ("Which bus, MIL-STD-1553?", "MIL-STD-1553"),
    ("who sells the rf-2450-a", "RF-2450-A"),
    ("COLOURS of lasers", "laser colour"),
])
def test_part_numbers_and_other_forms_of_a_word_are_found(folder: Path, question: str, part: str) -> None:
    index = load_index(folder)
    assert part in read_texts(index, rank(index, question, depth=1))[0]


def test_a_question_of_words_that_stand_everywhere_still_finds_something(folder: Path) -> None:
    assert len(rank(load_index(folder), "the row follows in the row")) == 10


def test_masks_divide_the_hits(folder: Path) -> None:
    index = load_index(folder)
    mask = np.arange(len(index)) % 2 == 0
    every = rank(index, "pump limit", 100)
    both = rank_keywords(index, ["pump limit", "valve"], [mask, ~mask], 100)
    parts = [list(zip(side[0].positions.tolist(), side[0].scores.tolist())) for side in both]
    assert all(mask[position] for position, _ in parts[0]) and not any(mask[position] for position, _ in parts[1])
    assert sorted(parts[0] + parts[1]) == sorted(every)


def test_equal_scores_stand_in_order_of_position_and_the_best_come_first(folder: Path) -> None:
    found = rank(load_index(folder), "near the dock", depth=5)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True) and len(found) == 5
    tied = [position for position, score in found if score == scores[0]]
    assert tied == sorted(tied)


@pytest.mark.parametrize("depth", [1, 3, 7, 40])
def test_looking_at_groups_first_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    index, question = load_index(folder), "pump limit of the colour blue"
    whole = rank(index, question, 100)
    monkeypatch.setattr(module, "GROUP", 3)
    assert rank(index, question, depth) == whole[:depth]


def test_batches_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, masks = load_index(folder), [np.ones(60, bool)]
    questions = ["pump limit", "", "valve colour", "the bus", "RF-2450-A modem", "pump limit"]
    whole = rank_keywords(index, questions, masks, 9)[0]
    for size in (1, 30, 100):
        monkeypatch.setattr(module, "POSTINGS_AT_ONCE", size)
        for one, other in zip(whole, rank_keywords(index, questions, masks, 9)[0]):
            assert one.positions.tolist() == other.positions.tolist() and one.scores.tolist() == other.scores.tolist()


def copy_index(folder: Path, *statements: str) -> Path:
    """The same index, changed."""
    build_index(folder, DOCUMENTS, embed_words, chunk_characters=70, overlap=0)
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return folder


def test_chunks_that_are_not_live_are_not_found(tmp_path: Path) -> None:
    suspect = "UPDATE source_quality SET retrieval_tier = 'suspect' WHERE source_path = 'pump.md'"
    index = load_index(copy_index(tmp_path, suspect, "DELETE FROM chunks WHERE source_path = 'valve.md'"))
    texts = read_texts(index, rank(index, "pump valve", 100))
    assert {text.split()[1] for text in texts} == {"laser"}, "what follows the pump; the antenna follows the deleted valve"


def test_an_fts_table_with_its_own_texts_and_a_strange_name_serves_too(tmp_path: Path) -> None:
    folder = copy_index(
        tmp_path, "DROP TABLE chunks_fts", 'CREATE VIRTUAL TABLE "full text-1{x}" USING fts5(body)',
        'INSERT INTO "full text-1{x}" (rowid, body) SELECT chunk_pk, text FROM chunks',
    )
    index = load_index(folder, IndexSection(fts_table="Full text-1{x}"))
    assert "laser colour" in read_texts(index, rank(index, "laser colour", 1))[0]


REFILL = "INSERT INTO other (rowid, text) SELECT {key}, text FROM chunks"


@pytest.mark.parametrize(("name", "statements", "message"), [
    ("", [], 'generate.index.fts_table is "", but hybrid and keyword search need one'),
    ("other", [], r"fts_table other is not in .*, which has the tables chunks, chunks_fts, index_runs"),
    ("chunks", [], "fts_table chunks cannot be searched"),
    ("other", ["CREATE VIRTUAL TABLE other USING fts4(text)", REFILL.format(key="chunk_pk")], "other cannot be searched"),
    ("other", ["CREATE VIRTUAL TABLE other USING fts5(text)"], "finds 0 of 8 sampled chunks by their own words: it is not"),
    ("other", ["CREATE VIRTUAL TABLE other USING fts5(text)", REFILL.format(key="chunk_pk + 1")], "its rowid is not generate"),
])
def test_an_fts_table_that_cannot_serve_is_an_error_with_the_way_out(
    tmp_path: Path, name: str, statements: list[str], message: str
) -> None:
    index = load_index(copy_index(tmp_path, *statements), IndexSection(fts_table=name))
    with pytest.raises(PipelineError, match=rf"(?s){message}.*or set  generate\.retrieval: vector"):
        rank(index, "pump")
