"""What stage 1 leaves in training_data/, and what it will not write over or vouch for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import Config
from distill.curation.card import write_card
from distill.curation.counts import count_rows
from distill.curation.lengths import TokenCounter
from distill.errors import PipelineError
from distill.files import read_json, sha256_file, write_jsonl_atomic
from distill.index.hybridrag import list_files
from distill.manifest import FILE_NAME as MANIFEST
from distill.masking import Masker
from distill.records import SIDES, Rows, TrainingExample
from distill.rows.edits import write_digests
from distill.rows.making import Results
from distill.rows.plan import Inputs
from distill.teacher.dispatch import describe_teacher

if TYPE_CHECKING:
    from distill.teacher.preflight import Preflight


def require_no_edits(config: Config) -> None:
    """Raises PipelineError when the user mended rows by hand, accepted or not yet: a new run would write over them."""
    path = config.training_dir / MANIFEST
    if not path.is_file():
        return
    manifest = read_json(path)
    listed = {Path(output["path"]).name: output["sha256"] for output in manifest.get("outputs", ())}
    files = [config.training_dir / f"{side}.jsonl" for side in SIDES]
    changed = [file.name for file in files if file.is_file() and listed.get(file.name) != sha256_file(file)]
    if changed or manifest.get("details", {}).get("edits"):
        raise PipelineError(
            f"{config.training_dir} holds rows that were edited by hand ({', '.join(changed) or 'accepted'}): this run would "
            "write over them; go on with  python finetune.py , or give them up with --discard-edits"
        )


def require_no_whole_set(config: Config) -> None:
    """Raises PipelineError when --limit would leave a few rows in the place of a finished set."""
    path = config.training_dir / MANIFEST
    if path.is_file() and not read_json(path).get("details", {}).get("smoke_run", True):
        raise PipelineError(
            f"{config.training_dir} holds a finished set, of which --limit would leave a few rows: run without --limit, or "
            "with another work_dir; --overwrite does it all the same"
        )


def mask_answers(masker: Masker, rows: Rows) -> Rows:
    """The rows with personal data masked in what a teacher wrote, too: it knows some by heart. The user's own rows stay."""
    return {side: [row if row.origin == "curated" else mask_answer(masker, row) for row in rows[side]] for side in SIDES}


def mask_answer(masker: Masker, row: TrainingExample) -> TrainingExample:
    """One row with its answer, steps and draft masked."""
    return row.model_copy(update={key: masker.mask(getattr(row, key)) for key in ("output", "reasoning", "draft")})


def write_outputs(
    config: Config, rows: Rows, results: Results, masked: Mapping[str, int], preflight: Preflight | None, counter: TokenCounter
) -> tuple[dict[str, Any], list[Path], dict[str, Any]]:
    """Write rows, what was left out, digests and card; returns counts, files, and what the card says beside the counts."""
    folder = config.training_dir
    for side in SIDES:
        lines = (row.model_dump(mode="json") for row in rows[side])
        write_jsonl_atomic(folder / f"{side}.jsonl", lines, private=True, encrypt=config.encrypt)
    results.rejections.write(folder / "rejected.jsonl", config.encrypt)
    facts = {
        "teacher": describe_teacher(config), "licence": preflight.to_manifest() if preflight else {},
        "checks": results.rejections.counts(), "masking": dict(masked), "failures": len(results.failures),
    }
    counts = {**count_rows(config.prompt, rows, counter), "failures": facts["failures"], "rejected": len(results.rejections)}
    card = write_card(folder, rows, {**facts, "counts": counts, "config": config.describe("generate")}, config.encrypt, counter)
    names = ("train.jsonl", "heldout.jsonl", "failures.jsonl", "rejected.jsonl")
    return counts, [*(folder / name for name in names), write_digests(folder, rows), *card], facts


def list_index(config: Config, inputs: Inputs) -> list[Path]:
    """The files of the index that a run reads, none where it reads none; HybridRAG3 may make and remove one meanwhile."""
    return list_files(config.generate.index_folder, config.generate.index) if inputs.want_index(config) else []


def require_unchanged(digests: dict[Path, str]) -> None:
    """Raises PipelineError when a file is not what this run read: the manifest would vouch for the wrong one."""
    for path, digest in digests.items():
        if not path.is_file() or sha256_file(path) != digest:
            raise PipelineError(f"{path} changed while this ran: run again; answers are kept")


def describe_state(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of each file: an index of many gigabytes is not hashed twice to see whether it changed."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
