"""Training rows that the student never saw, or rows of the user's own, as a set of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distill.cases.case_set import CaseSet, Question, Scores, SetName, Source
from distill.config import Config, PromptSection
from distill.metrics.case import Case, Row
from distill.metrics.table import TABLE, score_case
from distill.prompts import strip_citations, to_messages
from distill.records import Answer, TrainingExample

if TYPE_CHECKING:
    from distill.index.embedders import Embedder


def make_heldout_set(
    config: Config, examples: Sequence[TrainingExample], embedder: Embedder | None, name: SetName = "heldout",
    title: str = "Held-out questions",
) -> CaseSet:
    """Rows as a set: each is asked with the configured system prompt, and scored by every metric of distill.metrics.table.

    Questions about one document form a group. Each different text is embedded once for all models, so
    that equal answers get the very same scores; with no embedder, what needs one is None. `score` raises PipelineError from it.
    """
    rows = {example.id: read_row(config.prompt, example) for example in examples}
    vectors: dict[str, np.ndarray] = {}

    def score(answers: Sequence[Answer]) -> list[Scores]:
        cases = read_cases(rows, answers, embedder, vectors)
        return [dict.fromkeys(TABLE) if case is None else score_case(case) for case in cases]

    return CaseSet(
        name=name,
        title=title,
        questions=[make_question(config.prompt, name, example) for example in examples],
        measures={known: metric.measure for known, metric in TABLE.items()},
        primary=config.evaluate.primary_metric,
        score=score,
    )


def make_question(prompt: PromptSection, name: SetName, example: TrainingExample) -> Question:
    """A row as it is asked."""
    return Question(
        set=name, id=example.id, messages=tuple(to_messages(prompt.system, example.instruction)), category=example.category,
        group=name_group(example), text=example.question or example.instruction, reference=example.output,
        sources=list_sources(example),
    )


def name_group(example: TrainingExample) -> str:
    """The document a question is about: that of its best golden chunk, else of its best chunk, wherever that stands.

    A row without sources stands for itself.
    """
    golden = [span for span in example.context if span.chunk_id in example.golden]
    best = max(golden or example.context, key=lambda span: span.score, default=None)
    return best.source if best else f"row {example.id}"


def list_sources(example: TrainingExample) -> tuple[Source, ...]:
    """The chunks as they stand in the prompt, number 1 first."""
    return tuple(Source(span.source, example.instruction[span.start : span.end]) for span in example.context)


# -----------------------------------------------------------------------------
# Scores


def read_row(prompt: PromptSection, example: TrainingExample) -> Row:
    """What an answer to this row is scored against."""
    return Row(prompt, example.instruction, example.question or example.instruction, example.output, list_sources(example))


def read_cases(
    rows: Mapping[str, Row], answers: Sequence[Answer], embedder: Embedder | None, vectors: dict[str, np.ndarray]
) -> list[Case | None]:
    """Each answer beside its row, None for a failed call; `vectors` holds what was embedded before, and gets what is new."""
    asked = [(rows[answer.example_id], answer) for answer in answers if not answer.error]
    if embedder:
        embed_new(embedder, [text for row, answer in asked for text in list_texts(row, answer)], vectors)
    return [None if answer.error else read_case(rows[answer.example_id], answer, vectors) for answer in answers]


def read_case(row: Row, answer: Answer, vectors: Mapping[str, np.ndarray]) -> Case:
    """One answer with its cosines."""
    said, reference, question = list_texts(row, answer)
    return Case(
        row, answer.text, answer.finish_reason, similarity=measure_cosine(vectors, said, reference),
        relevance=measure_cosine(vectors, said, question),
    )


def list_texts(row: Row, answer: Answer) -> tuple[str, str, str]:
    """What is compared by its embedding: answer and reference answer without tags, question."""
    return strip_citations(row.prompt, answer.text), strip_citations(row.prompt, row.reference), row.question.strip()


def embed_new(embedder: Embedder, texts: Sequence[str], vectors: dict[str, np.ndarray]) -> None:
    """Embed each text that was not embedded before; empty ones have no vector."""
    fresh = [text for text in dict.fromkeys(texts) if text and text not in vectors]
    if fresh:
        vectors.update(zip(fresh, embedder.embed(fresh)))


def measure_cosine(vectors: Mapping[str, np.ndarray], said: str, other: str) -> float | None:
    """The cosine of two texts; 0 for an empty answer, None where there is nothing to compare it with."""
    if other not in vectors:
        return None
    return float(vectors[said] @ vectors[other]) if said else 0.0
