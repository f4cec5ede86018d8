"""The scores of one answer. Every score runs from 0 to 1 and more is better; None where a metric does not apply to a row.

A metric's name is its function's name and its definition is the first paragraph of the docstring: the report prints both.
Scores are rounded to six decimals, so that the noise of floating point never looks like a difference.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from distill.config import PromptSection
from distill.errors import PipelineError
from distill.prompts import find_citations, is_refusal, strip_citations, wants_citations
from distill.records import Answer, TrainingExample

if TYPE_CHECKING:
    from distill.index.embedders import Embedder

Scores = dict[str, float | None]

# A word, or a number with its decimals: "4.2" is one token, the full stop after a sentence is none.
TOKEN = re.compile(r"\w+(?:[.,]\w+)*")
# The tutorial's list; it does not know the refusal sentence that the prompt asks for.
TUTORIAL_REFUSALS = ("i cannot", "i'm not able", "i don't have", "as an ai")


@dataclass(frozen=True)
class Case:
    """One answer beside what it is scored against; `similarity` is the cosine with the reference answer, if there is one."""

    prompt: PromptSection
    example: TrainingExample
    answer: Answer
    similarity: float | None = None


# -----------------------------------------------------------------------------
# Against the reference answer


def reference_similarity(case: Case) -> float | None:
    """Cosine of the sentence embeddings of answer and reference answer, without citation tags; below 0 counts as 0."""
    return None if case.similarity is None else min(max(case.similarity, 0.0), 1.0)


def reference_overlap(case: Case) -> float | None:
    """F1 of the words and numbers that answer and reference answer share, without citation tags.

    The token F1 of SQuAD (Rajpurkar et al. 2016), with articles kept and decimals held together.
    """
    answer, reference = (count_tokens(case.prompt, text) for text in (case.answer.text, case.example.output))
    if not reference:
        return None
    return f1((answer & reference).total(), answer.total(), reference.total())


def count_tokens(prompt: PromptSection, text: str) -> Counter[str]:
    """How often each lower-case token stands in a text outside its citation tags."""
    return Counter(TOKEN.findall(strip_citations(prompt, text).lower()))


def f1(shared: int, left: int, right: int) -> float:
    """Harmonic mean of shared/left and shared/right; 0 when nothing is shared."""
    return 2 * shared / (left + right) if shared else 0.0


# -----------------------------------------------------------------------------
# Citations and refusals


def citation_validity(case: Case) -> float | None:
    """Share of the answer's citations that name a source it was given; 0 if it cites nothing but the reference answer does.

    1 when neither cites. Not for rows without sources, nor where the prompt asks for no tag.
    """
    if not case.example.context or not wants_citations(case.prompt):
        return None
    cited = find_citations(case.prompt, case.answer.text)
    if not cited:
        return 0.0 if find_citations(case.prompt, case.example.output) else 1.0
    return sum(1 <= number <= len(case.example.context) for number in cited) / len(cited)


def citation_match(case: Case) -> float | None:
    """F1 of the set of sources that the answer cites against the set that the reference answer cites.

    1 when neither cites. Not for rows without sources, nor where the prompt asks for no tag.
    """
    if not case.example.context or not wants_citations(case.prompt):
        return None
    cited, expected = (set(find_citations(case.prompt, text)) for text in (case.answer.text, case.example.output))
    return 1.0 if not cited and not expected else f1(len(cited & expected), len(cited), len(expected))


def refusal_right(case: Case) -> float | None:
    """1 if the answer refuses exactly when the reference answer refuses, else 0.

    Not where no refusal is configured.
    """
    if not case.prompt.refusal:
        return None
    return float(is_refusal(case.prompt, case.answer.text) == is_refusal(case.prompt, case.example.output))


def finished(case: Case) -> float | None:
    """1 if the model ended the answer by itself, 0 if it was cut off at max_tokens."""
    return float(case.answer.finish_reason != "length")


# -----------------------------------------------------------------------------
# The tutorial's heuristics, computed as its score_answer does: they reward length and never decide


def tutorial_length(case: Case) -> float | None:
    """1 for more than 100 characters, 0.5 for more than 50, else 0."""
    length = len(case.answer.text)
    return 1.0 if length > 100 else 0.5 if length > 50 else 0.0


def tutorial_terminology(case: Case) -> float | None:
    """Five times the share of the prompt's different words that the answer uses, at most 1."""
    words, used = (set(text.lower().split()) for text in (case.example.instruction, case.answer.text))
    return min(5 * len(words & used) / max(len(words), 1), 1.0)


def tutorial_no_refusal(case: Case) -> float | None:
    """1 unless the answer holds "I cannot", "I'm not able", "I don't have" or "as an AI"; punishes right refusals too."""
    return float(not any(phrase in case.answer.text.lower() for phrase in TUTORIAL_REFUSALS))


