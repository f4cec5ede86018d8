"""loss.png: drawn whatever the log holds, and it shows what the log says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from distill.files import write_jsonl_atomic
from distill.training.chart import draw_loss, draw_training, draw_validation, read_points, smooth

TRAINING = [{"step": step, "loss": 1 / step, "seconds": step} for step in range(1, 41)]
VALIDATION = [{"step": step, "eval_loss": loss, "seconds": step} for step, loss in ((10, 0.9), (20, 0.5), (30, 0.6))]


@pytest.mark.parametrize("rows", [
    pytest.param([], id="nothing"),
    pytest.param(TRAINING[:1], id="one row"),
    pytest.param(TRAINING, id="training"),
    pytest.param(TRAINING + VALIDATION, id="both"),
    pytest.param(VALIDATION[:1], id="one measurement"),
    pytest.param([{"step": 1, "loss": None}, {"step": 1, "eval_loss": None}], id="no number"),
])
def test_any_log_gives_a_picture(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    write_jsonl_atomic(tmp_path / "log.jsonl", rows)
    draw_loss(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_picture_changes_with_the_log(tmp_path: Path) -> None:
    pictures = set()
    for rows in (TRAINING, TRAINING + VALIDATION, TRAINING[:1]):
        write_jsonl_atomic(tmp_path / "log.jsonl", rows)
        draw_loss(tmp_path / "log.jsonl", tmp_path / "loss.png")
        pictures.add((tmp_path / "loss.png").read_bytes())
    assert len(pictures) == 3


def list_lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> steps and losses of every line."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_training_is_shown_raw_and_smooth() -> None:
    axes = Figure().add_subplot()
    draw_training(axes, *read_points(TRAINING + VALIDATION, "loss"))
    lines = list_lines(axes)
    assert lines["training, as logged"] == ([row["step"] for row in TRAINING], [row["loss"] for row in TRAINING])
    assert len(lines["training, mean of 4"][1]) == 40 and lines["training, mean of 4"][1][-1] > TRAINING[-1]["loss"]


def test_a_single_loss_is_a_visible_point() -> None:
    axes = Figure().add_subplot()
    draw_training(axes, [1], [0.5])
    (line,) = axes.get_lines()
    assert line.get_marker() == "o"


def test_lowest_validation_loss_is_marked_as_the_best_checkpoint() -> None:
    axes = Figure().add_subplot()
    draw_validation(axes, *read_points(TRAINING + VALIDATION, "eval_loss"))
    lines = list_lines(axes)
    assert lines["validation"] == ([10, 20, 30], [0.9, 0.5, 0.6])
    assert lines["best checkpoint: step 20, 0.5000"] == ([20], [0.5])


def test_of_two_equal_checkpoints_the_earlier_is_the_best() -> None:
    axes = Figure().add_subplot()
    draw_validation(axes, [10, 20], [0.5, 0.5])
    assert "best checkpoint: step 10, 0.5000" in list_lines(axes)


@pytest.mark.parametrize(("losses", "means", "width"), [
    ([], [], 1), ([3.0], [3.0], 1), ([1.0] * 19, [1.0] * 19, 1), ([0.0, 2.0] * 10, [0.0] + [1.0] * 19, 2),
])
def test_running_mean_goes_over_a_tenth_of_the_run(losses: list[float], means: list[float], width: int) -> None:
    assert smooth(losses) == (means, width)
