"""Do index and embedder belong together? Asked before the first question: else wrong chunks are found without any error.

Nothing in an index says which model made it, or whether nomic-embed-text's prefix stood before each chunk (HybridRAG3 writes it
since 2026-03-15). So a few stored chunks are embedded again, with and without it, and compared with their vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from distill.config import EmbedderSection
from distill.errors import PipelineError
from distill.index.embedders import Embedder
from distill.index.hybridrag import Index
from distill.index.search import normalise_rows

DOCUMENT_PREFIX, QUERY_PREFIX = "search_document: ", "search_query: "  # nomic-embed-text's
SAMPLE_CHUNKS = 16
# The same model gives its own float16 vectors again with a cosine above 0.99, or a little less where the text was cleaned or
# cut before it was embedded. The vectors of another chunk of the same document stay below 0.9, those of another model near 0.
SAME_TEXT_COSINE = 0.9
# A few chunks may differ for such reasons. Where more do, vectors and chunks are mixed up.
MATCHING_SHARE = 0.75
# A model that heeds the prefix moves by a hundredth or more, one that ignores it not at all.
TIE = 1e-3
STRAY_CHUNKS = 1
Convention = Literal["with", "without", "either", "mixed"]


@dataclass(frozen=True)
class Sample:
    """Cosines of sampled chunks with their stored vectors, embedded as they are and with DOCUMENT_PREFIX: float [n] each."""

    bare: np.ndarray
    prefixed: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The better of both for each chunk."""
        return np.maximum(self.bare, self.prefixed)


def check_index(index: Index, embedder: Embedder, section: EmbedderSection) -> str:
    """One line that says which convention the index follows: `with`, `without`, `either` where the model ignores it, `mixed`.

    Raises PipelineError for vectors that are no vectors, another dimension, another model, vectors that belong to other chunks,
    and a query_prefix that contradicts the index.
    """
    sample = embed_again(index, embedder, section)
    require_same_model(sample, section)
    convention = find_convention(sample)
    require_query_prefix(convention, section)
    median = float(np.median(sample.best))
    return (
        f'the index holds {name_model(section.model)}\'s vectors, "{DOCUMENT_PREFIX.strip()}" before each chunk: {convention} '
        f"({len(sample.best)} chunks embedded again, median cosine {median:.4f})"
    )


def name_model(model: str) -> str:
    """A model's name; of a folder on this machine its last part."""
    path = Path(model)
    return path.absolute().name if path.is_dir() else model


def embed_again(index: Index, embedder: Embedder, section: EmbedderSection) -> Sample:
    """Embed chunks from all over the index in both ways. Raises PipelineError for stored zeros and for another dimension."""
    positions = np.unique(np.linspace(0, len(index) - 1, SAMPLE_CHUNKS).astype(int))
    stored = np.asarray(index.vectors[index.rows[positions]], np.float32)
    require_vectors(index, stored, index.rows[positions])
    texts = [chunk.text for chunk in index.load_chunks(positions, [0.0] * len(positions))]
    vectors = embedder.embed(texts + [DOCUMENT_PREFIX + text for text in texts])
    if vectors.shape[1] != index.dim:
        raise PipelineError(
            f"generate.embedder.model {section.model} gives {vectors.shape[1]} dimensions but the index holds {index.dim}: "
            f"name the model that HybridRAG3 indexed with"
        )
    return Sample(*((part * normalise_rows(stored)).sum(axis=1) for part in np.split(vectors, 2)))


def require_vectors(index: Index, stored: np.ndarray, rows: np.ndarray) -> None:
    """Raises PipelineError when a sampled vector is all zeros or holds not-a-number."""
    bad = rows[~np.isfinite(stored).all(axis=1) | ~stored.any(axis=1)]
    if len(bad):
        raise PipelineError(
            f"{index.names.vectors} holds zeros or not-a-number for {len(bad)} of {len(rows)} sampled chunks (row {bad[0]}): "
            f"the file is damaged; index the documents again"
        )


def require_same_model(sample: Sample, section: EmbedderSection) -> None:
    """Raises PipelineError when too few of the sampled chunks give their stored vectors again."""
    total, matching = len(sample.best), int((sample.best >= SAME_TEXT_COSINE).sum())
    median = float(np.median(sample.best))
    figures = f"{matching} of {total} sampled chunks give their stored vectors again, median cosine {median:.2f}"
    if not matching:
        raise PipelineError(
            f"generate.embedder.model {section.model} did not make this index ({figures}): "
            f"name the model that HybridRAG3 indexed with"
        )
    if matching < MATCHING_SHARE * total:
        raise PipelineError(
            f"the index's vectors are not all {section.model}'s vectors of its chunks ({figures}): two models made it, or its "
            f"rows are mixed up; name another generate.embedder.model, or index the documents again"
        )


def find_convention(sample: Sample) -> Convention:
    """How the chunks were embedded: each for itself, since an index that grew over the change of convention holds both."""
    gains = (sample.prefixed - sample.bare)[sample.best >= SAME_TEXT_COSINE]
    prefixed, bare = int((gains > TIE).sum()), int((gains < -TIE).sum())
    if min(prefixed, bare) > STRAY_CHUNKS:
        return "mixed"
    return "either" if abs(np.median(gains)) <= TIE else "with" if prefixed > bare else "without"


def require_query_prefix(convention: Convention, section: EmbedderSection) -> None:
    """Raises PipelineError when questions would not be embedded as the index's documents were.

    A query prefix that is not nomic's belongs to a model whose documents have none, and is left alone there.
    """
    prefix = section.query_prefix
    if convention == "with" and prefix != QUERY_PREFIX:
        made, wanted = f'with "{DOCUMENT_PREFIX}" before each chunk', QUERY_PREFIX
    elif convention == "without" and prefix == QUERY_PREFIX:
        made, wanted = "without a prefix", ""
    else:
        return
    raise PipelineError(f'generate.embedder.query_prefix is "{prefix}", but the index was made {made}: set it to "{wanted}"')
