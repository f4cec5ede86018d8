"""The rows of this run's training_data/ and of others that are learnt together with it: see load_sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Config, name_path
from distill.curation.duplicates import find_overlaps
from distill.errors import PipelineError
from distill.files import read_json, read_jsonl, sha256_file
from distill.manifest import FILE_NAME, show_difference
from distill.prompts import normalise
from distill.records import SIDES, Side, TrainingExample, to_example

MADE_BY = "generate_training_data.py"


@dataclass(frozen=True)
class LocatedRow:
    """A row, and the file and line where it stands."""

    example: TrainingExample
    path: Path
    line: int

    @property
    def place(self) -> str:
        """file:line, for messages."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class RowSet:
    """One training_data/ folder's rows by side."""

    folder: Path
    rows: dict[Side, list[LocatedRow]]


def load_sets(config: Config, limit: int | None) -> tuple[list[LocatedRow], list[LocatedRow], list[dict[str, Any]]]:
    """The training rows, the held-out rows, and for the manifest one record per folder, training_data/ first.

    The same row in several files counts once; `limit` takes the first training rows. A record's "rows" are the training rows
    that its folder brought, before the limit. config.training_dir was checked by require_manifest. Raises PipelineError for
    another folder that is not a finished, unchanged set made with the same prompt, for a row that is trained on in one folder
    and held out in another, and when there is no training row.
    """
    folders = list_folders(config)
    for folder in folders[1:]:
        require_set(config, folder)
    sets = [load_set(folder) for folder in folders]
    require_disjoint_sets(sets, config.generate.checks.heldout_overlap)
    train, heldout = (merge_rows([each.rows[side] for each in sets]) for side in SIDES)
    if not train:
        raise PipelineError(f"{folders[0] / 'train.jsonl'} holds no rows: run  python {MADE_BY}  again with more questions")
    return train[:limit], heldout, [describe_set(config, each, train) for each in sets]


def list_folders(config: Config) -> list[Path]:
    """training_data/, then the others. Raises PipelineError for one that is named twice."""
    folders = [config.training_dir, *config.finetune.more_training_data]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise PipelineError(f"config.yaml finetune.more_training_data: {folder} is this run's own, or named twice")
        seen.add(folder.resolve())
    return folders


