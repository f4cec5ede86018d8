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
from typing import Any

from distill.config import Config, load_config, type_command
from distill.curation.lengths import load_counter
from distill.curation.rejections import Rejections
from distill.encryption import clear_plain
from distill.errors import PipelineError, run
from distill.files import hold_lock, write_jsonl_atomic
from distill.index.embedders import make_embedder
from distill.manifest import FILE_NAME as MANIFEST
from distill.manifest import write_manifest
from distill.masking import Masker
from distill.network import require_allowed
from distill.recorder.record import record_prompts
from distill.records import SIDES
from distill.rows.canaries import plant_canaries
from distill.rows.edits import accept_edits
from distill.rows.making import Results
from distill.rows.outputs import (
    describe_state,
    list_index,
    mask_answers,
    require_no_edits,
    require_no_whole_set,
    require_unchanged,
    write_outputs,
)
from distill.rows.overlaps import drop_overlaps
from distill.rows.plan import describe_plan, load_inputs, make_plan
from distill.rows.planner import describe_request
from distill.rows.preview import show_rows
from distill.rows.split import require_disjoint
from distill.teacher.dispatch import require_able
from distill.teacher.journal import Journal, set_aside
from distill.teacher.keys import describe_key, find_key, require_https, store_key
from distill.teacher.ledger import Ledger
from distill.teacher.requests import Request

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
    parser.add_argument("--discard-edits", action="store_true", help="write over rows that were edited by hand")
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
    require_https(teacher)
    try:
        print(describe_key(teacher))
        return find_key(teacher)
    except PipelineError as error:
        if not dry_run:
            raise
        print(f"[WARN] {error}")
        return ""


def write_requests(config: Config, missing: Sequence[Request]) -> None:
    """Without a teacher: leave what would be sent for reading."""
    path = config.training_dir / "requests.jsonl"
    write_jsonl_atomic(path, map(describe_request, missing), private=True, encrypt=config.encrypt)
    print("[OK] generate.teacher.enabled is false: wrote training_data/requests.jsonl, asked nobody, made no train.jsonl")


def summarise(counts: dict[str, Any], results: Results, config_path: Path, smoke_run: bool) -> None:
    """The end of a run, with what to do next."""
    for reason, number in Counter(failure["reason"] for failure in results.failures).most_common(3):
        print(f"[WARN] {number} rows failed: {reason}")
    for check, number in results.rejections.counts().items():
        print(f"[WARN] {number} left out: {check} (training_data/rejected.jsonl)")
    for side in SIDES:
        if not counts[side]:
            print(f"[WARN] {side}.jsonl is empty: add questions or curated rows, or change generate.heldout_share")
    again = " (the next run asks again for those that got no reply)" if results.failures else ""
    print(f"[OK] training_data/: {counts['train']} training rows, {counts['heldout']} held-out rows", end="")
    print(f", {counts['refusals']} refusals among them; {counts['failures']} failures{again}")
    if not counts["train"] and not smoke_run:
        raise PipelineError("no row to train on: read training_data/rejected.jsonl and failures.jsonl, and docs/DATA.md")
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
    if not only_look and not args.discard_edits:
        require_no_edits(config)
    if args.limit and not only_look and not args.overwrite:
        require_no_whole_set(config)
    inputs = load_inputs(config, args.limit)
    key = require_key(config, inputs.ask_teacher(config), dry_run=only_look)

    # -----------------------------------------------------------------------------
    # Plan: every question finds its chunks, and its side of the split

    masker, rejections, counter = Masker(settings.masking), Rejections(), load_counter(config)
    embedder = make_embedder(settings.embedder) if inputs.want_embedder(config) else None
    index_before = describe_state(list_index(config, inputs))
    plan = make_plan(config, inputs, embedder, masker, rejections, args.limit)
    describe_plan(config, plan, rejections)
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
        if args.overwrite and (kept := set_aside(folder, plan.row_ids)):
            print(f"[OK] the answers to these rows are asked for again; {kept.name} has all that were there before")
        results = Results(plan.planned, plan.sets, rejections)
        with Journal(folder, settings.teacher, config.encrypt) as journal, Ledger(folder) as ledger:
            stage = Stage(config, key, embedder, counter, journal, ledger, preflight.prices if preflight else None)
            if not may_go_on(stage, plan, missing, args.yes):
                return print("[OK] stopped; what was answered is kept: the same command, without --overwrite, goes on")
            (folder / MANIFEST).unlink(missing_ok=True)  # the files below are about to change: no longer complete
            if config.encrypt:
                clear_plain(folder, keep=inputs.digests)
            try:
                stage.answer(plan.planned, plan.sets, results)
            finally:
                write_jsonl_atomic(folder / "failures.jsonl", results.failures, private=True, encrypt=config.encrypt)
                rejections.write(folder / "rejected.jsonl", config.encrypt)

        # -----------------------------------------------------------------------------
        # Output: rows in the order of the questions, the manifest last

        rows = mask_answers(masker, {side: results.rows[side] + plan.curated[side] for side in SIDES})
        rows = plant_canaries(config, drop_overlaps(config, rows, rejections))
        require_disjoint(rows)
        require_unchanged(inputs.digests)
        if describe_state(index_files := list_index(config, inputs)) != index_before:
            print("[WARN] the index changed while this ran: the manifest names it as it is now")
        counts, outputs, facts = write_outputs(config, rows, results, plan.masked, preflight, counter)
        write_manifest(
            folder, made_by=NAME, config=config, sections=("prompt", "generate"), inputs=[*inputs.digests, *index_files],
            outputs=outputs, fixed={f"prompt.{key}": getattr(config.prompt, key) for key in FIXED},
            counts={**counts, "asked": len(missing)}, started=started,
            details={"card": facts, "smoke_run": args.limit is not None},
        )
    summarise(counts, results, args.config, smoke_run=args.limit is not None)


if __name__ == "__main__":
    run(main)
