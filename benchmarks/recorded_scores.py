"""Answers of a finished run's models, several to each question, and their scores: what evaluation_calibration.py draws from."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.cases.case_set import CaseSet
from distill.config import Config
from distill.errors import PipelineError
from distill.files import JsonlAppender, read_json, read_jsonl, sha256_text
from distill.progress import show_progress
from distill.records import Answer, TrainingExample, load_examples

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo" / "config.yaml"
SAMPLES = {"base": 6, "tuned": 2}  # answers to each question

# -----------------------------------------------------------------------------
# Answers


def require_run(config: Config, path: Path) -> None:
    """Models and rows to ask about: the demo makes its own. Raises PipelineError where there are none."""
    if (config.gguf_dir / "manifest.json").is_file():
        return
    if path.resolve() != DEMO:
        raise PipelineError(f"{config.gguf_dir} holds no finished export: run  python export_gguf.py  first")
    subprocess.run([sys.executable, "-m", "demo"], cwd=ROOT, check=True)


def load_rows(config: Config) -> list[TrainingExample]:
    """Every row of stage 1 but the planted canaries, which ask about no document: the base learnt from none of them."""
    rows = [row for name in ("heldout", "train") for row in load_examples(config.training_dir / f"{name}.jsonl")]
    return [row for row in rows if row.id and row.origin != "canary"]


def record_answers(config: Config, rows: Sequence[TrainingExample], folder: Path, temperature: float) -> None:
    """Ask both models through llama.cpp; what is in folder/answers.jsonl already is not asked again."""
    from distill.gguf.modelfile import read_modelfile
    from distill.llamacpp import LlamaModel

    models, path = read_json(config.gguf_dir / "manifest.json")["details"]["models"], folder / "answers.jsonl"
    known = Counter((answer.side, answer.example_id) for answer in load_answers(folder)) if path.exists() else Counter()
    total = sum(SAMPLES.values()) * len(rows)
    with JsonlAppender(path, config.encrypt) as log, show_progress(total, "asking", "answer", done=known.total()) as progress:
        for side in SAMPLES:
            todo = [(row, n) for n in range(SAMPLES[side]) for row in rows if known[side, row.id] <= n]
            stops = read_modelfile(config.work_dir / models[side]["modelfile"]).stops
            with LlamaModel(config.work_dir / models[side]["file"], n_ctx=config.export.num_ctx) as model:
                for row, number in todo:
                    log.append(ask(config, model, stops, row, side, number, temperature).to_row())
                    progress.advance(note=side)


def ask(
    config: Config, model: Any, stops: Sequence[str], row: TrainingExample, side: Any, number: int, temperature: float
) -> Answer:
    """One answer. Each question has a seed of its own: with one for all, all would share their luck."""
    from distill.prompts import to_messages

    settings = config.evaluate
    options = {"temperature": temperature, "top_p": settings.top_p, "top_k": settings.top_k, "max_tokens": settings.max_tokens,
               "seed": int(sha256_text(f"{settings.seed} {number} {row.id}")[:8], 16) % 2**31}
    made = model.complete(model.apply_template(to_messages(config.prompt.system, row.instruction)), stop=stops, **options)
    return Answer(row.id, side, text=made.text.strip(), finish_reason=made.finish_reason, prompt_tokens=made.prompt_tokens,
                  answer_tokens=made.generated_tokens, options=options)


def load_answers(folder: Path) -> list[Answer]:
    """The base's and tuned model's answers to held-out questions that did not fail."""
    answers = (Answer(**row) for _, row in read_jsonl(folder / "answers.jsonl", torn_end=True))
    return [a for a in answers if not a.error and a.set == "heldout" and a.side in SAMPLES]


# -----------------------------------------------------------------------------
# Scores


@dataclass(frozen=True)
class Population:
    """Scores to draw from: [sample, row, metric] of each side, [row, metric] of the reference answers; nan where none applies.

    `groups` names each row's document. Figures alone: no text.
    """

    metrics: Sequence[str]
    groups: Sequence[str]
    base: np.ndarray
    tuned: np.ndarray
    reference: np.ndarray

    def narrow(self, metric: str) -> Population:
        """One metric and the questions that it applies to."""
        column = [self.metrics.index(metric)]
        kept = np.flatnonzero(~np.isnan(self.reference[:, column[0]]) & ~np.isnan(self.base[..., column[0]]).all(axis=0))
        return Population(
            [metric], [self.groups[row] for row in kept], self.base[:, kept][..., column], self.tuned[:, kept][..., column],
            self.reference[kept][:, column],
        )

    def to_row(self) -> dict[str, Any]:
        """As JSON; documents by number."""
        numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(self.groups))}
        arrays = {name: to_lists(getattr(self, name)) for name in ("base", "tuned", "reference")}
        return {"metrics": list(self.metrics), "groups": [numbers[name] for name in self.groups], **arrays}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Population:
        """The reverse of to_row."""
        arrays = {name: np.array(row[name], dtype=float) for name in ("base", "tuned", "reference")}
        return cls(row["metrics"], row["groups"], **arrays)


def to_lists(scores: np.ndarray) -> Any:
    """Nested lists with None for nan."""
    return np.where(np.isnan(scores), None, np.round(scores, 6)).tolist()


def score_population(cases: CaseSet, answers: Iterable[Answer]) -> Population:
    """Every answer's deciding scores; a side's samples are as many as each question has answers at least."""
    by_question: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        by_question[answer.side, answer.example_id].append(answer)
    metrics = [name for name, measure in cases.measures.items() if measure.decides]

    def score(answers: Sequence[Answer]) -> np.ndarray:
        return np.array([[scores[name] for name in metrics] for scores in cases.score(answers)], dtype=float)

    def sample(side: str) -> np.ndarray:
        lists = [by_question[side, question.id] for question in cases.questions]
        return np.stack([score([found[n] for found in lists]) for n in range(min(map(len, lists)))])

    base, tuned = sample("base"), sample("tuned")
    right = [Answer(q.id, "tuned", text=q.reference, finish_reason="stop", answer_tokens=1) for q in cases.questions]
    reference = score(right)
    used = [n for n in range(len(metrics)) if not any(np.isnan(scores[..., n]).all() for scores in (base, tuned, reference))]
    return Population(
        [metrics[n] for n in used], [q.group or q.id for q in cases.questions], base[..., used], tuned[..., used],
        reference[..., used],
    )


def make_population(config: Config, rows: Sequence[TrainingExample], folder: Path) -> Population:
    """The scores of the recorded answers."""
    from distill.cases.heldout import make_heldout_set
    from distill.index.embedders import make_embedder

    answers = load_answers(folder)
    asked = [{answer.example_id for answer in answers if answer.side == side} for side in SAMPLES]
    kept = [row for row in rows if all(row.id in ids for ids in asked)]
    if not kept:
        raise PipelineError(f"{folder / 'answers.jsonl'} has no question of {config.training_dir} that base and tuned answered")
    return score_population(make_heldout_set(config, kept, make_embedder(config.evaluate.embedder)), answers)
