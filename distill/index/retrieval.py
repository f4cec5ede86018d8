"""Which chunks answer a question: by vectors, by keywords, or by both, fused by reciprocal rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from distill.index.hybridrag import Index
from distill.index.keywords import Ranking, rank_keywords
from distill.index.search import Hits, measure_cosines, search

Method = Literal["hybrid", "vector", "keyword"]
# Cormack, Clarke, Buettcher 2009, Reciprocal Rank Fusion: a chunk's score is the sum of 1 / (60 + its rank) over the rankings.
RRF_K = 60
# From each ranking; a chunk at rank 60 of one alone has half the score of the best, and no chance among the first few.
CANDIDATES = 60


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk found. `cosine` is the plain cosine however it was found, -1 to 1; `score` is what the method ranks by.

    That is the cosine, BM25 (0 and up) or the fused figure (at most 2/61).
    """

    position: int
    cosine: float
    score: float


def rank_chunks(
    index: Index, questions: Sequence[str], vectors: np.ndarray, masks: Sequence[np.ndarray], depth: int, method: Method
) -> list[list[list[Hit]]]:
    """For each mask (bool [n]) and each question at most `depth` hits, best first; equals in order of cosine, then position.

    `vectors` float32 [q, dim] are the questions'; `questions` are not read by method "vector". No score is too low here.
    Raises PipelineError when keywords are wanted and the index has no FTS5 table for them.
    """
    if not len(vectors):
        return [[] for _ in masks]
    pool = max(depth, CANDIDATES) if method == "hybrid" else depth
    words = rank_keywords(index, questions, masks, pool) if method != "vector" else []
    near = search(index.vectors, index.rows, vectors, pool, masks) if method != "keyword" else []
    if method == "vector":
        return [[list_near(hits, number)[:depth] for number in range(len(vectors))] for hits in near]
    if method == "keyword":
        return [measure_words(index, vectors, rankings) for rankings in words]
    return [fuse(index, vectors, hits, rankings, depth) for hits, rankings in zip(near, words)]


def list_near(hits: Hits, number: int) -> list[Hit]:
    """The hits of one question by vector."""
    pairs = zip(hits.positions[number].tolist(), hits.scores[number].tolist())
    return [Hit(position, score, score) for position, score in pairs if position >= 0]


def measure_words(index: Index, vectors: np.ndarray, rankings: Sequence[Ranking]) -> list[list[Hit]]:
    """The hits of all questions by keyword, with their cosines."""
    cosines = measure_pairs(index, vectors, [ranking.positions.tolist() for ranking in rankings])
    return [
        sorted(map(Hit, ranking.positions.tolist(), found, ranking.scores.tolist()), key=sort_key)
        for ranking, found in zip(rankings, cosines)
    ]


def measure_pairs(index: Index, vectors: np.ndarray, positions: Sequence[Sequence[int]]) -> list[list[float]]:
    """The cosines of question i with the chunks at positions[i], for every i."""
    counts = [len(each) for each in positions]
    flat = np.array([position for each in positions for position in each], np.int64)
    asked = np.repeat(np.arange(len(positions)), counts)
    cosines = measure_cosines(index.vectors, index.rows[flat], asked, vectors).tolist()
    ends = np.cumsum(counts).tolist()
    return [cosines[end - count : end] for count, end in zip(counts, ends)]


def fuse(index: Index, vectors: np.ndarray, hits: Hits, rankings: Sequence[Ranking], depth: int) -> list[list[Hit]]:
    """Both rankings of every question as one, by reciprocal rank."""
    near = [list_near(hits, number) for number in range(len(vectors))]
    known = [{hit.position: hit.cosine for hit in each} for each in near]
    others = [[p for p in ranking.positions.tolist() if p not in each] for ranking, each in zip(rankings, known)]
    for each, positions, cosines in zip(known, others, measure_pairs(index, vectors, others)):
        each.update(zip(positions, cosines))
    return [
        fuse_one([[hit.position for hit in hits], ranking.positions.tolist()], cosines)[:depth]
        for hits, ranking, cosines in zip(near, rankings, known)
    ]


def fuse_one(rankings: Sequence[Sequence[int]], cosines: dict[int, float]) -> list[Hit]:
    """Every position of the rankings, by the sum of its reciprocal ranks."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, position in enumerate(ranking, start=1):
            scores[position] += 1 / (RRF_K + rank)
    return sorted((Hit(position, cosines[position], score) for position, score in scores.items()), key=sort_key)


def sort_key(hit: Hit) -> tuple[float, float, int]:
    """Best first; of equals the nearer one, of those the earlier one."""
    return -hit.score, -hit.cosine, hit.position
