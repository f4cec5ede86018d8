"""Everything stage 4 concludes from its answers: scores, comparisons, the verdict, and all of it as summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from distill.config import Config
from distill.engines import SIDES
from distill.errors import PipelineError
from distill.files import read_json, write_json_atomic
from distill.records import Answer, TrainingExample
from distill.report.metrics import METRICS, Scores, count_refusals, list_unmeasured, score_answers
from distill.report.statistics import Comparison, Verdict, compare_pairs, judge

if TYPE_CHECKING:
    from distill.index.embedders import Embedder


DECLARED = "declared.json"  # what decides, written down before the first answer


@dataclass(frozen=True)
class Results:
    """`answers` and `scores` hold a list for each side, in the order of `examples`; `categories` are of the primary metric."""

    examples: Sequence[TrainingExample]
    answers: Mapping[str, Sequence[Answer]]
    scores: Mapping[str, Sequence[Scores]]
    metrics: Mapping[str, Comparison | None]
    categories: Mapping[str, Comparison | None]
    verdict: Verdict


def compare_answers(
    config: Config, examples: Sequence[TrainingExample], answers: Mapping[str, Sequence[Answer]], embedder: Embedder
) -> Results:
    """Score both sides, compare them on every metric, and judge by the primary one."""
    settings = config.evaluate
    by_id = {example.id: example for example in examples}
    both = score_answers(config.prompt, by_id, [*answers["base"], *answers["tuned"]], embedder)
    scores = {"base": both[: len(examples)], "tuned": both[len(examples) :]}
    metrics = {name: compare_rows(config, examples, scores, name) for name in METRICS}
    categories = {
        category: compare_rows(config, examples, scores, settings.primary_metric, category)
        for category in sorted({example.category for example in examples})
    }
    verdict = judge(metrics[settings.primary_metric], settings.smallest_difference, settings.confidence)
    return Results(examples, answers, scores, metrics, categories, verdict)


def compare_rows(
    config: Config, examples: Sequence[TrainingExample], scores: Mapping[str, Sequence[Scores]], metric: str,
    category: str | None = None,
) -> Comparison | None:
    """One metric over all rows, or over those of one category."""
    settings = config.evaluate
    kept = [index for index, example in enumerate(examples) if category in (None, example.category)]
    return compare_pairs(
        [scores["base"][index][metric] for index in kept],
        [scores["tuned"][index][metric] for index in kept],
        [name_group(examples[index]) for index in kept],
        confidence=settings.confidence, samples=settings.bootstrap_samples, seed=settings.seed,
    )


def name_group(example: TrainingExample) -> str:
    """The document a question is about: its nearest source; a row without sources stands for itself."""
    return example.context[0].source if example.context else f"row {example.id}"


def count_pairs(results: Results) -> int:
    """Questions that both sides answered."""
    return sum(not base.error and not tuned.error for base, tuned in zip(results.answers["base"], results.answers["tuned"]))


def summarise(config: Config, results: Results, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json: no text of a document and no machine path is in it."""
    settings = config.evaluate
    return {
        "verdict": results.verdict.word,
        "reason": results.verdict.reason,
        "primary_metric": settings.primary_metric,
        "smallest_difference": settings.smallest_difference,
        "confidence": settings.confidence,
        "questions": len(results.examples),
        "answered_by_both": count_pairs(results),
        "failures": {side: sum(bool(answer.error) for answer in results.answers[side]) for side in SIDES},
        "not_measured": list_unmeasured(config.prompt),
        "refusals": count_both(config, results) if config.prompt.refusal else None,
        "metrics": {name: describe_comparison(comparison) for name, comparison in results.metrics.items()},
        "categories": {name: describe_comparison(comparison) for name, comparison in results.categories.items()},
        "conditions": dict(conditions),
    }


def count_both(config: Config, results: Results) -> dict[str, dict[str, int]]:
    """How each side refused and answered."""
    by_id = {example.id: example for example in results.examples}
    return {side: count_refusals(config.prompt, by_id, results.answers[side]) for side in SIDES}


def describe_comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    """A comparison as plain values, None where the metric applies to no row."""
    if comparison is None:
        return None
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(comparison).items()}


def declare_metric(config: Config) -> None:
    """Write down what decides before the first answer. Raises PipelineError when answers exist and something else decided."""
    keys = ("primary_metric", "smallest_difference", "confidence")
    declared = {key: getattr(config.evaluate, key) for key in keys}
    path = config.evaluation_dir / DECLARED
    before = read_json(path) if path.exists() and path.with_name("answers.jsonl").exists() else declared
    changed = [key for key in keys if before.get(key) != declared[key]]
    if changed:
        raise PipelineError(
            f"config.yaml evaluate.{changed[0]} is {declared[changed[0]]} but was {before.get(changed[0])} when this run "
            "began: put the old value back, or ask everything again with --overwrite"
        )
    write_json_atomic(path, declared)
