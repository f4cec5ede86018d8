"""
Stage 1 of 4: make training rows from your questions, your documents and a teacher.

    python generate_training_data.py --set-key      # once: put the teacher's key into the keyring
    python generate_training_data.py --dry-run      # check everything, count what would be sent, send nothing
    python generate_training_data.py                # run; after a stop, the same command goes on
    python generate_training_data.py --limit 8      # a smoke run over the first questions

Reads   domain_questions.yaml, HybridRAG3's index, and curated JSONL files if config.yaml names some
Writes  training_data/   for finetune.py: train.jsonl, heldout.jsonl, failures.jsonl, manifest.json;
                         answers.jsonl remembers every answer, so that none is asked for twice
Needs   the model that HybridRAG3 embeds with (Ollama, or a local folder) and a teacher at an OpenAI-compatible address.
        The teacher gets the questions and the retrieved chunks. With teacher.provider: extractive nothing leaves this
        machine; with teacher.enabled: false the run stops after retrieval and writes training_data/requests.jsonl.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.config import Config, load_config, type_command
from distill.errors import PipelineError, run
from distill.files import hold_lock, sha256_file, write_jsonl_atomic
from distill.index.embedders import Embedder, embed_questions, make_embedder, require_same_model
from distill.index.hybridrag import list_files, load_index, warn_of_access_tags
from distill.manifest import FILE_NAME as MANIFEST
from distill.manifest import write_manifest
from distill.network import require_allowed
from distill.prompts import is_refusal
from distill.rows.curated import Curated, load_curated, make_keys, require_unique
from distill.rows.planner import PlannedRow, describe_request, plan_rows
from distill.rows.questions import Question, load_questions
from distill.rows.split import SIDES, Rows, Split, place_all, retrieve, split_sources
from distill.teacher.answers import Answers, list_pending, load_answers, set_aside
from distill.teacher.dispatch import answer_rows, describe_teacher
from distill.teacher.keys import find_key, require_https, store_key

NAME = "generate_training_data.py"
FIXED = ("system", "template", "source_format", "source_separator", "citation", "refusal")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), help="default: config.yaml")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--overwrite", action="store_true", help="ask everything again; the old answers get a dated name")
    parser.add_argument("--dry-run", action="store_true", help="check and count, send nothing to the teacher, write nothing")
    parser.add_argument("--set-key", action="store_true", help="type the teacher's key into the keyring, and stop")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


# -----------------------------------------------------------------------------
# Steps, in the order in which main calls them


def load_inputs(config: Config, limit: int | None) -> tuple[list[Question], list[Curated]]:
    """Questions and curated rows. Raises PipelineError when there are neither."""
    settings = config.generate
    questions = load_questions(settings.questions_file)[:limit] if settings.questions_file else []
    curated = load_curated(settings.curated_files)
    if not questions and not curated:
        raise PipelineError("nothing to do: name generate.questions_file or generate.curated_files in config.yaml")
    categories = len({question.category for question in questions})
    print(f"[OK] {len(questions)} questions in {categories} categories, {len(curated)} curated rows")
    return questions, curated


def require_key(config: Config, questions: Sequence[Question], dry_run: bool) -> str:
    """The teacher's key, "" where none is wanted. Raises PipelineError before anything is computed for nothing.

    A dry run sends nothing, so there a missing key is a warning.
    """
    teacher = config.generate.teacher
    if not questions or teacher.provider == "extractive" or not teacher.enabled:
        return ""
    require_allowed(teacher.base_url)
    require_https(teacher.base_url)
    try:
        return find_key(teacher)
    except PipelineError as error:
        if not dry_run:
            raise
        print(f"[WARN] {error}")
        return ""


def plan_questions(config: Config, questions: Sequence[Question], embedder: Embedder) -> tuple[Split, list[PlannedRow]]:
    """Split the documents, and retrieve for every question among those of its side."""
    settings = config.generate
    index = load_index(settings.index_folder)
    split = split_sources(index.sources, settings.heldout_share)
    heldout = sum(split.side_of_source(source) == "heldout" for source in index.sources)
    print(f"[OK] index of {len(index):,} live chunks from {len(index.sources)} documents, {heldout} of them held out")
    warn_of_access_tags(index)
    require_same_model(index, embedder, settings.embedder)
    vectors = embed_questions(embedder, settings.embedder, [question.text for question in questions])
    return split, plan_rows(config, questions, retrieve(index, split, vectors, settings.top_k, settings.min_score))


def split_curated(config: Config, curated: Sequence[Curated]) -> Split:
    """The split where there is no index: by the sources that the curated rows name, if any."""
    return split_sources((span.source for each in curated for span in each.row.context), config.generate.heldout_share)


def place_curated(split: Split, curated: Sequence[Curated], planned: Sequence[PlannedRow]) -> Rows:
    """Curated rows by side. Raises PipelineError for one that repeats a planned row, or whose sources are on both sides."""
    keys = {key: f"question {row.question.text}" for row in planned for key in make_keys(row.id, row.prompt.instruction)}
    require_unique(curated, keys)
    return place_all(split, curated, (chunk for row in planned for chunk in row.chunks))


def describe_plan(config: Config, planned: Sequence[PlannedRow], pending: Sequence[PlannedRow]) -> None:
    """Print what goes where, before it goes."""
    empty = sum(not row.chunks for row in planned)
    print(f"[OK] {len(planned)} rows planned; {empty} found no chunk at or above min_score {config.generate.min_score:g}")
    print(f"[OK] to answer: {len(pending)} rows, by {describe_teacher(config)}")
    if config.generate.teacher.provider == "openai":
        characters = sum(len(message["content"]) for row in pending for message in row.messages)
        print(f"[OK] to send: {len(pending)} requests, {characters:,} characters of instructions, questions and documents")


def write_requests(config: Config, pending: Sequence[PlannedRow]) -> None:
    """Without a teacher: leave what would be sent for reading."""
    write_jsonl_atomic(config.training_dir / "requests.jsonl", map(describe_request, pending), private=True)
    print("[OK] generate.teacher.enabled is false: wrote training_data/requests.jsonl, asked nobody, made no train.jsonl")


def write_rows(config: Config, rows: Rows) -> None:
    """train.jsonl and heldout.jsonl, each whole or not at all, readable by the user alone."""
    for side in SIDES:
        lines = (row.model_dump(mode="json") for row in rows[side])
        write_jsonl_atomic(config.training_dir / f"{side}.jsonl", lines, private=True)


def count_rows(config: Config, rows: Rows) -> dict[str, Any]:
    """The figures of the manifest."""
    every = [row for side in SIDES for row in rows[side]]
    return {
        "rows": len(every), **{side: len(rows[side]) for side in SIDES},
        "refusals": sum(is_refusal(config.prompt, row.output) for row in every),
        "per_category": dict(sorted(Counter(row.category for row in every).items())),
        "per_teacher": dict(sorted(Counter(row.teacher_model for row in every).items())),
    }


def require_unchanged(digests: dict[Path, str]) -> None:
    """Raises PipelineError when a file is not what this run read: the manifest would vouch for the wrong one."""
    for path, digest in digests.items():
        if not path.is_file() or sha256_file(path) != digest:
            raise PipelineError(f"{path} changed while this ran: run again; answers are kept")


def summarise(counts: dict[str, Any], failures: Sequence[dict[str, Any]], config_path: Path) -> None:
    """The end of a run, with what to do next."""
    for reason, number in Counter(failure["reason"] for failure in failures).most_common(3):
        print(f"[WARN] {number} rows failed: {reason}")
    for side in SIDES:
        if not counts[side]:
            print(f"[WARN] {side}.jsonl is empty: add questions or curated rows, or change generate.heldout_share")
    again = " (the next run asks for them again)" if failures else ""
    print(f"[OK] training_data/: {counts['train']} training rows, {counts['heldout']} held-out rows", end="")
    print(f", {counts['refusals']} refusals among them; {counts['failures']} failures{again}")
    print(f"Next:  {type_command('finetune.py', config_path)}")


def main() -> None:
    """Inputs, retrieval, teacher, output."""
    started = time.time()
    args = parse_args()
    config = load_config(args.config)
    settings, folder = config.generate, config.training_dir
    if args.set_key:
        return store_key(settings.teacher)

    # -----------------------------------------------------------------------------
    # Inputs: fail here, before anything is computed or sent

    named = [*([settings.questions_file] if settings.questions_file else []), *settings.curated_files]
    digests = {path: sha256_file(path) for path in named if path.is_file()}
    questions, curated = load_inputs(config, args.limit)
    if args.limit and not args.dry_run:
        print(f"[WARN] --limit {args.limit}: train.jsonl and heldout.jsonl will hold no more; run again without it for all")
    key = require_key(config, questions, args.dry_run)

    # -----------------------------------------------------------------------------
    # Retrieval: every question finds its chunks, and its side of the split

    embedder = make_embedder(settings.embedder) if questions else None
    split, planned = plan_questions(config, questions, embedder) if embedder else (split_curated(config, curated), [])
    rows = place_curated(split, curated, planned)
    pending = list_pending(planned, () if args.overwrite else load_answers(folder))
    describe_plan(config, planned, pending)
    if args.dry_run:
        return print("[OK] dry run: nothing was sent to the teacher, nothing was written")
    if not settings.teacher.enabled:
        return write_requests(config, pending)

    # -----------------------------------------------------------------------------
    # Teacher: each answer is on disk before it counts

    with hold_lock(folder):
        (folder / MANIFEST).unlink(missing_ok=True)  # the files below are about to change: no longer complete
        if args.overwrite and (kept := set_aside(folder)):
            print(f"[OK] the old answers are in {kept.name}: rename it to answers.jsonl to have them back")
        with Answers(folder, config.prompt) as answers:
            pending = list_pending(planned, answers.by_id)
            answers.settle(planned)
            try:
                answer_rows(config, key, embedder, pending, answers)
            finally:
                failures = answers.write_failures(folder / "failures.jsonl", planned)

        # -----------------------------------------------------------------------------
        # Output: rows in the order of the questions, the manifest last

        for row in planned:
            if row.id in answers.by_id:
                rows[row.side].append(answers.complete(row))
        write_rows(config, rows)
        counts = {**count_rows(config, rows), "failures": len(failures), "asked": len(pending)}
        require_unchanged(digests)
        index_files = list_files(settings.index_folder) if questions else []
        write_manifest(
            folder, made_by=NAME, config=config, sections=("prompt", "generate"), inputs=[*digests, *index_files],
            outputs=[folder / name for name in ("train.jsonl", "heldout.jsonl", "failures.jsonl")],
            fixed={f"prompt.{key}": getattr(config.prompt, key) for key in FIXED}, counts=counts, started=started,
        )
    summarise(counts, failures, args.config)


if __name__ == "__main__":
    run(main)
