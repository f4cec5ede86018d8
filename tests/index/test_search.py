from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.index import search as module
from distill.index.search import Hits, measure_cosines, normalise_rows, search

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def search_slowly(vectors: np.ndarray, rows: np.ndarray, questions: np.ndarray, k: int, mask: np.ndarray) -> list[list[int]]:
    """The definition: all cosines in float64, sorted by (score, position)."""
    stored = vectors[rows].astype(np.float64)
    lengths = np.linalg.norm(stored, axis=1)
    scores = normalise_rows(questions).astype(np.float64) @ (stored / np.where(lengths > 0, lengths, 1)[:, None]).T
    rounded = np.round(scores, module.SCORE_DIGITS)
    return [sorted(np.flatnonzero(mask).tolist(), key=lambda place: (-row[place], place))[:k] for row in rounded]


def set_sizes(patch: pytest.MonkeyPatch, block: int, group: int = 4, questions: int = 2, pairs: int = 5) -> None:
    """Small sizes, so that a few rows fill several blocks and groups."""
    for name, value in {"BLOCK_ROWS": block, "GROUP_ROWS": group, "QUESTIONS_AT_ONCE": questions, "EXACT_ROWS": pairs}.items():
        patch.setattr(module, name, value)


def list_found(hits: Hits) -> list[list[int]]:
    """Positions without the fillers."""
    return [[place for place in row if place >= 0] for row in hits.positions.tolist()]


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 9), st.integers(1, 17), st.integers(1, 5))
def test_equals_the_definition_whatever_the_sizes(device: str, seed: int, rows: int, k: int, block: int, group: int) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct vectors, zeros among them, so that ties are common.
    vectors = rng.integers(-1, 2, (rows * 2, 3)).astype(np.float16)
    live = np.sort(rng.choice(rows * 2, rows, replace=False))
    questions = rng.standard_normal((5, 3)).astype(np.float32)
    masks = [rng.random(rows) < share for share in (0.7, 0.3, 1.0)]
    with pytest.MonkeyPatch.context() as patch:
        set_sizes(patch, block, group)
        found = search(vectors, live, questions, k, masks, device)
    for hits, mask in zip(found, masks):
        assert list_found(hits) == search_slowly(vectors, live, questions, k, mask)


@pytest.mark.parametrize("device", DEVICES)
def test_equals_the_definition_at_a_real_dimension_and_with_real_sizes(device: str) -> None:
    rng = np.random.default_rng(3)
    subjects = rng.standard_normal((200, 256), np.float32)
    vectors = normalise_rows(subjects[rng.integers(0, 200, 20_000)] + rng.standard_normal((20_000, 256), np.float32))
    vectors = vectors.astype(np.float16)
    vectors[10_000:10_300] = vectors[0]  # copies, in another block too
    questions = vectors[rng.integers(0, 20_000, 30)].astype(np.float32) + 0.02
    questions[0] = vectors[0]
    live = np.flatnonzero(rng.random(20_000) < 0.95)
    mask = rng.random(len(live)) < 0.5
    for hits, chosen in zip(search(vectors, live, questions, 50, [mask, ~mask], device), (mask, ~mask)):
        assert list_found(hits) == search_slowly(vectors, live, questions, 50, chosen)


def test_all_at_once_and_one_at_a_time_give_the_very_same(monkeypatch: pytest.MonkeyPatch) -> None:
    set_sizes(monkeypatch, block=64, group=8, questions=4)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, 48)).astype(np.float16)
    vectors[500:] = vectors[:500]
    questions, rows, masks = rng.standard_normal((11, 48)), np.arange(1000), [np.ones(1000, bool)]
    together = search(vectors, rows, questions, 20, masks)[0]
    for number in range(11):
        alone = search(vectors, rows, questions[number : number + 1], 20, masks)[0]
        assert alone.positions[0].tolist() == together.positions[number].tolist()
        assert alone.scores[0].tolist() == together.scores[number].tolist()


def test_pairs_have_the_very_cosines_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_ROWS", 7)
    rng = np.random.default_rng(0)
    vectors, questions = rng.standard_normal((60, 32)).astype(np.float16), rng.standard_normal((4, 32))
    hits = search(vectors, np.arange(60), questions, 10, [np.ones(60, bool)])[0]
    found = measure_cosines(vectors, hits.positions.ravel(), np.repeat(np.arange(4), 10), questions)
    assert found.tolist() == hits.scores.ravel().tolist()
    assert not len(measure_cosines(vectors, np.empty(0, np.int64), np.empty(0, np.int64), questions))


def test_scores_are_cosines_of_vectors_of_any_length() -> None:
    vectors = np.array([[0, 2], [3, 0], [3, 4]], dtype=np.float16)
    hits = search(vectors, np.arange(3), np.array([[10.0, 0.0]]), 3, [np.ones(3, bool)])[0]
    assert hits.positions.tolist() == [[1, 2, 0]]
    assert hits.scores[0].tolist() == [1, 0.6, 0]


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_vector_that_is_none_scores_zero_and_hides_nothing(value: float) -> None:
    vectors = np.array([[value, value], [-1, 0], [1, 1]], dtype=np.float16)
    hits = search(vectors, np.arange(3), np.array([[1.0, 0.0]]), 3, [np.ones(3, bool)])[0]
    assert hits.positions.tolist() == [[2, 0, 1]]
    assert hits.scores[0] == pytest.approx([np.sqrt(0.5), 0, -1])


def test_fewer_rows_than_wanted_are_filled_up() -> None:
    vectors, mask = np.ones((3, 2), np.float16), np.array([False, True, False])
    none, one = search(vectors, np.arange(3), np.ones((2, 2)), 2, [np.zeros(3, bool), mask])
    assert none.positions.tolist() == [[-1, -1]] * 2 and np.isneginf(none.scores).all()
    assert one.positions.tolist() == [[1, -1]] * 2 and one.scores.tolist() == [[1, -np.inf]] * 2


def test_no_questions_have_no_hits() -> None:
    hits = search(np.ones((3, 2), np.float16), np.arange(3), np.empty((0, 2)), 2, [np.ones(3, bool)])[0]
    assert hits.positions.shape == (0, 2)


def test_each_row_is_read_once_and_no_more_than_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    class Watched:
        shape = (50, 4)

        def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
            seen.append(np.arange(50)[rows])
            return np.ones((len(seen[-1]), 4), np.float16)

    set_sizes(monkeypatch, block=10, questions=3)
    rows = np.concatenate([np.arange(12), np.arange(20, 33)])
    search(Watched(), rows, np.ones((7, 4)), 2, [np.ones(25, bool)])  # type: ignore[arg-type]
    assert [len(each) for each in seen] == [10, 10, 5] and np.concatenate(seen).tolist() == rows.tolist()


def test_a_mapped_file_is_searched_without_a_word(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    np.eye(4, dtype=np.float16).tofile(tmp_path / "vectors")
    vectors = np.memmap(tmp_path / "vectors", np.float16, "r", shape=(4, 4))
    hits = search(vectors, np.arange(4), np.eye(4)[2:3], 1, [np.ones(4, bool)])[0]
    assert hits.positions.tolist() == [[2]] and not recwarn.list


def test_importing_it_needs_no_torch() -> None:
    code = "import sys, distill.index.retrieval, distill.index.check; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
