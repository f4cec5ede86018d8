"""
Stage 1 of 4: make training rows from your questions, your documents and a teacher.

    python generate_training_data.py --dry-run          # check everything, count what would be sent and cost; send no document
    python generate_training_data.py --show 5           # five rows as the student will see them
    python generate_training_data.py --show-redactions  # what personal data is masked
    python generate_training_data.py --set-key          # once: put the teacher's key into the keyring
    python generate_training_data.py                    # run; after a stop, the same command goes on
    python generate_training_data.py --limit 8          # a smoke run over the first questions
    python generate_training_data.py --accept-edits     # you deleted or mended rows by hand: check them and record it
    python generate_training_data.py --record-prompts   # record what HybridRAG3 really sends, into generate.recordings_file

Reads   domain_questions.yaml (or recorded prompts), HybridRAG3's index, and curated files if config.yaml names some
Writes  training_data/   for finetune.py: train.jsonl, heldout.jsonl, README.md (the dataset card), manifest.json;
                         answers.jsonl and ledger.jsonl remember every answer and its cost, so that none is asked for twice
Needs   the model that HybridRAG3 embeds with (Ollama, or a local folder) and a teacher at an OpenAI-compatible address.
        The teacher gets questions and retrieved chunks, with personal data masked. docs/DATA.md explains everything.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import Config, load_config, type_command
from distill.curation.card import write_card
from distill.curation.counts import count_rows
from distill.curation.lengths import TokenCounter, load_counter
from distill.curation.rejections import Rejections
from distill.errors import PipelineError, run
from distill.files import hold_lock, sha256_file, write_jsonl_atomic
from distill.index.embedders import make_embedder
from distill.index.hybridrag import list_files
from distill.manifest import FILE_NAME as MANIFEST
from distill.manifest import write_manifest
from distill.masking import Masker
from distill.network import require_allowed
from distill.recorder.record import record_prompts
from distill.records import SIDES, Rows
from distill.rows.edits import accept_edits, write_digests
from distill.rows.making import Results
from distill.rows.overlaps import drop_overlaps
from distill.rows.plan import describe_plan, load_inputs, make_plan
from distill.rows.planner import describe_request
from distill.rows.preview import show_rows
from distill.rows.split import require_disjoint
from distill.teacher.dispatch import describe_teacher, require_able
from distill.teacher.journal import Journal, set_aside
from distill.teacher.keys import describe_key, find_key, require_https, store_key
from distill.teacher.ledger import Ledger
from distill.teacher.requests import Request

if TYPE_CHECKING:
    from distill.teacher.preflight import Preflight

NAME = "generate_training_data.py"
FIXED = ("system", "template", "source_format", "source_separator", "citation", "refusal", "general_knowledge")
RECORDER_PORT, OLLAMA = 11435, "http://127.0.0.1:11434"


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions, recorded prompts and document sets")
    parser.add_argument("--overwrite", action="store_true", help="ask everything again; the old answers get a dated name")
    parser.add_argument("--dry-run", action="store_true", help="check and count, send no document, write no row")
    parser.add_argument("--show", type=int, metavar="N", help="print N rows as the student will see them, and stop")
    parser.add_argument("--show-redactions", action="store_true", help="print what is masked, and stop")
    parser.add_argument("--yes", action="store_true", help="go on after the first rows of a paid run without asking")
    parser.add_argument("--set-key", action="store_true", help="type the teacher's key into the keyring, and stop")
    parser.add_argument("--accept-edits", action="store_true", help="check rows edited by hand, record it, and stop")
    parser.add_argument("--record-prompts", action="store_true", help="record what HybridRAG3 sends to Ollama, until Ctrl-C")
    parser.add_argument("--port", type=int, default=RECORDER_PORT, help=f"the recorder's, default {RECORDER_PORT}")
    parser.add_argument("--forward", metavar="URL", default=OLLAMA, help="the real Ollama's address; none: answer alone")
    parser.add_argument("--answer-here", action="store_true", help="answer prompts by a fixed sentence, pass only the rest on")
    args = parser.parse_args()
    for name in ("limit", "show"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1")
    return args


# -----------------------------------------------------------------------------
# Steps, in the order in which main calls them


def require_key(config: Config, wanted: bool, dry_run: bool) -> str:
    """The teacher's key, "" where nothing will be asked. Raises PipelineError before anything is computed for nothing.

    A dry run sends no document, so there a missing key is a warning.
    """
    teacher = config.generate.teacher
    require_able(config)
    if not wanted or teacher.provider == "extractive" or not teacher.enabled:
        return ""
    require_allowed(teacher.base_url)
    require_https(teacher.base_url)
    try:
        print(describe_key(teacher))
        return find_key(teacher)
    except PipelineError as error:
        if not dry_run:
            raise
        print(f"[WARN] {error}")
        return ""


def write_outputs(
    config: Config, rows: Rows, results: Results, masker: Masker, preflight: Preflight | None, counter: TokenCounter
) -> tuple[dict[str, Any], list[Path], dict[str, Any]]:
    """Write rows, what was left out, digests and card; returns counts, files, and what the card says beside the counts."""
    folder = config.training_dir
    for side in SIDES:
        lines = (row.model_dump(mode="json") for row in rows[side])
        write_jsonl_atomic(folder / f"{side}.jsonl", lines, private=True, encrypt=config.encrypt)
    results.rejections.write(folder / "rejected.jsonl", config.encrypt)
    facts = {
        "teacher": describe_teacher(config), "licence": preflight.to_manifest() if preflight else {},
        "checks": results.rejections.counts(), "masking": dict(masker.counts), "failures": len(results.failures),
    }
    counts = {**count_rows(config.prompt, rows, counter), "failures": facts["failures"], "rejected": len(results.rejections)}
    card = write_card(folder, rows, {**facts, "counts": counts, "config": config.describe("generate")}, config.encrypt, counter)
    names = ("train.jsonl", "heldout.jsonl", "failures.jsonl", "rejected.jsonl")
    return counts, [*(folder / name for name in names), write_digests(folder, rows), *card], facts


def write_requests(config: Config, missing: Sequence[Request]) -> None:
    """Without a teacher: leave what would be sent for reading."""
    path = config.training_dir / "requests.jsonl"
    write_jsonl_atomic(path, map(describe_request, missing), private=True, encrypt=config.encrypt)
    print("[OK] generate.teacher.enabled is false: wrote training_data/requests.jsonl, asked nobody, made no train.jsonl")


def require_unchanged(digests: dict[Path, str]) -> None:
    """Raises PipelineError when a file is not what this run read: the manifest would vouch for the wrong one."""
    for path, digest in digests.items():
        if not path.is_file() or sha256_file(path) != digest:
            raise PipelineError(f"{path} changed while this ran: run again; answers are kept")


def describe_state(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Size and time of each file: an index of many gigabytes is not hashed twice to see whether it changed."""
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]


