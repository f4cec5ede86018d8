"""Scores become comparisons, verdicts, and a summary.json that holds every figure and no text of a document."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.cases.case_set import CaseSet, Measure, Question
from distill.config import Config
from distill.errors import PipelineError
from distill.files import read_json
from distill.records import Answer
from distill.report.results import DECLARED, Results, compare, declare_metric, list_other_rules, measure_speed
from tests.report.answers import (
    MEASURES,
    compare_heldout,
    make_answer,
    make_answers,
    make_config,
    make_example,
    make_heldout,
    make_results,
    make_summary,
)

FAST = "evaluate: {bootstrap_samples: 500}\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path, FAST)


def make_number_set(name: str, groups: list[str], measures: dict[str, Measure], categories: list[str] | None = None) -> CaseSet:
    """Questions whose answers are numbers; every measure is that number, and None where the answer says so."""
    kinds = categories or [""] * len(groups)
    questions = [Question(name, f"q{n}", (), category=kind, group=group) for n, (group, kind) in enumerate(zip(groups, kinds))]

    def score(answers: Any) -> list[dict[str, float | None]]:
        return [dict.fromkeys(measures, None if a.error or a.text == "none" else float(a.text)) for a in answers]

    return CaseSet(name, name, questions, measures, next(iter(measures)), score)


def say(side: str, numbers: list[float | None], name: str = "heldout") -> list[Answer]:
    """Numbers as answers; None is a failed call."""
    return [
        make_answer(f"q{n}", side, error="HTTP 500", set=name) if number is None
        else make_answer(f"q{n}", side, str(number), set=name)
        for n, number in enumerate(numbers)
    ]


def compare_numbers(
    config: Config, base: list | None, tuned: list, *, groups: list[str] | None = None, stock: list | None = None,
    measures: dict[str, Measure] | None = None, categories: list[str] | None = None,
) -> Results:
    cases = make_number_set(
        "heldout", groups or [str(n) for n in range(len(tuned))], measures or {"m": Measure("", decides=True)}, categories
    )
    numbers = {"base": base, "tuned": tuned, "stock": stock}
    return compare(config, [cases], {("heldout", side): say(side, given) for side, given in numbers.items() if given})


# -----------------------------------------------------------------------------
# Pairs and failures


def test_a_failed_call_leaves_both_sides_and_is_counted(config: Config) -> None:
    found = compare_numbers(config, [0.5, None, 0.5, 0.5], [0.9, 0.9, None, 0.7]).results["heldout"]
    assert (found.questions, found.answered_by_both, found.failures) == (4, 2, {"base": 1, "tuned": 1})
    figures = found.metrics["m"]
    assert (figures.pairs, figures.base, figures.tuned) == (2, pytest.approx(0.5), pytest.approx(0.8))


def test_a_failed_call_of_stock_touches_neither_side(config: Config) -> None:
    base, tuned = [0.1, 0.2, 0.3], [0.2, 0.4, 0.6]
    with_stock = compare_numbers(config, base, tuned, stock=[None, 1.0, 0.5]).results["heldout"]
    without = compare_numbers(config, base, tuned).results["heldout"]
    assert with_stock.failures == {"base": 0, "tuned": 0, "stock": 1} and with_stock.answered_by_both == 3
    assert with_stock.metrics["m"].stock == pytest.approx(0.75)
    assert replace(with_stock.metrics["m"], stock=None) == without.metrics["m"]


def test_stock_never_decides(config: Config) -> None:
    base, tuned = [0.2] * 10, [0.2, 0.3] * 5
    words = {compare_numbers(config, base, tuned, stock=[share] * 10).verdict for share in (0.0, 1.0)}
    assert words == {compare_numbers(config, base, tuned).verdict}


def test_questions_of_one_document_are_one_draw_and_questions_without_a_document_stand_for_themselves(config: Config) -> None:
    numbers = [0.1, 0.4] * 6, [0.6, 0.5] * 6
    assert compare_numbers(config, *numbers, groups=["a", "b"] * 6).results["heldout"].metrics["m"].groups == 2
    assert compare_numbers(config, *numbers, groups=[""] * 12).results["heldout"].metrics["m"].groups == 12


def test_each_category_has_every_metric_of_its_own_questions(config: Config) -> None:
    found = compare_numbers(config, [0, 0, 0, 0], [1, 0, 1, 1], categories=["x", "x", "y", ""]).results["heldout"]
    assert {name: (figures["m"].pairs, figures["m"].tuned) for name, figures in found.categories.items()} == {
        "x": (2, 0.5), "y": (1, 1.0), "": (1, 1.0),
    }


def test_a_metric_that_applies_to_no_question_has_no_figures(config: Config) -> None:
    results = compare_numbers(config, ["none"] * 3, [0.5] * 3)
    assert results.results["heldout"].metrics["m"] is None
    assert results.verdict.word == "no measurable difference" and "no question has a score" in results.verdict.reason


# -----------------------------------------------------------------------------
# Many metrics


def test_only_other_metrics_that_may_decide_are_corrected(config: Config) -> None:
    measures = {
        "primary": Measure("", decides=True), "other": Measure("", decides=True), "third": Measure("", decides=True),
        "shown": Measure(""),
    }
    metrics = compare_numbers(config, [0.2] * 8, [0.5] * 8, measures=measures).results["heldout"].metrics
    assert metrics["primary"].p_value == pytest.approx(2 / 2**8)
    assert (metrics["primary"].p_holm, metrics["shown"].p_holm) == (None, None)
    assert metrics["other"].p_holm == metrics["third"].p_holm == pytest.approx(2 * 2 / 2**8)


def test_the_verdict_is_that_of_the_held_out_questions(config: Config) -> None:
    heldout, own = (make_number_set(name, list("abcdefgh"), {"m": Measure("", decides=True)}) for name in ("heldout", "own"))
    answers = {
        ("heldout", "base"): say("base", [0.2] * 8), ("heldout", "tuned"): say("tuned", [0.8] * 8),
        ("own", "base"): say("base", [0.8] * 8, "own"), ("own", "tuned"): say("tuned", [0.2] * 8, "own"),
    }
    results = compare(config, [own, heldout], answers)
    assert results.verdict.word == "better" and results.results["own"].verdict.word == "worse"


def test_less_is_better_where_the_measure_says_so(config: Config) -> None:
    measures = {"leaks": Measure("", decides=True, higher_is_better=False)}
    found = compare_numbers(config, [0.0] * 8, [0.4, 0.6] * 4, measures=measures).results["heldout"]
    assert found.verdict.word == "worse"
    assert (found.metrics["leaks"].difference, found.metrics["leaks"].losses) == (0.5, 8)


@pytest.mark.parametrize(("lift", "word"), [(0.3, "better"), (-0.3, "worse"), (0.0, "no measurable difference")])
def test_verdicts(config: Config, lift: float, word: str) -> None:
    base = [0.3 + 0.05 * (n % 4) for n in range(20)]
    tuned = [value + lift + 0.02 * (-1) ** n for n, value in enumerate(base)]
    assert compare_numbers(config, base, tuned).verdict.word == word


# -----------------------------------------------------------------------------
# No control


def test_without_a_control_nothing_is_compared(config: Config) -> None:
    results = make_results(config, control=False, stock=True, more=True)
    summary = make_summary(config, results)
    assert (summary["verdict"], summary["headline"], summary["detectable"]) == ("no control", "No control", None)
    assert summary["failures"] == {"tuned": 0, "stock": 0} and set(summary["speed"]) == {"tuned", "stock"}
    for figures in [summary["metrics"], *(found["metrics"] for found in summary["sets"].values())]:
        for shown in filter(None, figures.values()):
            assert shown["tuned"] is not None
            assert {shown[key] for key in ("base", "difference", "interval", "p_value", "p_holm", "detectable")} == {None}
    assert summary["first_page"][0]["kind"] == "control"


def test_without_a_control_all_answers_of_tuned_count(config: Config) -> None:
    found = compare_numbers(config, None, [0.5, None, 1.0], stock=[0.0, 0.0, 0.5]).results["heldout"]
    assert (found.answered_by_both, found.metrics["m"].pairs, found.metrics["m"].tuned) == (2, 2, 0.75)
    assert found.metrics["m"].stock == 0.25


# -----------------------------------------------------------------------------
# summary.json


def test_summary_has_every_block_and_is_plain(config: Config) -> None:
    summary = make_summary(config, make_results(config, stock=True, more=True))
    assert set(summary) == {
        "verdict", "headline", "reason", "first_page", "primary_metric", "smallest_difference", "confidence", "detectable",
        "questions", "answered_by_both", "failures", "not_measured", "refusals", "metrics", "categories", "speed", "sets",
        "judge", "votes", "conditions",
    }
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary["sets"]) == {"own", "golden", "general", "memory"}
    assert all(set(found) == {
        "title", "questions", "answered_by_both", "failures", "primary", "metrics", "categories", "verdict", "reason", "notes",
    } for found in summary["sets"].values())
    assert set(summary["metrics"]) == set(MEASURES) and summary["metrics"]["correctness"]["stock"] is not None
    assert summary["judge"]["model"] == "phi4:14b" and summary["votes"]["voters"] == 2
    assert summary["refusals"]["base"]["wrong_refusals"] == 3 and summary["sets"]["golden"]["notes"] == {"repeated": 2}


def test_summary_holds_six_decimals_and_no_more(config: Config) -> None:
    def numbers(value: Any) -> list[float]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return [value] * isinstance(value, float) + [number for part in parts for number in numbers(part)]

    found = numbers(make_summary(config, make_results(config, stock=True, more=True)))
    assert len(found) > 100 and all(number == round(number, 6) for number in found)


def test_summary_holds_no_text_of_a_document_question_or_answer(config: Config) -> None:
    results = make_results(config, stock=True, more=True)
    written = json.dumps(make_summary(config, results))
    for question in results.sets["heldout"].questions:
        for text in (question.text, question.reference, question.group, *(source.text for source in question.sources)):
            assert text not in written and json.dumps(text)[1:-1] not in written
    assert not any(answer.text in written for answer in results.answers["heldout", "tuned"])


def test_refusals_are_left_out_where_none_is_configured(tmp_path: Path) -> None:
    config = make_config(tmp_path, FAST + "prompt: {refusal: ''}\n")
    summary = make_summary(config, make_results(config))
    assert summary["refusals"] is None and summary["not_measured"]["refusal_right"]


# -----------------------------------------------------------------------------
# Speed


def test_speed_has_medians_of_times_and_means_of_lengths() -> None:
    answers = [
        make_answer("a", "base", "one two", answer_tokens=10, answer_seconds=1.0, first_token_seconds=0.1, seconds=1.25),
        make_answer("b", "base", "one", answer_tokens=40, answer_seconds=2.0, first_token_seconds=0.2, seconds=3.0),
        make_answer("c", "base", "one two three", answer_tokens=10, answer_seconds=2.0, first_token_seconds=9.0, seconds=20.0),
        make_answer("d", "base", error="timed out", seconds=600.0),
    ]
    assert measure_speed(answers) == {
        "tokens_per_second": 10.0, "first_token_seconds": 0.2, "answer_words": 2.0, "answer_tokens": 20.0, "seconds": 3.0,
    }


@pytest.mark.parametrize("answers", [
    [], [make_answer("a", "base", error="x")],
    [make_answer("a", "base", "word", answer_tokens=3, answer_seconds=0.0, first_token_seconds=0.0)],
])
def test_speed_is_unknown_where_the_engine_told_nothing(answers: list[Answer]) -> None:
    speed = measure_speed(answers)
    assert speed["tokens_per_second"] is None and speed["first_token_seconds"] is None
    assert (speed["answer_words"] is None) == (not any(answer.text for answer in answers))


# -----------------------------------------------------------------------------
# What was declared


def test_what_decides_is_written_down_before_the_first_answer(config: Config) -> None:
    declared = declare_metric(config, "aa")
    assert read_json(config.evaluation_dir / DECLARED) == declared == {
        "primary_metric": "correctness", "smallest_difference": 0.05, "confidence": 0.95, "seed": 42, "tuned_sha256": "aa",
        "declared_at": declared["declared_at"], "earlier": [],
    }
    assert declare_metric(config, "aa") == declare_metric(config, "aa", anew=True) == declared


@pytest.mark.parametrize(("key", "value"), [
    ("primary_metric", "grounding"), ("smallest_difference", 0.01), ("confidence", 0.9), ("seed", 7),
])
def test_what_decides_cannot_be_changed_on_the_way_nor_in_secret_afterwards(tmp_path: Path, key: str, value: object) -> None:
    first = declare_metric(make_config(tmp_path), "aa")
    other = make_config(tmp_path, f"evaluate: {{{key}: {value}}}\n")
    with pytest.raises(PipelineError, match=f"evaluate.{key} is {value} but was .* put the old value back"):
        declare_metric(other, "aa")
    changed = declare_metric(other, "aa", anew=True)
    assert list_other_rules(changed) == [{"declared_at": first["declared_at"], key: first[key]}]
    assert list_other_rules(declare_metric(other, "aa", anew=True)) == list_other_rules(changed), "nor forgotten"


def test_another_model_may_be_judged_by_other_rules_and_the_first_comes_back_with_its_past(tmp_path: Path) -> None:
    grounding = make_config(tmp_path, "evaluate: {primary_metric: grounding}\n")
    declare_metric(make_config(tmp_path), "aa")
    assert list_other_rules(declare_metric(grounding, "bb", anew=True)) == []
    (before,) = list_other_rules(declare_metric(grounding, "aa", anew=True))
    assert before["primary_metric"] == "correctness"


def test_the_fixtures_agree_with_the_held_out_set_they_stand_for(config: Config) -> None:
    """What is compared does not depend on how the set came about."""
    examples = [make_example(config, number) for number in range(12)]
    answers = make_answers(config, examples)
    alone = compare_heldout(config, examples, answers)
    assert alone.scores["heldout", "tuned"] == make_heldout(config, examples).score(answers["tuned"])
    assert list(alone.results) == ["heldout"] and alone.judge is None
