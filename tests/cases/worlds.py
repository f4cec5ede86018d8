"""A small index with its server, and answers, for the tests of the sets of questions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.build_index import build_index
from distill.config import Config
from distill.records import Answer
from tests.servers import OllamaServer, embed_words

UNITS = ("pump", "valve", "antenna", "modem", "router", "sensor")
OWNER = "jane.doe@example.com"


def write_document(unit: str, row: int) -> str:
    """Three chunks."""
    return "\n\n".join([
        f"The {unit} limit is {row + 20} degrees in every mode. Nobody may run the {unit} above its limit for over an hour.",
        f"The {unit} colour is shade {row} of the chart. The {unit} is painted in this colour on every side before it is sent.",
        f"The {unit} log lists each {unit} check with its date. It is kept for {row + 1} years by {OWNER} in a safe place.",
    ])


DOCUMENTS = [(rf"D:\docs\{unit}.md", write_document(unit, row)) for row, unit in enumerate(UNITS)]


def make_index(folder: Path) -> Path:
    """The documents in an index of their own, one paragraph a chunk."""
    build_index(folder, DOCUMENTS, embed_words, chunk_characters=130, overlap=0)
    return folder


def make_config(
    index: Path, ollama: OllamaServer | None = None, prompt: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None, **generate: Any,
) -> Config:
    """A config for the index and the server that embeds for it."""
    embedder = {"base_url": ollama.base_url} if ollama else {}
    section = {"index_folder": str(index), "top_k": 3, "min_score": 0.1, "embedder": embedder, **generate}
    return Config.model_validate({"prompt": prompt or {}, "generate": section, "evaluate": evaluate or {}})


def say(example_id: str, text: str, **fields: Any) -> Answer:
    """An answer of the tuned model."""
    return Answer(example_id, "tuned", text=text, **fields)
