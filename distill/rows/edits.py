"""--accept-edits: the user deleted, mended or added rows of train.jsonl and heldout.jsonl by hand. What changed is checked, and
the manifest then says how many rows did.

Changes are counted against row_digests.json, which stage 1 writes and which holds no text. The manifest is replaced last, in
one step: a run that is stopped before leaves everything as the user left it, to be accepted again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill.config import Config, name_path
from distill.curation.card import FILE_NAME as CARD
from distill.curation.card import write_card
from distill.curation.checks import find_form_fault, find_refusal_fault
from distill.curation.counts import count_rows
from distill.curation.duplicates import find_overlaps
from distill.curation.lengths import TokenCounter, load_counter
from distill.encryption import is_sealed
from distill.errors import PipelineError
from distill.files import (
    hold_lock,
    make_private,
    read_json,
    read_jsonl,
    read_text,
    sha256_file,
    sha256_text,
    write_json_atomic,
    write_jsonl_atomic,
)
from distill.manifest import FILE_NAME as MANIFEST
from distill.manifest import describe_file, inherit
from distill.prompts import RenderedPrompt, find_citations, join_reasoning
from distill.records import SIDES, Chunk, Rows, Side, TrainingExample, to_example
from distill.rows.curated import check_row, complete, make_keys, require_known
from distill.rows.planner import PlannedRow
from distill.rows.questions import Question

FILE_NAME = "row_digests.json"
MADE_BY = "generate_training_data.py"
SHOWN_PROBLEMS = 20
Digests = Mapping[str, Mapping[str, Sequence[str]]]  # side -> row id -> what digest_row returns
# What an answer rests on, and what stage 1 found out about it: nothing that an editor can know better.
FIXED = ("context", "golden", "answerable", "origin")


@dataclass(frozen=True)
class Edited:
    """A row as it stands in a file now, and where."""

    row: TrainingExample
    side: Side
    place: str


# -----------------------------------------------------------------------------
# What stage 1 leaves


def write_digests(folder: Path, rows: Rows) -> Path:
    """Write folder/row_digests.json: hashes of every row, against which edits are counted later. It holds no text."""
    digests = {side: {row.id: digest_row(row) for row in rows[side]} for side in SIDES}
    path = folder / FILE_NAME
    write_json_atomic(path, digests, private=True)
    return path


def digest_row(row: TrainingExample) -> tuple[str, str, str]:
    """sha256 of a row's instruction, of the whole row, and of the fields in FIXED."""
    fields = row.model_dump(mode="json")
    fixed = {key: fields[key] for key in FIXED}
    return sha256_text(row.instruction), *(sha256_text(json.dumps(each, sort_keys=True)) for each in (fields, fixed))


# -----------------------------------------------------------------------------
# Accepting


