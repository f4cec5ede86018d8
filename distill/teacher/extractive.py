"""A teacher without a model: it answers with the sentences of the sources that lie nearest to the question, each cited.

Deterministic and offline. It writes nothing of its own, so its rows say "extractive (no model)".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.config import PromptSection, TeacherSection
from distill.index.embedders import Embedder
from distill.prompts import normalise, render_citation
from distill.sentences import split_sentences

TEACHER_NAME = "extractive (no model)"


class EmbedOnce:
    """An embedder that embeds each distinct text once: questions share chunks, and chunks share sentences."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See Embedder."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if fresh:
            self._vectors.update(zip(fresh, self._embedder.embed(fresh)))
        return np.stack([self._vectors[text] for text in texts])


@dataclass(frozen=True)
class Candidate:
    """A sentence of one question's sources: the source's number, counted from 1, and the sentence's place in it."""

    text: str
    number: int
    place: int


def answer_all(
    embedder: Embedder, prompt: PromptSection, section: TeacherSection, questions: Sequence[tuple[str, Sequence[str]]]
) -> list[str]:
    """One answer per (question, texts of its chunks); the refusal where no sentence reaches min_sentence_score.

    Each distinct text is embedded once. Raises PipelineError from the embedder.
    """
    candidates = [list_candidates(chunks) for _, chunks in questions]
    texts = [question for question, _ in questions] + [each.text for some in candidates for each in some]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    vectors = embedder.embed(list(places))
    return [
        answer(prompt, section, some, score(vectors, places, question, some))
        for (question, _), some in zip(questions, candidates)
    ]


def list_candidates(chunks: Sequence[str]) -> list[Candidate]:
    """Every sentence once, from the first source that has it: neighbouring chunks overlap."""
    found: dict[str, Candidate] = {}
    for number, chunk in enumerate(chunks, start=1):
        for place, sentence in enumerate(split_sentences(chunk)):
            found.setdefault(normalise(sentence), Candidate(sentence, number, place))
    return list(found.values())


def score(vectors: np.ndarray, places: dict[str, int], question: str, candidates: Sequence[Candidate]) -> list[float]:
    """The cosine of each candidate with the question, rounded so that equals stay equal."""
    rows = [places[candidate.text] for candidate in candidates]
    return [round(float(value), 6) for value in vectors[rows] @ vectors[places[question]]]


def answer(prompt: PromptSection, section: TeacherSection, candidates: Sequence[Candidate], scores: Sequence[float]) -> str:
    """The best sentences in the order of the sources, each with its citation where the prompt asks for one."""
    good = [pair for pair in zip(scores, candidates) if pair[0] >= section.min_sentence_score]
    best = sorted(good, key=lambda pair: (-pair[0], pair[1].number, pair[1].place))[: section.sentences]
    chosen = sorted((candidate for _, candidate in best), key=lambda candidate: (candidate.number, candidate.place))
    parts = [part for each in chosen for part in (each.text, render_citation(prompt, each.number))]
    return " ".join(part for part in parts if part) or prompt.refusal
