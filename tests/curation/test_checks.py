from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import Config
from distill.curation.checks import Fault, describe_markup, find_fault
from distill.prompts import RenderedPrompt, render_citation
from distill.records import Chunk, ContextSpan
from distill.rows.questions import Question

CHUNKS = (
    Chunk("c1", r"D:\docs\pump.md", "The pump limit is 80 °C. Nobody may run it above its limit.", 0.9),
    Chunk("c2", "valve.md", "The valve is painted red on every side.", 0.5),
)
QUESTION = Question("What is the pump limit?", "Thermal", 1)
PROMPT = RenderedPrompt("the whole prompt", ())
GOOD = "The pump limit is 80 °C [Source 1]."
REFUSAL = "The provided documents do not answer this question."
MARK = "[General Knowledge]"
OPEN = "Answer from the sources as [Source N]; put [General Knowledge] before what they do not say.\n{context}\n{question}"
BARE = "Answer from the sources.\n\n{context}\n\n{question}"


@dataclass(frozen=True)
class Row:
    """What the checks see of a planned row."""

    answerable: bool | None = True
    origin: str = "question"
    chunks: tuple[Chunk, ...] = CHUNKS
    question: Question = QUESTION
    prompt: RenderedPrompt = PROMPT


def make_config(prompt: dict[str, Any] | None = None, **checks: Any) -> Config:
    """A config with this wording and these checks."""
    return Config.model_validate({"prompt": prompt or {}, "generate": {"checks": checks}})


STRICT = make_config()
KNOWING = make_config({"template": OPEN, "refusal": "", "general_knowledge": MARK})
UNTAGGED = make_config({"template": BARE, "refusal": "", "citation": ""})
UNASKED = make_config({"template": BARE})


def name_fault(config: Config, answer: str, row: Row | None = None, tokens: int = 20) -> str:
    """The name of the check that refuses an answer, "" if none does."""
    fault = find_fault(config, row or Row(), answer, tokens)
    assert fault is None or (fault.detail and "\n" not in fault.detail)
    return fault.check if fault else ""


@pytest.mark.parametrize(("config", "answer"), [
    (STRICT, GOOD), (UNTAGGED, "The pump limit is 80 °C."), (KNOWING, GOOD), (UNASKED, GOOD),
    (STRICT, "The pump limit is 80 °C, and nobody may run it above.\r\n\r\n\tThe valve is red. [Source 1, 2]"),
])
def test_a_good_answer_has_no_fault(config: Config, answer: str) -> None:
    assert find_fault(config, Row(), answer, 512) is None


@pytest.mark.parametrize(("answer", "check"), [
    (f"{GOOD}<|end|>", "markup"), (f"{GOOD}<|im_end|>", "markup"), (f"{GOOD} [/INST]", "markup"),
    (f"{GOOD}<\uff5cend\u2581of\u2581sentence\uff5c>", "markup"), (f"[TOOL_CALLS] {GOOD}", "markup"),
    (f"<answer>{GOOD}</answer>", "placeholder"), ("I am an AI, but the limit is 80 °C [Source 1].", "placeholder"),
    (f"{MARK} {GOOD}", "citation"), (f"[Own Knowledge] {GOOD}", "citation"),
    (f"{GOOD}\n<start_of_turn>user", "markup"), (f"<think>hm</think>{GOOD}", "markup"),
    (f"{GOOD}\x00", "markup"), ("The pump limit is 80 \ufffdC [Source 1].", "markup"), (f"\x1b[31m{GOOD}", "markup"),
    ("", "placeholder"), (" \n", "placeholder"), ("N/A", "placeholder"), ("n/a.", "placeholder"),
    ("TODO: write this", "placeholder"),
    ("Lorem ipsum dolor sit amet [Source 1].", "placeholder"), ("...", "placeholder"),
    ("As an AI language model I know that the limit is 80 °C [Source 1].", "placeholder"),
    ("The limit is [insert value here] [Source 1].", "placeholder"),
    ("80 °C [Source 1]", "too short"),
    ("The pump limit is 80 °C.", "citation"), ("The pump limit is 80 °C [Source 3].", "citation"),
    (f"{GOOD} [Source 0]", "citation"),
    ("The pump limit is 90 °C [Source 1].", "support"), ("The pump limit is 80 °C [Source 2].", "support"),
    (REFUSAL, "refusal"), (REFUSAL.upper().rstrip("."), "refusal"),
])
def test_each_check_refuses_under_its_name(answer: str, check: str) -> None:
    assert name_fault(STRICT, answer) == check


