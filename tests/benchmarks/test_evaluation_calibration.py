"""The quick form of the calibration, on the scores of answers that the demo's models gave, and the parts of the long one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evaluation_calibration import (
    LEAST_FOUND,
    MOST_FALSE,
    SCENARIOS,
    Outcome,
    Row,
    check_bars,
    describe,
    draw_rows,
    find_alarms,
    find_part,
    find_truth,
    main,
    measure,
    parse_args,
    simulate,
    summarise_runs,
)
from benchmarks.recorded_scores import Population, record_answers, score_population
from demo.minilm import find_minilm
from distill.config import Config, EvaluateSection
from distill.errors import PipelineError
from distill.files import read_jsonl, write_json_atomic, write_jsonl_atomic
from distill.gguf.chat import FORMATS
from distill.gguf.convert import Output, convert
from distill.gguf.modelfile import render_modelfile
from tests.report.answers import make_answer, make_answers, make_config, make_example, make_heldout

RECORDED = Path(__file__).parent / "recorded_scores.json"
QUICK = EvaluateSection(bootstrap_samples=400)


@pytest.fixture(scope="module")
def recorded() -> Population:
    """What  python benchmarks/evaluation_calibration.py  wrote as scores.json, less most of the metrics and samples."""
    return Population.from_row(json.loads(RECORDED.read_text(encoding="utf-8")))


@pytest.mark.parametrize("metric", ["correctness", "grounding"])
def test_quick_calibration_of_recorded_answers(recorded: Population, metric: str) -> None:
    drawn = recorded.narrow(metric)
    rows = {
        name: summarise_runs(list(simulate(drawn, QUICK, each, 200, 100)), metric, float(find_truth(drawn, name)[0]))
        for name, each in SCENARIOS.items()
    }
    noise = 3 * (MOST_FALSE * (1 - MOST_FALSE) / 200) ** 0.5
    for name in ("base against itself", "names swapped"):
        assert rows[name].verdicts <= MOST_FALSE + noise, name
    assert rows["lift in places"].spread <= 0.31 and rows["lift in places"].better >= LEAST_FOUND - noise
    assert rows["base against itself"].bare > 0, "the noise is real"
    assert min(row.held for row in rows.values()) >= 0.95 - 3 * (0.95 * 0.05 / 200) ** 0.5


def test_a_rule_that_is_too_sure_of_itself_is_caught(recorded: Population) -> None:
    careless = QUICK.model_copy(update={"confidence": 0.6, "smallest_difference": 0.0})
    found = measure(recorded.narrow("correctness"), careless, 60, 100)
    assert [met for name, met in check_bars(found, "correctness").items() if "lift" not in name] == [False] * 4
    assert found["rows"]["names swapped"]["correctness"].verdicts > 0.2


def test_a_rule_that_finds_nothing_is_caught(recorded: Population) -> None:
    blind = QUICK.model_copy(update={"smallest_difference": 0.5})
    bars = check_bars(measure(recorded.narrow("correctness"), blind, 20, 100), "correctness")
    assert [met for name, met in bars.items() if "lift" in name] == [False] * 4


def test_a_bar_that_is_missed_names_the_metrics() -> None:
    good, bad, wide = (Row(verdicts, better, 0.0, 0.95, spread, 20) for verdicts, better, spread in (
        (0.05, 0.95, 0.2), (0.07, 0.89, 0.3), (0.05, 0.2, 0.31),
    ))
    rows = {"m": good, "n": bad, "o": wide, "p": None}
    assert check_bars({"rows": {"names swapped": rows, "lift in places": rows}}, "m") == {
        "names swapped, a verdict in at most 6%, m": True,
        "names swapped, a verdict in at most 6%, each of 3 metrics (n)": False,
        "lift in places, found in at least 90%, m": True,
        "lift in places, found in at least 90%, each of 2 metrics (n)": False,
    }


def test_a_bar_that_nothing_counts_for_is_not_met() -> None:
    wide = Row(0.0, 1.0, 0.0, 0.95, 0.31, 20)
    bars = check_bars({"rows": {"names swapped": {"m": None}, "lift in places": {"m": wide, "n": None}}}, "m")
    assert list(bars.values()) == [None] * 4 and "each of 0 metrics" in list(bars)[-1]


# -----------------------------------------------------------------------------
# Parts


def make_population(rows: int = 12, documents: int = 4, samples: int = 2) -> Population:
    rng = np.random.default_rng(3)
    groups = [f"doc{n % documents}" for n in range(rows)]
    return Population(
        ["m"], groups, rng.uniform(0, 0.5, (samples, rows, 1)), rng.uniform(0.2, 0.8, (1, rows, 1)), np.full((rows, 1), 1.0),
    )


def test_runs_draw_whole_documents_and_as_many_questions_as_asked() -> None:
    population = make_population(rows=12, documents=4)
    rows, documents = draw_rows(np.random.default_rng(1), population, 10)
    assert len(rows) == len(documents) == 10
    for number in range(documents.max()):  # the last may be cut
        names = {population.groups[row] for row in rows[documents == number]}
        assert len(names) == 1 and (documents == number).sum() == 3


def test_a_document_that_is_drawn_twice_counts_twice() -> None:
    _, documents = draw_rows(np.random.default_rng(1), make_population(rows=3, documents=1), 9)
    assert documents.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("name", ["lift everywhere", "lift in places"])
def test_planted_lifts_are_ten_points(name: str) -> None:
    population = make_population(rows=400, documents=80)
    rows, documents = draw_rows(np.random.default_rng(4), population, 20_000)
    base, tuned = SCENARIOS[name](np.random.default_rng(5), population, rows, documents)
    assert float((tuned - base).mean()) == pytest.approx(0.1, abs=0.012)


def test_no_lift_is_planted_where_there_is_no_room() -> None:
    population = make_population()
    full = Population(["m"], population.groups, population.base + 0.95, population.tuned, population.reference)
    assert np.isnan(find_part(full)).all()
    assert summarise_runs(list(simulate(full, QUICK, SCENARIOS["lift everywhere"], 3, 9)), "m", math.nan) is None


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_true_difference_is_that_of_endless_draws(name: str) -> None:
    population = make_population(rows=40, documents=8)
    population.base[0, :5] = np.nan  # a score that does not apply to every answer
    rows, documents = draw_rows(np.random.default_rng(4), population, 60_000)
    base, tuned = SCENARIOS[name](np.random.default_rng(5), population, rows, documents)
    assert float(np.nanmean(tuned - base)) == pytest.approx(find_truth(population, name)[0], abs=0.006)


def test_an_interval_that_is_elsewhere_does_not_hold_the_truth() -> None:
    runs = list(simulate(make_population(60, 20), QUICK, SCENARIOS["lift in places"], 20, 60))
    near, far = (summarise_runs(runs, "m", truth) for truth in (0.1, 0.6))
    assert near.held >= 0.8 and far.held == 0


def test_one_answer_of_the_base_measures_nothing_against_itself(capsys: pytest.CaptureFixture[str]) -> None:
    one = make_population(30, 10, samples=1)
    found = measure(one, QUICK, 3, 30)
    assert {name: bool(rows["m"]) for name, rows in found["rows"].items()} == {
        "base against itself": False, "names swapped": True, "lift everywhere": False, "lift in places": True,
    }
    assert list(found["alarms"]) == ["names swapped"]
    printed = describe(one, QUICK, found, parse_args(["--runs", "3"]))
    assert "base against itself, a verdict in at most 6%, each of 0 metrics: not measured" in printed
    assert "names swapped, the interval holds the true difference in 100.0%" in printed
    assert "base against itself, the interval" not in printed and "| m | 30 |" in printed


@pytest.mark.parametrize("name", ["base against itself", "names swapped"])
def test_neither_side_is_better_where_a_verdict_would_be_false(name: str) -> None:
    population = make_population(rows=400, documents=400)
    rows, documents = draw_rows(np.random.default_rng(4), population, 20_000)
    base, tuned = SCENARIOS[name](np.random.default_rng(5), population, rows, documents)
    assert float((tuned - base).mean()) == pytest.approx(0, abs=0.012) and (tuned != base).mean() > 0.9


def test_swapping_is_for_whole_documents() -> None:
    population = make_population()
    level = Population(["m"], population.groups, np.zeros((2, 12, 1)), np.ones((1, 12, 1)), population.reference)
    rows, documents = draw_rows(np.random.default_rng(4), level, 60)
    base, tuned = SCENARIOS["names swapped"](np.random.default_rng(5), level, rows, documents)
    signs = {number: set((tuned - base)[documents == number, 0]) for number in documents}
    assert all(len(found) == 1 for found in signs.values()) and set.union(*signs.values()) == {-1.0, 1.0}


def test_alarms_of_the_first_page_leave_out_the_primary_metric() -> None:
    both = Population(
        ["correctness", "other"], [str(n) for n in range(30)], np.zeros((2, 30, 2)), np.zeros((1, 30, 2)), np.ones((30, 2)),
    )

    def change(column: int, by: list[float]) -> dict[str, Outcome]:
        def play(rng: np.random.Generator, population: Population, rows: np.ndarray, documents: np.ndarray) -> Any:
            base = np.full((len(rows), 2), 0.5)
            tuned = base.copy()
            tuned[:, column] += by
            return base, tuned

        return next(iter(simulate(both, QUICK, play, 1, 30)))

    assert find_alarms(change(0, [-0.2] * 30), QUICK) == (False, False)
    assert find_alarms(change(1, [-0.2] * 30), QUICK) == (True, True)
    few_great_losses = [-0.5] * 8 + [0.01] * 22  # the sign test is sure of the other direction
    assert find_alarms(change(1, few_great_losses), QUICK) == (False, True)


# -----------------------------------------------------------------------------
# Scores


def test_every_answer_is_scored_as_the_sample_it_is(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    examples = [make_example(config, number) for number in range(6)]
    cases, made = make_heldout(config, examples), make_answers(config, examples)
    population = score_population(cases, [*made["base"], *made["tuned"], *made["base"], make_answer("row-0", "base", "third")])
    assert population.base.shape == (2, 6, len(population.metrics)) and population.tuned.shape[0] == 1
    assert (population.base[0] == population.base[1]).all() and (population.reference == 1).all()
    assert "wrong_refusal" not in population.metrics and "correctness" in population.metrics
    expected = [scores["correctness"] for scores in cases.score(made["tuned"])]
    assert population.tuned[0, :, population.metrics.index("correctness")].tolist() == expected


def test_scores_come_back_from_a_file_and_name_no_document(tmp_path: Path) -> None:
    population = make_population()
    population.base[0, 3] = np.nan
    row = json.loads(json.dumps(population.to_row(), allow_nan=False))
    back = Population.from_row(row)
    assert np.allclose(back.base, population.base, atol=1e-6, equal_nan=True)
    assert "doc" not in json.dumps(row) and back.groups == ["0", "1", "2", "3"] * 3


# -----------------------------------------------------------------------------
# The whole


def write_run(folder: Path, count: int = 12) -> tuple[Config, list]:
    """Rows of stage 1, and a config whose embedder is the real MiniLM."""
    embedder = f"{{provider: sentence-transformers, model: '{find_minilm().as_posix()}', query_prefix: ''}}"
    config = make_config(folder, f"evaluate: {{bootstrap_samples: 200, max_tokens: 4, embedder: {embedder}}}\n")
    examples = [make_example(config, number) for number in range(count)]
    for name, rows in (("heldout", examples[: count // 2]), ("train", examples[count // 2 :])):
        write_jsonl_atomic(config.training_dir / f"{name}.jsonl", [row.model_dump(mode="json") for row in rows])
    return config, examples


def test_answers_of_a_finished_evaluation_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, examples = write_run(tmp_path)
    made = make_answers(config, examples)
    failed = make_answer(examples[0].id, "tuned", error="HTTP 500")
    answers = [*made["base"], failed, *made["tuned"][1:], *made["stock"], make_answer("g1", "base", "4", set="general")]
    write_jsonl_atomic(config.evaluation_dir / "answers.jsonl", [answer.to_row() for answer in answers])
    places = ["--config", str(tmp_path / "config.yaml"), "--answers", str(config.evaluation_dir)]
    main([*places, "--runs", "4", "--questions", "9"])
    printed = capsys.readouterr().out
    assert "drawn from 11 questions about" in printed and "\n| correctness | 11 |" in printed
    assert "base against itself, a verdict in at most 6%, correctness: not measured" in printed
    assert "names swapped, a verdict in at most 6%, correctness: met" in printed
    assert not any(example.output in printed for example in examples)


def test_a_folder_without_answers_to_these_questions_is_one_line(tmp_path: Path) -> None:
    config, _ = write_run(tmp_path)
    write_jsonl_atomic(config.evaluation_dir / "answers.jsonl", [make_answer("elsewhere", "base", "x").to_row()])
    with pytest.raises(PipelineError, match=r"has no question of .* that base and tuned answered"):
        main(["--config", str(tmp_path / "config.yaml"), "--answers", str(config.evaluation_dir)])


def test_models_of_a_run_are_needed_where_no_answers_are_given(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(PipelineError, match=r"run  python export_gguf.py  first"):
        main(["--config", str(tmp_path / "config.yaml")])


def test_real_models_are_asked_once_for_each_sample_with_a_seed_for_each_question(tmp_path: Path, tiny_phi3: Path) -> None:
    config, examples = write_run(tmp_path, count=4)
    config.gguf_dir.mkdir()
    models = {}
    for side in ("base", "tuned"):
        convert(tiny_phi3, None, [Output(config.gguf_dir / f"{side}.gguf", "f16", side, False)])
        text = render_modelfile(
            f"{side}.gguf", format=FORMATS[0], system="", temperature=0, top_p=1, top_k=40, num_ctx=512,
        )
        (config.gguf_dir / f"Modelfile.{side}").write_text(text, encoding="utf-8")
        models[side] = {"file": f"gguf/{side}.gguf", "modelfile": f"gguf/Modelfile.{side}"}
    write_json_atomic(config.gguf_dir / "manifest.json", {"details": {"models": models}})
    folder = tmp_path / "calibration"
    record_answers(config, examples, folder, 1.0)
    before = [row for _, row in read_jsonl(folder / "answers.jsonl")]
    assert len(before) == 4 * (6 + 2) and len({(row["side"], row["example_id"], row["text"]) for row in before}) > 16
    seeds = {row["options"]["seed"] for row in before if row["side"] == "base"}
    assert len(seeds) == 4 * 6, "one seed for all questions would make them share their luck"
    record_answers(config, examples, folder, 1.0)
    assert [row for _, row in read_jsonl(folder / "answers.jsonl")] == before
