"""
Stage 4 of 4: is the tuned model better than its own base at this job, and how sure are we?

    python evaluate.py
    python evaluate.py --dry-run             # check inputs and models; ask nothing
    python evaluate.py --limit 10            # the first 10 questions of each set only
    python evaluate.py --overwrite           # evaluate again; what an unchanged model has answered is not asked again
    python evaluate.py --votes votes.json    # fold in votes that the report's blind voting exported
    python evaluate.py --ask "QUESTION"      # both answers now, side by side; without a question: a prompt
    python evaluate.py --switch tuned --hybridrag-config D:/HybridRAG3/config/config.yaml

Reads   training_data/                from generate_training_data.py
        gguf/                         from export_gguf.py
Writes  evaluation/                   report.html to look at, summary.json for programs, answers.jsonl
Needs   both models in Ollama (export_gguf.py --register), or  evaluate.engine: embedded  and no server at all
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill.cases.case_set import CaseSet
from distill.cases.loading import Answers, describe_sets, load_answers, load_sets, require_unseen
from distill.config import Config, load_config
from distill.engines.collecting import check_cache, collect_answers
from distill.engines.engine import Engine, make_engine
from distill.engines.models import Model, Side, find_models
from distill.engines.options import make_options
from distill.errors import PipelineError, run
from distill.files import hold_lock, read_json, write_json_atomic, write_jsonl_atomic, write_text_atomic
from distill.manifest import FILE_NAME, inherit, read_manifest, require_manifest, require_same_settings, write_manifest
from distill.metrics.table import require_metric
from distill.report.results import Results, compare, declare_metric, list_other_rules, summarise
from distill.teacher.keys import store_key

OUTPUTS = ("answers.jsonl", "summary.json", "report.html")
COLUMNS = {"base": ".3f", "tuned": ".3f", "difference": "+.3f"}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N questions of each set only")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished evaluation")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="check everything, ask nothing")
    instead.add_argument("--votes", type=Path, nargs="+", metavar="FILE", help="count these votes, all files at once")
    instead.add_argument("--ask", nargs="?", const="", metavar="QUESTION", help="ask both models now; nothing is written")
    instead.add_argument("--set-key", action="store_true", help="type the judge's key into the keyring, and stop")
    instead.add_argument("--switch", choices=("base", "tuned"), help="have HybridRAG3 use one of the two models")
    parser.add_argument("--hybridrag-config", type=Path, metavar="PATH", help="HybridRAG3's config.yaml, for --switch")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    if bool(args.switch) != bool(args.hybridrag_config):
        parser.error("--switch and --hybridrag-config belong together")
    return args


# -----------------------------------------------------------------------------
# Besides the evaluation


def switch_hybridrag(config: Config, side: Side, path: Path) -> None:
    """Write a model's name into HybridRAG3's config. Raises PipelineError when gguf/ does not hold it."""
    from distill.switching import switch_model

    # Read, not verified: that would hash gigabytes for one name.
    model = read_manifest(config.gguf_dir, "export_gguf.py", config)["details"]["models"].get(side)
    if not model:
        raise PipelineError(f"gguf/ holds no {side} model: set export.export_base: true, export again with --overwrite")
    print("\n".join(switch_model(path, model["ollama_name"])))


def ask_now(config: Config, question: str) -> None:
    """Both models' answers to one question, or to what is typed."""
    from distill.asking import ask_loop
    from distill.cases.retrieving import Retriever

    gguf = require_manifest(config.gguf_dir, "export_gguf.py", config)
    inherit(gguf, config.gguf_dir, config)
    models = find_models(config, gguf)
    ask_loop(config, open_engine(config, models), models, Retriever(config), question.strip() or None)


def open_engine(config: Config, models: Mapping[Side, Model]) -> Engine:
    """The engine, ready to be asked. Raises PipelineError when it is not."""
    engine = make_engine(config, models)
    engine.require_ready()
    print(f"[OK] {config.evaluate.engine} is ready")
    return engine


def fold_votes(paths: Sequence[Path], before: Mapping[str, Any], sets: Sequence[CaseSet], answers: Answers) -> dict[str, Any]:
    """What people preferred in the report's blind voting. Raises PipelineError for votes on other models."""
    from distill.report.votes import count_votes, load_votes, require_same_models

    if before["votes"]:
        print("[WARN] the votes that were counted before are replaced: name all files at once to count them together")
    models = {side: model["sha256"] for side, model in before["conditions"]["models"].items()}
    ballots = [load_votes(path) for path in paths]
    for path, ballot in zip(paths, ballots):
        require_same_models(path, ballot, models)
    return count_votes(ballots, sets, answers)


# -----------------------------------------------------------------------------
# Output


def describe_conditions(config: Config, models: Mapping[Side, Model], loads: Mapping[Side, int]) -> dict[str, Any]:
    """What was the same for all models, and which files were compared."""
    settings, fields = config.evaluate, ("name", "file", "sha256", "bytes")
    ollama = settings.engine == "ollama"
    return {
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "engine": settings.engine,
        "endpoint": settings.endpoint if ollama else "",
        "concurrency": settings.concurrency if ollama else 1,
        "options": make_options(config),
        "models": {side: {field: getattr(model, field) for field in fields} for side, model in models.items()},
        "loads": dict(loads),
        "verification": f"../{config.gguf_dir.name}/verification.json",  # seen from the report, beside which gguf/ lies
    }


