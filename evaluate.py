"""
Stage 4 of 4: is the tuned model better than its own base at this job, and how sure are we?

    python evaluate.py
    python evaluate.py --dry-run        # check inputs and models; ask nothing
    python evaluate.py --limit 10       # the first 10 held-out questions only
    python evaluate.py --overwrite      # ask everything again; without it an unfinished run goes on

Reads   training_data/heldout.jsonl   from generate_training_data.py
        gguf/                         from export_gguf.py
Writes  evaluation/                   report.html to look at, summary.json for programs, answers.jsonl
Needs   both models in Ollama (export_gguf.py prints the commands), or  evaluate.engine: embedded  and no server at all
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill.config import Config, load_config, name_path
from distill.engines import SIDES, Ask, Engine, Model, Question, Side, find_models, make_engine, make_options, plan_questions
from distill.errors import PipelineError, run
from distill.files import (
    JsonlAppender,
    hold_lock,
    read_json,
    read_jsonl,
    sha256_file,
    write_json_atomic,
    write_jsonl_atomic,
    write_text_atomic,
)
from distill.manifest import FILE_NAME, inherit, require_manifest, write_manifest
from distill.progress import Progress, show_progress
from distill.records import Answer, TrainingExample, load_examples
from distill.report.metrics import require_metric
from distill.report.results import Results, compare_answers, declare_metric, summarise

OUTPUTS = ("answers.jsonl", "summary.json", "report.html")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N held-out questions only")
    parser.add_argument("--overwrite", action="store_true", help="delete evaluation/ and start afresh")
    parser.add_argument("--dry-run", action="store_true", help="check everything, ask nothing")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


# -----------------------------------------------------------------------------
# Inputs


def load_heldout(path: Path, limit: int | None) -> list[TrainingExample]:
    """The held-out rows. Raises PipelineError when there are none, or two with one id."""
    examples = load_examples(path)[:limit]
    if not examples:
        raise PipelineError(f"{path} holds no rows: raise generate.heldout_share, run  python generate_training_data.py  again")
    if len({example.id for example in examples}) != len(examples):
        raise PipelineError(f"{path} holds two rows with one id: run  python generate_training_data.py  again")
    return examples


def require_unseen(config: Config, training: Mapping[str, Any], gguf: Mapping[str, Any]) -> None:
    """Raises PipelineError when the tuned model saw another train.jsonl: held-out rows may have been in it."""
    path = config.adapters_dir / FILE_NAME
    name, data = name_path(path, config.work_dir), name_path(config.training_dir / "train.jsonl", config.work_dir)
    if not path.is_file() or sha256_file(path) != gguf["manifests"].get(name):
        print(f"[WARN] {name} is not the one that gguf/ was made from: nobody can tell whether the model saw held-out rows")
        return
    adapters = read_json(path)
    trained, present = ({file["path"]: file["sha256"] for file in files} for files in (adapters["inputs"], training["outputs"]))
    if trained.get(data) != present.get(data):
        raise PipelineError(
            f"gguf/ was trained on another {data} and may have seen held-out questions: "
            "run  python finetune.py --overwrite  and  python export_gguf.py --overwrite"
        )


# -----------------------------------------------------------------------------
# Answers


def load_known(path: Path) -> dict[tuple[str, str, str], Answer]:
    """The answers of an unfinished run by (example id, side, request); failures are left out, so that they are asked again."""
    if not path.exists():
        return {}
    answers = (Answer(**row) for _, row in read_jsonl(path, torn_end=True))
    return {(answer.example_id, answer.side, answer.request_sha256): answer for answer in answers if not answer.error}


def collect_answers(
    config: Config, engine: Engine, models: Mapping[Side, Model], examples: Sequence[TrainingExample], path: Path
) -> dict[Side, list[Answer]]:
    """Ask what is not known yet, all of one model before the other; every answer is on disk before the next question."""
    plans = {side: plan_questions(config, models[side], examples) for side in SIDES}
    known = load_known(path)
    todo = {side: [q for q in plans[side] if (q.example_id, side, q.request_sha256) not in known] for side in SIDES}
    total, left = 2 * len(examples), sum(map(len, todo.values()))
    if left < total:
        print(f"[OK] Going on: {total - left} of {total} answers are on disk")
    with JsonlAppender(path, config.encrypt) as log, show_progress(total, "asking", "answer", done=total - left) as progress:
        for side in SIDES:
            if todo[side]:
                with engine.load(side) as ask:
                    ask_side(config, side, ask, todo[side], len(examples), log, progress, known)
    return {side: [known[q.example_id, side, q.request_sha256] for q in plans[side]] for side in SIDES}


def ask_side(
    config: Config, side: Side, ask: Ask, questions: Sequence[Question], total: int, log: JsonlAppender, progress: Progress,
    known: dict[tuple[str, str, str], Answer],
) -> None:
    """Ask one model; a failed call is tried once more. Raises PipelineError when too many of its `total` questions failed."""
    failures = 0
    for question in questions:
        answer = ask(question.example_id, question.messages)
        if answer.error:
            answer = ask(question.example_id, question.messages)
        answer = replace(answer, request_sha256=question.request_sha256)
        log.append(answer.to_row())
        known[answer.example_id, side, answer.request_sha256] = answer
        progress.advance(note=side)
        failures += bool(answer.error)
        if failures > config.evaluate.max_failed_share * total:
            raise PipelineError(
                f"{failures} of {total} questions to the {side} model failed, more than evaluate.max_failed_share "
                f"{config.evaluate.max_failed_share:g} allows; the answers are kept, mend this and run again: {answer.error}"
            )


# -----------------------------------------------------------------------------
# Output


def describe_conditions(config: Config, models: Mapping[Side, Model]) -> dict[str, Any]:
    """What was the same for both sides, and which files were compared."""
    fields = ("name", "file", "sha256", "bytes")
    return {
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "engine": config.evaluate.engine,
        "options": make_options(config),
        "models": {side: {field: getattr(models[side], field) for field in fields} for side in SIDES},
        "verification": f"../{config.gguf_dir.name}/verification.json",  # seen from the report, beside which gguf/ lies
    }


def write_outputs(config: Config, results: Results, summary: Mapping[str, Any]) -> list[Path]:
    """answers.jsonl with exactly the answers that the report rests on, summary.json, report.html."""
    from distill.report.page import render_page

    answers, figures, report = (config.evaluation_dir / name for name in OUTPUTS)
    rows = (answer.to_row() for side in SIDES for answer in results.answers[side])
    write_jsonl_atomic(answers, rows, private=True, encrypt=config.encrypt)
    write_json_atomic(figures, summary)
    write_text_atomic(report, render_page(config.prompt, results, summary, texts=not config.encrypt), private=True)
    return [answers, figures, report]


def print_table(config: Config, results: Results) -> None:
    """The metrics as a person reads them; a star marks the one that decides."""
    print(f"\n{'':22}   base   tuned  difference  {config.evaluate.confidence:.0%} interval        n")
    for name, row in results.metrics.items():
        if row is not None:
            star = "*" if name == config.evaluate.primary_metric else " "
            interval = "{:+.3f} to {:+.3f}".format(*row.interval) if row.interval else "-"
            print(f"{star}{name:21} {row.base:6.3f}  {row.tuned:6.3f}  {row.difference:+10.3f}  {interval:16} {row.pairs:4}")


def main() -> None:
    args = parse_args()
    config = load_config(args.config)
    folder, started = config.evaluation_dir, time.time()

    # ---------------------------------------------------------------------------
    # Inputs: fail here, before a model is asked
    require_metric(config.evaluate.primary_metric, config.prompt)
    if (folder / FILE_NAME).exists() and not args.overwrite:
        raise PipelineError(f"{folder} holds a finished run: read {folder / 'report.html'}, or ask again with --overwrite")
    training = require_manifest(config.training_dir, "generate_training_data.py", config)
    gguf = require_manifest(config.gguf_dir, "export_gguf.py", config)
    fixed = inherit(training, config.training_dir, config)
    fixed |= inherit(gguf, config.gguf_dir, config, announce=["finetune.base_model"])
    if gguf["details"].get("smoke_run"):
        print("[WARN] adapters/ come from a smoke run (--limit): for trying out only")
    require_unseen(config, training, gguf)
    heldout = config.training_dir / "heldout.jsonl"
    examples, models = load_heldout(heldout, args.limit), find_models(config, gguf)
    print(f"[OK] {len(examples)} held-out questions, prompt as in {config.gguf_dir.name}/{FILE_NAME}")
    print(f"[OK] {models['tuned'].file} against {models['base'].file}")

    # ---------------------------------------------------------------------------
    # Models and embedder
    from distill.index.embedders import make_embedder

    engine, embedder = make_engine(config, models), make_embedder(config.evaluate.embedder)
    engine.require_ready()
    embedder.embed(["ready"])
    print(f"[OK] {config.evaluate.engine} is ready; {config.evaluate.primary_metric} decides")
    if args.dry_run:
        return

    # ---------------------------------------------------------------------------
    # Answers, all of one model before the other
    lock = hold_lock(folder)
    if args.overwrite:
        for name in (FILE_NAME, *OUTPUTS):  # the manifest first: without it the folder counts as unfinished
            (folder / name).unlink(missing_ok=True)
    declare_metric(config)
    answers = collect_answers(config, engine, models, examples, folder / "answers.jsonl")

    # ---------------------------------------------------------------------------
    # Scores, verdict, report
    results = compare_answers(config, examples, answers, embedder)
    summary = summarise(config, results, describe_conditions(config, models))
    outputs = write_outputs(config, results, summary)
    write_manifest(
        folder,
        made_by="evaluate.py",
        config=config,
        sections=["prompt", "evaluate"],
        inputs=[heldout],
        outputs=outputs,
        read_manifests=[config.training_dir / FILE_NAME, config.gguf_dir / FILE_NAME],
        fixed=fixed,
        counts={"questions": len(examples), "answered_by_both": summary["answered_by_both"], "failures": summary["failures"]},
        started=started,
        details={"verdict": results.verdict.word, "smoke_run": args.limit is not None, **summary["conditions"]},
    )
    print_table(config, results)
    tag = "[OK]" if results.verdict.word == "better" else "[WARN]"
    print(f"\n{tag} {results.verdict.headline}: {results.verdict.reason}\n[OK] {folder / 'report.html'}")
    lock.release()


if __name__ == "__main__":
    run(main)