def require_set(config: Config, folder: Path) -> None:
    """Raises PipelineError, naming the folder, unless it is a finished set, unchanged, and made with this config's prompt."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise PipelineError(
            f"{path} is missing: finetune.more_training_data takes training_data/ folders that {MADE_BY} has finished"
        )
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("made_by") != MADE_BY:
        made_by = manifest.get("made_by") if isinstance(manifest, dict) else None
        raise PipelineError(f"{path} was made by {made_by}, not {MADE_BY}: mend finetune.more_training_data")
    # Its paths start at its own work_dir, and the folder may have been renamed since: the names alone count.
    recorded = {output["path"].rsplit("/", 1)[-1]: output for output in manifest["outputs"]}
    for side in SIDES:
        require_unchanged(folder / f"{side}.jsonl", recorded.get(f"{side}.jsonl"))
    require_same_prompt(config, path, manifest["fixed"])


def require_unchanged(path: Path, recorded: dict[str, Any] | None) -> None:
    """Raises PipelineError when a file is missing or not what its manifest recorded."""
    if recorded is None or not path.is_file():
        raise PipelineError(f"{path} is missing: copy the whole training_data/ folder, or run  python {MADE_BY}  for it again")
    if path.stat().st_size != recorded["bytes"] or sha256_file(path) != recorded["sha256"]:
        raise PipelineError(
            f"{path} has changed since its manifest was written: run  python {MADE_BY} --accept-edits  with its own config if "
            "you edited it, or copy the folder again"
        )


def require_same_prompt(config: Config, path: Path, fixed: dict[str, Any]) -> None:
    """Raises PipelineError, naming key and folder, when the set was made with another wording: one student learns one."""
    ours = {f"prompt.{key}": value for key, value in config.describe("prompt").items()}
    for key, value in fixed.items():
        if key in ours and ours[key] != value:
            was, now = show_difference(value, ours[key])
            raise PipelineError(
                f"{path} was made with {key} {was}, but config.yaml says {now}: leave {path.parent} out of "
                f"finetune.more_training_data, or run  python {MADE_BY}  for it again with the same prompt"
            )


# -----------------------------------------------------------------------------
# Loading and merging


def load_set(folder: Path) -> RowSet:
    """Raises PipelineError, with file and line, for what is no row."""
    return RowSet(folder, {side: list(load_rows(folder / f"{side}.jsonl")) for side in SIDES})


def load_rows(path: Path) -> Iterator[LocatedRow]:
    """The rows of a file; one without an id is named by its place."""
    for number, fields in read_jsonl(path):
        example = to_example(fields, path, number)
        named = example if example.id else example.model_copy(update={"id": f"{path.name}:{number}"})
        yield LocatedRow(named, path, number)


def merge_rows(files: Sequence[Iterable[LocatedRow]]) -> list[LocatedRow]:
    """The rows of all files, one that stands in several once, the first; ids are unique.

    A row whose id is taken gets #2 behind it, and so on: two runs that asked a teacher the same have rows of one id with two
    answers, and both are worth learning. A row that stands twice in one file stays: sanity.py tells of it.
    """
    merged: list[LocatedRow] = []
    seen: set[tuple[str, str]] = set()
    ids: dict[str, int] = {}
    for rows in files:
        fresh = [row for row in rows if content_of(row) not in seen]
        seen.update(map(content_of, fresh))
        merged += [with_own_id(row, ids) for row in fresh]
    return merged


def content_of(row: LocatedRow) -> tuple[str, str]:
    """What makes two rows the same."""
    return row.example.instruction, row.example.output


def with_own_id(row: LocatedRow, ids: dict[str, int]) -> LocatedRow:
    """The row with an id that is not in `ids` yet, which counts the rows of each id."""
    name = row.example.id
    ids[name] = ids.get(name, 0) + 1
    if ids[name] == 1:
        return row
    example = row.example.model_copy(update={"id": f"{name}#{ids[name]}"})
    return with_own_id(LocatedRow(example, row.path, row.line), ids)


def describe_set(config: Config, rows: RowSet, train: Sequence[LocatedRow]) -> dict[str, Any]:
    """A folder as the manifest of the adapters tells it."""
    return {
        "name": name_path(rows.folder, config.work_dir),
        "manifest_sha256": sha256_file(rows.folder / FILE_NAME),
        "train_sha256": sha256_file(rows.folder / "train.jsonl"),
        "rows": sum(row.path.parent == rows.folder for row in train),
    }


# -----------------------------------------------------------------------------
# What one folder trains on must not be held out in another


def require_disjoint_sets(sets: Sequence[RowSet], share: float) -> None:
    """Raises PipelineError, naming both places, for the first overlap: a question, see find_overlaps, or a document."""
    for first in sets:
        for second in sets:
            if first is not second:
                require_disjoint(first.rows["train"], second.rows["heldout"], share)


def require_disjoint(train: Sequence[LocatedRow], heldout: Sequence[LocatedRow], share: float) -> None:
    """Raises PipelineError when a training row of one folder asks or shows what the other holds out."""
    for why, pairs in (
        ("asks nearly the same question as", find_same_questions(train, heldout, share)),
        ("shows the same document as", find_same_documents(train, heldout)),
    ):
        if pairs:
            ours, theirs = pairs[0]
            more = f" (and {len(pairs) - 1} more rows)" if len(pairs) > 1 else ""
            raise PipelineError(
                f"{ours.place} is trained on and {why} {theirs.place}, which is held out{more}: the evaluation would measure "
                f"memory; leave one of the folders out, or delete the row and run  python {MADE_BY} --accept-edits  there"
            )


Pairs = list[tuple[LocatedRow, LocatedRow]]


def find_same_questions(train: Sequence[LocatedRow], heldout: Sequence[LocatedRow], share: float) -> Pairs:
    """Training rows with the held-out row whose question, or whole instruction, they repeat or hold."""
    asked = {normalise(question_of(row)): row for row in reversed(heldout)}
    whole = {normalise(row.example.instruction): row for row in reversed(heldout)}
    others = list(asked.values())
    overlaps = find_overlaps([question_of(row) for row in train], [question_of(row) for row in others], share)
    pairs: Pairs = []
    for row, number in zip(train, overlaps):
        same = asked.get(normalise(question_of(row))) or whole.get(normalise(row.example.instruction))
        if same or number >= 0:
            pairs.append((row, same or others[number]))
    return pairs


def find_same_documents(train: Sequence[LocatedRow], heldout: Sequence[LocatedRow]) -> Pairs:
    """Training rows with the held-out row that shows a document, or is about a chunk, of theirs."""
    places = {name: row for row in reversed(heldout) for name in names_of(row)}
    return [(row, places[found[0]]) for row in train if (found := [name for name in names_of(row) if name in places])]


def question_of(row: LocatedRow) -> str:
    """What a row asks; a curated one may hold no more than its instruction."""
    return row.example.question or row.example.instruction


def names_of(row: LocatedRow) -> list[tuple[str, str]]:
    """The documents and chunks that a row shows or is about."""
    context = row.example.context
    chunks = [*(span.chunk_id for span in context), *row.example.golden]
    return [*(("document", span.source) for span in context), *(("chunk", name) for name in chunks)]
