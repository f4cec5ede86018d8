"""What a reader must know before any table: one plain sentence each, the gravest kind first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distill.config import EvaluateSection
from distill.records import ModelSide
from distill.report.statistics import Comparison, judge

if TYPE_CHECKING:
    from distill.report.results import Results

SLOWER = 0.8  # of the base's speed: files of one size on one machine differ by less
SILENT = 0.2  # of the pairs: a judge that leaves out more has chosen what it judges
NAMES = {"base": "the base", "tuned": "the tuned model", "stock": "the stock model"}
OWN_SETS = {"heldout": "the held-out questions", "own": "your own cases", "golden": "HybridRAG3's golden cases"}

MEANINGS = {  # what no name tells, for someone who sees these measures for the first time
    "correctness": "saying what the reference answer says", "technical_accuracy": "the right numbers, units and names",
    "completeness": "how much of the reference answer is told", "grounding": "claims that the sources support",
    "citation_match": "citing the right sources", "citation_precision": "citing no wrong source",
    "citation_validity": "citing sources that exist", "refusal_right": "refusing exactly when it should",
    "golden_score": "doing what each case asks for", "general_right": "general questions answered rightly",
}

Kind = Literal[
    "control", "seen", "rules", "failures", "worse", "refusing", "forgot", "memorised", "smoke", "sample", "opinions", "judge",
    "speed",
]
Level = Literal["bad", "warn", "info"]


@dataclass(frozen=True)
class Finding:
    """One sentence of the first page."""

    kind: Kind
    level: Level
    text: str


def list_findings(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> list[Finding]:
    """Everything for the first page, in the order in which it is shown; empty when there is nothing to add to the verdict."""
    finders: tuple[Callable[..., Iterator[Finding]], ...] = (
        find_control, find_unknown_training, find_other_rules, find_failures, find_worse_primary, find_worse_metrics,
        find_refusing, find_forgetting, find_memories, find_smoke, find_small_sample, find_other_opinions, find_poor_judge,
        find_slowness,
    )
    return [finding for finder in finders for finding in finder(settings, results, conditions)]


def find_control(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """A missing base."""
    if results.verdict.word == "no control":
        yield Finding("control", "bad", (
            "There is no base model to compare with, so nobody can tell what the fine-tuning changed: set export.export_base: "
            "true, run  python export_gguf.py --overwrite  and evaluate again."
        ))


def find_unknown_training(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """conditions["unseen"] is False: what the tuned model was trained on is not known."""
    if conditions.get("unseen") is False:
        yield Finding("seen", "bad", (
            "Nobody can tell whether the tuned model saw these questions in training: the manifest in adapters/ is missing or "
            "another than that of the export. Train, export and evaluate again."
        ))


def find_other_rules(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """Rules that were changed when answers of this model could be looked at: conditions["other_rules"]."""
    for before in conditions.get("other_rules", ()):
        rules = ", ".join(f"{key} was {value}" for key, value in before.items() if key != "declared_at")
        yield Finding("rules", "warn", (
            f"What decides was changed after an evaluation of this same model: on {before['declared_at'][:10]}, {rules}. "
            "A rule that is chosen once its outcome is known proves little."
        ))


def find_failures(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """Calls that gave no answer, over all sets."""
    failed: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for found in results.results.values():
        failed.update(found.failures)
        asked.update(dict.fromkeys(found.failures, found.questions))
    parts = [f"{number} of {asked[side]} to {NAMES[side]}" for side, number in failed.items() if number]
    if parts:
        yield Finding("failures", "warn", f"Some calls failed: {', '.join(parts)}. Those questions count for neither side.")


# -----------------------------------------------------------------------------
# What got worse


def find_worse_primary(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """A primary measure that is measurably worse on the held-out questions or on the user's own cases, even if by little."""
    for name, words in OWN_SETS.items():
        found = results.results.get(name)
        if not found or not is_measurably_worse(settings, found.metrics[found.primary]):
            continue
        change = describe_change(found.primary, found.metrics[found.primary])
        if found.verdict.word == "worse":
            yield Finding("worse", "bad", f"Worse on {words}, {change}.")
        else:
            little = f"less than the {settings.smallest_difference:g} that matters, but more than chance"
            yield Finding("worse", "warn", f"A little worse on {words}, {change}: {little}.")


