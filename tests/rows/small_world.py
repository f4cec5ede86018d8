"""Twelve short documents in a real index, and what planning and making rows need besides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from demo.build_index import build_index
from distill.config import Config
from distill.index.hybridrag import Index, load_index
from distill.rows.split import Split, split_sources
from tests.servers import embed_words

UNITS = ("pump", "valve", "antenna", "modem", "router", "sensor", "battery", "heater", "mixer", "filter", "cable", "laser")
HELDOUT_SHARE = 0.25


def write_document(unit: str, row: int) -> str:
    """A document of three chunks."""
    return "\n\n".join([
        f"The {unit} limit is {row + 20} degrees in every mode. Nobody may run the {unit} above its limit for over an hour.",
        f"The {unit} colour is shade {row} of the chart. The {unit} is painted in this colour on every side before it is sent.",
        f"The {unit} log lists each {unit} check with its date. It is kept for {row + 1} years by the {unit} crew in a safe.",
    ])


DOCUMENTS = [(rf"D:\docs\{unit}.md", write_document(unit, row)) for row, unit in enumerate(UNITS)]


class WordEmbedder:
    """Bag-of-words vectors, like those of the index."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See Embedder."""
        return embed_words(texts, dim=256)


def make_index(folder: Path, documents: Sequence[tuple[str, str]] = DOCUMENTS) -> Index:
    """The documents in an index, one paragraph a chunk."""
    build_index(folder, documents, WordEmbedder().embed, chunk_characters=130, overlap=0)
    return load_index(folder, make_config().generate.index)


def make_split(index: Index) -> Split:
    """A quarter of the documents held out."""
    return split_sources(index.sources, HELDOUT_SHARE)


def make_config(
    top_k: int = 4, min_score: float = 0.1, prompt: dict[str, Any] | None = None, teacher: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None, **generate: Any,
) -> Config:
    """A config for the small world; `teacher` and `context` are generate's sections."""
    settings = {
        "top_k": top_k, "min_score": min_score, "embedder": {"query_prefix": ""}, "heldout_share": HELDOUT_SHARE,
        "teacher": {"model": "teacher-1", "requests_per_minute": 60_000, "max_attempts": 2, **(teacher or {})},
        "context": context or {}, **generate,
    }
    return Config.model_validate({"prompt": prompt or {}, "generate": settings})
