"""Exact cosine search over some rows of a vector file, for all questions and all masks in one pass with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_ROWS = 16_384  # 50 MB as float32 at 768 dimensions
SCORE_DIGITS = 6     # equals stay equal whatever the order in which a BLAS adds


@dataclass(frozen=True)
class Hits:
    """The best k for each of q questions, best first; equal scores in order of position. Missing ones are -1 and -inf."""

    positions: np.ndarray  # int64 [q, k]
    scores: np.ndarray     # float32 [q, k]


def search(vectors: np.ndarray, rows: np.ndarray, questions: np.ndarray, k: int, masks: Sequence[np.ndarray]) -> list[Hits]:
    """The k positions of highest cosine for each question, once per mask.

    `vectors` float16 [N, dim], only its `rows` int64 [n] (ascending) are read; `questions` float32 [q, dim]; each mask is bool
    [n]. Positions count in `rows`.
    """
    questions = normalise_rows(questions)
    found = [Hits(np.full((len(questions), k), -1), np.full((len(questions), k), -np.inf, np.float32)) for _ in masks]
    for start in range(0, len(rows), BLOCK_ROWS):
        block = normalise_rows(vectors[rows[start : start + BLOCK_ROWS]])
        scores = np.round(questions @ block.T, SCORE_DIGITS)
        for hits, mask in zip(found, masks):
            chosen = np.flatnonzero(mask[start : start + BLOCK_ROWS])
            merge(hits, scores[:, chosen], chosen + start)
    return found


def merge(hits: Hits, scores: np.ndarray, positions: np.ndarray) -> None:
    """Take the better ones of `scores` [q, b] into `hits`; positions [b] ascend and lie after all that hits holds."""
    k = hits.scores.shape[1]
    better = scores > hits.scores[:, -1:]
    for question in np.flatnonzero(better.any(axis=1)):
        fresh = np.flatnonzero(better[question])
        both_scores = np.concatenate([hits.scores[question], scores[question, fresh]])
        both_positions = np.concatenate([hits.positions[question], positions[fresh]])
        best = np.argsort(-both_scores, kind="stable")[:k]
        hits.scores[question], hits.positions[question] = both_scores[best], both_positions[best]


def normalise_rows(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a row of zeros stays zeros, and so scores 0 against everything."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