def find_worse_metrics(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """The other metrics that a verdict could rest on and whose interval lies wholly on the worse side.

    Confirmed by the sign test after Holm's correction a drop is "bad". Without that it is shown all the same, as a hint: with
    few documents no corrected test can confirm anything, and an unseen loss costs more than a false alarm.
    """
    main = results.results["heldout"]
    measures = results.sets["heldout"].measures
    for name, comparison in main.metrics.items():
        if name == main.primary or not measures[name].decides or not is_measurably_worse(settings, comparison):
            continue
        text = f"Worse on {describe_change(name, comparison)}"
        significant = comparison.p_holm is not None and comparison.p_holm <= 1 - settings.confidence + 1e-9
        if significant and comparison.documents_agree:
            yield Finding("worse", "bad", f"{text}.")
        else:
            yield Finding("worse", "warn", f"{text}. Among so many metrics that may be chance.")


def find_refusing(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """More refusals where an answer was due: what a model tuned on many refusals does first."""
    answerable = ("heldout", "wrong_refusal", "questions that the sources answer")
    for name, metric, words in (answerable, ("general", "general_refused", "general questions")):
        comparison = results.results[name].metrics.get(metric) if name in results.results else None
        if is_measurably_worse(settings, comparison):
            shares = f"{comparison.tuned:.0%} of the {comparison.pairs} {words}, the base {comparison.base:.0%}"
            yield Finding("refusing", "bad", f"The tuned model refuses {shares}.")


def find_forgetting(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """A drop on the general questions beyond noise, however small."""
    found = results.results.get("general")
    if found and is_measurably_worse(settings, found.metrics[found.primary]):
        change = describe_change(found.primary, found.metrics[found.primary])
        yield Finding("forgot", "bad", f"The tuned model forgot what its base could do, {change}.")


def is_measurably_worse(settings: EvaluateSection, comparison: Comparison | None) -> bool:
    """Whether chance is an unlikely reason for a loss of any size."""
    return judge(comparison, 0.0, settings.confidence).word == "worse"


def describe_change(name: str, comparison: Comparison) -> str:
    """A metric's two means, the difference and its interval."""
    low, high = comparison.interval
    meaning = f" ({MEANINGS[name]})" if name in MEANINGS else ""
    return (
        f"{name.replace('_', ' ')}{meaning}: {comparison.tuned:.3f}, the base {comparison.base:.3f}, "
        f"so {comparison.difference:+.3f} (between {low:+.3f} and {high:+.3f})"
    )


# -----------------------------------------------------------------------------
# What leaked


def find_memories(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """Strings of the training rows that the tuned model gives away, in the words of distill.cases.memorised."""
    notes = results.results["memory"].notes if "memory" in results.results else {}
    if notes.get("level") in ("bad", "warn"):
        yield Finding("memorised", notes["level"], notes["text"])


# -----------------------------------------------------------------------------
# How far to trust it


def find_smoke(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """Runs for trying out: conditions["limit"] questions of a set alone, or conditions["smoke_run"], an adapter made so."""
    if conditions.get("limit"):
        yield Finding("smoke", "warn", f"A smoke run: only the first {conditions['limit']} questions were asked (--limit).")
    if conditions.get("smoke_run"):
        yield Finding("smoke", "warn", "The tuned model comes from a smoke run (--limit): for trying out only.")


def find_small_sample(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """No verdict, and no sample that would likely have given one for a difference that matters."""
    main = results.results["heldout"]
    primary = main.metrics[main.primary]
    if results.verdict.word != "no measurable difference" or primary is None or primary.detectable is None:
        return
    if max(map(abs, primary.interval)) > settings.smallest_difference:
        yield Finding("sample", "info", (
            f"{primary.pairs} questions from {primary.groups} documents would likely have shown a difference of "
            f"{primary.detectable:.3f} or more; a smaller one, down to the {settings.smallest_difference:g} that matters, "
            "could be there all the same. More held-out documents would tell."
        ))


def find_other_opinions(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """A judge, or people, who measurably prefer the side that the verdict does not."""
    for who, counts in (("The judge", results.judge), ("People who voted blind", results.votes)):
        preferred = counts and find_preference(settings, counts)
        if preferred and preferred != {"better": "tuned", "worse": "base"}.get(results.verdict.word):
            yield Finding("opinions", "bad" if preferred == "base" else "info", (
                f"{who} preferred {NAMES[preferred]}: {counts[preferred]} times, against "
                f"{counts['base' if preferred == 'tuned' else 'tuned']} (ties: {counts['tie']})."
            ))


def find_poor_judge(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """A judge whose opinion is none: no reply for many pairs, or one that goes by the order of the answers."""
    counts = results.judge
    if not counts:
        return
    silent, judged = counts["unreadable"] + counts.get("unasked", 0), counts["questions"]
    pairs = silent + judged
    if silent > SILENT * pairs:
        yield Finding("judge", "warn", f"The judge gave no usable opinion on {silent} of {pairs} pairs: do not count on it.")
    if counts["disagreed"] > judged / 2:
        yield Finding("judge", "warn", (
            f"The judge changed its mind with the order of the answers in {counts['disagreed']} of {judged} pairs, which count "
            "as ties: it cannot tell them apart, and says nothing."
        ))


def find_preference(settings: EvaluateSection, counts: Mapping[str, Any]) -> ModelSide | None:
    """The side preferred beyond chance, by questions and by documents; None where one document's questions decide."""
    if counts.get("p_value") is None or counts["p_value"] > 1 - settings.confidence + 1e-9:
        return None
    lead, lead_of_documents = counts["tuned"] - counts["base"], counts["documents_tuned"] - counts["documents_base"]
    if lead * lead_of_documents <= 0:
        return None
    return "tuned" if lead > 0 else "base"


def find_slowness(settings: EvaluateSection, results: Results, conditions: Mapping[str, Any]) -> Iterator[Finding]:
    """A tuned model that writes much more slowly than its base, which has as many weights."""
    base, tuned = (results.speed.get(side, {}).get("tokens_per_second") for side in ("base", "tuned"))
    if base and tuned and tuned < SLOWER * base:
        yield Finding("speed", "info", (
            f"The tuned model wrote {tuned:.1f} tokens a second, its base {base:.1f}: files of one size should be alike, so "
            "the machine was busy or the files differ."
        ))
