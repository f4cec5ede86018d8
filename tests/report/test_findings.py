"""The first page says first what matters most, and says nothing that chance alone explains."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from distill.cases.case_set import Measure
from distill.config import Config
from distill.metrics.table import TABLE
from distill.report.findings import MEANINGS, list_findings
from distill.report.results import Results, compare
from tests.report.answers import make_config, make_judge, make_results, make_votes
from tests.report.test_results import compare_numbers, make_number_set, say

FAST = "evaluate: {bootstrap_samples: 500}\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path, FAST)


def find(config: Config, results: Results, **conditions: object) -> list[tuple[str, str]]:
    return [(finding.kind, finding.level) for finding in list_findings(config.evaluate, results, conditions)]


def tell(config: Config, results: Results, kind: str, **conditions: object) -> str:
    return " ".join(found.text for found in list_findings(config.evaluate, results, conditions) if found.kind == kind)


def quiet(results: Results) -> Results:
    """Without what made-up answers take."""
    return replace(results, speed={})


def test_nothing_to_add_says_nothing(config: Config) -> None:
    base = [0.2 + 0.05 * (n % 3) for n in range(12)]
    assert find(config, quiet(compare_numbers(config, base, [value + 0.4 for value in base]))) == []


def test_order_is_fixed_and_the_missing_control_is_first(config: Config) -> None:
    kinds = [kind for kind, _ in find(config, make_results(config, control=False, more=True), limit=5, smoke_run=True)]
    assert kinds == ["control", "failures", "memorised", "smoke", "smoke"]
    kinds = [kind for kind, _ in find(config, make_results(config, more=True), limit=5)]
    assert kinds == ["failures", "forgot", "memorised", "smoke", "speed"]


def test_failures_are_counted_over_all_sets(config: Config) -> None:
    results = make_results(config, more=True)
    asked = sum(len(cases.questions) for cases in results.sets.values())
    assert f"3 of {asked} to the tuned model" in tell(config, results, "failures")
    assert "the base" not in tell(config, results, "failures")


def test_a_worse_primary_is_said_with_its_figures(config: Config) -> None:
    results = compare_numbers(config, [0.7, 0.8] * 6, [0.2, 0.4] * 6)
    text = tell(config, results, "worse")
    assert [kind for kind, _ in find(config, results)].count("worse") == 1, "once, not again among the others"
    assert "0.300" in text and "0.750" in text and "-0.450" in text


@pytest.mark.parametrize("name", ["own", "golden"])
def test_worse_on_the_users_own_cases_is_said(config: Config, name: str) -> None:
    measures = {"m": Measure("", decides=True)}
    results = make_results(config)
    cases = make_number_set(name, list("abcdefgh"), measures)
    answers = {(name, "base"): say("base", [0.9] * 8, name), (name, "tuned"): say("tuned", [0.2] * 8, name)}
    both = compare(config, [results.sets["heldout"], cases], {**results.answers, **answers})
    assert both.verdict.word == "better" and ("worse", "bad") in find(config, both)


OTHERS = {"primary": Measure("", decides=True), "other": Measure("", decides=True)}


def compare_other(config: Config, base: list[float], tuned: list[float], measures: dict[str, Measure] | None = None) -> Results:
    """The primary metric is better; the second one has these scores."""
    results = compare_numbers(config, [0.1] * len(base), [0.8] * len(base), measures=measures or OTHERS)
    cases = results.sets["heldout"]
    numbers = {"base": base, "tuned": tuned}

    def score(answers: list) -> list:
        side = numbers[answers[0].side]
        return [{"primary": 0.1 if answers[0].side == "base" else 0.8, "other": value} for value in side]

    return compare(config, [replace(cases, score=score)], results.answers)


def test_a_drop_that_the_corrected_test_confirms_is_a_problem(config: Config) -> None:
    results = compare_other(config, [0.9, 0.8] * 10, [0.5, 0.6] * 10)
    assert results.verdict.word == "better" and ("worse", "bad") in find(config, quiet(results))
    assert "chance" not in tell(config, results, "worse")


def test_a_drop_that_only_the_interval_shows_is_a_hint(config: Config) -> None:
    tuned = [0.1] * 7 + [0.61] * 6 + [0.6] * 3  # seven big losses, six tiny wins: no sign test can confirm that
    results = compare_other(config, [0.6] * 16, tuned)
    assert ("worse", "warn") in find(config, results) and "may be chance" in tell(config, results, "worse")


def test_a_sign_test_that_leans_to_the_other_side_confirms_no_drop(config: Config) -> None:
    results = compare_other(config, [0.6] * 100, [0.61] * 75 + [0.0] * 25)  # many tiny wins, few great losses
    assert results.results["heldout"].metrics["other"].p_holm < 0.001
    assert [level for kind, level in find(config, results) if kind == "worse"] == ["warn"]


@pytest.mark.parametrize(("base", "tuned"), [
    ([0.6] * 12, [0.1, 0.9] * 6),  # noise
    ([0.6] * 12, [0.9] * 12),  # better
    ([0.6] * 4, [0.1] * 4),  # too few documents to say anything
])
def test_other_metrics_that_are_not_measurably_worse_are_not_mentioned(config: Config, base: list, tuned: list) -> None:
    assert "worse" not in dict(find(config, compare_other(config, base, tuned)))


def test_metrics_that_never_decide_are_not_mentioned(config: Config) -> None:
    measures = {"primary": Measure("", decides=True), "other": Measure("")}
    assert "worse" not in dict(find(config, compare_other(config, [0.9] * 12, [0.1] * 12, measures)))


def test_more_of_what_should_be_rare_is_worse(config: Config) -> None:
    measures = {"primary": Measure("", decides=True), "other": Measure("", decides=True, higher_is_better=False)}
    assert ("worse", "bad") in find(config, compare_other(config, [0.1] * 12, [0.9] * 12, measures))
    assert "worse" not in dict(find(config, compare_other(config, [0.9] * 12, [0.1] * 12, measures)))


def test_forgetting_counts_beyond_noise_however_small(config: Config) -> None:
    heldout = make_results(config)
    general = make_number_set("general", [str(n) for n in range(200)], {"general_right": Measure("", decides=True)})

    def ask(lost: int) -> Results:
        numbers = {"base": [1.0] * 200, "tuned": [0.0] * lost + [1.0] * (200 - lost)}
        answers = {("general", side): say(side, given, "general") for side, given in numbers.items()}
        return compare(config, [heldout.sets["heldout"], general], {**heldout.answers, **answers})

    assert ("forgot", "bad") in find(config, ask(9)) and ask(9).results["general"].verdict.word == "no measurable difference"
    assert "forgot" not in dict(find(config, ask(1)))


def test_memories_are_told_in_the_words_of_the_probe(config: Config) -> None:
    results = make_results(config, more=True)
    assert tell(config, results, "memorised") == results.results["memory"].notes["text"]
    found = results.results["memory"]
    calm = replace(results, results={**results.results, "memory": replace(found, notes={**found.notes, "level": "info"})})
    assert "memorised" not in dict(find(config, calm))


@pytest.mark.parametrize(("conditions", "words"), [
    ({"limit": 10}, "first 10 questions"), ({"smoke_run": True}, "for trying out only"), ({"limit": None}, ""),
])
def test_smoke_runs_say_so(config: Config, conditions: dict, words: str) -> None:
    text = tell(config, make_results(config), "smoke", **conditions)
    assert words in text and bool(text) == bool(words)


def test_a_small_sample_tells_what_it_could_have_shown(config: Config) -> None:
    results = compare_numbers(config, [0.5] * 10, [0.3, 0.7] * 5)
    detectable = results.results["heldout"].metrics["m"].detectable
    assert f"{detectable:.3f}" in tell(config, results, "sample") and ("sample", "info") in find(config, results)
    assert "sample" not in dict(find(config, compare_numbers(config, [0.5] * 400, [0.49, 0.51] * 200)))
    assert "sample" not in dict(find(config, compare_numbers(config, [0.2, 0.1] * 5, [0.8, 0.9] * 5)))


@pytest.mark.parametrize(("counts", "level"), [
    ({"tuned": 3, "base": 20, "documents_tuned": 2, "documents_base": 9, "p_value": 0.001}, "bad"),
    ({"tuned": 20, "base": 3, "documents_tuned": 9, "documents_base": 2, "p_value": 0.001}, None),  # agrees with the verdict
    ({"tuned": 3, "base": 5, "documents_tuned": 3, "documents_base": 5, "p_value": 0.7}, None),  # chance
    ({"tuned": 9, "base": 20, "documents_tuned": 9, "documents_base": 1, "p_value": 0.02}, None),  # one document has 20 of them
    ({"tuned": 0, "base": 0, "documents_tuned": 0, "documents_base": 0, "p_value": None}, None),
])
def test_people_or_a_judge_who_disagree_with_the_verdict_are_heard(config: Config, counts: dict, level: str | None) -> None:
    better = make_results(config)
    for who, given in (("judge", make_judge()), ("votes", make_votes())):
        told = dict(find(config, replace(better, **{who: {**given, **counts}})))
        assert told.get("opinions") == level


def test_a_little_loss_of_the_primary_metric_beyond_chance_is_no_secret(config: Config) -> None:
    base = [0.5 + 0.01 * (n % 7) for n in range(30)]
    results = compare_numbers(config, base, [value - 0.03 - 0.001 * (n % 3) for n, value in enumerate(base)])
    assert results.verdict.word == "no measurable difference"
    assert ("worse", "warn") in find(config, results) and "less than the 0.05 that matters" in tell(config, results, "worse")
    better = compare_numbers(config, base, [value + 0.03 + 0.001 * (n % 3) for n, value in enumerate(base)])
    assert "worse" not in dict(find(config, better))


def test_a_model_that_may_have_seen_the_questions_is_said_first_but_for_the_control(config: Config) -> None:
    assert "seen" not in dict(find(config, make_results(config), unseen=True))
    kinds = [kind for kind, _ in find(config, make_results(config, control=False), unseen=False)]
    assert kinds[:2] == ["control", "seen"] and ("seen", "bad") in find(config, make_results(config), unseen=False)


def test_rules_changed_after_an_evaluation_are_said(config: Config) -> None:
    before = {"declared_at": "2026-11-23T10:00:00+00:00", "primary_metric": "grounding", "smallest_difference": 0.01}
    text = tell(config, make_results(config), "rules", other_rules=[before])
    assert "on 2026-11-23, primary_metric was grounding, smallest_difference was 0.01." in text
    assert "rules" not in dict(find(config, make_results(config), other_rules=[]))


@pytest.mark.parametrize(("name", "metric"), [("heldout", "wrong_refusal"), ("general", "general_refused")])
def test_a_model_that_learnt_to_refuse_is_told_on_the_first_page(config: Config, name: str, metric: str) -> None:
    measures = {"m": Measure("", decides=True), metric: Measure("", higher_is_better=False)}
    sets = [make_number_set(each, [str(n) for n in range(12)], measures) for each in ("heldout", "general")]
    answers = {(each.name, side): say(side, [0.5] * 12, each.name) for each in sets for side in ("base", "tuned")}
    refused = {"base": 0.0, "tuned": 1.0}

    def score(cases, answers):
        return [{"m": 0.5, metric: refused[answer.side] if cases.name == name else 0.0} for answer in answers]

    sets = [replace(cases, score=partial(score, cases)) for cases in sets]
    results = compare(config, sets, answers)
    assert ("refusing", "bad") in find(config, results)
    assert "refuses 100% of the 12" in tell(config, results, "refusing") and "the base 0%" in tell(config, results, "refusing")
    refused["tuned"] = 0.0
    assert "refusing" not in dict(find(config, compare(config, sets, answers)))


@pytest.mark.parametrize(("counts", "told"), [
    ({"questions": 70, "unreadable": 3, "unasked": 0, "disagreed": 10}, ""),
    ({"questions": 5, "unreadable": 60, "unasked": 8, "disagreed": 0}, "no usable opinion on 68 of 73 pairs"),
    ({"questions": 0, "unreadable": 0, "unasked": 73, "disagreed": 0}, "no usable opinion on 73 of 73 pairs"),
    ({"questions": 73, "unreadable": 0, "unasked": 0, "disagreed": 73}, "order of the answers in 73 of 73 pairs"),
])
def test_a_judge_that_judged_nothing_is_not_passed_over(config: Config, counts: dict, told: str) -> None:
    results = replace(make_results(config), judge={"tuned": 0, "base": 0, "tie": counts["questions"], "p_value": 1.0, **counts})
    text = tell(config, results, "judge")
    assert told in text and bool(told) == bool(text)


def test_every_measure_that_may_decide_is_explained() -> None:
    assert {name for name, metric in TABLE.items() if metric.measure.decides} <= set(MEANINGS)


def test_a_slow_tuned_model_is_noted(config: Config) -> None:
    results = make_results(config)
    assert ("speed", "info") in find(config, results)
    even = {side: {"tokens_per_second": 40.0} for side in ("base", "tuned")}
    assert "speed" not in dict(find(config, replace(results, speed=even)))
    assert "speed" not in dict(find(config, replace(results, speed={**even, "base": {"tokens_per_second": None}})))