def tutorial_structure(case: Case) -> float | None:
    """1 if the answer holds at least two full stops, else 0."""
    return float(case.answer.text.count(".") >= 2)


TUTORIAL_PARTS = (tutorial_length, tutorial_terminology, tutorial_no_refusal, tutorial_structure)


def tutorial_score(case: Case) -> float | None:
    """Mean of the tutorial's four heuristics."""
    return fmean(part(case) for part in TUTORIAL_PARTS)


# -----------------------------------------------------------------------------
# The table


@dataclass(frozen=True)
class Metric:
    """A score function, and whether the verdict may rest on it."""

    score: Callable[[Case], float | None]
    decides: bool

    @property
    def name(self) -> str:
        """As in config.yaml, summary.json and the report."""
        return self.score.__name__

    @property
    def definition(self) -> str:
        """One sentence."""
        return " ".join((inspect.getdoc(self.score) or "").split("\n\n")[0].split())


DECIDING = (reference_similarity, reference_overlap, citation_validity, citation_match, refusal_right, finished)
METRICS = {
    metric.name: metric
    for metric in [*(Metric(score, True) for score in DECIDING), *(Metric(s, False) for s in (tutorial_score, *TUTORIAL_PARTS))]
}


def list_unmeasured(prompt: PromptSection) -> dict[str, str]:
    """The metrics that this prompt leaves without meaning, and why."""
    no_tag = dict.fromkeys(("citation_validity", "citation_match"), "prompt.citation is empty")
    no_refusal = {"refusal_right": "prompt.refusal is empty"}
    return (no_tag if not wants_citations(prompt) else {}) | (no_refusal if not prompt.refusal else {})


def require_metric(name: str, prompt: PromptSection | None = None) -> None:
    """Raises PipelineError unless evaluate.primary_metric names a metric that may decide, and with this prompt can."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, [known for known in METRICS if METRICS[known].decides], n=1, cutoff=0)[0]
        raise PipelineError(f"config.yaml evaluate.primary_metric: {name} is unknown: did you mean {near}?")
    if not METRICS[name].decides:
        deciding = ", ".join(metric.name for metric in METRICS.values() if metric.decides)
        raise PipelineError(
            f"config.yaml evaluate.primary_metric: {name} rewards length and must not decide: take one of {deciding}"
        )
    if prompt and (reason := list_unmeasured(prompt).get(name)):
        raise PipelineError(
            f"config.yaml evaluate.primary_metric: {name} cannot be measured, since {reason}: take reference_similarity, say"
        )


# -----------------------------------------------------------------------------
# Scoring


def score_answers(
    prompt: PromptSection, examples: Mapping[str, TrainingExample], answers: Sequence[Answer], embedder: Embedder
) -> list[Scores]:
    """The scores of each answer by metric name; `examples` is by id. A failed answer has none: all are None."""
    rows = [examples[answer.example_id] for answer in answers]
    pairs = [(strip_citations(prompt, answer.text), strip_citations(prompt, row.output)) for answer, row in zip(answers, rows)]
    similarities = measure_similarities(pairs, embedder)
    return [score_case(Case(prompt, *fields)) for fields in zip(rows, answers, similarities)]


def score_case(case: Case) -> Scores:
    """Every metric of one answer."""
    if case.answer.error:
        return dict.fromkeys(METRICS)
    return {name: round_score(metric.score(case)) for name, metric in METRICS.items()}


def round_score(value: float | None) -> float | None:
    """Six decimals: what lies beyond is the noise of floating point."""
    return None if value is None else round(float(value), 6)


def measure_similarities(pairs: Sequence[tuple[str, str]], embedder: Embedder) -> list[float | None]:
    """The cosine of each (answer, reference); None without a reference, 0 without an answer.

    Each different text is embedded once, so that equal answers of base and tuned get the very same score.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair if text))
    if not texts:
        return [None] * len(pairs)
    vectors = dict(zip(texts, embedder.embed(texts)))
    return [None if not right else float(vectors[left] @ vectors[right]) if left else 0.0 for left, right in pairs]


def count_refusals(prompt: PromptSection, examples: Mapping[str, TrainingExample], answers: Sequence[Answer]) -> dict[str, int]:
    """How often each of the four things happened: refused or answered, rightly or wrongly; failed calls are none of them."""
    counts = dict.fromkeys(("right_refusals", "wrong_refusals", "right_answers", "missed_refusals"), 0)
    names = {(True, True): "right_refusals", (True, False): "wrong_refusals", (False, False): "right_answers"}
    for answer in answers:
        if not answer.error:
            said, expected = (is_refusal(prompt, text) for text in (answer.text, examples[answer.example_id].output))
            counts[names.get((said, expected), "missed_refusals")] += 1
    return counts
