from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import PromptSection
from distill.curation.statements import (
    Statement,
    is_general_knowledge,
    is_marked,
    is_ordered,
    list_orders,
    list_statements,
    says_nothing,
)

PROMPT = PromptSection()
BARE = PromptSection(citation="", refusal="")
KNOWING = PromptSection(citation="[Source: chunk_{number}]", refusal="", general_knowledge="[General Knowledge]")


@pytest.mark.parametrize(("answer", "expected"), [
    ("A is. [Source 1] B is [Source 2].", [("A is.", (1,)), ("B is.", (2,))]),
    ("A is. B is. [Source 2]", [("A is.", (2,)), ("B is.", (2,))]),
    ("A is [Source 1]. B is.", [("A is.", (1,)), ("B is.", (1,))]),
    ("A is [Source 1] and B is [Source 2].", [("A is and B is.", (1, 2))]),
    ("A is [Source 1, 2].", [("A is.", (1, 2))]),
    ("- A is [Source 1]\n- B is\n\nC is [Source 2].", [("A is", (1,)), ("B is", (1, 2)), ("C is.", (2,))]),
    ("See Fig. 3 for A. [Source 2]", [("See Fig. 3 for A.", (2,))]),
    ("1. A is\nstill A [Source 1].\n2. B is [Source 2].", [("A is still A.", (1,)), ("B is.", (2,))]),
    ("A is.", [("A is.", ())]),
    ("", []),
])
def test_sentences_find_their_tags(answer: str, expected: list[tuple[str, tuple[int, ...]]]) -> None:
    assert [(each.text, each.cited) for each in list_statements(PROMPT, answer)] == expected


def test_headings_and_introductions_are_known_by_their_form() -> None:
    answer = "## Limits\n**Thermal**\nThe values are:\n- 80 °C [Source 1]"
    assert [each.heading for each in list_statements(PROMPT, answer)] == [True, True, True, False]
    bold = "**The pump must never be run dry by any one person**\n\n**Above 5 bar**\n\n**1. Limits**"
    assert [each.heading for each in list_statements(PROMPT, bold)] == [False, False, True]
    assert list_statements(PROMPT, "As listed [Source 1]:")[0] == Statement("As listed:", (1,))


MARK = "[General Knowledge]"


@pytest.mark.parametrize(("answer", "marked"), [
    (f"{MARK} Pumps wear.", True),
    (f"{MARK} Pumps wear. Seals age too.", True),
    (f"{MARK} Pumps wear.\n\nSeals age too.", False),
    (f"{MARK} Pumps wear.\n\n{MARK} Seals age too.", True),
    (f"Pumps wear. {MARK} Seals age too.", False),
    (f"{MARK} Causes:\n- wear\n- heat", True),
    (f"- {MARK} wear\n- {MARK} heat", True),
    (f"{MARK} Causes are:\n\n- wear of 5%\n- heat", True),
    (f"{MARK} Causes are:\n- wear\n\nSeals age too.", False),
    (f"Causes are\n- wear\n- {MARK} heat", False),
    (f"As Fig. 3 shows, the limit is 5 [Source: chunk_1].\n\n{MARK} Pumps wear.", True),
    (f"The provided context does not mention pumps. {MARK} Pumps wear.", True),
    (f"# Pumps\n\n{MARK} Pumps wear.", True),
    (f"The limit is 5 [Source: chunk_1]. {MARK} Pumps wear.", True),
    (f"The limit is 5. [Source: chunk_1]\n\n{MARK} Pumps wear.", True),
    (f"{MARK.lower()} pumps wear.", True),
    ("The limit is 5 [Source: chunk_1].", False),
    ("Pumps wear.", False),
    ("", False),
])
def test_marked_answers(answer: str, marked: bool) -> None:
    assert is_marked(KNOWING, answer) is marked
    assert not is_marked(PromptSection(), answer)


def test_general_knowledge_cites_nothing() -> None:
    assert is_general_knowledge(KNOWING, f"{MARK} Pumps wear.\n\n{MARK} Seals age.")
    assert not is_general_knowledge(KNOWING, f"The limit is 5 [Source: chunk_1]. {MARK} Pumps wear.")
    assert not is_general_knowledge(KNOWING, "Pumps wear.")


@pytest.mark.parametrize(("prompt", "answer", "nothing"), [
    (PROMPT, "The provided sources do not specify the limit [Source 1].", True),
    (PROMPT, "The sources do not give the range. I cannot determine it [Source 1].", True),
    (PROMPT, "The sources do not give the range, so it is unknown [Source 1].", True),
    (PROMPT, "The sources do not give the range. The gain is 10 dB [Source 1].", False),
    (PROMPT, "The documents do not specify a fixed length, but it must stay below 3 m [Source 1].", False),
    (PROMPT, "The documents do not specify a fixed length, but it must stay below 3 m.", True),
    (PROMPT, "The text does not contain signs in that case, so the parser falls back to OCR [Source 1].", False),
    (KNOWING, f"The context does not mention pumps. {'[General Knowledge]'} Pumps wear.", False),
    (BARE, "The documents do not specify the oil grade. The maintenance cycle is 180 days.", False),
    (BARE, "The documents do not specify the oil grade. Sorry.", True),
    (BARE, "I cannot answer this from the sources.", True),
    (BARE, "The pump does not provide water.", False),
    (BARE, "", False),
])
def test_what_only_says_that_the_sources_do_not_tell(prompt: PromptSection, answer: str, nothing: bool) -> None:
    assert says_nothing(prompt, answer) is nothing


RULES = (
    'Label gaps as "Not in these texts." or ask "Which part do you mean?"; without a text put "[GUESS]" before it. '
    'Say "I\n  know" too.'
)


@pytest.mark.parametrize(("text", "ordered"), [
    ("Not in these texts.", True), ("Oil grade: NOT in these texts", True), ("**Oil**: not in these texts.", True),
    ("Which part do you mean?", True), ("[GUESS] Oil is oily.", True), ("I know.", True),
    ("Oil is not in these texts.", False), ("Oil [GUESS] is oily.", False), ("", False), ("Label gaps as", False),
])
def test_what_a_prompt_puts_in_quotes_is_ordered(text: str, ordered: bool) -> None:
    assert is_ordered(Statement(text), list_orders(RULES)) is ordered
    assert not is_ordered(Statement(text), list_orders("no quotes"))


@given(st.text(max_size=80))
def test_no_text_breaks_them(text: str) -> None:
    for prompt in (PROMPT, BARE, KNOWING):
        list_statements(prompt, text), is_marked(prompt, text), says_nothing(prompt, text, list_orders(text))
