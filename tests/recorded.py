"""Prompts in the two forms that HybridRAG3 sends, around wording of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.recorder.record import describe_prompt

CHUNKS = (
    (r"D:\docs\pump.md", "The pump limit is 20 degrees.\n\nNobody may run it longer."),
    (r"D:\docs\valve.md", "    indented = True\nThe valve colour is shade 1."),
    (r"D:\docs\pump.md", "The pump log is kept for 3 years."),
)
PLAIN = "Answer the engineer from what follows."
KNOWLEDGE = "You may add knowledge of your own; put it behind the prefix: [Own Knowledge]."
REFUSAL = "The files are silent on this."
STRICT = f'Where nothing below helps, respond: "{REFUSAL}" and stop.'
TAGS = "Name the place as [Source: chunk_N]."


def write_numbered(question: str, chunks: Sequence[tuple[str, str]] = CHUNKS, rules: str = f"{PLAIN}\n{KNOWLEDGE}") -> str:
    """A prompt whose chunks stand under [Source N] lines."""
    shown = "\n\n---\n\n".join(
        f"[Source {number}] {source} (chunk {number + 3}, score=0.{900 - number})\n{text}"
        for number, (source, text) in enumerate(chunks, start=1)
    )
    return f"{rules}\n\nContext (may be thin):\n{shown}\n\nQuestion: {question}\n\nAnswer:"


def write_guarded(
    question: str, chunks: Sequence[tuple[str, str]] = CHUNKS, rules: str = f"{PLAIN}\n{KNOWLEDGE}\n{TAGS}"
) -> str:
    """A prompt whose chunks stand under CHUNK lines, without their documents."""
    shown = "".join(f"--- CHUNK {number} ---\n{text}\n\n" for number, (_, text) in enumerate(chunks, start=1))
    head = f"{rules}\n\nContext:\n=== FOUND TEXT ({len(chunks)} chunks) ===\n"
    return f"{head}{shown}=== END TEXT ===\n\nUSER QUERY:\n{question}\n\nAnswer:"


def write_recordings(path: Path, prompts: Sequence[str], **fields: Any) -> Path:
    """A file as the recorder writes it; `fields` go into each request."""
    body = {"model": "phi4-mini", "options": {"num_ctx": 4096, "temperature": 0.1}, **fields}
    rows = [describe_prompt("/api/generate", {**body, "prompt": prompt}) for prompt in prompts]
    return write_rows(path, rows)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return path