def test_the_order_is_the_most_telling_first() -> None:
    assert name_fault(STRICT, f"{REFUSAL}<|end|>", tokens=999) == "markup"
    assert name_fault(STRICT, REFUSAL, tokens=999) == "refusal"
    assert name_fault(STRICT, "The limit is 90 °F [Source 9].", tokens=999) == "too long"
    assert name_fault(STRICT, "The limit is 90 °F [Source 9].") == "citation"


@pytest.mark.parametrize(("tokens", "check"), [(512, ""), (513, "too long")])
def test_length_counts_the_students_tokens(tokens: int, check: str) -> None:
    assert name_fault(STRICT, GOOD, tokens=tokens) == check
    assert name_fault(make_config(max_answer_tokens=600), GOOD, tokens=tokens) == ""


def test_details_name_the_sentence_and_the_figures() -> None:
    assert find_fault(STRICT, Row(), "The limit is 90 °C [Source 1].", 9) == Fault(
        "support", "90 °C is not in source 1: The limit is 90 °C."
    )
    wrong = "It is so. [Source 3] [Source 7] [Source 1]"
    assert find_fault(STRICT, Row(), wrong, 9) == Fault("citation", "cites source 3, 7 of 2")
    assert find_fault(STRICT, Row(), GOOD, 600).detail == "600 tokens, more than generate.checks.max_answer_tokens 512"
    assert find_fault(STRICT, Row(), "word " * 100 + "<|end|>\n", 9).detail.startswith("holds the chat marker <|end|>: ")
    assert find_fault(STRICT, Row(), "a\x07b", 9).detail == "holds the character U+0007: a?b"


@pytest.mark.parametrize(("config", "row", "answer", "check"), [
    # an answer was expected
    (STRICT, Row(), REFUSAL, "refusal"),
    (STRICT, Row(), f"{REFUSAL} However, the pump limit is 80 °C [Source 1].", "refusal"),
    (STRICT, Row(None), f"{REFUSAL} Sorry for that.", "refusal"),
    (STRICT, Row(), f"{GOOD} {REFUSAL}", "refusal"),
    (STRICT, Row(), "The provided sources do not specify the limit [Source 1].", "refusal"),
    (STRICT, Row(), "Unfortunately, the documents don't mention a limit for the pump [Source 1].", "refusal"),
    (UNTAGGED, Row(), "I cannot answer this from the sources.", "refusal"),
    (UNTAGGED, Row(), "There is no information about the limit in the provided context.", "refusal"),
    # a refusal was expected
    (STRICT, Row(answerable=False), REFUSAL, ""),
    (STRICT, Row(answerable=False), GOOD, "refusal"),
    (STRICT, Row(answerable=False, chunks=()), REFUSAL, ""),
    # nobody knows: questions and recorded prompts
    (STRICT, Row(None), REFUSAL, ""),
    (STRICT, Row(None), GOOD, ""),
    (STRICT, Row(None), "The provided sources do not specify the limit [Source 1].", "refusal"),
    (STRICT, Row(None, "recording", prompt=RenderedPrompt(f"If not there, say: {REFUSAL}", ())), REFUSAL, ""),
    (STRICT, Row(None, "recording"), REFUSAL, "refusal"),
    (STRICT, Row(None, "recording"), GOOD, ""),
    # nobody asked for it
    (UNASKED, Row(answerable=False), REFUSAL, "refusal"),
    (UNASKED, Row(None), REFUSAL, "refusal"),
    # what goes beyond the sources is marked
    (KNOWING, Row(answerable=False), f"{MARK} Pumps are usually limited to 80 °C by their seals.", ""),
    (KNOWING, Row(answerable=False), "Pumps are usually limited to 80 °C by their seals.", "refusal"),
    (KNOWING, Row(None), f"{MARK} Pumps are usually limited to 120 °C by their seals.", ""),
    (KNOWING, Row(), f"{MARK} Pumps are usually limited to 120 °C by their seals.", "refusal"),
    (KNOWING, Row(), f"{GOOD}\n\n{MARK} Pumps are usually limited to 120 °C by their seals.", ""),
    (KNOWING, Row(False), f"The provided context does not mention it. {MARK} Pumps have seals that age.", ""),
    (STRICT, Row(answerable=False), f"{MARK} Pumps are usually limited to 80 °C.", "refusal"),
])
def test_refusals_stand_where_they_are_asked_for_and_nowhere_else(config: Config, row: Row, answer: str, check: str) -> None:
    assert name_fault(config, answer, row) == check


