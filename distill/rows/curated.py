"""Rows that somebody wrote: JSONL files with instruction and output. They go into the training data as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.errors import PipelineError
from distill.files import read_jsonl, sha256_text
from distill.prompts import normalise
from distill.records import TrainingExample, to_example

TEACHER_NAME = "curated"
ID_DIGITS = 16
Key = tuple[str, str]


@dataclass(frozen=True)
class Curated:
    """A row, complete, and where it came from (file:line)."""

    row: TrainingExample
    place: str


def load_curated(files: Iterable[Path]) -> list[Curated]:
    """All rows of all files in their order. Raises PipelineError, naming file and line, for the first that cannot be used."""
    loaded = [curated for path in files for curated in load_file(path)]
    require_unique(loaded, {})
    return loaded


def require_unique(curated: Sequence[Curated], planned: Mapping[Key, str]) -> None:
    """Raises PipelineError for a row whose id or instruction is that of an earlier one, or of a planned row.

    `planned` maps the keys of the planned rows to their descriptions.
    """
    places = dict(planned)
    for each in curated:
        for key in make_keys(each.row.id, each.row.instruction):
            if key in places:
                raise PipelineError(f"{each.place} repeats the {key[0]} of {places[key]}: delete one")
            places[key] = each.place


def make_keys(row_id: str, instruction: str) -> tuple[Key, Key]:
    """What no two rows may share; case and spacing of the instruction do not matter."""
    return ("instruction", normalise(instruction)), ("id", row_id)


def load_file(path: Path) -> Iterator[Curated]:
    """Raises PipelineError when the file is missing or a line is not a row."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: mend generate.curated_files")
    for number, fields in read_jsonl(path):
        row, place = to_example(fields, path, number), f"{path}:{number}"
        check_row(row, place)
        yield Curated(complete(row), place)


def check_row(row: TrainingExample, place: str) -> None:
    """Raises PipelineError for blank texts, and for a span that does not lie in the instruction."""
    for key in ("instruction", "output"):
        if not getattr(row, key).strip():
            raise PipelineError(f"{place} {key}: is blank")
    for number, span in enumerate(row.context):
        if not 0 <= span.start < span.end <= len(row.instruction):
            raise PipelineError(
                f"{place} context.{number}: start {span.start} and end {span.end} are no part of an instruction of "
                f"{len(row.instruction)} characters"
            )


def complete(row: TrainingExample) -> TrainingExample:
    """What the writer left out. A missing timestamp stays empty: nobody knows it."""
    digest = sha256_text(f"{row.instruction}\n{row.output}")[:ID_DIGITS]
    return row.model_copy(
        update={"id": row.id or digest, "teacher_model": row.teacher_model or TEACHER_NAME, "num_chunks": len(row.context)}
    )
