from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import PromptSection, TeacherSection
from distill.prompts import find_citations, normalise
from distill.teacher.extractive import EmbedOnce, answer_all, split_sentences
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


@pytest.mark.parametrize(("text", "sentences"), [
    ("The gain is 3.5 dB at 2.45 GHz. It falls by 0.2 dB per metre.", 2),
    ("Use a shielded cable, e.g. Belden 9913, for the run. Ground it once at the mast.", 2),
    ("See Fig. 3 and Eq. (4) for the whole path. The rest follows from it.", 2),
    ("The U.S. Army wrote the standard in 1999. J. Smith signed the final page.", 2),
    ("Nominal output power is 10 W. The limit is 12 W at most. Never exceed it again.", 3),
    ("Is the link margin enough? It must be 6 dB! Otherwise add a bigger antenna.", 3),
    ('He said "the link is down now." Then he left the room.', 2),
    ("The value (see Table 2.1.) is kept as it is written.", 1),
    ("Nobody answered. No. That was not the answer we wanted.", 1),
])
def test_sentences_are_cut_where_they_end(text: str, sentences: int) -> None:
    found = split_sentences(text)
    assert len(found) == sentences and all(sentence in text for sentence in found)


def test_headings_code_tables_links_and_torn_ends_are_left_out() -> None:
    text = """rest of a sentence that began in the chunk before. This one is whole and stays.

# A heading that ends with a full stop.

Underlined heading of this part
===============================

| Column of numbers | Another column of numbers. |

```python
print("a sentence inside code is no sentence.")
```

    indented = code that ends like a sentence.

- The first item of the list needs no full stop
- short one
2. The second list is numbered and counts too.

> A quoted paragraph goes on
> over two lines as one.

Read [the manual](https://example.com/manual) before you begin the work.

The last sentence was cut at the end of"""
    assert split_sentences(text) == [
        "This one is whole and stays.",
        "The first item of the list needs no full stop",
        "The second list is numbered and counts too.",
        "A quoted paragraph goes on over two lines as one.",
    ]


def test_a_chunk_that_begins_inside_code() -> None:
    text = "value = compute(everything)\n```\n\nThe loop ends when the queue is empty.\n\n```python\nmore code is here.\n```"
    assert split_sentences(text) == ["The loop ends when the queue is empty."]


def test_a_list_item_at_which_the_chunk_was_cut_is_left_out() -> None:
    assert split_sentences("- The whole item stays here\n- The torn item is cut off at") == ["The whole item stays here"]


@given(st.text(max_size=300))
def test_any_text_can_be_split_and_nothing_is_invented(text: str) -> None:
    for sentence in split_sentences(text):
        assert sentence == " ".join(sentence.split()) and all(word in text for word in sentence.split())


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