def test_a_source_that_speaks_of_missing_answers_may_be_quoted() -> None:
    text = "The documents do not contain card numbers."
    chunks = (Chunk("c1", "policy.md", f"Data protection. {text} They are masked.", 1.0),)
    assert name_fault(STRICT, f"{text} [Source 1]", Row(chunks=chunks)) == ""
    assert name_fault(STRICT, f"{text} [Source 1]", Row()) == "refusal"


def test_a_word_about_missing_context_inside_an_answer_is_no_refusal() -> None:
    chunks = (Chunk("c1", "rag.md", "A system should refuse when the context does not contain the answer.", 1.0),)
    answer = "A system should refuse when the context does not contain it [Source 1]."
    assert name_fault(STRICT, answer, Row(chunks=chunks)) == ""


@pytest.mark.parametrize("text", [
    "It serves engineers as an AI assistant that runs offline.", "The judge is used as a language model grader.",
    "The parser reads the text between <answer> and </answer> tags.", "The client strips everything up to </think>.",
    "Deleted text is wrapped in <s> and </s>.", "The form reads [insert name here] by default.",
    "The greeting is: I am an AI that helps you.", "The mark [General Knowledge] stands before the sentence.",
    "Llama prompts put [INST] before each turn.",
])
def test_what_a_cited_source_says_may_be_quoted_whatever_it_looks_like(text: str) -> None:
    chunks = (Chunk("c1", "parser.md", f"An introduction. {text} More of it.", 1.0), CHUNKS[1])
    assert name_fault(STRICT, f"{text} [Source 1]", Row(chunks=chunks)) == ""


@pytest.mark.parametrize("text", ["The greeting is: I am an AI that helps you.", "Llama prompts put [INST] before each turn."])
def test_what_another_source_says_may_not(text: str) -> None:
    chunks = (CHUNKS[1], Chunk("c1", "parser.md", text, 1.0))
    assert name_fault(STRICT, f"{text} [Source 1]", Row(chunks=chunks)) in ("markup", "placeholder")


ORDERING = (
    'Answer by tags. If there is nothing, say: "Nothing in the books." Label gaps as "Not in these books." Ask "Which unit '
    'is meant?" if it is vague. Without a source put "[GUESS]" first.\n{context}\n{question}'
)
STRICTER = {"template": ORDERING, "refusal": "Nothing in the books."}


@pytest.mark.parametrize("origin", ["question", "recording"])
@pytest.mark.parametrize("citation", ["", "[Source {number}]"])
@pytest.mark.parametrize(("answer", "check"), [
    ("The pump limit is 80 °C [Source 1].\n\nOil grade: Not in these books.", ""),
    ("The pump limit is 80 °C [Source 1].\n\n[GUESS] Astronauts recommend olive oil.", ""),
    ("The pump limit is 80 °C [Source 1]. Astronauts recommend olive oil.", "support"),
    ("Which unit is meant?", ""), ("Oil grade: Not in these books.", "refusal"), ("Nothing in the books.", ""),
    ("The context does not give oil grades. The pump limit is 80 °C [Source 1].", ""),
    ("The context does not give oil grades.", "refusal"),
])
def test_what_the_prompt_orders_is_no_fault(origin: str, citation: str, answer: str, check: str) -> None:
    config = make_config({**STRICTER, "citation": citation})
    said = answer if citation else answer.replace(" [Source 1]", "")
    prompt = RenderedPrompt(ORDERING.replace("{context}", "").replace("{question}", "Why?"), ())
    assert name_fault(config, said, Row(None, origin, prompt=prompt)) == check


