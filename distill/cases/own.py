"""The user's own cases: JSONL files of instruction and output, asked as they stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from distill.cases.case_set import CaseSet
from distill.cases.heldout import make_heldout_set
from distill.cases.names import name_apart
from distill.cases.retrieving import make_masker
from distill.config import Config
from distill.errors import PipelineError
from distill.files import read_jsonl
from distill.index.embedders import Embedder
from distill.masking import Masker
from distill.prompts import normalise
from distill.records import TrainingExample, to_example
from distill.rows.curated import check_row, complete, require_known

TITLE = "Your own cases"


def make_own_set(config: Config, trained: Collection[str], embedder: Embedder | None) -> CaseSet | None:
    """The rows of evaluate.own_cases, scored as held-out rows are; None where no file is named, or no row is left.

    `trained` are the instructions, and the bare questions, that the tuned model learnt: a row with one of them tests its memory
    alone and is left out, as is a row that repeats another. Raises PipelineError for a file that cannot be used.
    """
    if not config.evaluate.own_cases:
        return None
    rows = keep_new([row for path in config.evaluate.own_cases for row in load_rows(path)], trained)
    if masker := make_masker(config):
        rows = [mask_row(masker, row) for row in rows]
    rows = [row.model_copy(update={"id": name}) for row, name in zip(rows, name_apart(row.id for row in rows))]
    return make_heldout_set(config, rows, embedder, name="own", title=TITLE) if rows else None


def load_rows(path: Path) -> list[TrainingExample]:
    """The rows of one file. Raises PipelineError with file and line for the first that is none, and for a file without any."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: mend evaluate.own_cases")
    rows = []
    for number, fields in read_jsonl(path):
        require_known(fields, f"{path}:{number}")
        row = to_example(fields, path, number)
        check_row(row, f"{path}:{number}")
        rows.append(complete(row))
    if not rows:
        raise PipelineError(f"{path} holds no row: write JSON objects with instruction and output, one a line")
    return rows


def keep_new(rows: Sequence[TrainingExample], trained: Collection[str]) -> list[TrainingExample]:
    """The rows that were not learnt, each instruction once; says how many are left out."""
    known = {normalise(text) for text in trained if text.strip()}
    new = [row for row in rows if not known & {normalise(row.instruction), normalise(row.question)}]
    first = {normalise(row.instruction): row for row in reversed(new)}
    kept = [row for row in new if first[normalise(row.instruction)] is row]
    if len(new) < len(rows):
        print(f"[WARN] {len(rows) - len(new)} of your own cases were left out: the tuned model was trained on their questions")
    if len(kept) < len(new):
        print(f"[WARN] {len(new) - len(kept)} of your own cases repeat another's instruction: the first counts")
    if not kept:
        print("[WARN] no case of evaluate.own_cases is left: your own cases are not evaluated")
    return kept


def mask_row(masker: Masker, row: TrainingExample) -> TrainingExample:
    """A row as it may leave this machine; where masking moved its text, its spans would point at the wrong places."""
    masked = {key: masker.mask(getattr(row, key)) for key in ("instruction", "output", "question")}
    moved = masked["instruction"] != row.instruction
    return row.model_copy(update={**masked, **({"context": ()} if moved else {})})
