"""Everything stage 4 concludes from its answers: scores, comparisons, verdicts, and all of it as summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from statistics import fmean, median
from typing import Any

from distill.cases.case_set import CaseSet, Measure, Scores, SetName
from distill.config import Config, EvaluateSection
from distill.errors import PipelineError
from distill.files import read_json, write_json_atomic
from distill.metrics.refusals import count_refusals
from distill.metrics.table import list_unmeasured
from distill.records import Answer, ModelSide
from distill.report.findings import list_findings
from distill.report.statistics import Comparison, Verdict, compare_pairs, correct_holm, describe_alone, judge

DECLARED = "declared.json"  # what decides, written down before the first answer
RULES = ("primary_metric", "smallest_difference", "confidence", "seed")
SIDES: tuple[ModelSide, ...] = ("base", "tuned", "stock")
DECIDING: SetName = "heldout"  # the set whose primary metric makes the verdict
Comparisons = dict[str, Comparison | None]  # by metric; None where it applies to no question


@dataclass(frozen=True)
class SetResult:
    """What one set of questions says. `categories` has the metrics of each category; `failures` the failed calls of each side.

    `answered_by_both` counts the questions that base and tuned answered; without a control, those that tuned answered.
    """

    name: SetName
    title: str
    primary: str
    metrics: Comparisons
    categories: Mapping[str, Comparisons]
    verdict: Verdict
    questions: int
    answered_by_both: int
    failures: Mapping[ModelSide, int]
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """`answers` and `scores` hold, for each set and side that was asked, a list in the order of the set's questions.

    `verdict` is that of the held-out questions; `speed` has figures by side (see `measure_speed`).
    """

    sets: Mapping[SetName, CaseSet]
    answers: Mapping[tuple[SetName, ModelSide], Sequence[Answer]]
    scores: Mapping[tuple[SetName, ModelSide], Sequence[Scores]]
    results: Mapping[SetName, SetResult]
    verdict: Verdict
    judge: Mapping[str, Any] | None
    votes: Mapping[str, Any] | None
    speed: Mapping[ModelSide, Mapping[str, float | None]]


def compare(
    config: Config, sets: Sequence[CaseSet], answers: Mapping[tuple[SetName, ModelSide], Sequence[Answer]],
    judge: Mapping[str, Any] | None = None, votes: Mapping[str, Any] | None = None,
) -> Results:
    """Score every answer, compare tuned with base on every set, and judge by the held-out questions' primary metric.

    `sets` must hold "heldout", `answers` the side "tuned" of every set; "base" and "stock" where they were asked.
    """
    if any(cases.name == "memory" for cases in sets):
        from distill.cases.memorised import note_memory

        sets = note_memory(config, sets, answers)
    scores = {
        (cases.name, side): cases.score(answers[cases.name, side])
        for cases in sets for side in SIDES if (cases.name, side) in answers
    }
    results = {cases.name: compare_set(config.evaluate, cases, answers, scores) for cases in sets}
    speed = {side: measure_speed(answers[DECIDING, side]) for side in SIDES if (DECIDING, side) in answers}
    named = {cases.name: cases for cases in sets}
    return Results(named, answers, scores, results, results[DECIDING].verdict, judge, votes, speed)


# -----------------------------------------------------------------------------
# One set


def compare_set(
    settings: EvaluateSection, cases: CaseSet, answers: Mapping[tuple[SetName, ModelSide], Sequence[Answer]],
    scores: Mapping[tuple[SetName, ModelSide], Sequence[Scores]],
) -> SetResult:
    """Every measure of a set, over all questions and by category, and what its primary measure says."""
    asked = {side: answers[cases.name, side] for side in SIDES if (cases.name, side) in answers}
    scored = {side: scores[cases.name, side] for side in asked}
    pair = [asked[side] for side in ("base", "tuned") if side in asked]
    everything = range(len(cases.questions))
    metrics = correct_others(cases, compare_rows(settings, cases, scored, everything))
    names = sorted({question.category for question in cases.questions})
    return SetResult(
        name=cases.name, title=cases.title, primary=cases.primary, metrics=metrics,
        categories={
            name: compare_rows(settings, cases, scored, [i for i in everything if cases.questions[i].category == name])
            for name in names
        },
        verdict=judge(metrics[cases.primary], settings.smallest_difference, settings.confidence),
        questions=len(cases.questions),
        answered_by_both=sum(not any(answer.error for answer in row) for row in zip(*pair)),
        failures={side: sum(bool(answer.error) for answer in asked[side]) for side in asked},
        notes=cases.notes,
    )


def compare_rows(
    settings: EvaluateSection, cases: CaseSet, scored: Mapping[ModelSide, Sequence[Scores]], rows: Sequence[int]
) -> Comparisons:
    """Every measure over some of a set's questions."""
    groups = [cases.questions[row].group or cases.questions[row].id for row in rows]
    return {
        name: compare_measure(
            settings, measure, {side: [scored[side][row][name] for row in rows] for side in scored}, groups,
            settings.smallest_difference if name == cases.primary else 0.0,
        )
        for name, measure in cases.measures.items()
    }


