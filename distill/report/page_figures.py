"""The page's charts in numbers: places on an axis and shares of a bar, all in percent of the drawing's width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.cases.case_set import Measure

Figures = Mapping[str, Any]  # a comparison as summary.json holds it

# Ends of an axis, in score points: the first that holds every interval.
AXIS_ENDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.0)
MARGIN = 3.0  # percent left free at both ends, so that a dot at the end of the axis is a whole dot


def is_better_when_higher(figures: Figures) -> bool:
    """False for measures such as wrong refusals, of which less is better."""
    return figures.get("higher_is_better", True)


def gain(figures: Figures, value: float) -> float:
    """A difference as a gain: positive is good for the tuned model, whichever way the measure counts."""
    return value if is_better_when_higher(figures) else -value


def gain_interval(figures: Figures) -> tuple[float, float] | None:
    """The interval of the gain, low end first; None without one."""
    if not figures.get("interval"):
        return None
    low, high = sorted(gain(figures, end) for end in figures["interval"])
    return low, high


def tone(figures: Figures | None) -> str:
    """The class that colours a comparison: up or down where its interval leaves zero, flat otherwise."""
    interval = gain_interval(figures) if figures else None
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "flat"
    return "up" if interval[0] > 0 else "down"


class Axis:
    """An axis of gains with zero in its middle, wide enough for every comparison that it is made from."""

    def __init__(self, comparisons: Iterable[Figures | None], smallest_difference: float) -> None:
        shown = [figures for figures in comparisons if figures and figures["difference"] is not None]
        values = [abs(value) for c in shown for value in (c["difference"], *(c.get("interval") or ()))]
        widest = max(smallest_difference, *values, 0.0)
        self.end = next((end for end in AXIS_ENDS if widest <= end), AXIS_ENDS[-1])

    @property
    def ticks(self) -> list[float]:
        """Five values from end to end."""
        return [self.end * step / 2 for step in (-2, -1, 0, 1, 2)]

    def at(self, value: float) -> float:
        """The place of a gain; what lies beyond the axis stands at its end."""
        share = max(-1.0, min(1.0, value / self.end))
        return round(50 + share * (50 - MARGIN), 2)


@dataclass(frozen=True)
class Piece:
    """One piece of a bar that is divided into shares; `start` and `width` in percent."""

    label: str
    count: int
    tone: str
    start: float
    width: float


def divide(*parts: tuple[str, int, str]) -> list[Piece]:
    """(label, count, tone) as the pieces of one bar; no pieces of nothing."""
    total = sum(count for _, count, _ in parts)
    pieces: list[Piece] = []
    for label, count, colour in parts if total else ():
        start = sum(piece.width for piece in pieces)
        pieces.append(Piece(label, count, colour, round(start, 2), round(100 * count / total, 2)))
    return pieces


def divide_pairs(figures: Figures) -> list[Piece]:
    """The questions of a comparison by who did better, on the sides where the axis has them."""
    return divide(("base better", figures["losses"], "down"), ("same", figures["ties"], "flat"),
                  ("tuned better", figures["wins"], "up"))


def divide_preferences(counts: Figures) -> list[Piece]:
    """A judge's or people's preferences."""
    return divide(("for base", counts["base"], "down"), ("tie", counts["tie"], "flat"), ("for tuned", counts["tuned"], "up"))


def sort_metrics(metrics: Iterable[str], measures: Mapping[str, Measure], primary: str) -> list[list[str]]:
    """Two lists of names: the metrics that a verdict may rest on, the primary one first, and those that are only shown."""
    others = [name for name in metrics if name != primary]
    first = [primary, *(name for name in others if measures[name].decides)]
    return [first, [name for name in others if name not in first]]
