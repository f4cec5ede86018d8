from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.config import PromptSection, TeacherSection
from distill.prompts import find_citations, normalise
from distill.teacher.extractive import EmbedOnce, answer_all
from tests.servers import embed_words

PROMPT = PromptSection()
TEACHER = TeacherSection(provider="extractive", sentences=2, min_sentence_score=0.3)


class CountingEmbedder:
    """Bag-of-words vectors; remembers what was embedded."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See Embedder."""
        self.calls.append(list(texts))
        return embed_words(texts, dim=256)


PUMP = "The pump limit is 80 degrees. Paint is blue on all sides. The pump limit needs a sensor."
VALVE = "Valves are made of brass and steel. The pump limit is set by the valve."


def test_the_nearest_sentences_are_cited_in_the_order_of_the_sources() -> None:
    answer = answer_all(CountingEmbedder(), PROMPT, TEACHER, [("What is the pump limit?", [VALVE, PUMP])])[0]
    assert answer == "The pump limit is set by the valve. [Source 1] The pump limit is 80 degrees. [Source 2]"
    assert find_citations(PROMPT, answer) == [1, 2]


def test_the_configured_citation_is_used() -> None:
    prompt = PromptSection(citation="(chunk_{number})")
    answer = answer_all(CountingEmbedder(), prompt, TEACHER, [("What is the pump limit?", [PUMP])])[0]
    assert answer.startswith("The pump limit is 80 degrees. (chunk_1) ")


def test_without_a_citation_tag_the_sentences_stand_alone() -> None:
    answer = answer_all(CountingEmbedder(), PromptSection(citation=""), TEACHER, [("What is the pump limit?", [PUMP, VALVE])])
    assert answer == ["The pump limit is 80 degrees. The pump limit is set by the valve."]


def test_nothing_near_enough_is_the_refusal() -> None:
    asked = [("Which moons has Jupiter?", [PUMP, VALVE]), ("What is the pump limit?", []), ("What is it?", ["no sentence"])]
    assert answer_all(CountingEmbedder(), PROMPT, TEACHER, asked) == [PROMPT.refusal] * 3


def test_a_sentence_of_overlapping_chunks_is_cited_once_by_the_first() -> None:
    teacher = TEACHER.model_copy(update={"sentences": 5})
    answer = answer_all(CountingEmbedder(), PROMPT, teacher, [("What is the pump limit?", [PUMP, PUMP])])[0]
    assert find_citations(PROMPT, answer) == [1, 1]


def test_equal_scores_go_to_the_earlier_sentence() -> None:
    chunks = ["The pump limit one is here.", "The pump limit two is here."]
    teacher = TEACHER.model_copy(update={"sentences": 1})

    class Flat:
        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.ones((len(texts), 1), np.float32)

    assert answer_all(Flat(), PROMPT, teacher, [("pump?", chunks)]) == ["The pump limit one is here. [Source 1]"]


def test_all_questions_are_one_batch_and_no_text_is_embedded_twice() -> None:
    embedder = CountingEmbedder()
    asked = [("What is the pump limit?", [PUMP, VALVE]), ("What is brass for?", [VALVE, PUMP])]
    first = answer_all(embedder, PROMPT, TEACHER, asked)
    assert len(embedder.calls) == 1 and len(embedder.calls[0]) == len(set(embedder.calls[0])) == 2 + 5
    assert "What is the pump limit?" in embedder.calls[0], "no prefix: question and sentences are on the same footing"
    assert answer_all(embedder, PROMPT, TEACHER, asked) == first


def test_across_batches_too_every_text_is_embedded_once() -> None:
    embedder = CountingEmbedder()
    once = EmbedOnce(embedder)
    first = once.embed(["a pump", "a valve", "a pump"])
    second = once.embed(["a valve", "a mast"])
    assert embedder.calls == [["a pump", "a valve"], ["a mast"]]
    assert (first[0] == first[2]).all() and (first[1] == second[0]).all()


def test_every_part_of_an_answer_stands_in_its_source() -> None:
    teacher = TEACHER.model_copy(update={"sentences": 4, "min_sentence_score": -1.0})
    answer = answer_all(CountingEmbedder(), PROMPT, teacher, [("What is the pump limit?", [PUMP, VALVE])])[0]
    parts = answer.replace("]", "]\n").splitlines()
    for part in parts:
        text, number = part.strip().rsplit(" [Source ", 1)
        assert normalise(text) in normalise([PUMP, VALVE][int(number[:-1]) - 1])
