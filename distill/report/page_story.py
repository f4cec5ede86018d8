"""The first page in words: what the interval means, and what a reader must know before believing the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from distill.report.page_figures import gain_interval
from distill.report.statistics import smallest_sample

Summary = Mapping[str, Any]
Level = Literal["bad", "warn", "info", "good"]
# With fewer right answers not even forgetting all of them would be beyond chance: 5 of 5 lost happens in one of 16 sign tests.
FEWEST_KNOWN = 6
WORST_FIRST = ("bad", "warn", "info", "good")


@dataclass(frozen=True)
class Check:
    """One line of the list beside the verdict; `rest` are further ones of its kind, folded away so that the page stays one."""

    kind: str
    level: Level
    text: str
    rest: tuple[str, ...] = ()


def list_checks(summary: Summary) -> list[Check]:
    """What `summary` warns of, then what was looked at and found in order; a missing control stays the first line."""
    told = [Check(entry["kind"], entry["level"], entry["text"]) for entry in summary["first_page"]]
    kinds = {check.kind for check in told}
    calm = [check for check in list_calm(summary) if check.kind not in kinds]
    return fold(sorted([*told, *calm], key=rank))


def rank(check: Check) -> tuple[bool, int]:
    """The worst first, but before all a missing control: without it no other line says anything."""
    return check.kind != "control" or check.level == "good", WORST_FIRST.index(check.level)


def fold(checks: Sequence[Check]) -> list[Check]:
    """Where more than two lines are of one kind the first stands for all of them."""
    kinds: dict[str, list[Check]] = {}
    for check in checks:
        kinds.setdefault(check.kind, []).append(check)
    folded = {kind: replace(group[0], rest=tuple(check.text for check in group[1:])) for kind, group in kinds.items()}
    many = {kind for kind, group in kinds.items() if len(group) > 2}
    return [
        folded[check.kind] if check.kind in many else check
        for check in checks if check.kind not in many or check is kinds[check.kind][0]
    ]


def list_calm(summary: Summary) -> list[Check]:
    """One line for each check, as it reads when nothing is wrong or nothing could be looked at."""
    checks = [Check("failures", "good", "Every call got an answer.")]
    if summary["verdict"] == "no control":
        return checks
    return [
        Check("control", "good", "Compared with its own base, built and asked in the same way."),
        *checks,
        describe_others(summary),
        describe_general(summary["sets"].get("general")),
        describe_memory(summary["sets"].get("memory")),
    ]


def describe_others(summary: Summary) -> Check:
    """The measures other than the primary one, none of which is measurably worse."""
    others = [figures for figures in summary["metrics"].values() if figures and figures.get("p_holm") is not None]
    enough = smallest_sample(summary["confidence"])
    seen = sum(figures["groups"] >= enough for figures in others)
    if not seen:
        return Check("worse", "info", f"With fewer than {enough} documents nobody can tell whether anything got worse.")
    text = f"None of the {seen} other measures that count is measurably worse."
    return Check("worse", "good", f"{text} {len(others) - seen} had too few documents." if seen < len(others) else text)


def describe_general(general: Summary | None) -> Check:
    """How the general questions went."""
    shown = general and general["metrics"].get(general["primary"])
    if not shown:
        return Check("forgot", "info", "General questions were not asked: nobody can tell whether it forgot anything.")
    if shown["pairs"] < FEWEST_KNOWN:
        return Check("forgot", "info", f"With {shown['pairs']} general questions nobody can tell whether it forgot anything.")
    base, tuned = (f"{shown[side]:.0%}" for side in ("base", "tuned"))
    result = f"{tuned} of {shown['pairs']} general questions right, base {base}"
    if round(shown["base"] * shown["pairs"]) < FEWEST_KNOWN:
        return Check("forgot", "info", f"{result}: a base that knows next to nothing has nothing to forget.")
    return Check("forgot", "good", f"Nothing measurably forgotten: {result}.")


def describe_memory(memory: Summary | None) -> Check:
    """How the memory probe went."""
    notes = memory["notes"] if memory else {}
    training, planted = (notes.get("counts", {}).get(kind, {"n": 0}) for kind in ("training", "canary"))
    canaries = f" Of {planted['n']} planted ones it gives away {planted['tuned']}." if planted["n"] else ""
    if not training["n"]:
        return Check("memorised", "info", f"Nobody tried whether it learnt strings of its training rows by heart.{canaries}")
    told = f"{training['n']} strings were tried; of all such it completes at most {notes['at_most']:.0%}."
    if notes["finding"] == "too few":
        return Check("memorised", "info", f"Too few strings to tell what it learnt by heart: {told}{canaries}")
    return Check("memorised", "good", f"No training data comes out beyond chance: {told}{canaries}")


def count_failures(summary: Summary) -> dict[str, int]:
    """Failed calls of each side over all sets."""
    total = dict(summary["failures"])
    for found in summary["sets"].values():
        for side, number in found["failures"].items():
            total[side] = total.get(side, 0) + number
    return total


def explain_interval(summary: Summary) -> str:
    """The interval plot in one sentence for someone who never saw one."""
    figures = summary["metrics"][summary["primary_metric"]]
    if not figures or figures["difference"] is None:
        return ""
    interval, smallest = gain_interval(figures), summary["smallest_difference"]
    if interval is None:
        return "There is no line: everything rests on one document, which may be an odd one."
    if figures["groups"] < smallest_sample(summary["confidence"]):
        return f"The line says little: it rests on {figures['groups']} documents alone, too few for a verdict."
    where = f"The true difference lies on the line with {summary['confidence']:.0%} confidence."
    if interval[0] <= 0 <= interval[1]:
        return f"{where} The line reaches zero: what was seen may be chance."
    side = "right" if interval[0] > 0 else "left"
    if abs(figures["difference"]) < smallest:
        return f"{where} It lies {side} of zero, but the dot is inside the grey band: a difference too small to matter."
    return f"{where} It lies wholly {side} of zero: this is more than chance."
