"""Every score by its name in config.yaml, summary.json and the report; a docstring's first paragraph is its definition."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distill.cases.case_set import Measure, Scores, Source
from distill.config import PromptSection
from distill.errors import PipelineError
from distill.metrics.accuracy import completeness, correctness, technical_accuracy
from distill.metrics.case import Case, Row
from distill.metrics.citations import citation_match, citation_precision, citation_recall, citation_validity
from distill.metrics.grounding import grounding
from distill.metrics.guard import guard_passed
from distill.metrics.refusals import refusal_right, right_refusal, wrong_refusal
from distill.metrics.shape import finished, length_ratio, reference_overlap, reference_similarity, relevance
from distill.metrics.tutorial import PARTS, tutorial_score
from distill.prompts import find_citations, wants_citations

ScoreFunction = Callable[[Case], "float | None"]


@dataclass(frozen=True)
class Metric:
    """A score from 0 to 1, None where it does not apply, and what it means."""

    score: ScoreFunction
    measure: Measure


def describe(score: ScoreFunction, decides: bool) -> Metric:
    """A metric with the first paragraph of its docstring as its definition."""
    definition = " ".join((inspect.getdoc(score) or "").split("\n\n")[0].split())
    return Metric(score, Measure(definition, decides, higher_is_better=score is not wrong_refusal))


# Length alone raises none of these: tests pad answers to prove it.
DECIDING = (
    correctness, grounding, technical_accuracy, completeness, citation_match, citation_precision, citation_validity,
    refusal_right,
)
SHOWN = (
    citation_recall, right_refusal, wrong_refusal, guard_passed, relevance, reference_similarity, reference_overlap,
    length_ratio, finished, tutorial_score, *PARTS,
)
FREE = ("grounding", "guard_passed", "citation_validity")  # need no reference answer
TABLE = {score.__name__: describe(score, score in DECIDING) for score in (*DECIDING, *SHOWN)}


def score_case(case: Case) -> Scores:
    """Every score of one answer."""
    return {name: round_score(metric.score(case)) for name, metric in TABLE.items()}


def round_score(value: float | None) -> float | None:
    """Six decimals: what lies beyond is the noise of floating point."""
    return None if value is None else round(float(value), 6)


def score_free(prompt: PromptSection, question: str, sources: Sequence[Source], answer: str) -> Scores:
    """`grounding`, `guard_passed`, `citation_validity` of an answer without a reference; None where one does not apply.

    An answer that cites nothing has no citation_validity: nobody knows whether it should have.
    """
    case = Case(Row(prompt, question, question, "", tuple(sources)), answer)
    scores = {name: round_score(TABLE[name].score(case)) for name in FREE}
    return scores | ({} if find_citations(prompt, answer) else {"citation_validity": None})


def list_unmeasured(prompt: PromptSection) -> dict[str, str]:
    """The metrics that this prompt leaves without meaning, and why."""
    tags = ("citation_validity", "citation_match", "citation_precision", "citation_recall")
    refusals = ("refusal_right", "right_refusal", "wrong_refusal")
    no_tag = dict.fromkeys(tags, "prompt.citation is empty") if not wants_citations(prompt) else {}
    return no_tag | (dict.fromkeys(refusals, "prompt.refusal is empty") if not prompt.refusal else {})


def require_metric(name: str, prompt: PromptSection | None = None) -> None:
    """Raises PipelineError unless evaluate.primary_metric names a metric that may decide, and with this prompt can."""
    deciding = [known for known, metric in TABLE.items() if metric.measure.decides]
    if name not in TABLE:
        near = difflib.get_close_matches(name, deciding, n=1, cutoff=0)[0]
        raise PipelineError(f"config.yaml evaluate.primary_metric: {name} is unknown: did you mean {near}?")
    if name not in deciding:
        raise PipelineError(
            f"config.yaml evaluate.primary_metric: {name} can be raised without a better answer and must not decide: "
            f"take one of {', '.join(deciding)}"
        )
    if prompt and (reason := list_unmeasured(prompt).get(name)):
        raise PipelineError(
            f"config.yaml evaluate.primary_metric: {name} cannot be measured, since {reason}: take correctness, say"
        )
