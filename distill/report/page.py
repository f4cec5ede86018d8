"""report.html: one file that opens from disk, asks the network for nothing, and trusts no text that a model wrote."""

from __future__ import annotations

import base64
import hashlib
import ntpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import PromptSection
from distill.engines import SIDES
from distill.prompts import is_refusal
from distill.records import Answer, TrainingExample
from distill.report.metrics import METRICS, Scores
from distill.report.results import Results
from distill.report.statistics import Comparison

FOLDER = Path(__file__).parent
PLOT_WIDTH = 240
# Ends of the plot's axis, in score points: the first that holds every interval.
AXIS_ENDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
FILTERS = {
    "all": "All", "tuned": "Tuned better", "base": "Base better", "same": "Same", "failed": "Failed", "refused": "Refused",
}


@dataclass(frozen=True)
class Reply:
    """One side's answer as the reader shows it; `scores` are (metric name, value), the primary metric first."""

    side: str
    answer: Answer
    refused: bool
    scores: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Card:
    """One question of the side-by-side reader. `tags` are the filters it passes; `sources` are (number, file name, text)."""

    number: int
    question: str
    category: str
    reference: str
    replies: Sequence[Reply]
    difference: float | None
    sources: Sequence[tuple[int, str, str]]
    instruction: str
    tags: Sequence[str]


def render_page(prompt: PromptSection, results: Results, summary: Mapping[str, Any], texts: bool = True) -> str:
    """The whole page. Everything is escaped: only this package's own style and script are let through.

    Without `texts` it holds figures alone: no question, source or answer. A browser reads no encrypted page.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=format_score, signed=format_signed, title=format_title)
    # Text mode reads any line end as LF, which is what a browser hashes.
    style, script = (f"\n{(FOLDER / name).read_text(encoding='utf-8')}" for name in ("page.css", "page.js"))
    cards = make_cards(prompt, results, summary["primary_metric"]) if texts else []
    return environment.get_template("page.html.j2").render(
        summary=summary, verdict=results.verdict, primary=results.metrics[summary["primary_metric"]], metrics=METRICS,
        comparisons=results.metrics, categories=results.categories,
        plot=Plot(list(results.metrics.values()), summary["smallest_difference"]),
        changed={sign: list_changes(results, sign) for sign in (1, -1)}, texts=texts, cards=cards,
        filters=[(tag, label, sum(tag in card.tags for card in cards)) for tag, label in FILTERS.items()],
        style=Markup(style), style_hash=hash_inline(style), script=Markup(script), script_hash=hash_inline(script),
    )


def hash_inline(text: str) -> str:
    """The page's content security policy allows inline style and script by this hash alone (CSP level 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def list_changes(results: Results, sign: int) -> list[str]:
    """The metrics that may decide and whose interval lies wholly above (sign 1) or below (-1) zero."""
    return [
        name
        for name, comparison in results.metrics.items()
        if METRICS[name].decides and comparison and comparison.interval and min(sign * end for end in comparison.interval) > 0
    ]


def format_score(value: float | None) -> str:
    """Three decimals."""
    return "-" if value is None else f"{value:.3f}"


def format_signed(value: float | None) -> str:
    """Three decimals with a sign; a zero has none."""
    return "-" if value is None else f"{value:+.3f}" if round(value, 3) else "0.000"


def format_title(name: str) -> str:
    """reference_similarity as Reference similarity."""
    return name.replace("_", " ").capitalize()


# -----------------------------------------------------------------------------
# The interval plot


class Plot:
    """Where differences lie on one axis that all rows share, in SVG units around a zero in the middle."""

    width = PLOT_WIDTH

    def __init__(self, comparisons: Sequence[Comparison | None], smallest_difference: float) -> None:
        shown = [comparison for comparison in comparisons if comparison is not None]
        widest = max(smallest_difference, *(abs(v) for c in shown for v in (c.difference, *(c.interval or ()))), 0.0)
        self.end = next((end for end in AXIS_ENDS if widest <= end), AXIS_ENDS[-1])

    def x(self, value: float) -> float:
        """The place of a value; the axis ends a little before the drawing does."""
        return round(value / self.end * (self.width / 2 - 6), 1)

    def tone(self, comparison: Comparison) -> str:
        """The class that colours a row: up, down, or flat where the interval holds zero."""
        if comparison.interval is None or comparison.interval[0] <= 0 <= comparison.interval[1]:
            return "flat"
        return "up" if comparison.difference > 0 else "down"


# -----------------------------------------------------------------------------
# The side-by-side reader


def make_cards(prompt: PromptSection, results: Results, primary: str) -> list[Card]:
    """One card for each question, in the order of heldout.jsonl."""
    rows = zip(results.examples, *(zip(results.answers[side], results.scores[side]) for side in SIDES))
    return [
        make_card(prompt, number, example, dict(zip(SIDES, sides)), primary)
        for number, (example, *sides) in enumerate(rows, start=1)
    ]


def make_card(
    prompt: PromptSection, number: int, example: TrainingExample, sides: Mapping[str, tuple[Answer, Scores]], primary: str
) -> Card:
    """A question with both answers."""
    replies = [
        Reply(side, answer, not answer.error and is_refusal(prompt, answer.text), order_scores(scores, primary))
        for side, (answer, scores) in sides.items()
    ]
    base, tuned = (scores[primary] for _, scores in sides.values())
    difference = None if base is None or tuned is None else tuned - base
    return Card(
        number=number,
        question=example.question or shorten(example.instruction),
        category=example.category,
        reference=example.output,
        replies=replies,
        difference=difference,
        sources=[
            (n, ntpath.basename(span.source), example.instruction[span.start : span.end])
            for n, span in enumerate(example.context, start=1)
        ],
        instruction=example.instruction,
        tags=list_tags(replies, difference),
    )


def order_scores(scores: Scores, primary: str) -> list[tuple[str, float]]:
    """What applies to the row, the primary metric first; of the tutorial's heuristics the mean alone."""
    names = [primary, *(name for name in scores if name != primary and (METRICS[name].decides or name == "tutorial_score"))]
    return [(name, scores[name]) for name in names if scores[name] is not None]


def list_tags(replies: Sequence[Reply], difference: float | None) -> list[str]:
    """The filters that show a card."""
    tags = ["all"]
    if any(reply.answer.error for reply in replies):
        tags.append("failed")
    elif difference is not None:
        tags.append("tuned" if difference > 0 else "base" if difference < 0 else "same")
    return tags + ["refused"] * any(reply.refused for reply in replies)


def shorten(text: str, length: int = 160) -> str:
    """The end of a prompt without a known question: that is where people ask."""
    line = " ".join(text.split())
    return line if len(line) <= length else "..." + line[-length:]
