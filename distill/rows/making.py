"""From planned rows to training rows: each is answered, shortened, improved, graded and checked, as the config asks.

One job is one planned row or set, plain code that asks the teacher one thing after another. A job's requests are the same in
every run, so that what was answered before a stop comes from the journal. Knows no HTTP: `Ask` is given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from distill.config import Config
from distill.curation.checks import Fault
from distill.curation.lengths import TokenCounter
from distill.curation.rejections import Rejections
from distill.prompts import is_refusal, to_improve_messages, to_judge_messages, to_shorten_messages
from distill.records import SIDES, Rows, Side, TrainingExample
from distill.rows.documents import find_question_fault, plan_set_golden_less, plan_set_row, read_questions
from distill.rows.finishing import TOO_LONG, Draft, check_draft, complete_row
from distill.rows.planner import PlannedRow, PlannedSet
from distill.rows.replies import (
    Grade,
    ImprovedAnswer,
    ReasonedAnswer,
    ReasonedImprovement,
    ReasonedQuestion,
    Shape,
    WrittenQuestion,
    find_problem,
    read_reply,
    to_schema,
)
from distill.teacher.requests import Ask, Message, Purpose, Reply, Request, RowError

REFUSAL_TEACHER = "none (no chunk above min_score)"
JUDGED, UNCLEAR = "judge", "unclear question"
# A grade is one sentence and a number. Where that is cut off, the teacher thinks aloud first, and is asked once more with room.
GRADE_TOKENS = 256

Advance = Callable[[int], None]
Job = Callable[[Ask], Awaitable[None]]
Place = tuple[int, int]  # of a row among all: number of its planned row or set, and number within the set


class Results:
    """What became of the planned rows: rows and failures in planned order, rejections as they come.

    Raises ValueError for two rows or sets with one id: the second would take the first one's place.
    """

    def __init__(self, planned: Sequence[PlannedRow], sets: Sequence[PlannedSet], rejections: Rejections) -> None:
        self.rejections = rejections
        every = [*planned, *sets]
        self._places = {each.id: number for number, each in enumerate(every)}
        if len(self._places) < len(every):
            raise ValueError(f"{len(every) - len(self._places)} planned rows share the id of another")
        self._rows: dict[Place, tuple[Side, TrainingExample]] = {}
        self._failures: dict[Place, dict[str, Any]] = {}

    @property
    def rows(self) -> Rows:
        """The finished rows of each side."""
        ordered = [self._rows[place] for place in sorted(self._rows)]
        return {side: [row for its_side, row in ordered if its_side == side] for side in SIDES}

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Rows and sets without an answer: id, category, question, reason."""
        return [self._failures[place] for place in sorted(self._failures)]

    def place_of(self, planned_id: str, number: int = 0) -> Place:
        """Where a planned row, or the `number`-th row of a set, stands among all."""
        return self._places[planned_id], number

    def keep(self, place: Place, side: Side, row: TrainingExample) -> None:
        """A finished row."""
        self._rows[place] = side, row

    def fail(self, place: Place, planned: PlannedRow | PlannedSet, reason: str) -> None:
        """A row or set that got no answer."""
        question = planned.question.text if isinstance(planned, PlannedRow) else ""
        self._failures[place] = {"id": planned.id, "category": planned.category, "question": question, "reason": reason}

    def reject(self, row: PlannedRow, fault: Fault, text: str) -> None:
        """An answer that is not learnt from."""
        self.rejections.add(
            fault.check, fault.detail, id=row.id, question=row.question.text, category=row.category, side=row.side, output=text
        )


# -----------------------------------------------------------------------------
# Without a teacher over HTTP


def settle_rows(config: Config, planned: Sequence[PlannedRow], results: Results) -> None:
    """Give the rows that need no teacher what they have: the refusal, or a failure."""
    for row in planned:
        place = results.place_of(row.id)
        if row.failure:
            results.fail(place, row, row.failure)
        elif row.refusal:
            results.keep(place, row.side, complete_row(config, row, Draft(row.refusal, REFUSAL_TEACHER)))


def accept_draft(
    config: Config, counter: TokenCounter, results: Results, row: PlannedRow, draft: Draft, place: Place
) -> None:
    """Keep an answer, or reject it with its fault."""
    fault = check_draft(config, counter, row, draft)
    if fault:
        results.reject(row, fault, draft.text)
    else:
        results.keep(place, row.side, complete_row(config, row, draft))