def test_what_a_recorded_chunk_puts_in_quotes_is_no_order() -> None:
    said = "Astronauts recommend olive oil against all rust."
    text = f'Sources:\nHe said "{said}" once.\nQuestion: why?'
    start = text.index("He said")
    span = ContextSpan(chunk_id="c1", source="a.md", score=0.5, start=start, end=text.index("\nQuestion"))
    answer = f"{GOOD} {said} [Source 2]"
    assert name_fault(STRICT, answer, Row(None, "recording", prompt=RenderedPrompt(text, (span,)))) == "support"
    assert name_fault(STRICT, answer, Row(None, "recording", prompt=RenderedPrompt(text, ()))) == ""


def test_chinese_and_japanese_signs_are_words() -> None:
    chunks = (Chunk("c1", "a.md", "\u7535\u7f06\u635f\u8017\u4e3a3 dB", 1.0),)
    assert name_fault(STRICT, "\u7535\u7f06\u635f\u8017\u4e3a3 dB [Source 1]\u3002", Row(chunks=chunks)) == ""
    assert name_fault(STRICT, "\u635f\u8017 [Source 1]", Row(chunks=chunks)) == "too short"


def test_shapes_without_tags_need_none_and_are_supported_by_any_source() -> None:
    assert name_fault(UNTAGGED, "The pump limit is 80 °C. The valve is painted red.") == ""
    assert name_fault(UNTAGGED, "The pump limit is 85 °C.") == "support"


@pytest.mark.parametrize(("tag", "check"), [
    ("[Source 1]", "citation"), ("[Source: chunk_1]", "citation"), ("[Sources 1, 2]", "citation"), ("[chunk 2]", "citation"),
    ("[1.5 m]", ""), ("[source]", ""), ("(see the source)", ""),
])
def test_a_tag_that_the_prompt_does_not_ask_for_is_a_fault(tag: str, check: str) -> None:
    assert (name_fault(UNTAGGED, f"The pump limit is 80 °C {tag}.") == "citation") is bool(check)


@pytest.mark.parametrize("template", ["[Source: chunk_{number}]", "({number})"])
def test_other_tags_are_read_as_configured(template: str) -> None:
    config = make_config({"citation": template})
    tag = render_citation(config.prompt, 1)
    assert name_fault(config, f"The pump limit is 80 °C {tag}.") == ""
    assert name_fault(config, f"The pump limit is 81 °C {tag}.") == "support"


def test_of_a_recorded_prompt_without_known_sources_no_citation_is_wrong() -> None:
    assert name_fault(STRICT, "The pump limit is 95 °C [Source 4].", Row(None, "recording", ())) == ""
    assert name_fault(STRICT, "The pump limit is 95 °C [Source 4].", Row(True, "question", ())) == "citation"
    assert name_fault(STRICT, "80 °C", Row(None, "recording", ())) == "too short"


@pytest.mark.parametrize(("min_words", "check"), [(5, "too short"), (4, ""), (1, "")])
def test_words_are_counted_without_tags(min_words: int, check: str) -> None:
    assert name_fault(make_config(min_words=min_words), "The limit is 80. [Source 1] [Source 1]") == check


def test_a_mark_that_the_template_does_not_name_excuses_nothing() -> None:
    config = make_config({"general_knowledge": MARK})
    assert name_fault(config, f"{MARK} Pumps are usually limited to 120 °C by their seals.") == "citation"


def test_min_support_is_the_configured_one() -> None:
    answer = "The pump limit was raised by brave engineers [Source 1]."
    assert name_fault(make_config(min_support=0.9), answer) == "support"
    assert name_fault(make_config(min_support=0.0), answer) == ""


@given(st.text(max_size=200))
def test_no_answer_breaks_the_checks(answer: str) -> None:
    for config in (STRICT, KNOWING, UNTAGGED):
        fault = find_fault(config, Row(), answer, 5)
        assert fault is None or len(fault.detail) < 300


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_plain_text_without_angle_or_square_brackets_is_no_markup(text: str) -> None:
    if not set(text) & set("<>[]"):
        assert describe_markup(text) == ""
