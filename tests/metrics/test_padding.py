"""Length alone raises no deciding metric: answers right, half right and wrong are padded before and behind, and never gain."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.cases.case_set import Source
from distill.metrics.passages import list_passages
from distill.metrics.table import TABLE
from tests.metrics.worlds import DECIDING, PROMPT, QUESTION, REFERENCE, REFUSAL, make_case

ANSWERS = {
    "right": REFERENCE,
    "right in other words": "2400 MHz gives 12.5 dBi; at the band's edges the gain is 3 dB lower [Source 1] [Source 2].",
    "half right": "The gain is 12.5 dBi at 2.4 GHz [Source 1].",
    "one number wrong": "The antenna gain is 11.5 dBi at 2.4 GHz [Source 1]. At the edges it falls by 3 dB [Source 2].",
    "all wrong": "The antenna gain is 30 dBi at 9 GHz [Source 9].",
    "beside the question": "The X100 comes in two colours [Source 1].",
    "made up": "The antenna was designed in Finland by a team of thirty engineers.",
    "uncited": "12.5 dBi at 2.4 GHz.",
    "refusal": REFUSAL,
    "refusal in other words": "The provided documents do not mention the gain.",
    "nothing": "",
}
PADDINGS = {
    "courtesy": "I hope this helps! Let me know if you have any other questions.",
    "opening": "Sure, here is a detailed answer to your question, based on the documents that you provided.",
    "hedge": "Please keep in mind that values may vary with conditions, and that the manufacturer should be consulted.",
    "filler": "This is an important topic for many engineers. It is worth understanding well. There are things to consider.",
    "question": QUESTION,
    "question as a sentence": "You want to know the antenna gain of the X100 and how it changes over the band.",
    "general knowledge": "Antennas turn power into radio waves. A larger one is usually more directive than a small one.",
    "source, unrelated": "The unit meets MIL-STD-810H. It weighs 3.2 kg.",
    "source, unrelated, too": "The radome is made of glass fibre. Paint must hold no metal.",
    "summary": "In summary, the above covers the main points that matter for a good understanding of the subject.",
    "list": "- First point\n- Second point\n- Third point",
    "headings": "## Overview\n\n## Details\n\n## Conclusion",
    "lorem": "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " * 5,
    "numbers": "For comparison: 1, 2, 3, 4 and 5 are numbers, and so are 100 and 1000.",
}
REFERENCES = {"answers": REFERENCE, "refuses": REFUSAL}


def score_deciding(answer: str, reference: str) -> dict[str, float | None]:
    case = make_case(answer, reference)
    return {name: TABLE[name].score(case) for name in DECIDING}


def assert_not_raised(answer: str, padded: str, reference: str) -> None:
    before, after = (score_deciding(text, reference) for text in (answer, padded))
    raised = {name: (before[name], after[name]) for name in DECIDING if rises(before[name], after[name])}
    assert not raised, padded


def join(parts: list[str], between: str) -> str:
    """The parts in their order; behind a list or a heading always on a new line."""
    text = parts[0]
    for part in parts[1:]:
        text += ("\n" if text[-1:].isalpha() else between) + part
    return text


def rises(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after > before + 1e-9


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_padding_raises_nothing(answer: str, padding: str, reference: str) -> None:
    said, more = ANSWERS[answer], PADDINGS[padding]
    for between in (" ", "\n", "\n\n"):
        for parts in ([said, more], [more, said], [more, said, more]):
            assert_not_raised(said, join(parts, between), REFERENCES[reference])


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_repeating_itself_raises_nothing(answer: str, reference: str) -> None:
    said = ANSWERS[answer]
    for padded in (f"{said} {said}", f"{said}\n\n{said}\n\n{said}", f"{said} In other words: {said}"):
        assert_not_raised(said, padded, REFERENCES[reference])


@settings(deadline=None, max_examples=150)
@given(
    answer=st.sampled_from(sorted(ANSWERS)), reference=st.sampled_from(sorted(REFERENCES)), at=st.integers(0, 3),
    paddings=st.lists(st.sampled_from(sorted(PADDINGS)), min_size=1, max_size=4), between=st.sampled_from([" ", "\n", "\n\n"]),
)
def test_any_mix_of_paddings_raises_nothing(answer: str, reference: str, at: int, paddings: list[str], between: str) -> None:
    parts = [PADDINGS[name] for name in paddings]
    parts.insert(min(at, len(parts)), ANSWERS[answer])
    assert_not_raised(ANSWERS[answer], join(parts, between), REFERENCES[reference])


CHATTER = "so well indeed quite maybe people often think that things are good however it seems in fact we"
WORDS = st.sampled_from(CHATTER.split())


@settings(deadline=None, max_examples=100)
@given(answer=st.sampled_from(sorted(ANSWERS)), words=st.lists(WORDS, min_size=1, max_size=40), first=st.booleans())
def test_any_chatter_raises_nothing(answer: str, words: list[str], first: bool) -> None:
    chatter, said = " ".join(words).capitalize() + ".", ANSWERS[answer]
    assert_not_raised(said, f"{chatter} {said}" if first else f"{said} {chatter}", REFERENCE)


def test_padding_lowers_a_right_answer_less_than_a_wrong_number_does() -> None:
    correctness = TABLE["correctness"].score
    right = f"{REFERENCE} {PADDINGS['courtesy']}"
    assert correctness(make_case(right)) > correctness(make_case(ANSWERS["one number wrong"]))


# -----------------------------------------------------------------------------
# A whole corpus: every sentence of a document as padding for an answer about another of its sentences


def read_corpus() -> list[tuple[str, Source, list[str]]]:
    """(title, document, its sentences)."""
    found = []
    for path in sorted(Path("demo/corpus").glob("*.md"))[::4]:
        text = path.read_text(encoding="utf-8")
        title, *sentences = list_passages(text)
        found.append((title, Source(path.name, text), sentences))
    return found


def test_other_sentences_of_the_same_document_hardly_ever_raise_correctness() -> None:
    """They are about the same subject: what they share with the reference is rarely enough to count."""
    tries = raised = 0
    correctness = TABLE["correctness"].score
    for title, source, sentences in read_corpus():
        for place, reference in enumerate(sentences[:4]):
            half = " ".join(reference.split()[: len(reference.split()) // 2]) + "."
            for said in (half, "It depends.", ""):
                bare = correctness(make_case(said, reference, f"What about {title}?", (source,), PROMPT))
                for other in sentences[:place] + sentences[place + 1 :]:
                    padded = make_case(f"{said} {other}", reference, f"What about {title}?", (source,), PROMPT)
                    tries, raised = tries + 1, raised + rises(bare, correctness(padded))
    assert tries > 1000 and raised <= tries / 100, (raised, tries)