# -----------------------------------------------------------------------------
# Requests


def list_requests(config: Config, planned: Sequence[PlannedRow], sets: Sequence[PlannedSet]) -> list[Request]:
    """The first request of every row and set that wants the teacher."""
    return [ask_for_answer(config, row) for row in planned if row.wants_teacher] + [each.request for each in sets]


def ask_for_answer(config: Config, row: PlannedRow) -> Request:
    """The first answer."""
    shape = ReasonedAnswer if config.generate.teacher.reasoning else None
    return make_request(config, row.messages, row.id, "answer", shape)


def make_request(
    config: Config, messages: list[Message], row_id: str, purpose: Purpose, shape: type[Shape] | None, most: int | None = None
) -> Request:
    """A request, structured where there is a shape; `most` are its tokens at most.

    Without it, one with more in it than an answer may be twice as long.
    """
    max_tokens = config.generate.teacher.max_tokens
    if shape is None:
        return Request(messages, (row_id,), purpose, most or max_tokens)
    return Request(messages, (row_id,), purpose, most or 2 * max_tokens, to_schema(shape), partial(find_problem, shape))


def read_draft(reply: Reply, shape: type[Shape] | None) -> Draft:
    """A reply as an answer, with its steps where the shape has them."""
    cut = reply.finish_reason == "length"
    draft = Draft(reply.text, reply.model, reply.timestamp, raw=reply.text, cut=cut)
    if shape is None or cut:
        return draft
    answer = read_reply(shape, reply.text)
    return replace(draft, text=answer.answer.strip(), reasoning=getattr(answer, "reasoning", "").strip())


def take_draft(written: WrittenQuestion | ReasonedQuestion, reply: Reply) -> Draft:
    """The answer to one of a set's questions, as if it had been asked for alone."""
    reasoning = getattr(written, "reasoning", "")
    raw = ReasonedAnswer(reasoning=reasoning, answer=written.answer).model_dump_json() if reasoning else written.answer
    return Draft(
        written.answer.strip(), reply.model, reply.timestamp, reasoning.strip(), raw, difficulty=written.difficulty
    )


# -----------------------------------------------------------------------------
# Jobs


def make_jobs(
    config: Config, planned: Sequence[PlannedRow], sets: Sequence[PlannedSet], counter: TokenCounter, results: Results,
    advance: Advance = lambda count: None,
) -> list[Job]:
    """A job for every row that wants the teacher and for every set; rows that want none are settled by settle_rows.

    `advance` hears 1 at each job's end.
    """
    maker = Maker(config, counter, results, advance)
    jobs: list[Job] = [partial(maker.make_row, row) for row in planned if row.wants_teacher]
    return jobs + [partial(maker.make_set, each) for each in sets]


