from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from demo.build_index import build_index
from distill.errors import PipelineError
from distill.index import retrieval as module
from distill.index.hybridrag import Index, load_index
from distill.index.retrieval import RRF_K, Hit, Method, fuse_one, rank_chunks
from distill.index.search import normalise_rows
from tests.servers import embed_words

UNITS = ("pump", "valve", "antenna", "modem", "router", "sensor", "battery", "heater", "mixer", "filter", "cable", "laser")
DOCUMENTS = [
    (f"{unit}.md", f"The {unit} limit is {row} C today.\n\nThe {unit} colour is {other}.\n\nPart {unit[:2].upper()}-{row}00-X.")
    for row, (unit, other) in enumerate(zip(UNITS, UNITS[1:] + UNITS[:1]))
]
QUESTIONS = ["What is the pump limit?", "Who has part VA-100-X?", "", "zzz qqq"]
METHODS: list[Method] = ["hybrid", "vector", "keyword"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Twelve documents of three chunks each."""
    folder = tmp_path_factory.mktemp("retrieval") / "index"
    build_index(folder, DOCUMENTS, embed_words, chunk_characters=30, overlap=0)
    return load_index(folder)


def rank(index: Index, method: Method, depth: int = 6, masks: list[np.ndarray] | None = None) -> list[list[list[Hit]]]:
    """All QUESTIONS by one method."""
    every = [np.ones(len(index), bool)] if masks is None else masks
    return rank_chunks(index, QUESTIONS, embed_words(QUESTIONS), every, depth, method)


@pytest.mark.parametrize("method", METHODS)
def test_cosines_are_plain_whatever_finds_the_chunk(index: Index, method: Method) -> None:
    vectors, stored = embed_words(QUESTIONS), normalise_rows(index.vectors[index.rows])
    found = rank(index, method)[0]
    assert found[0] and found[1]
    for vector, hits in zip(vectors, found):
        for hit in hits:
            assert hit.cosine == pytest.approx(float(stored[hit.position] @ vector), abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_hits_are_distinct_best_first_and_no_more_than_wanted(index: Index, method: Method) -> None:
    for depth in (1, 6, 100):
        for hits in rank(index, method, depth)[0]:
            scores = [hit.score for hit in hits]
            assert scores == sorted(scores, reverse=True) and len(hits) <= depth
            assert len({hit.position for hit in hits}) == len(hits)


def test_the_score_is_what_the_method_ranks_by(index: Index) -> None:
    near, words, both = (rank(index, method, 100)[0] for method in ("vector", "keyword", "hybrid"))
    for number in range(len(QUESTIONS)):
        assert all(hit.score == hit.cosine for hit in near[number])
        ranks = [{hit.position: rank for rank, hit in enumerate(hits[number], 1)} for hits in (near, words)]
        for hit in both[number]:
            expected = sum(1 / (RRF_K + each[hit.position]) for each in ranks if hit.position in each)
            # Chunks with equal BM25 may change places among themselves.
            assert hit.score == pytest.approx(expected, abs=2e-3)


def test_hybrid_finds_what_only_keywords_or_only_vectors_find(index: Index) -> None:
    part = [chunk.text for chunk in index.load_chunks([hit.position for hit in rank(index, "hybrid", 1)[0][1]], [0])]
    assert "VA-100-X" in part[0]
    assert not rank(index, "keyword")[0][3] and rank(index, "hybrid")[0][3] == [
        Hit(hit.position, hit.cosine, 1 / (RRF_K + place)) for place, hit in enumerate(rank(index, "vector")[0][3], 1)
    ]


def test_a_chunk_far_down_by_vector_is_found_by_its_words(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", 2)
    away = -np.asarray(index.vectors[index.rows[7:8]], np.float32)
    words = index.load_chunks([7], [0])[0].text
    found = rank_chunks(index, [words], away, [np.ones(len(index), bool)], 2, "hybrid")[0][0]
    assert Hit(7, -1, 1 / (RRF_K + 1)) in [Hit(hit.position, round(hit.cosine, 3), hit.score) for hit in found]


@pytest.mark.parametrize("method", METHODS)
def test_no_hit_is_outside_its_mask(index: Index, method: Method) -> None:
    mask = np.arange(len(index)) < 10
    inside, outside, none = rank(index, method, 100, [mask, ~mask, np.zeros(len(index), bool)])
    assert all(mask[hit.position] for hits in inside for hit in hits) and any(inside)
    assert not any(mask[hit.position] for hits in outside for hit in hits) and any(outside)
    assert none == [[]] * len(QUESTIONS)


@pytest.mark.parametrize("method", METHODS)
def test_together_and_alone_give_the_same(index: Index, method: Method) -> None:
    masks = [np.ones(len(index), bool)]
    alone = [
        rank_chunks(index, [question], embed_words([question]), masks, 6, method)[0][0] for question in QUESTIONS
    ]
    assert rank(index, method)[0] == alone


@pytest.mark.parametrize("method", METHODS)
def test_no_questions_find_nothing(index: Index, method: Method) -> None:
    assert rank_chunks(index, [], np.empty(0), [np.ones(len(index), bool)] * 2, 5, method) == [[], []]


def test_fused_ranks_are_the_published_formula() -> None:
    cosines = {1: 0.9, 2: 0.8, 3: 0.1, 4: 0.2}
    fused = fuse_one([[1, 2], [2, 3]], cosines)
    assert [(hit.position, hit.score) for hit in fused] == [(2, 1 / 62 + 1 / 61), (1, 1 / 61), (3, 1 / 62)]
    assert [hit.position for hit in fuse_one([[3], [4]], cosines)] == [4, 3], "of equals the nearer one first"
    assert [hit.position for hit in fuse_one([[4], [3]], {3: 0.5, 4: 0.5})] == [3, 4], "of these the earlier one"


def test_only_vector_search_works_without_an_fts_table(tmp_path: Path) -> None:
    build_index(tmp_path, DOCUMENTS, embed_words, chunk_characters=30, overlap=0)
    with closing(sqlite3.connect(tmp_path / "hybridrag.sqlite3")) as database:
        database.execute("DROP TABLE chunks_fts")
    index = load_index(tmp_path)
    assert rank(index, "vector")[0][0]
    for method in ("hybrid", "keyword"):
        with pytest.raises(PipelineError, match=r"fts_table chunks_fts is not in .*or set  generate\.retrieval: vector"):
            rank(index, method)
