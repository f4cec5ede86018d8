"""Rows that somebody wrote: JSONL, YAML or CSV files with instruction and output. They go into the training data as they are.

Nothing here knows a network: these rows are never sent anywhere.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from distill.errors import PipelineError
from distill.files import read_jsonl, read_text, sha256_text
from distill.prompts import normalise
from distill.records import TrainingExample, to_example
from distill.rows.questions import compose, line_of

TEACHER_NAME = "curated"
ID_DIGITS = 16
DELIMITERS = (",", ";")
YAML_FORMAT = "a list of rows, each with instruction: and output:, or rows: with such a list"
# A cell holds text, so these keys cannot stand in a CSV file.
NESTED = ("context", "golden")
Key = tuple[str, str]
Numbered = tuple[int, dict[str, Any]]  # the line where a row begins, and its fields


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
    """Raises PipelineError when the file is missing or of another kind, or for the first row that is none."""
    readers = {".jsonl": read_jsonl, ".yaml": read_yaml, ".yml": read_yaml, ".csv": read_csv}
    if not path.is_file():
        raise PipelineError(f"{path} is missing: mend generate.curated_files")
    if path.suffix.lower() not in readers:
        raise PipelineError(f"{path}: generate.curated_files takes {', '.join(readers)} files, told by their ending")
    for number, fields in readers[path.suffix.lower()](path):
        require_known(fields, f"{path}:{number}")
        row, place = to_example(fields, path, number), f"{path}:{number}"
        check_row(row, place)
        yield Curated(complete(row), place)


def require_known(fields: Iterable[str], place: str) -> None:
    """Raises PipelineError, naming the nearest key that exists, for one that no row has."""
    for key in fields:
        if key not in TrainingExample.model_fields:
            near = difflib.get_close_matches(str(key), TrainingExample.model_fields, n=1, cutoff=0)
            raise PipelineError(f"{place} {key}: unknown, did you mean {near[0]}?")


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
    known = {"id": row.id or digest, "teacher_model": row.teacher_model or TEACHER_NAME}
    return row.model_copy(update={**known, "num_chunks": len(row.context), "origin": "curated"})


# -----------------------------------------------------------------------------
# YAML


def read_yaml(path: Path) -> Iterator[Numbered]:
    """The rows of a YAML file. Raises PipelineError, with the line, for what is no row."""
    for node in find_rows(compose(path), path):
        if not isinstance(node, yaml.MappingNode):
            raise PipelineError(f"{path}:{line_of(node)} is no row: it needs instruction: and output:")
        yield line_of(node), build_fields(node, path)


def find_rows(root: yaml.Node | None, path: Path) -> list[yaml.Node]:
    """The nodes of the rows. Raises PipelineError when the file has another shape."""
    if isinstance(root, yaml.MappingNode) and [key.value for key, _ in root.value] == ["rows"]:
        root = root.value[0][1]
    if not isinstance(root, yaml.SequenceNode):
        raise PipelineError(f"{path} must hold {YAML_FORMAT}")
    return root.value


def build_fields(node: yaml.MappingNode, path: Path) -> dict[str, Any]:
    """A row's keys and values. Raises PipelineError for a key that stands twice: YAML would keep the last, silently."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise PipelineError(f"{path}:{line_of(key)} {key.value}: stands twice in one row")
        seen.add(str(key.value))
    try:
        fields = yaml.SafeLoader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise PipelineError(f"{path}:{line_of(node)} is not YAML: {error.problem}") from None
    # YAML reads 2026-01-31 as a date; a timestamp is text.
    return {str(key): value.isoformat() if isinstance(value, date) else value for key, value in fields.items()}


# -----------------------------------------------------------------------------
# CSV


def read_csv(path: Path) -> Iterator[Numbered]:
    """The rows below the header line of a CSV file, without empty cells. Raises PipelineError with the line.

    The delimiter is , or ; as Excel writes it, told by the header. A quoted cell may have several lines.
    """
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    header, *rows = [*split_cells(path, text)] or [(1, [])]
    names = [name.strip().lower() for name in header[1]]
    check_header(names, f"{path}:{header[0]}")
    for number, cells in rows:
        if any(cell.strip() for cell in cells[len(names) :]):
            raise PipelineError(
                f"{path}:{number} has {len(cells)} cells under {len(names)} columns: put a text with a comma, a semicolon or a "
                "quote in double quotes"
            )
        yield number, {name: cell for name, cell in zip(names, cells) if name and cell.strip()}


def split_cells(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The line where each row that is not empty begins, and its cells."""
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = max(DELIMITERS, key=lambda mark: count_known(first, mark))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise PipelineError(f"{path}:{number} is not CSV ({error}): double each quote inside a quoted cell") from None
        if any(cell.strip() for cell in cells):
            yield number, cells


def count_known(header: str, delimiter: str) -> tuple[int, int]:
    """How many columns of a header are known with this delimiter, then how many there are."""
    names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
    return sum(name in TrainingExample.model_fields for name in names), len(names)


def check_header(names: Sequence[str], place: str) -> None:
    """Raises PipelineError for a header that is missing, or a column that is unknown, nested, or there twice."""
    if not {"instruction", "output"} & set(names):
        raise PipelineError(f"{place} must be a header line with the columns instruction and output")
    require_known((name for name in names if name), place)
    for name in names:
        if name in NESTED:
            raise PipelineError(f"{place} {name}: has no form in CSV: write JSONL or YAML")
        if name and names.count(name) > 1:
            raise PipelineError(f"{place} {name}: stands twice in the header")
