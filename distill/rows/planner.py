"""Which rows there will be: what is asked for each, under which id, and on which side it belongs.

A row's id is made of everything that determines its answer. Answers are kept under it, so that a killed run goes on where it
stopped, and a changed prompt makes new rows without losing the old ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Config, PromptSection
from distill.files import sha256_text
from distill.prompts import Message, RenderedPrompt, find_citations, render_prompt, to_teacher_messages
from distill.records import Chunk
from distill.rows.curated import ID_DIGITS
from distill.rows.questions import Question
from distill.rows.split import Retrieved, Side

NOTHING_FOUND = "no chunk above min_score"
REFUSAL_TEACHER = "none (no chunk above min_score)"


@dataclass(frozen=True)
class PlannedRow:
    """A row without its answer. `failure` is why it can have none, `refusal` the answer that needs no teacher."""

    id: str
    question: Question
    side: Side
    chunks: tuple[Chunk, ...]
    prompt: RenderedPrompt
    messages: list[Message]
    refusal: str = ""
    failure: str = ""

    @property
    def wants_teacher(self) -> bool:
        """Whether there is something to ask."""
        return not self.refusal and not self.failure


def plan_rows(config: Config, questions: Sequence[Question], retrieved: Sequence[Retrieved]) -> list[PlannedRow]:
    """One row per question, in the same order."""
    return [plan_row(config, question, found) for question, found in zip(questions, retrieved)]


def plan_row(config: Config, question: Question, found: Retrieved) -> PlannedRow:
    """Without a chunk the answer is the refusal, where the template asks for one; otherwise there is nothing to learn."""
    rendered = render_prompt(config.prompt, question.text, found.chunks)
    messages = to_teacher_messages(config.prompt.system, config.generate.teacher.instructions, rendered.instruction)
    refusal = "" if found.chunks or config.prompt.refusal not in config.prompt.template else config.prompt.refusal
    failure = "" if found.chunks or refusal else NOTHING_FOUND
    row_id = make_id(config, rendered.instruction)
    return PlannedRow(row_id, question, found.side, found.chunks, rendered, messages, refusal, failure)


def make_id(config: Config, instruction: str) -> str:
    """16 hex digits over everything that determines the answer."""
    teacher = config.generate.teacher
    parts: list[Any] = [
        config.prompt.system, teacher.instructions, instruction, teacher.provider, teacher.model, teacher.temperature,
        teacher.max_tokens,
    ]
    if teacher.provider == "extractive":
        embedder = Path(config.generate.embedder.model).name
        parts += [embedder, teacher.sentences, teacher.min_sentence_score, config.prompt.citation, config.prompt.refusal]
    return sha256_text(json.dumps(parts))[:ID_DIGITS]


def find_fault(prompt: PromptSection, row: PlannedRow, text: str) -> str:
    """Why a teacher's answer cannot be learnt from, or "": it cites a source that the student does not see."""
    wrong = sorted({number for number in find_citations(prompt, text) if not 1 <= number <= len(row.chunks)})
    return f"cites source {', '.join(map(str, wrong))} of {len(row.chunks)}" if wrong else ""


def describe_request(row: PlannedRow) -> dict[str, Any]:
    """What would be sent for a row, for reading."""
    return {
        "id": row.id, "category": row.question.category, "question": row.question.text, "side": row.side,
        "num_chunks": len(row.chunks), "messages": row.messages,
    }