def summarise(counts: dict[str, Any], results: Results, config_path: Path) -> None:
    """The end of a run, with what to do next."""
    for reason, number in Counter(failure["reason"] for failure in results.failures).most_common(3):
        print(f"[WARN] {number} rows failed: {reason}")
    for check, number in results.rejections.counts().items():
        print(f"[WARN] {number} left out: {check} (training_data/rejected.jsonl)")
    for side in SIDES:
        if not counts[side]:
            print(f"[WARN] {side}.jsonl is empty: add questions or curated rows, or change generate.heldout_share")
    again = " (the next run asks for them again)" if results.failures else ""
    print(f"[OK] training_data/: {counts['train']} training rows, {counts['heldout']} held-out rows", end="")
    print(f", {counts['refusals']} refusals among them; {counts['failures']} failures{again}")
    print(f"Next:  {type_command('finetune.py', config_path)}")


def main() -> None:
    """Inputs, plan, teacher, output."""
    started, args = time.time(), parse_args()
    config = load_config(args.config)
    settings, folder = config.generate, config.training_dir
    if args.set_key:
        return store_key(settings.teacher)
    if args.accept_edits:
        return accept_edits(config)
    if args.record_prompts:
        target = settings.recordings_file or folder / "recordings.jsonl"
        forward = None if args.forward == "none" else args.forward
        return record_prompts(
            target, port=args.port, forward=forward, encrypt=config.encrypt, answer_here=args.answer_here
        )

    # -----------------------------------------------------------------------------
    # Inputs: fail here, before anything is computed or sent

    only_look = args.dry_run or args.show or args.show_redactions
    inputs = load_inputs(config, args.limit)
    key = require_key(config, inputs.ask_teacher(config), dry_run=only_look)

    # -----------------------------------------------------------------------------
    # Plan: every question finds its chunks, and its side of the split

    masker, rejections, counter = Masker(settings.masking), Rejections(), load_counter(config)
    embedder = make_embedder(settings.embedder) if inputs.want_embedder(config) else None
    index_files = list_files(settings.index_folder, settings.index) if inputs.want_index(config) else []
    index_before = describe_state(index_files)
    plan = make_plan(config, inputs, embedder, masker, rejections, args.limit)
    describe_plan(config, plan, masker, rejections)
    if args.show_redactions:
        return print("\n".join(masker.describe_found()))
    if args.show:
        return show_rows(config, [*plan.planned, *plan.sets], args.show)
    from distill.teacher.outlook import Stage, may_go_on, prepare_teacher

    preflight, missing = prepare_teacher(config, key, plan, args.overwrite)
    if args.dry_run:
        return print("[OK] dry run: no document was sent, no row was written")
    if not settings.teacher.enabled:
        return write_requests(config, missing)

    # -----------------------------------------------------------------------------
    # Teacher: each answer is on disk before it counts

    with hold_lock(folder):
        (folder / MANIFEST).unlink(missing_ok=True)  # the files below are about to change: no longer complete
        if args.overwrite and (kept := set_aside(folder)):
            print(f"[OK] the old answers are in {kept.name}: rename it to answers.jsonl to have them back")
        results = Results(plan.planned, plan.sets, rejections)
        with Journal(folder, settings.teacher, config.encrypt) as journal, Ledger(folder) as ledger:
            stage = Stage(config, key, embedder, counter, journal, ledger, preflight.prices if preflight else None)
            try:
                if not may_go_on(stage, plan, missing, args.yes):
                    return print("[OK] stopped; what was answered is kept, and the same command goes on")
                stage.answer(plan.planned, plan.sets, results)
            finally:
                write_jsonl_atomic(folder / "failures.jsonl", results.failures, private=True, encrypt=config.encrypt)
                rejections.write(folder / "rejected.jsonl", config.encrypt)

        # -----------------------------------------------------------------------------
        # Output: rows in the order of the questions, the manifest last

        rows = drop_overlaps(config, {side: results.rows[side] + plan.curated[side] for side in SIDES}, rejections)
        require_disjoint(rows)
        require_unchanged(inputs.digests)
        if describe_state(index_files) != index_before:
            print("[WARN] the index changed while this ran: the manifest names it as it is now")
        counts, outputs, facts = write_outputs(config, rows, results, masker, preflight, counter)
        write_manifest(
            folder, made_by=NAME, config=config, sections=("prompt", "generate"), inputs=[*inputs.digests, *index_files],
            outputs=outputs, fixed={f"prompt.{key}": getattr(config.prompt, key) for key in FIXED},
            counts={**counts, "asked": len(missing)}, started=started,
            details={"card": facts, "smoke_run": args.limit is not None},
        )
    summarise(counts, results, args.config)


if __name__ == "__main__":
    run(main)