def compare_measure(
    settings: EvaluateSection, measure: Measure, scores: Mapping[ModelSide, Sequence[float | None]], groups: Sequence[str],
    smallest_difference: float,
) -> Comparison | None:
    """One measure; means alone where there is no control. `smallest_difference`: 0 where no verdict rests on the measure."""
    shown = {"stock": scores.get("stock", ()), "higher_is_better": measure.higher_is_better}
    if "base" not in scores:
        return describe_alone(scores["tuned"], groups, **shown)
    return compare_pairs(
        scores["base"], scores["tuned"], groups, confidence=settings.confidence, samples=settings.bootstrap_samples,
        seed=settings.seed, smallest_difference=smallest_difference, **shown,
    )


def correct_others(cases: CaseSet, metrics: Comparisons) -> Comparisons:
    """With Holm's correction over the deciding measures other than the primary: the primary was named before the run."""
    family = {
        name: found.p_value
        for name, found in metrics.items()
        if found and found.p_value is not None and cases.measures[name].decides and name != cases.primary
    }
    corrected = correct_holm(family)
    return {name: replace(found, p_holm=corrected[name]) if name in corrected else found for name, found in metrics.items()}


def measure_speed(answers: Sequence[Answer]) -> dict[str, float | None]:
    """How fast and how long one model answers: medians of times, means of lengths; None where the engine told nothing."""
    good = [answer for answer in answers if not answer.error]

    def centre(values: Sequence[float], by: Any) -> float | None:
        return float(by(values)) if values else None

    return {
        "tokens_per_second": centre([a.answer_tokens / a.answer_seconds for a in good if a.answer_seconds > 0], median),
        "first_token_seconds": centre([a.first_token_seconds for a in good if a.first_token_seconds > 0], median),
        "answer_words": centre([len(a.text.split()) for a in good], fmean),
        "answer_tokens": centre([a.answer_tokens for a in good], fmean),
        "seconds": centre([a.seconds for a in good], median),
    }


# -----------------------------------------------------------------------------
# summary.json


def summarise(config: Config, results: Results, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json: no text of a document and no machine path is in it.

    The first figures are those of the held-out questions; `sets` has the other sets, `first_page` what a reader must know.
    """
    settings, main = config.evaluate, results.results[DECIDING]
    primary = main.metrics[main.primary]
    summary = {
        "verdict": results.verdict.word,
        "headline": results.verdict.headline,
        "reason": results.verdict.reason,
        "first_page": [asdict(finding) for finding in list_findings(settings, results, conditions)],
        "primary_metric": main.primary,
        "smallest_difference": settings.smallest_difference,
        "confidence": settings.confidence,
        "detectable": primary.detectable if primary else None,
        "questions": main.questions,
        "answered_by_both": main.answered_by_both,
        "failures": main.failures,
        "not_measured": list_unmeasured(config.prompt),
        "refusals": count_sides(results) if config.prompt.refusal else None,
        "metrics": main.metrics,
        "categories": main.categories,
        "speed": results.speed,
        "sets": {name: describe_set(found) for name, found in results.results.items() if name != DECIDING},
        "judge": results.judge,
        "votes": results.votes,
        "conditions": conditions,
    }
    return to_plain(summary)


def describe_set(found: SetResult) -> dict[str, Any]:
    """One set other than the held-out questions."""
    return {
        "title": found.title, "questions": found.questions, "answered_by_both": found.answered_by_both,
        "failures": found.failures, "primary": found.primary, "metrics": found.metrics, "categories": found.categories,
        "verdict": found.verdict.word, "reason": found.verdict.reason, "notes": found.notes,
    }


def to_plain(value: Any) -> Any:
    """Nested values as JSON has them, numbers rounded to six decimals."""
    if isinstance(value, Comparison):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def count_sides(results: Results) -> dict[ModelSide, dict[str, int]]:
    """How each side refused and answered the held-out questions."""
    return {side: count_refusals(results.scores[DECIDING, side]) for side in results.speed}


def declare_metric(config: Config, tuned_sha256: str, anew: bool = False) -> dict[str, Any]:
    """Write down what decides before the first answer; what decided in earlier evaluations in this folder stays in `earlier`.

    Raises PipelineError when something else decided as this run began, unless it begins `anew`.
    """
    path, rules = config.evaluation_dir / DECLARED, {key: getattr(config.evaluate, key) for key in RULES}
    before = read_json(path) if path.exists() else None
    changed = list_changes(before, rules)
    if changed and not anew:
        raise PipelineError(
            f"config.yaml evaluate.{changed[0]} is {rules[changed[0]]} but was {before.get(changed[0])} when this run "
            "began: put the old value back, or ask everything again with --overwrite"
        )
    if before and not changed and before.get("tuned_sha256") == tuned_sha256:
        return before
    earlier = [*before.pop("earlier", []), before] if before else []
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    declared = {**rules, "tuned_sha256": tuned_sha256, "declared_at": now, "earlier": earlier}
    write_json_atomic(path, declared)
    return declared


def list_changes(before: Mapping[str, Any] | None, rules: Mapping[str, Any]) -> list[str]:
    """The rules that were others before."""
    return [key for key in RULES if before and before.get(key) != rules[key]]


def list_other_rules(declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What decided otherwise when answers of the same tuned model were there to be looked at: the date, and what was other."""
    found = []
    for before in declared["earlier"]:
        changed = list_changes(before, declared)
        if changed and before.get("tuned_sha256") == declared["tuned_sha256"]:
            found.append({"declared_at": before["declared_at"], **{key: before[key] for key in changed}})
    return found
