"""Exact cosine search over some rows of a vector file: all questions and all masks in one pass, with bounded memory.

On CUDA when there is a card, or else on the CPU, with torch in both cases and through the same code: on a CPU torch turns
float16 into float32 fourteen times as fast as numpy, and that conversion would else be a fifth of the whole pass
(benchmarks/retrieval.py). torch is imported here alone, and only when somebody searches.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ROWS = 8_192         # 25 MB as float32 at 768 dimensions
QUESTIONS_AT_ONCE = 2_048  # 67 MB of scores with a whole block
GROUP_ROWS = 32            # rows whose best score is looked at before their own
EXACT_ROWS = 512           # pairs whose cosine is computed in float64 at once: 3 MB
SCORE_DIGITS = 7           # of a cosine in float64: equal vectors have equal scores wherever they stand
# A cosine in float32 is at most 2e-6 beside the true one (measured, 64 to 4,096 dimensions, vectors of one sign too); a floor
# and a candidate may both be off.
MARGIN = 1e-5


@dataclass(frozen=True)
class Hits:
    """The best k for each of q questions, best first; equal cosines in order of position. Missing ones are -1 and -inf."""

    positions: np.ndarray  # int64 [q, k]
    scores: np.ndarray     # float64 [q, k]


def search(
    vectors: np.ndarray, rows: np.ndarray, questions: np.ndarray, k: int, masks: Sequence[np.ndarray], device: str = ""
) -> list[Hits]:
    """The k positions of highest cosine for each question, once per mask.

    `vectors` float16 [N, dim], only its `rows` int64 [n] (ascending) are read, each once per mask that holds it; `questions`
    float32 [q, dim]; each mask is bool [n]. Positions count in `rows`. `device` is torch's name; "" chooses.
    """
    device = device or choose_device()
    asked = to_tensor(normalise_rows(questions), device)
    parts = asked.split(QUESTIONS_AT_ONCE)
    found = [[Best(len(part), k) for part in parts] for _ in masks]
    block = Block(vectors, device)
    for start in range(0, len(rows), BLOCK_ROWS):
        for mask, bests in zip(masks, found):
            positions = start + np.flatnonzero(mask[start : start + BLOCK_ROWS])
            if len(positions):
                block.load(rows[positions])
                for part, best in zip(parts, bests):
                    best.take(block, part, positions)
    return [join_hits([best.finish() for best in bests], k) for bests in found]


def measure_cosines(vectors: np.ndarray, rows: np.ndarray, numbers: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """The cosines of n pairs, row rows[i] of `vectors` with questions[numbers[i]]: float64 [n], the figures of `search`."""
    asked = to_tensor(normalise_rows(questions), "cpu")
    found = [np.empty(0)]
    for start in range(0, len(rows), EXACT_ROWS):
        part = slice(start, start + EXACT_ROWS)
        found.append(to_cosines(to_tensor(vectors[rows[part]], "cpu"), asked[to_tensor(numbers[part], "cpu")]).numpy())
    return np.concatenate(found)


def normalise_rows(vectors: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a row of zeros stays zeros, and so scores 0 against everything."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


# -----------------------------------------------------------------------------
# One block of rows


class Block:
    """Rows of the vector file as float32 on a device, in memory that every block uses again."""

    def __init__(self, vectors: np.ndarray, device: str) -> None:
        import torch

        self._torch, self._vectors, self._device = torch, vectors, device
        self._memory = torch.empty((BLOCK_ROWS, vectors.shape[1]), device=device)
        self._scores = torch.empty(0, device=device)

    def load(self, rows: np.ndarray) -> None:
        """Read these rows, at most BLOCK_ROWS, ascending. Rows that are no numbers count as zeros."""
        torch = self._torch
        together = rows[-1] - rows[0] + 1 == len(rows)
        stored = self._vectors[rows[0] : rows[-1] + 1] if together else self._vectors[rows]
        self.rows = self._memory[: len(rows)]
        self.rows.copy_(to_tensor(stored, self._device))
        lengths = torch.linalg.vector_norm(self.rows, dim=1, keepdim=True)
        if not torch.isfinite(lengths).all():
            self.rows[~torch.isfinite(lengths[:, 0])] = 0
            lengths = torch.linalg.vector_norm(self.rows, dim=1, keepdim=True)
        self._inverse = torch.where(lengths > 0, 1 / lengths, 0)

    def score(self, questions: Tensor) -> Tensor:
        """Cosines in float32 [groups, GROUP_ROWS, q], the last group filled up with -inf."""
        groups = -(-len(self.rows) // GROUP_ROWS)
        size = groups * GROUP_ROWS * len(questions)
        if len(self._scores) < size:
            self._scores = self._torch.empty(size, device=self._device)
        scores = self._scores[:size].view(groups * GROUP_ROWS, len(questions))
        # This order, rows x questions, is the faster one in MKL and OpenBLAS.
        self._torch.mm(self.rows, questions.T, out=scores[: len(self.rows)])
        scores[: len(self.rows)].mul_(self._inverse)
        scores[len(self.rows) :] = -self._torch.inf
        return scores.view(groups, GROUP_ROWS, len(questions))


# -----------------------------------------------------------------------------
# The best so far


@dataclass
class Best:
    """The running best k of `count` questions.

    Candidates are found by float32 scores, with a margin, and measured again in float64. They are sorted in only when as many
    wait as the answer holds: the pass goes on with a lower floor meanwhile, which costs candidates but never a hit.
    """

    count: int
    k: int
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hits = Hits(np.full((self.count, self.k), -1), np.full((self.count, self.k), -np.inf))
        self._floor: Tensor | None = None

    def take(self, block: Block, questions: Tensor, positions: np.ndarray) -> None:
        """Look at a block; `positions` [rows of the block] lie after all that were taken before."""
        scores = block.score(questions)
        groups, members, numbers = find_candidates(scores, self._find_floor(scores))
        rows = groups * GROUP_ROWS + members
        for start in range(0, len(rows), EXACT_ROWS):
            part = slice(start, start + EXACT_ROWS)
            exact = to_cosines(block.rows[rows[part]], questions[numbers[part]])
            self.waiting.append((numbers[part].cpu().numpy(), positions[rows[part].cpu().numpy()], exact.cpu().numpy()))
        if sum(len(each[0]) for each in self.waiting) >= self.count * self.k:
            self._sort_in()

    def finish(self) -> Hits:
        """The hits, once every block was taken."""
        self._sort_in()
        return self.hits

    def _find_floor(self, scores: Tensor) -> Tensor:
        """A score that the k-th best of each question reaches for sure: float32 [q]."""
        import torch

        if self._floor is None:
            self._floor = torch.full((self.count,), -torch.inf, device=scores.device)
        if len(scores) < self.k or bool((self._floor > -torch.inf).all()):
            return self._floor
        # k groups hold a row each that is at least as good as the k-th best group's best.
        return torch.maximum(self._floor, scores.amax(1).topk(self.k, dim=0).values[-1] - MARGIN)

    def _sort_in(self) -> None:
        if not self.waiting:
            return
        numbers, positions, scores = (np.concatenate(column) for column in zip(*self.waiting))
        self.waiting = []
        touched = np.unique(numbers)
        numbers = np.concatenate([np.repeat(touched, self.k), numbers])
        positions = np.concatenate([self.hits.positions[touched].ravel(), positions])
        scores = np.concatenate([self.hits.scores[touched].ravel(), scores])
        order = np.lexsort((positions, -scores, numbers))
        numbers, positions, scores = numbers[order], positions[order], scores[order]
        places = np.arange(len(numbers)) - np.searchsorted(numbers, numbers)
        kept = places < self.k
        self.hits.positions[numbers[kept], places[kept]] = positions[kept]
        self.hits.scores[numbers[kept], places[kept]] = scores[kept]
        if self._floor is not None:
            self._floor.copy_(to_tensor(self.hits.scores[:, -1] - MARGIN, "cpu"))


def find_candidates(scores: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Group, place in the group and question of every score from its question's floor up; -inf is none."""
    groups, numbers = (scores.amax(1) >= floor).nonzero(as_tuple=True)
    members = scores[groups, :, numbers]
    chosen, places = ((members >= floor[numbers, None]) & members.isfinite()).nonzero(as_tuple=True)
    return groups[chosen], places, numbers[chosen]


def to_cosines(stored: Tensor, questions: Tensor) -> Tensor:
    """Cosines of pairs of rows, float64 [n], to SCORE_DIGITS; `questions` have length 1. Zeros and not-a-number give 0."""
    import torch

    stored = stored.double()
    cosines = torch.linalg.vecdot(stored, questions.double()) / torch.linalg.vecdot(stored, stored).sqrt()
    return torch.round(torch.nan_to_num(cosines, 0.0, 0.0, 0.0), decimals=SCORE_DIGITS) + 0.0  # no -0.0


def join_hits(parts: Sequence[Hits], k: int) -> Hits:
    """The hits of the parts of the questions, in their order."""
    if not parts:
        return Hits(np.empty((0, k), np.int64), np.empty((0, k)))
    return Hits(np.concatenate([part.positions for part in parts]), np.concatenate([part.scores for part in parts]))


def choose_device() -> str:
    """The name of torch's device."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def to_tensor(array: np.ndarray, device: str) -> Tensor:
    """An array on a device; on the CPU it shares the array's memory."""
    import torch

    with warnings.catch_warnings():
        # A mapped file is not writable, which torch cannot express; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)
