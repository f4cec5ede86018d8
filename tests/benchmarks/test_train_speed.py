"""The training benchmark's own arithmetic: which rows it measures, what they come to, and whether a bar is met."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.train_speed import (
    BARS,
    HEADINGS,
    LEAST_TOKENS,
    NAMES,
    ROWS,
    STEPS,
    choose_rows,
    count_step_tokens,
    describe_row,
    print_bar,
    print_table,
)


def make_run(effective: int, name: str, rate: float, **changes: Any) -> dict[str, Any]:
    """One line of train_speed.jsonl."""
    return {
        "effective": effective, "name": name, "rate": rate, "plan": "as planned", "row_tokens": 1_000.0, "allocated": 20e9,
        "reserved": 22.4e9, "losses": [9.0] * 20 + [1.0, 2.0, 3.0, 4.0, 5.0], "startup": 61.6, **changes,
    }


def describe(run: dict[str, Any], reference: float | None = None, ceiling: float | None = None) -> dict[str, str]:
    return dict(zip(HEADINGS, describe_row(run, reference, ceiling), strict=True))


# -----------------------------------------------------------------------------
# Rows


def test_without_a_choice_the_whole_table_is_measured_the_reference_first() -> None:
    rows = choose_rows("")
    assert len(rows) == len(set(rows)) == 8 and rows[0] == (8, "reference") and (32, "ours") in rows
    assert all(rows.index((effective, "reference")) < rows.index((effective, "ours")) for effective in ROWS)


def test_a_choice_is_measured_in_its_own_order() -> None:
    assert choose_rows("32:ours,8:ours-24") == [(32, "ours"), (8, "ours-24")]


def test_every_row_has_a_name_and_every_bar_a_row() -> None:
    assert {name for names in ROWS.values() for name in names} == set(NAMES)
    assert set(BARS) <= set(choose_rows(""))


# -----------------------------------------------------------------------------
# Figures


@pytest.mark.parametrize("effective", [1, 8])
def test_tokens_of_a_step_are_its_rows_without_the_first_step(effective: int) -> None:
    counts = list(range(STEPS * effective))
    found = count_step_tokens(counts, effective)
    assert len(found) == STEPS - 1 and sum(found) == sum(counts[effective:])
    assert found[0] == sum(range(effective, 2 * effective))


def test_a_run_is_told_against_the_reference_its_prediction_and_the_ceiling() -> None:
    cells = describe(make_run(8, "ours-24", 22_252.4, predicted=20.5e9), reference=10_000.0, ceiling=60_000.0)
    assert cells == {
        "batch": "8", "run": "ours, 24 GB", "plan": "as planned", "tokens/s": "22,252", "examples/s": "22.3",
        "against reference": "2.23", "allocated GB": "20.0", "predicted": "20.5 (+2%)", "reserved GB": "22.4",
        "loss, last 5": "3.0000", "start-up s": "62", "of ceiling": "37%",
    }


@pytest.mark.parametrize(("predicted", "expected"), [(22e9, "22.0 (+10%)"), (18e9, "18.0 (-10%)"), (20e9, "20.0 (+0%)")])
def test_a_prediction_is_told_by_how_much_it_is_over(predicted: float, expected: str) -> None:
    assert describe(make_run(8, "ours", 1.0, predicted=predicted))["predicted"] == expected


def test_what_is_not_known_stays_empty() -> None:
    cells = describe(make_run(32, "reference", 9_000.0))
    assert [name for name, cell in cells.items() if not cell] == ["against reference", "predicted", "of ceiling"]


# -----------------------------------------------------------------------------
# Bars


@pytest.mark.parametrize(
    ("value", "least", "printed"),
    [(2.0, 2.0, "2.00, bar 2.0: met"), (1.999, 2.0, "2.00, bar 2.0: MISSED"), (30_950.4, 28_000, "30,950.40, bar 28,000: met")],
)
def test_a_bar_is_met_from_its_own_value_on(
    value: float, least: float, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_bar("speed", value, least)
    assert capsys.readouterr().out == f"\nspeed: {printed}\n"


def read_bars(rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_table(rows)
    return [line for line in capsys.readouterr().out.splitlines() if "bar " in line]


def test_each_batch_is_held_against_its_own_reference(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [make_run(8, "reference", 10_000.0), make_run(8, "ours", 19_000.0), make_run(32, "reference", 20_000.0),
            make_run(32, "ours", LEAST_TOKENS * 2.0)]
    assert read_bars(rows, capsys) == [
        "ours, all of the card at 32, times the reference: 2.80, bar 2.2: met",
        "ours, all of the card at 8, times the reference: 1.90, bar 2.0: MISSED",
        "ours at 32, tokens/s: 56,000.00, bar 28,000: met",
    ]


def test_without_a_reference_there_is_no_ratio_to_judge(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [make_run(8, "ours", 19_000.0), make_run(32, "ours", 27_999.0), make_run(32, "trl-packing", 1.0)]
    assert read_bars(rows, capsys) == ["ours at 32, tokens/s: 27,999.00, bar 28,000: MISSED"]


def test_the_ceiling_is_the_measured_rate_of_products_over_a_tokens_work(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([make_run(8, "reference", 10_000.0), make_run(8, "ours", 30_000.0, matrix_tflops=700.0, flops=1.4e10)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[-2].strip() for line in lines if line.startswith("| 8")] == ["20%", "60%"]
