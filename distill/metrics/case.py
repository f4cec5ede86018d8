"""What every score is computed from: one answer beside its question, sources and reference answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distill.cases.case_set import Source
from distill.config import PromptSection
from distill.metrics.matching import Match, Reference, match_answer, read_reference
from distill.prompts import strip_citations


@dataclass(frozen=True)
class Row:
    """A question with what its answers are scored against; read once, however many models answer it."""

    prompt: PromptSection
    instruction: str
    question: str
    reference: str
    sources: tuple[Source, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # what a score has read of the sources

    @cached_property
    def read(self) -> Reference:
        """The facts of the reference answer."""
        sources = (source.text for source in self.sources)
        return read_reference(self.question, strip_citations(self.prompt, self.reference), sources)


@dataclass(frozen=True)
class Case:
    """One answer. `similarity` and `relevance` are its cosines with the reference and with the question, if there are any."""

    row: Row
    text: str
    finish_reason: str = "stop"
    similarity: float | None = None
    relevance: float | None = None
    notes: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # what several scores need

    @cached_property
    def said(self) -> str:
        """The answer without its citation tags."""
        return strip_citations(self.row.prompt, self.text)

    @cached_property
    def match(self) -> Match:
        """What the answer shares with the reference answer."""
        return match_answer(self.row.read, self.said)
