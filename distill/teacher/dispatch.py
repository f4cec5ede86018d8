"""Both kinds of teacher behind one call: a chat model over HTTP, and the extractive one that needs neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distill.config import Config
from distill.index.embedders import Embedder
from distill.network import host_of
from distill.progress import show_progress
from distill.rows.planner import PlannedRow
from distill.teacher.answers import Answers
from distill.teacher.extractive import TEACHER_NAME, EmbedOnce, answer_all

BATCH_ROWS = 50  # the extractive teacher's answers reach the disk in steps of this many

Advance = Callable[[int], None]


def describe_teacher(config: Config) -> str:
    """Who answers, and where."""
    teacher = config.generate.teacher
    return TEACHER_NAME if teacher.provider == "extractive" else f"{teacher.model} at {host_of(teacher.base_url)}"


def answer_rows(config: Config, key: str, embedder: Embedder, pending: Sequence[PlannedRow], answers: Answers) -> None:
    """Have every pending row answered or failed. Raises PipelineError when the teacher gives no hope."""
    with show_progress(len(pending), "Teacher", "rows") as progress:
        if config.generate.teacher.provider == "extractive":
            extract(config, embedder, pending, answers, progress.advance)
        elif pending:
            ask(config, key, pending, answers, progress.advance)


def extract(config: Config, embedder: Embedder, pending: Sequence[PlannedRow], answers: Answers, advance: Advance) -> None:
    """Answer from the sentences of the chunks."""
    embed_once = EmbedOnce(embedder)
    for start in range(0, len(pending), BATCH_ROWS):
        batch = pending[start : start + BATCH_ROWS]
        asked = [(row.question.text, [chunk.text for chunk in row.chunks]) for row in batch]
        for row, text in zip(batch, answer_all(embed_once, config.prompt, config.generate.teacher, asked)):
            answers.add(row, text, TEACHER_NAME)
        advance(len(batch))


def ask(config: Config, key: str, pending: Sequence[PlannedRow], answers: Answers, advance: Advance) -> None:
    """Ask over HTTP, several rows at a time."""
    from distill.teacher.chat import Outcome, Request, ask_all

    teacher = config.generate.teacher
    rows = {row.id: row for row in pending}

    def report(request: Request, outcome: Outcome) -> None:
        if outcome.failure:
            answers.fail(rows[request.id], outcome.failure)
        else:
            answers.add(rows[request.id], outcome.text, teacher.model)
        advance(1)

    ask_all(teacher, key, [Request(row.id, row.messages) for row in pending], report)
