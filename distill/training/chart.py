"""loss.png: how training and validation loss went, from training_log.jsonl."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from distill.files import read_jsonl

PALE, DARK, WARM = "#9db4c8", "#12436d", "#c2571a"


def draw_loss(log: Path, target: Path) -> None:
    """Every logged loss, their running mean over a tenth of the run, the validation losses, and the lowest of those."""
    from matplotlib.figure import Figure  # without pyplot: no window system is asked for
    from matplotlib.ticker import MaxNLocator

    rows = [row for _, row in read_jsonl(log)]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (answers only)", title="Training loss")
    draw_training(axes, *read_points(rows, "loss"))
    draw_validation(axes, *read_points(rows, "eval_loss"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(frameon=False)
    figure.savefig(target, format="png")


def read_points(rows: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows that have `key`; a value that was no number is a gap."""
    found = [(row["step"], row[key]) for row in rows if key in row]
    return [step for step, _ in found], [math.nan if value is None else value for _, value in found]


def smooth(losses: list[float]) -> tuple[list[float], int]:
    """The running mean, of the same length, and over how many values it goes."""
    width = max(1, len(losses) // 10)
    windows = [losses[max(0, end - width) : end] for end in range(1, len(losses) + 1)]
    return [sum(window) / len(window) for window in windows], width


def draw_training(axes: Any, steps: list[int], losses: list[float]) -> None:
    """A single value is a point, since a line needs two."""
    if not steps:
        return
    means, width = smooth(losses)
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, losses, color=PALE, linewidth=1, marker=marker, label="training, as logged")
    if width > 1:
        axes.plot(steps, means, color=DARK, linewidth=2, label=f"training, mean of {width}")


def draw_validation(axes: Any, steps: list[int], losses: list[float]) -> None:
    """The points of the checkpoints; the lowest is the checkpoint that is kept."""
    if not steps:
        return
    axes.plot(steps, losses, color=WARM, linewidth=1, marker="o", markersize=4, label="validation")
    known = [(loss, step) for step, loss in zip(steps, losses) if math.isfinite(loss)]
    if known:
        loss, step = min(known)
        label = f"best checkpoint: step {step}, {loss:.4f}"
        axes.plot([step], [loss], color=WARM, linestyle="none", marker="*", markersize=14, label=label)
