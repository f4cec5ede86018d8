"""Both kinds of teacher behind one call: a chat model over HTTP, and the extractive one that needs neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill.config import Config
from distill.curation.lengths import TokenCounter
from distill.errors import PipelineError
from distill.index.embedders import Embedder
from distill.network import host_of
from distill.progress import Progress, show_progress
from distill.rows.finishing import Draft
from distill.rows.making import Advance, Results, accept_draft, make_jobs, settle_rows
from distill.rows.planner import PlannedRow, PlannedSet
from distill.teacher.extractive import TEACHER_NAME, EmbedOnce, answer_all

if TYPE_CHECKING:
    from distill.teacher.journal import Journal
    from distill.teacher.ledger import Ledger
    from distill.teacher.prices import Prices

BATCH_ROWS = 50  # the extractive teacher's progress moves in steps of this many
NOTHING_NEAR = "no sentence of its sources reaches min_sentence_score"


def describe_teacher(config: Config) -> str:
    """Who answers, and where."""
    teacher = config.generate.teacher
    return TEACHER_NAME if teacher.provider == "extractive" else f"{teacher.model} at {host_of(teacher.base_url)}"


def require_able(config: Config) -> None:
    """Raises PipelineError for what the extractive teacher, which writes nothing of its own, cannot do."""
    settings = config.generate
    if settings.teacher.provider != "extractive":
        return
    wanted = {
        "generate.teacher.two_pass": settings.teacher.two_pass, "generate.teacher.reasoning": settings.teacher.reasoning,
        "generate.checks.judge": settings.checks.judge, "generate.documents.sets": settings.documents.sets,
    }
    for key, value in wanted.items():
        if value:
            raise PipelineError(f"{key} needs a model, and generate.teacher.provider is extractive: change one of them")


def answer_rows(
    config: Config, key: str, embedder: Embedder | None, planned: Sequence[PlannedRow], sets: Sequence[PlannedSet],
    counter: TokenCounter, results: Results, journal: Journal, ledger: Ledger, prices: Prices | None = None,
) -> None:
    """Have every planned row and set settled, answered, rejected or failed, in `results`.

    `embedder` is what the extractive teacher needs. Raises PipelineError when the teacher gives no hope; what was finished
    until then is in `results`.
    """
    settle_rows(config, planned, results)
    pending = [row for row in planned if row.wants_teacher]
    with show_progress(len(pending) + len(sets), "Teacher", "rows") as progress:
        if config.generate.teacher.provider == "extractive":
            require_able(config)
            extract(config, embedder, pending, counter, results, progress.advance)
        elif pending or sets:
            ask(config, key, pending, sets, counter, results, journal, ledger, prices, progress)


def extract(
    config: Config, embedder: Embedder, pending: Sequence[PlannedRow], counter: TokenCounter, results: Results,
    advance: Advance,
) -> None:
    """Answer from the sentences of the chunks."""
    embed_once = EmbedOnce(embedder)
    for start in range(0, len(pending), BATCH_ROWS):
        batch = pending[start : start + BATCH_ROWS]
        asked = [(row.question.text, [chunk.text for chunk in row.chunks]) for row in batch]
        for row, text in zip(batch, answer_all(embed_once, config.prompt, config.generate.teacher, asked)):
            place = results.place_of(row.id)
            if text:
                accept_draft(config, counter, results, row, Draft(text, TEACHER_NAME), place)
            else:
                results.fail(place, row, NOTHING_NEAR)
        advance(len(batch))


def ask(
    config: Config, key: str, pending: Sequence[PlannedRow], sets: Sequence[PlannedSet], counter: TokenCounter,
    results: Results, journal: Journal, ledger: Ledger, prices: Prices | None, progress: Progress,
) -> None:
    """Ask over HTTP, several rows at a time; what was spent stands beside the rate."""
    from distill.teacher.chat import run_jobs

    spending = Spending(progress)
    jobs = make_jobs(config, pending, sets, counter, results, spending.advance)
    run_jobs(config.generate.teacher, key, jobs, journal, ledger, prices, spending.note)


class Spending:
    """Shows the last known spending with each step of the progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._text = progress, ""

    def note(self, text: str) -> None:
        """What was spent so far."""
        self._text = text

    def advance(self, count: int) -> None:
        """Count finished rows."""
        self._progress.advance(count, self._text)