def accept_edits(config: Config) -> dict[str, Any]:
    """Check the rows as they stand now, and write a manifest that vouches for them; returns what changed, and prints it.

    Raises PipelineError, with file and line, for every row that stage 1 would not have written.
    """
    folder = config.training_dir
    with hold_lock(folder):
        manifest = require_finished(config)
        digests = load_digests(folder, manifest)
        edited = list_edited(config, digests)
        counter = load_counter(config)
        problems = [*find_problems(config, edited, digests, counter)]
        if problems:
            more = [f"and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
            raise PipelineError("\n       ".join([*problems[:SHOWN_PROBLEMS], *more]))
        rows: Rows = {side: [each.row for each in edited if each.side == side] for side in SIDES}
        edits = count_edits(rows, digests)
        keep_rows(config, rows)
        update_manifest(config, manifest, rows, edits, counter)
    print(f"[OK] accepted: {', '.join(f'{edits[key]} {key}' for key in ('changed', 'deleted', 'added'))}", end="")
    print(f"; {len(rows['train'])} training rows, {len(rows['heldout'])} held-out rows")
    return edits


def require_finished(config: Config) -> dict[str, Any]:
    """Stage 1's manifest, whose settings config.yaml still has. Raises PipelineError before anything was made, or otherwise."""
    path = config.training_dir / MANIFEST
    if not path.is_file():
        raise PipelineError(f"{name_path(path, config.work_dir)} is missing: run  python {MADE_BY}  first")
    manifest = read_json(path)
    if manifest.get("made_by") != MADE_BY:
        raise PipelineError(f"{name_path(path, config.work_dir)} was made by {manifest.get('made_by')}, not {MADE_BY}")
    inherit(manifest, config.training_dir, config)
    return manifest


def load_digests(folder: Path, manifest: Mapping[str, Any]) -> Digests:
    """What stage 1 wrote. Raises PipelineError when the file is missing, or not the one that the manifest lists."""
    path = folder / FILE_NAME
    again = f"run  python {MADE_BY}  again; your edits are lost then, so keep a copy"
    if not path.is_file():
        raise PipelineError(f"{path} is missing: {again}")
    listed = {Path(output["path"]).name: output["sha256"] for output in manifest["outputs"]}
    if listed.get(FILE_NAME, "") != sha256_file(path):
        raise PipelineError(f"{path} is not the one that stage 1 wrote: {again}")
    digests = read_json(path)
    if any(len(digest) != 3 for side in SIDES for digest in digests[side].values()):
        raise PipelineError(f"{path} was written by another version of this program: {again}")
    return digests


def list_edited(config: Config, digests: Digests) -> list[Edited]:
    """Every row of both files. Raises PipelineError, with file and line, for a line that is no row."""
    known = {row_id for side in SIDES for row_id in digests[side]}
    edited = []
    for side in SIDES:
        path = config.training_dir / f"{side}.jsonl"
        for number, fields in read_jsonl(path):
            require_known(fields, f"{path}:{number}")
            row = to_example(fields, path, number)
            check_row(row, f"{path}:{number}")
            edited.append(Edited(row if row.id in known else complete_added(row), side, f"{path}:{number}"))
    if not any(each.side == "train" for each in edited):
        raise PipelineError(f"{config.training_dir / 'train.jsonl'} holds no row: nothing is left to train on")
    return edited


def complete_added(row: TrainingExample) -> TrainingExample:
    """A row that the user added gets what a curated row gets; what cannot be one stays as it is, for find_problems to name."""
    return complete(row) if row.origin in ("", "curated") else row


def count_edits(rows: Rows, digests: Digests) -> dict[str, Any]:
    """Rows changed, deleted and added since stage 1 wrote them; accepting twice changes nothing but the time."""
    before = {row_id: digest for side in SIDES for row_id, digest in digests[side].items()}
    now = {row.id: digest_row(row) for side in SIDES for row in rows[side]}
    return {
        "changed": sum(before[row_id][1] != digest[1] for row_id, digest in now.items() if row_id in before),
        "deleted": len(before.keys() - now.keys()),
        "added": len(now.keys() - before.keys()),
        "accepted_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


# -----------------------------------------------------------------------------
# What may be wrong


def find_problems(config: Config, edited: Sequence[Edited], digests: Digests, counter: TokenCounter) -> Iterator[str]:
    """One line for each thing that stage 1 would not have written."""
    for each in edited:
        yield from find_row_problems(config, each, digests, counter)
    yield from find_repeated(edited)
    yield from find_shared_sources(edited)
    yield from find_overlapping(config, edited)


def find_row_problems(config: Config, each: Edited, digests: Digests, counter: TokenCounter) -> Iterator[str]:
    """What is wrong with one row by itself; nothing where it is as stage 1 wrote it."""
    row, other = each.row, SIDES[each.side == "train"]
    if row.id in digests[other]:
        yield f"{each.place} stood in {other}.jsonl: move it back, or delete it"
    before = next((digests[side][row.id] for side in SIDES if row.id in digests[side]), None)
    instruction, whole, fixed = digest_row(row)
    if before is not None and before[1] == whole:
        return
    if before is None and (row.context or row.origin != "curated"):
        yield f"{each.place} was added or has a new id: an added row has no context and no other origin than curated"
    if before is not None and before[2] != fixed:
        yield f"{each.place} has another {', '.join(FIXED[:-1])} or {FIXED[-1]}: change output alone, or delete the row"
    elif before is not None and row.context and before[0] != instruction:
        yield f"{each.place} has another instruction, where its context spans no longer fit: change output, or delete the row"
    detail = find_output_problem(config, each, counter)
    if detail:
        yield f"{each.place} output {detail}"


def find_output_problem(config: Config, each: Edited, counter: TokenCounter) -> str:
    """What is wrong with a changed answer, "" if nothing is. A curated row keeps to no template: it may refuse as it likes."""
    row, planned = each.row, plan_again(each)
    said = join_reasoning(row.reasoning if config.finetune.include_reasoning else "", row.output)
    fault = find_form_fault(config, row.output, counter.count(said), planned.chunks)
    if fault:
        return f"has {fault.detail}" if fault.check == "too long" else fault.detail
    wrong = sorted({number for number in find_citations(config.prompt, row.output) if not 1 <= number <= len(row.context)})
    if row.context and wrong:
        return f"cites source {', '.join(map(str, wrong))} of {len(row.context)}"
    return "" if row.origin == "curated" else find_refusal_fault(config, planned, row.output)


def plan_again(each: Edited) -> PlannedRow:
    """A row as it was before it had an answer, as far as the checks look."""
    row = each.row
    chunks = [
        Chunk(span.chunk_id, span.source, row.instruction[span.start : span.end], span.score) for span in row.context
    ]
    return PlannedRow(
        id=row.id, question=Question(row.question, row.category, 0), side=each.side, origin=row.origin, chunks=tuple(chunks),
        golden=row.golden, answerable=row.answerable, prompt=RenderedPrompt(row.instruction, row.context), messages=[],
    )


def find_repeated(edited: Sequence[Edited]) -> Iterator[str]:
    """Rows whose id or instruction stands twice, on whichever side."""
    places: dict[tuple[str, str], str] = {}
    for each in edited:
        for key in make_keys(each.row.id, each.row.instruction):
            if key in places:
                yield f"{each.place} repeats the {key[0]} of {places[key]}: delete one"
                break
            places[key] = each.place


def find_shared_sources(edited: Sequence[Edited]) -> Iterator[str]:
    """Held-out rows that show a document which a training row shows."""
    trained = {span.source: each.place for each in edited if each.side == "train" for span in each.row.context}
    for each in edited:
        sources = [span.source for span in each.row.context if each.side == "heldout" and span.source in trained]
        if sources:
            yield f"{each.place} shows {sources[0]}, as {trained[sources[0]]} does: delete one of them"


def find_overlapping(config: Config, edited: Sequence[Edited]) -> Iterator[str]:
    """Training rows whose question overlaps with a held-out one."""
    sides = {side: [each for each in edited if each.side == side] for side in SIDES}
    asked = {side: [each.row.question or each.row.instruction for each in sides[side]] for side in SIDES}
    overlaps = find_overlaps(asked["train"], asked["heldout"], config.generate.checks.heldout_overlap)
    for each, other in zip(sides["train"], overlaps):
        if other >= 0:
            yield f"{each.place} asks nearly what {sides['heldout'][other].place} asks: delete one"


# -----------------------------------------------------------------------------
# Writing


def keep_rows(config: Config, rows: Rows) -> None:
    """Leave the files as they are, private; written again are only those that need it, for a row's id or for encryption."""
    for side in SIDES:
        path = config.training_dir / f"{side}.jsonl"
        now = [fields for _, fields in read_jsonl(path)]
        completed = [row.model_dump(mode="json") for row in rows[side]]
        before = [(fields.get("id", ""), fields.get("origin", "")) for fields in now]
        if before != [(row.id, row.origin) for row in rows[side]] or (config.encrypt and holds_plain(path)):
            write_jsonl_atomic(path, completed, private=True, encrypt=config.encrypt or holds_encrypted(path))
        make_private(path)


def holds_plain(path: Path) -> bool:
    """Whether any line is not encrypted."""
    return any(not is_sealed(line) for line in read_text(path).split("\n") if line.strip())


def holds_encrypted(path: Path) -> bool:
    """Whether any line is encrypted: then all of them shall be."""
    return any(is_sealed(line) for line in read_text(path).split("\n") if line.strip())


def update_manifest(
    config: Config, manifest: dict[str, Any], rows: Rows, edits: dict[str, Any], counter: TokenCounter
) -> None:
    """The same manifest with the new figures, sizes and hashes; the card before it."""
    folder = config.training_dir
    counts = {**manifest["counts"], **count_rows(config.prompt, rows, counter)}
    details = {**manifest["details"], "edits": edits}
    if (folder / CARD).is_file():
        facts = {**details.get("card", {}), "counts": counts, "config": manifest["config"].get("generate"), "edits": edits}
        write_card(folder, rows, facts, config.encrypt, counter)
    outputs = [describe_file(config.work_dir / output["path"], config.work_dir) for output in manifest["outputs"]]
    write_json_atomic(folder / MANIFEST, {**manifest, "counts": counts, "outputs": outputs, "details": details})
