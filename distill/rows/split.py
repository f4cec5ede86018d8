"""Which documents, and so which questions, are held out of training: no document is on both sides.

Held out are the documents with the smallest hashes of their paths: whatever the questions are, the same documents give the
same split. How many are held out follows their number, so that adding or deleting documents can move others across the cut.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from distill.errors import PipelineError
from distill.files import sha256_text
from distill.index.hybridrag import Index
from distill.index.search import search
from distill.records import Chunk, TrainingExample
from distill.rows.curated import Curated

Side = Literal["train", "heldout"]
SIDES: tuple[Side, Side] = ("train", "heldout")
HASH_DIGITS = 16
FEWEST_CHARACTERS = 40  # a shorter chunk may stand in an instruction by chance
Rows = dict[Side, list[TrainingExample]]


@dataclass(frozen=True)
class Split:
    """Sources whose hash is at most `last_hash` are held out; "" holds out none. `share` decides for rows without sources."""

    last_hash: str
    share: float

    def side_of_source(self, source: str) -> Side:
        """The side of a document, also of one that the index does not hold."""
        return "heldout" if hash_source(source) <= self.last_hash else "train"

    def side_of_text(self, text: str) -> Side:
        """The side of a row without sources: the same text is always on the same side."""
        return "heldout" if int(hash_source(text), 16) < self.share * 16**HASH_DIGITS else "train"


@dataclass(frozen=True)
class Retrieved:
    """What was found for one question among the documents of its side, best first."""

    side: Side
    chunks: tuple[Chunk, ...]


def hash_source(text: str) -> str:
    """Hex digits that spread texts evenly."""
    return sha256_text(text)[:HASH_DIGITS]


def split_sources(sources: Iterable[str], share: float) -> Split:
    """Hold out the `share` of the documents with the smallest hashes, at least one.

    Raises PipelineError when that leaves none for training.
    """
    hashes = sorted({hash_source(source) for source in sources})
    if not hashes:
        return Split("", share)
    count = max(1, round(share * len(hashes)))
    if count >= len(hashes):
        raise PipelineError(
            f"{len(hashes)} source document(s) cannot be split into training and held-out ones at generate.heldout_share "
            f"{share:g}: add documents or lower the share"
        )
    return Split(hashes[count - 1], share)


# -----------------------------------------------------------------------------
# Curated rows


def place_all(split: Split, curated: Sequence[Curated], chunks: Iterable[Chunk]) -> Rows:
    """Curated rows by side; `chunks` are those that this run retrieved. Raises PipelineError for a row that is on both."""
    known = {(text, chunk.source) for chunk in chunks if len(text := chunk.text.strip()) >= FEWEST_CHARACTERS}
    rows: Rows = {side: [] for side in SIDES}
    unnamed = 0
    for each in curated:
        sources = find_sources(each.row, known)
        unnamed += not sources
        rows[place_curated(split, each, sources)].append(each.row)
    if unnamed:
        print(f"[WARN] {unnamed} curated rows name no source documents: they are split by their text alone")
    return rows


def find_sources(row: TrainingExample, known: Collection[tuple[str, str]]) -> set[str]:
    """The documents that a row names, or else those whose chunk stands whole in its instruction; `known`: (text, source)."""
    return {span.source for span in row.context} or {source for text, source in known if text in row.instruction}


def place_curated(split: Split, curated: Curated, sources: Iterable[str]) -> Side:
    """The side of a row that somebody wrote. Raises PipelineError, naming file and line, when its sources are on both sides."""
    sides = {split.side_of_source(source) for source in sources}
    if len(sides) > 1:
        raise PipelineError(f"{curated.place} holds documents of both training and held-out side: leave one of them out")
    return sides.pop() if sides else split.side_of_text(curated.row.instruction)


# -----------------------------------------------------------------------------
# Retrieval


def make_masks(index: Index, split: Split, top_k: int) -> list[np.ndarray]:
    """For each of SIDES, which live chunks are its own: bool [n]. Raises PipelineError for a side with fewer than top_k."""
    heldout_sources = np.array([split.side_of_source(source) == "heldout" for source in index.sources])
    heldout = heldout_sources[index.source_numbers]
    masks = [~heldout, heldout]
    for side, mask in zip(SIDES, masks):
        if mask.sum() < top_k:
            raise PipelineError(
                f"the {side} side has {mask.sum()} chunks of {len(index)}, fewer than generate.top_k {top_k}: "
                f"change generate.heldout_share, lower top_k or index more documents"
            )
    return masks


def retrieve(index: Index, split: Split, vectors: np.ndarray, top_k: int, min_score: float) -> list[Retrieved]:
    """For each question's vector, float32 [q, dim]: the side of its best chunk, and that side's top_k chunks from min_score up.

    Raises PipelineError for a side that is too small.
    """
    found = search(index.vectors, index.rows, vectors, top_k, make_masks(index, split, top_k))
    sides = [int(heldout > train) for train, heldout in zip(*(hits.scores[:, 0] for hits in found))]
    hits = [
        [pair for pair in zip(found[side].positions[question], found[side].scores[question]) if pair[1] >= min_score]
        for question, side in enumerate(sides)
    ]
    return [Retrieved(SIDES[side], chunks) for side, chunks in zip(sides, load_all(index, hits))]


def load_all(index: Index, hits: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[Chunk, ...]]:
    """The chunks of all questions, read with one connection."""
    flat = [hit for pairs in hits for hit in pairs]
    chunks = iter(index.load_chunks([position for position, _ in flat], [score for _, score in flat]))
    return [tuple(next(chunks) for _ in pairs) for pairs in hits]