class Maker:
    """Takes one planned row or set after the other to its end."""

    def __init__(self, config: Config, counter: TokenCounter, results: Results, advance: Advance) -> None:
        self._config, self._counter, self._results, self._advance = config, counter, results, advance
        self._teacher, self._checks = config.generate.teacher, config.generate.checks
        self._shape = ReasonedAnswer if self._teacher.reasoning else None

    async def make_row(self, row: PlannedRow, ask: Ask) -> None:
        """The job of a row. Raises PipelineError from the teacher."""
        await self.answer_row(ask, row, self._results.place_of(row.id))
        self._advance(1)

    async def make_set(self, planned: PlannedSet, ask: Ask) -> None:
        """The job of a set: one request for its questions, then each of them like a row. Raises PipelineError."""
        place = self._results.place_of(planned.id)
        try:
            await self.write_rows(ask, planned, await ask(planned.request))
        except RowError as error:
            self._results.fail(place, planned, str(error))
        self._advance(1)

    async def write_rows(self, ask: Ask, planned: PlannedSet, reply: Reply) -> None:
        """The rows of a set. Raises RowError where the reply holds none."""
        if reply.finish_reason == "length":
            raise RowError(
                f"cut off, and not asked again before generate.teacher.max_tokens {self._teacher.max_tokens} is raised or "
                "generate.documents.questions_per_set changed"
            )
        for number, each in enumerate(read_questions(self._config, reply.text)):
            row = plan_set_row(self._config, planned, each.question)
            if fault := find_question_fault(self._config, row.question.text):
                self._results.reject(row, Fault(UNCLEAR, fault), each.answer)
                continue
            await self.finish_safely(ask, row, take_draft(each, reply), self._results.place_of(planned.id, 2 * number))
            if extra := plan_set_golden_less(self._config, planned, row):
                await self.answer_row(ask, extra, self._results.place_of(planned.id, 2 * number + 1))

    async def answer_row(self, ask: Ask, row: PlannedRow, place: Place) -> None:
        """Ask for the first answer, and finish it; a row that gets none is a failure."""
        try:
            draft = read_draft(await ask(ask_for_answer(self._config, row)), self._shape)
        except RowError as error:
            return self._results.fail(place, row, str(error))
        await self.finish_safely(ask, row, draft, place)

    async def finish_safely(self, ask: Ask, row: PlannedRow, draft: Draft, place: Place) -> None:
        """Finish an answer; a row whose further requests get no reply is a failure."""
        try:
            await self.finish(ask, row, draft, place)
        except RowError as error:
            self._results.fail(place, row, str(error))

    async def finish(self, ask: Ask, row: PlannedRow, draft: Draft, place: Place) -> None:
        """Shorten, improve, grade, and keep or reject. Raises RowError."""
        if self.is_too_long(row, draft):
            draft = await self.shorten(ask, row, draft)
        if self._teacher.two_pass and not self.is_too_long(row, draft) and not self.is_settled(row, draft):
            draft = await self.improve(ask, row, draft)
        if self._checks.judge and not self.check(row, draft) and not is_refusal(self._config.prompt, draft.text):
            fault = await self.grade(ask, row, draft)
            if fault:
                return self._results.reject(row, fault, draft.text)
        accept_draft(self._config, self._counter, self._results, row, draft, place)

    def check(self, row: PlannedRow, draft: Draft) -> Fault | None:
        """See check_draft."""
        return check_draft(self._config, self._counter, row, draft)

    def is_too_long(self, row: PlannedRow, draft: Draft) -> bool:
        """Whether asking for less can mend an answer."""
        fault = self.check(row, draft)
        return fault is not None and fault.check == TOO_LONG

    def is_settled(self, row: PlannedRow, draft: Draft) -> bool:
        """Whether an answer is the refusal that is right: there is nothing to improve."""
        return row.answerable is False and is_refusal(self._config.prompt, draft.text)

    async def shorten(self, ask: Ask, row: PlannedRow, draft: Draft) -> Draft:
        """The answer once more, shorter."""
        steps_count = self._teacher.reasoning and self._config.finetune.include_reasoning
        messages = to_shorten_messages(row.messages, draft.raw, self._checks.max_answer_tokens, steps_count)
        shorter = read_draft(await ask(make_request(self._config, messages, row.id, "shorten", self._shape)), self._shape)
        return replace(shorter, difficulty=draft.difficulty)

    async def improve(self, ask: Ask, row: PlannedRow, draft: Draft) -> Draft:
        """The teacher's improved answer, or the first one where only that passes the checks.

        A first answer that passes them also stays where the teacher would then rather refuse: its sources do support it.
        """
        shape = ReasonedImprovement if self._teacher.reasoning else ImprovedAnswer
        messages = to_improve_messages(row.messages, draft.raw, self._checks.max_answer_tokens, self._teacher.reasoning)
        reply = await ask(make_request(self._config, messages, row.id, "improve", shape))
        better = replace(read_draft(reply, shape), difficulty=draft.difficulty, first=draft.text)
        if self.check(row, draft):
            return better
        gives_up = is_refusal(self._config.prompt, better.text) and not is_refusal(self._config.prompt, draft.text)
        return draft if gives_up or self.check(row, better) else better

    async def grade(self, ask: Ask, row: PlannedRow, draft: Draft) -> Fault | None:
        """A fault where the teacher, as judge, grades an answer below min_judge_score. Raises RowError."""
        messages = to_judge_messages(row.prompt.instruction, draft.text)
        for most in (GRADE_TOKENS, GRADE_TOKENS + self._teacher.max_tokens):
            reply = await ask(make_request(self._config, messages, row.id, "judge", Grade, most))
            if reply.finish_reason == "stop":
                break
        else:
            raise RowError(
                f"its grade was cut off, and is not asked for again before generate.teacher.max_tokens "
                f"{self._teacher.max_tokens} is raised"
            )
        found = read_reply(Grade, reply.text)
        bad = found.score < self._checks.min_judge_score
        return Fault(JUDGED, f"{found.score} of 5: {' '.join(found.reason.split())}") if bad else None
