"""Which chunks stand in a row's prompt, and in which order: RAFT (Zhang et al. 2024).

The golden chunk is the best one found. Beside it stand other good chunks and near misses, which are the next best of other
documents: real ones, so that the student learns to tell them apart. A share of rows is planned a second time without the golden
chunk's document, so that the student learns to say what its sources do not hold; only where what is left lies clearly further
from the question, since otherwise it may well hold the answer too.

Everything that looks random here hangs on hashes of texts: the same questions and documents give the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from distill.files import sha256_text
from distill.index.hybridrag import Index
from distill.index.retrieval import Hit
from distill.masking import Masker
from distill.records import Chunk

# Texts that share so many words in a row are copies. Data sheets made from one template differ sooner, and are the best near
# misses. Copies of a document are cut at other places, so that the rest of a chunk may stand in the next.
WORDS_IN_RUN = 24
STREAM_CHUNKS = 8
WORD = re.compile(r"\w+")
# What is left without the golden document must have so much less cosine than the golden chunk.
CLEAR_GAP = 0.1


class ChunkReader:
    """Chunks of an index with their texts masked; each is masked, and so counted, once.

    `names` are the masked paths of the sources seen so far.
    """

    def __init__(self, index: Index, masker: Masker) -> None:
        self.index, self.masker = index, masker
        self._masked: dict[int, Chunk] = {}
        self.names: dict[str, str] = {}

    def load(self, hits: Sequence[Hit]) -> list[Chunk]:
        """The chunks of these hits in their order; a chunk's score is its plain cosine. Raises PipelineError from the index."""
        fresh = [position for position in dict.fromkeys(hit.position for hit in hits) if position not in self._masked]
        for position, chunk in zip(fresh, self.index.load_chunks(fresh, [0.0] * len(fresh)) if fresh else ()):
            self._masked[position] = replace(chunk, text=self.masker.mask(chunk.text))
            if chunk.source not in self.names:
                self.names[chunk.source] = self.masker.mask(chunk.source)
        return [replace(self._masked[hit.position], score=hit.cosine) for hit in hits]

    def stream(self, hits: Sequence[Hit]) -> Iterator[Chunk]:
        """The same, a few at a time, for a caller that may stop early: what is not looked at is neither read nor masked."""
        for start in range(0, len(hits), STREAM_CHUNKS):
            yield from self.load(hits[start : start + STREAM_CHUNKS])

    def source_of(self, hit: Hit) -> int:
        """The number of the document that a hit stands in."""
        return int(self.index.source_numbers[hit.position])


def choose_hits(hits: Sequence[Hit], sources: Sequence[int], top_k: int, near_misses: int) -> list[Hit]:
    """At most `top_k` of the hits (best first, `sources` their documents), the golden one first.

    `near_misses` places, but never the golden chunk's, go to the next best of other documents; where there are too few of
    those, whatever is next takes the place.
    """
    plain = max(1, top_k - near_misses)
    numbers = list(range(len(hits)))
    others = [number for number in numbers[plain:] if sources[number] != sources[0]][: top_k - plain]
    chosen = [*numbers[:plain], *others]
    fillers = [number for number in numbers[plain:] if number not in others]
    return [hits[number] for number in sorted([*chosen, *fillers[: max(0, top_k - len(chosen))]])]


def keep_others(golden: Sequence[Chunk], found: Iterable[Chunk], top_k: int) -> tuple[Chunk, ...]:
    """The first `top_k` found chunks that are of no golden chunk's document and repeat no golden chunk's text."""
    sources = {chunk.source for chunk in golden}
    kept: list[Chunk] = []
    for chunk in found:
        if len(kept) == top_k:
            break
        if chunk.source not in sources and not any(repeats(chunk.text, each.text) for each in golden):
            kept.append(chunk)
    return tuple(kept)


def repeats(text: str, other: str) -> bool:
    """Whether two texts share a run of WORDS_IN_RUN words, or the shorter one stands whole in the other."""
    words, others = (WORD.findall(each.lower()) for each in (text, other))
    size = min(WORDS_IN_RUN, len(words), len(others))
    return size > 0 and not list_runs(words, size).isdisjoint(list_runs(others, size))


def list_runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """Every run of `size` words."""
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def shuffle(seed: str, chunks: Iterable[Chunk]) -> tuple[Chunk, ...]:
    """The chunks in an order that hangs on `seed` and their ids alone."""
    return tuple(sorted(chunks, key=lambda chunk: sha256_text(f"{seed}\n{chunk.chunk_id}")))


def count_extra(share: float, rows: int) -> int:
    """How many rows to plan a second time, so that they are `share` of all: share / (1 - share) x rows, at most every row."""
    return min(rows, round(share / (1 - share) * rows))


def measure_gap(golden: Hit, others: Sequence[Chunk]) -> float:
    """How much less cosine the best of the others has than the golden chunk; below 0 where it has more."""
    return golden.cosine - max(chunk.score for chunk in others)


def order_by_gap(gaps: Sequence[float], texts: Sequence[str]) -> list[int]:
    """The places of the gaps from CLEAR_GAP up, the largest first; equal ones in an order that hangs on each text alone."""
    clear = [place for place, gap in enumerate(gaps) if gap >= CLEAR_GAP]
    return sorted(clear, key=lambda place: (-round(gaps[place], 6), sha256_text(f"golden-less\n{texts[place]}")))
