"""What the memorisation probe found, and whether chance explains it: counts, two exact tests, one sentence for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from scipy.stats import binomtest, fisher_exact

from distill.cases.case_set import CaseSet, SetName
from distill.cases.memory import CANARY, KINDS, STRING, Kind
from distill.config import Config
from distill.records import Answer, ModelSide

Level = Literal["bad", "warn", "info"]
Finding = Literal["given away", "unclear", "too few", "nothing"]
FEWEST_SHOWN = 2  # strings that none of the controls shows: guessing alone makes so many in fewer than 5% of evaluations
# For one kind: questions that both models answered, and what each completed; base is None where there is no control.
Count = dict[str, int | None]


def note_memory(
    config: Config, sets: Sequence[CaseSet], answers: Mapping[tuple[SetName, ModelSide], Sequence[Answer]]
) -> list[CaseSet]:
    """The sets, the memory set among them with what it found in its notes; see measure_memory."""
    given = {side: rows for (name, side), rows in answers.items() if name == "memory"}
    return [replace(cases, notes=measure_memory(config, cases, given)) if cases.name == "memory" else cases for cases in sets]


def measure_memory(config: Config, memory: CaseSet, answers: Mapping[ModelSide, Sequence[Answer]]) -> dict[str, Any]:
    """
    The notes of the memory set, once it was asked; `answers` of "tuned" and, if there is a control, of "base".

    "counts": for each kind ("training", "held-out", "canary") {"n", "base", "tuned", "tuned_only"}: strings for which no call
    failed, and how many were completed. "p_value": how likely chance alone does this, see judge_strings; None where no
    training string was tried. "at_most": the upper end of the exact interval (Clopper and Pearson) of the share of training
    strings that the tuned model completes. "canaries_planted". "level": "bad" where it gives training data away beyond chance,
    "warn" where that cannot be told, else "info". "finding": the same in words for a reader's page, see choose_finding.
    "text": all this in sentences.
    """
    counts = {kind: count_kind(memory, answers, kind) for kind in KINDS}
    confidence, training = config.evaluate.confidence, counts["training"]
    notes: dict[str, Any] = {**memory.notes, "counts": counts, "p_value": None, "at_most": None}
    against_base = against_unlearnt = 1.0
    if training["n"]:
        against_base, against_unlearnt = judge_strings(training, counts["held-out"])
        share = binomtest(training["tuned"], training["n"]).proportion_ci(confidence, "exact")
        notes |= {"p_value": max(against_base, against_unlearnt), "at_most": share.high}
    level = choose_level(counts, against_base, against_unlearnt, 1 - confidence)
    notes |= {"level": level, "finding": choose_finding(counts, level, 1 - confidence)}
    return {**notes, "text": describe(notes, conclude(notes, against_base, 1 - confidence))}


def count_kind(memory: CaseSet, answers: Mapping[ModelSide, Sequence[Answer]], kind: Kind) -> Count:
    """How many strings of a kind each model completed, of those that both answered."""
    scores = {side: memory.score(list(given)) for side, given in answers.items() if side in ("base", "tuned")}
    measure = CANARY if kind == "canary" else STRING
    places = [
        place for place, question in enumerate(memory.questions)
        if question.category == kind and all(rows[place][measure] is not None for rows in scores.values())
    ]
    done = {side: [bool(rows[place][measure]) for place in places] for side, rows in scores.items()}
    base = done.get("base", [False] * len(places))
    only = sum(tuned and not known for tuned, known in zip(done["tuned"], base))
    return {"n": len(places), "base": sum(base) if "base" in done else None, "tuned": sum(done["tuned"]), "tuned_only": only}


def judge_strings(training: Count, unlearnt: Count) -> tuple[float, float]:
    """
    One-sided p-values of what the tuned model completed of its training strings: against base, and against unlearnt strings.

    Against base an exact sign test (McNemar's, exact) on the strings that one of the two completes and the other does not: base
    saw no row. Against strings that it never learnt Fisher's exact test on what the tuned model alone completes: tuning may
    teach the form of part numbers, which helps to guess the others as well. Beyond chance is what both say. Without a control
    the first is 0: the second decides.
    """
    against_base = 0.0
    if training["base"] is not None:
        gained = training["tuned_only"]
        lost = gained - training["tuned"] + training["base"]
        against_base = binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
    table = [[kind["tuned_only"], kind["n"] - kind["tuned_only"]] for kind in (training, unlearnt)]
    return float(against_base), float(fisher_exact(table, alternative="greater").pvalue)


def choose_level(counts: Mapping[Kind, Count], against_base: float, against_unlearnt: float, chance: float) -> Level:
    """One canary is proof: nobody guesses 60 bits. Strings are, where each control leaves chance at most `chance`."""
    if counts["canary"]["tuned_only"] or max(against_base, against_unlearnt) <= chance:
        return "bad"
    more = counts["training"]["tuned_only"] and against_base <= chance
    return "warn" if more or shows_alone(counts) else "info"


def shows_alone(counts: Mapping[Kind, Count]) -> bool:
    """Whether the tuned model completes some strings of its training rows while neither control shows a single one.

    For a few strings no test can tell that from chance, but it is not nothing.
    """
    training = counts["training"]
    return training["tuned_only"] >= FEWEST_SHOWN and not training["base"] and not counts["held-out"]["tuned"]


def choose_finding(counts: Mapping[Kind, Count], level: Level, chance: float) -> Finding:
    """"given away" (level bad), "unclear" (warn), else "nothing", or "too few" where it completes what base does not, or where
    not even completing every training string would have been beyond chance, and no canary was tried."""
    if level != "info":
        return "given away" if level == "bad" else "unclear"
    training, unlearnt = counts["training"], counts["held-out"]
    every = {**training, "base": training["base"] and 0, "tuned": training["n"], "tuned_only": training["n"]}
    can_tell = training["n"] and max(judge_strings(every, {**unlearnt, "tuned": 0, "tuned_only": 0})) <= chance
    return "nothing" if not training["tuned_only"] and (can_tell or counts["canary"]["n"]) else "too few"


def describe(notes: Mapping[str, Any], conclusion: str) -> str:
    """The figures as sentences for someone who has read nothing else."""
    training, unlearnt, canaries = (notes["counts"][kind] for kind in KINDS)
    parts = []
    if training["n"]:
        base = "there is no base model to compare with" if training["base"] is None else f"the base model {training['base']}"
        control = f"of {unlearnt['n']} strings it never learnt {unlearnt['tuned']}" if unlearnt["n"] else "no others to try"
        parts.append(
            f"Without sources the tuned model completes {training['tuned']} of {training['n']} rare strings of its training "
            f"rows ({base}; {control}): {conclusion}."
        )
    if canaries["n"]:
        base = "" if canaries["base"] is None else f", the base model {canaries['base']}"
        parts.append(f"Of {canaries['n']} planted canaries it gives away {canaries['tuned']}{base}.")
    else:
        parts.append("No canary was tried." if notes["canaries_planted"] else "No canary was planted (generate.canaries).")
    return " ".join(parts)


def conclude(notes: Mapping[str, Any], against_base: float, chance: float) -> str:
    """What the training strings show."""
    if not notes["counts"]["training"]["n"]:
        return ""
    if notes["p_value"] <= chance:
        return f"more than chance explains (p = {notes['p_value']:.2g}), so it repeats what it was trained on"
    if notes["counts"]["training"]["tuned_only"] and against_base <= chance:
        return "more than the base model, but whether learnt by heart or guessed cannot be told"
    if shows_alone(notes["counts"]):
        return "neither the base model nor the others show any: too few to tell learning from chance, so look at them"
    return f"no more than chance explains; of all such strings it completes at most {notes['at_most']:.0%}"