def write_outputs(config: Config, results: Results, summary: Mapping[str, Any]) -> list[Path]:
    """answers.jsonl with exactly the answers that the report rests on, summary.json, report.html."""
    from distill.report.page import render_page

    answers, figures, report = (config.evaluation_dir / name for name in OUTPUTS)
    rows = (answer.to_row() for given in results.answers.values() for answer in given)
    write_jsonl_atomic(answers, rows, private=True, encrypt=config.encrypt)
    write_json_atomic(figures, summary)
    write_text_atomic(report, render_page(config.prompt, results, summary, texts=not config.encrypt), private=True)
    return [answers, figures, report]


def print_summary(config: Config, summary: Mapping[str, Any]) -> None:
    """The measures as a person reads them, a star at the one that decides; then what stands on the report's first page."""
    print(f"\n{'':22}   base   tuned  difference  {config.evaluate.confidence:.0%} interval        n")
    rows = [summary["metrics"], *(found["metrics"] for found in summary["sets"].values())]
    for name, row in (item for metrics in rows for item in metrics.items()):
        if row:
            star = "*" if name == summary["primary_metric"] else " "
            interval = "{:+.3f} to {:+.3f}".format(*row["interval"]) if row["interval"] else "-"
            shown = [format(row[key], style) if row[key] is not None else "-" for key, style in COLUMNS.items()]
            print(f"{star}{name:21} {shown[0]:>6}  {shown[1]:>6}  {shown[2]:>10}  {interval:16} {row['pairs']:4}")
    print()
    for finding in summary["first_page"]:
        print(f"{'    ' if finding['level'] == 'info' else '[WARN]'} {finding['text']}")
    tag = "[OK]" if summary["verdict"] == "better" else "[WARN]"
    print(f"{tag} {summary['headline']}: {summary['reason']}\n[OK] {config.evaluation_dir / OUTPUTS[-1]}")


# -----------------------------------------------------------------------------


def main() -> None:
    """Inputs, questions, answers, verdict."""
    args, started = parse_args(), time.time()
    config = load_config(args.config)
    folder = config.evaluation_dir
    if args.switch:
        return switch_hybridrag(config, args.switch, args.hybridrag_config)
    if args.ask is not None:
        return ask_now(config, args.ask)
    if args.set_key:
        return store_key(config.evaluate.judge)

    # ---------------------------------------------------------------------------
    # Inputs: fail here, before a model is asked

    require_metric(config.evaluate.primary_metric, config.prompt)
    finished = require_manifest(folder, "evaluate.py", config) if args.votes else None
    if finished:
        require_same_settings(finished, config)
    if not (finished or args.overwrite or args.dry_run) and (folder / FILE_NAME).exists():
        raise PipelineError(f"{folder} holds a finished run: read {folder / 'report.html'}, or evaluate again with --overwrite")
    training = require_manifest(config.training_dir, "generate_training_data.py", config)
    gguf = require_manifest(config.gguf_dir, "export_gguf.py", config)
    fixed = inherit(training, config.training_dir, config)
    fixed |= inherit(gguf, config.gguf_dir, config, announce=["finetune.base_model"])
    if gguf["details"].get("smoke_run"):
        print("[WARN] adapters/ come from a smoke run (--limit): for trying out only")
    unseen = require_unseen(config, training, gguf)
    make_options(config)
    check_cache(config, folder)

    # ---------------------------------------------------------------------------
    # Questions and models
    from distill.index.embedders import make_embedder
    from distill.judging.judge import check_judge, judge_answers

    limit = finished["details"]["limit"] if finished else args.limit
    embedder = make_embedder(config.evaluate.embedder)
    embedder.embed(["ready"])
    sets = load_sets(config, embedder, limit)
    print(describe_sets(sets))
    if not finished:
        models = find_models(config, gguf)
        engine, preflight = open_engine(config, models), check_judge(config, folder, models)
    if args.dry_run:
        return print("[OK] dry run: nothing was asked")

    # ---------------------------------------------------------------------------
    # Answers, all of one model before the next; or those of a finished run, to which votes are added
    with hold_lock(folder):
        if finished:
            before = read_json(folder / "summary.json")
            answers, judged, conditions = load_answers(folder / "answers.jsonl", sets), before["judge"], before["conditions"]
            declared = declare_metric(config, conditions["models"]["tuned"]["sha256"])
        else:
            declared = declare_metric(config, models["tuned"].sha256, anew=args.overwrite)
            collected = collect_answers(config, engine, models, sets, folder)
            answers, conditions = collected.answers, describe_conditions(config, models, collected.loads)
            judged = judge_answers(config, sets[0], answers, folder, preflight)
        votes = fold_votes(args.votes, before, sets, answers) if finished else None

        # -----------------------------------------------------------------------
        # Scores, verdict, report
        results = compare(config, sets, answers, judged, votes)
        doubts = {"limit": limit, "smoke_run": bool(gguf["details"].get("smoke_run")), "unseen": unseen}
        summary = summarise(config, results, {**conditions, **doubts, "other_rules": list_other_rules(declared)})
        (folder / FILE_NAME).unlink(missing_ok=True)  # now, and first: without it the folder counts as unfinished
        outputs = write_outputs(config, results, summary)
        settings = config.evaluate
        cases = [config.training_dir / "heldout.jsonl", *settings.own_cases, *settings.golden_cases]
        write_manifest(
            folder, made_by="evaluate.py", config=config, sections=["prompt", "evaluate"],
            inputs=[*cases, *(args.votes or [])], outputs=outputs,
            read_manifests=[config.training_dir / FILE_NAME, config.gguf_dir / FILE_NAME], fixed=fixed,
            counts={name: summary[name] for name in ("questions", "answered_by_both", "failures")}, started=started,
            details={"verdict": results.verdict.word, **summary["conditions"]},
        )
    print_summary(config, summary)


if __name__ == "__main__":
    run(main)
