"""The answers that rows already have: training_data/answers.jsonl, one line each, on disk before the next is asked for.

Training rows are made anew from it in every run, so that it holds no more than what the teacher gave. Answers to other
prompts and questions stay in it, and count again when the config goes back to them. Failures are of one run only: the next
run asks again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill.config import PromptSection
from distill.files import JsonlAppender, read_jsonl, replace_file, write_jsonl_atomic
from distill.records import TrainingExample
from distill.rows.planner import REFUSAL_TEACHER, PlannedRow, find_fault

FILE_NAME = "answers.jsonl"
KEYS = ("id", "output", "teacher_model", "timestamp")


def load_answers(folder: Path) -> dict[str, dict[str, str]]:
    """Answers by row id; empty before the first run. Raises PipelineError, with the line, for a file that was damaged."""
    path = folder / FILE_NAME
    rows = read_jsonl(path, torn_end=True) if path.exists() else ()
    return {row["id"]: row for _, row in rows if all(isinstance(row.get(key), str) for key in KEYS)}


def list_pending(planned: Iterable[PlannedRow], answered: Iterable[str]) -> list[PlannedRow]:
    """The rows that a teacher must still answer, given the ids that have an answer."""
    known = set(answered)
    return [row for row in planned if row.wants_teacher and row.id not in known]


class Answers:
    """The answers of one run, for `with`: each is added to the file the moment it is there."""

    def __init__(self, folder: Path, prompt: PromptSection) -> None:
        # Opening the appender first cuts off a line that a kill left half written.
        self._appender = JsonlAppender(folder / FILE_NAME)
        self._prompt, self.by_id = prompt, load_answers(folder)
        self._failures: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._appender.close()

    def add(self, row: PlannedRow, output: str, teacher_model: str) -> None:
        """Keep an answer, on disk when this returns; one that cites a source the student does not see is a failure."""
        fault = find_fault(self._prompt, row, output)
        if fault:
            return self.fail(row, fault, output)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        answer = {
            "id": row.id, "question": row.question.text, "output": output, "teacher_model": teacher_model, "timestamp": now
        }
        self._appender.append(answer)
        self.by_id[row.id] = answer

    def fail(self, row: PlannedRow, reason: str, output: str = "") -> None:
        """Remember why a row has no usable answer, and what the teacher said, if anything."""
        self._failures[row.id] = (reason, output)

    def settle(self, planned: Sequence[PlannedRow]) -> None:
        """Give the rows that need no teacher what they have: the refusal, or a failure."""
        for row in planned:
            if row.failure:
                self.fail(row, row.failure)
            elif row.refusal and row.id not in self.by_id:
                self.add(row, row.refusal, REFUSAL_TEACHER)

    def complete(self, row: PlannedRow) -> TrainingExample:
        """A planned row with its answer, as it stands in train.jsonl."""
        answer = self.by_id[row.id]
        return TrainingExample(
            id=row.id, instruction=row.prompt.instruction, output=answer["output"], category=row.question.category,
            timestamp=answer["timestamp"], teacher_model=answer["teacher_model"], num_chunks=len(row.chunks),
            question=row.question.text, context=row.prompt.context,
        )

    def write_failures(self, path: Path, planned: Sequence[PlannedRow]) -> list[dict[str, Any]]:
        """Write and return this run's failures, in the order of the questions."""
        failures = [
            {"id": row.id, "category": row.question.category, "question": row.question.text, "reason": reason, "output": output}
            for row in planned
            if row.id in self._failures
            for reason, output in [self._failures[row.id]]
        ]
        write_jsonl_atomic(path, failures, private=True)
        return failures


def set_aside(folder: Path) -> Path | None:
    """Rename the answers to a dated name, to start afresh without losing what was paid for; None when there are none."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    kept = path.with_name(f"answers-{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}.jsonl")
    replace_file(path, kept)
    return kept
