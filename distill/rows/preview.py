"""Rows on the console as the student will see them."""

from __future__ import annotations

from collections.abc import Sequence

from distill.config import Config
from distill.prompts import join_reasoning
from distill.records import Chunk, ContextSpan, Rows, TrainingExample
from distill.rows.planner import PlannedRow, PlannedSet

RULE = "-" * 80
ANSWERABLE = {True: "yes", False: "no: its golden chunk was taken away, or nothing was found", None: "nobody knows"}

AnyRow = TrainingExample | PlannedRow | PlannedSet


def show_rows(config: Config, rows: Sequence[AnyRow] | Rows, count: int) -> None:
    """Print up to `count` rows, planned or finished (by side, or not), spread over all: the first, the last, some between."""
    sides = {row.id: side for side in rows for row in rows[side]} if isinstance(rows, dict) else {}
    rows = [row for side in rows for row in rows[side]] if isinstance(rows, dict) else rows
    step = max(1, (len(rows) - 1) / max(1, count - 1))
    places = sorted({round(step * number) for number in range(min(count, len(rows)))})
    for place in places:
        side = getattr(rows[place], "side", sides.get(rows[place].id, "side unknown"))
        print("\n".join(describe_row(config, rows[place], f"row {place + 1} of {len(rows)}  {side}")))
    if places:
        print(RULE)


def describe_row(config: Config, row: AnyRow, heading: str) -> list[str]:
    """A row as lines: what is known about it, then system prompt, user message and answer, each under its own rule."""
    if isinstance(row, PlannedSet):
        facts = [f"{heading}  id {row.id}  for questions about documents", name_golden(row.golden, row.chunks)]
        return [RULE, *facts, *show_part("what the teacher gets", row.request.messages[-1]["content"])]
    prompt = row.prompt.instruction if isinstance(row, PlannedRow) else row.instruction
    spans = row.prompt.context if isinstance(row, PlannedRow) else row.context
    return [
        RULE, f"{heading}  id {row.id}  origin {row.origin or 'unknown'}  category {row.category or 'none'}",
        f"the sources hold the answer: {ANSWERABLE[row.answerable]}", name_golden(row.golden, spans),
        *show_part("system", config.prompt.system or "(none)"), *show_part("user", prompt),
        *show_part("answer", describe_answer(config, row)),
    ]


def name_golden(golden: Sequence[str], sources: Sequence[ContextSpan | Chunk]) -> str:
    """Which of the numbered sources are golden, and where they come from."""
    named = [f"source {number} ({each.source})" for number, each in enumerate(sources, start=1) if each.chunk_id in golden]
    return f"golden: {', '.join(named) or 'none'}"


def describe_answer(config: Config, row: TrainingExample | PlannedRow) -> str:
    """What will be learnt, or what stands in its place so far."""
    if isinstance(row, PlannedRow):
        return row.refusal or (f"(none: {row.failure})" if row.failure else "(the teacher will write it)")
    return join_reasoning(row.reasoning if config.finetune.include_reasoning else "", row.output)


def show_part(name: str, text: str) -> list[str]:
    """A part of the conversation under its name."""
    return [f"--- {name} ---", text]
