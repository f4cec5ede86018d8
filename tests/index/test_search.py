from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.index import search as module
from distill.index.search import normalise_rows, search


def search_slowly(vectors: np.ndarray, rows: np.ndarray, questions: np.ndarray, k: int, mask: np.ndarray) -> list[list[int]]:
    """The definition: all cosines at once, sorted by (score, position)."""
    scores = np.round(normalise_rows(questions) @ normalise_rows(vectors[rows]).T, module.SCORE_DIGITS)
    positions = np.flatnonzero(mask)
    return [sorted(positions.tolist(), key=lambda position: (-row[position], position))[:k] for row in scores]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6), st.integers(1, 7))
def test_equals_the_definition_whatever_the_block_size(seed: int, rows: int, k: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct vectors, so that ties are common.
    vectors = rng.integers(-1, 2, (rows * 2, 3)).astype(np.float16)
    live = np.sort(rng.choice(rows * 2, rows, replace=False))
    questions = rng.standard_normal((3, 3)).astype(np.float32)
    masks = [rng.random(rows) < share for share in (0.7, 0.3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", block)
        found = search(vectors, live, questions, k, masks)
    for hits, mask in zip(found, masks):
        for positions, expected in zip(hits.positions, search_slowly(vectors, live, questions, k, mask)):
            assert positions.tolist() == expected + [-1] * (k - len(expected))


def test_scores_are_cosines_of_vectors_of_any_length() -> None:
    vectors = np.array([[0, 2], [3, 0], [3, 4]], dtype=np.float16)
    hits = search(vectors, np.arange(3), np.array([[10.0, 0.0]]), 3, [np.ones(3, bool)])[0]
    assert hits.positions.tolist() == [[1, 2, 0]]
    assert hits.scores[0] == pytest.approx([1, 0.6, 0])


def test_a_vector_of_zeros_scores_zero_and_breaks_nothing() -> None:
    vectors = np.array([[0, 0], [-1, 0]], dtype=np.float16)
    hits = search(vectors, np.arange(2), np.array([[1.0, 0.0]]), 2, [np.ones(2, bool)])[0]
    assert hits.positions.tolist() == [[0, 1]]
    assert hits.scores[0] == pytest.approx([0, -1])


def test_reads_no_more_than_a_block_of_the_vector_file(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched:
        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            seen.append(len(rows))
            return np.ones((len(rows), 4), np.float16)

    monkeypatch.setattr(module, "BLOCK_ROWS", 10)
    search(Watched(), np.arange(25), np.ones((1, 4)), 2, [np.ones(25, bool)])  # type: ignore[arg-type]
    assert seen == [10, 10, 5]
