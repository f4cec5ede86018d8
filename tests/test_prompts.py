"""Wording: offsets that hold, braces left alone, citations and refusals recognised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import PromptSection
from distill.prompts import (
    demands_refusal,
    fill,
    find_citations,
    find_markup,
    invites_knowledge,
    is_refusal,
    neutralise_markup,
    render_citation,
    render_prompt,
    strip_citations,
    to_answer_messages,
    to_improve_messages,
    to_messages,
    to_question_messages,
    to_shorten_messages,
    to_teacher_messages,
    wants_citations,
)
from distill.records import Chunk

PROMPT = PromptSection()
TEXTS = st.text(min_size=1, max_size=60)


@given(texts=st.lists(TEXTS, max_size=6), question=TEXTS)
def test_offsets_find_each_chunk_in_the_instruction(texts: list[str], question: str) -> None:
    chunks = [Chunk(f"c{i}", f"D:\\docs\\{i}.md", text, 0.5) for i, text in enumerate(texts)]
    rendered = render_prompt(PROMPT, question, chunks)
    shown = [rendered.instruction[span.start : span.end] for span in rendered.context]
    assert shown == [neutralise_markup(text) for text in texts]
    assert rendered.instruction.endswith("Question: " + neutralise_markup(question))


def test_placeholders_in_documents_and_questions_stay_as_they_are() -> None:
    rendered = render_prompt(PROMPT, "what is {context}?", [Chunk("1", "a.md", "{question} {number} {x}", 1.0)])
    assert "{question} {number} {x}" in rendered.instruction
    assert rendered.instruction.endswith("Question: what is {context}?")


@pytest.mark.parametrize("source", ["D:\\RAG Data\\a b.md", "/data/a b.md", "a b.md"])
def test_source_name_is_the_file_name_whatever_the_separator(source: str) -> None:
    rendered = render_prompt(PROMPT, "q", [Chunk("1", source, "text", 1.0)])
    assert "[Source 1] a b.md\ntext" in rendered.instruction


def test_question_may_come_before_the_context() -> None:
    prompt = PromptSection(template="Q: {question}\n{context}\nA:")
    rendered = render_prompt(prompt, "why?", [Chunk("1", "a", "because", 1.0)])
    (span,) = rendered.context
    assert rendered.instruction[span.start : span.end] == "because"


def test_empty_system_prompt_gives_one_message() -> None:
    assert to_messages("", "hi") == [{"role": "user", "content": "hi"}]
    assert [m["role"] for m in to_messages("s", "hi")] == ["system", "user"]


def test_teacher_sees_the_students_user_message() -> None:
    student, teacher = to_messages("be exact", "hi"), to_teacher_messages("be exact", "write long", "hi")
    assert teacher[-1] == student[-1]
    assert teacher[0]["content"] == "be exact\n\nwrite long"


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("A [Source 1] and b [Source 12].", [1, 12]),
        ("A [Source 1][Source 1]", [1, 1]),
        ("A [source 1] (Source 2) [Source two]", [1]),
        ("A [Source 1, 9] b [SOURCE 2;3] c [Source 4 and 5]", [1, 9, 2, 3, 4, 5]),
        ("A [Source 1, Source 9] b [Sources 2, 3, and 4] c [source 5 & source 6]", [1, 9, 2, 3, 4, 5, 6]),
        ("A [Source 1, see 9] [Source 1,] [Resource 1]", []),
        ("", []),
    ],
)
def test_citations_are_found(answer: str, numbers: list[int]) -> None:
    assert find_citations(PROMPT, answer) == numbers


@given(number=st.integers(1, 999))
def test_rendered_citation_is_found_again(number: int) -> None:
    for citation in ("[Source {number}]", "[Source: chunk_{number}]", "({number})", "^{number}^"):
        prompt = PromptSection(citation=citation)
        assert find_citations(prompt, f"x {render_citation(prompt, number)} y") == [number]


@pytest.mark.parametrize(("citation", "answer", "numbers"), [
    ("[Source: chunk_{number}]", "x [source: chunk_1, chunk_22, Source: chunk_3, 4]", [1, 22, 3, 4]),
    ("[Doc2 {number}]", "x [doc2 7]", [7]),
    ("({number})", "x (1; 3)", [1, 3]),
    ("#{number}", "at #1, 20 degrees", [1]),
    ("Source {number}", "resource 5 is in source 1", [1]),
])
def test_lists_follow_the_citation_format(citation: str, answer: str, numbers: list[int]) -> None:
    assert find_citations(PromptSection(citation=citation), answer) == numbers


@pytest.mark.parametrize("tag", ["[Source 1]", "[source 1]", "[Source 1, 9]", "[Sources 1 and 9]", "[Source 1; Source 9]"])
def test_a_citation_is_stripped_whole(tag: str) -> None:
    assert strip_citations(PROMPT, f"The pump {tag} runs. {tag}") == "The pump runs."


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("The provided documents do not answer this question.", True),
        ("  the provided documents DO not\nanswer this question", True),
        ("The provided documents do not answer this question. They are about pumps.", True),
        ("Reply: The provided documents do not answer this question. The torque is 45 Nm.", False),
        ("The documents answer this question.", False),
        ("", False),
    ],
)
def test_refusals_are_recognised(answer: str, refused: bool) -> None:
    assert is_refusal(PROMPT, answer) is refused


def test_unknown_placeholders_are_left() -> None:
    assert fill("{a} {b}", {"a": "1"}) == "1 {b}"


# -----------------------------------------------------------------------------
# Shapes without tag, refusal or mark

GUARDED = PromptSection(citation="[Source: chunk_{number}]", refusal="", general_knowledge="[General Knowledge]")
BARE = PromptSection(citation="", refusal="")


@pytest.mark.parametrize(("answer", "numbers"), [
    ("x [Source: chunk_1].", [1]),
    ("x [Source: chunk_1][Source: chunk_2]", [1, 2]),
    ("x [Source: chunk_1, chunk_2] y [Source: chunk_1, 3]", [1, 2, 1, 3]),
    ("x [Source: chunk_1; Source: chunk_4] y [Sources: chunk_2 and chunk_3]", [1, 4, 2, 3]),
    ("x [source: CHUNK_7]", [7]),
    ("x [Source 1] [Source: 1] chunk_1 [Source: chunk_N] [Source: chunk_1 and more]", []),
])
def test_citations_of_the_guarded_shape(answer: str, numbers: list[int]) -> None:
    assert find_citations(GUARDED, answer) == numbers


def test_a_list_of_the_guarded_shape_is_stripped_whole() -> None:
    answer = "The pump runs [Source: chunk_1, chunk_2]. It stops [Source: chunk_3][Source: chunk_4]."
    assert strip_citations(GUARDED, answer) == "The pump runs. It stops."


@given(answer=st.text(max_size=80))
def test_without_a_tag_nothing_is_cited_or_stripped(answer: str) -> None:
    assert not wants_citations(BARE)
    assert find_citations(BARE, answer + "[Source 1]") == []
    assert strip_citations(BARE, answer) == answer.strip()
    assert render_citation(BARE, 3) == ""


@pytest.mark.parametrize("answer", ["", " ", ".", "The provided documents do not answer this question."])
def test_without_a_refusal_nothing_refuses(answer: str) -> None:
    assert not is_refusal(BARE, answer)
    assert not demands_refusal(BARE, answer)


@pytest.mark.parametrize(("text", "demanded"), [
    ('If not, respond: "The provided documents do not answer this question." Go on.', True),
    ("the provided\n   documents DO NOT answer\tthis question", True),
    ("The provided documents answer this question.", False),
    ("", False),
])
def test_a_refusal_is_demanded_where_it_stands(text: str, demanded: bool) -> None:
    assert demands_refusal(PROMPT, text) is demanded


@pytest.mark.parametrize(("text", "invited"), [
    ("put [general\n knowledge] before it", True), ("General Knowledge", False), ("", False),
])
def test_knowledge_is_invited_where_the_mark_stands(text: str, invited: bool) -> None:
    assert invites_knowledge(GUARDED, text) is invited
    assert not invites_knowledge(BARE, text)


def test_count_is_the_number_of_sources() -> None:
    prompt = PromptSection(template="{question}\n=== {count} texts ===\n{context}\n{count}")
    rendered = render_prompt(prompt, "how many {count}?", [Chunk(str(n), "a", "text {count}", 1.0) for n in range(3)])
    assert rendered.instruction.startswith("how many {count}?\n=== 3 texts ===\n") and rendered.instruction.endswith("\n3")
    assert {rendered.instruction[span.start : span.end] for span in rendered.context} == {"text {count}"}


# -----------------------------------------------------------------------------
# Chat markers

MARKERS = [
    "<|end|>", "<|user|>", "<|system|>", "<|assistant|>", "<|endoftext|>", "<|im_start|>", "<|start_header_id|>", "<|/tool|>",
    "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
    "<\uff5cUser\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "</think>",
]
HARMLESS = [
    "a < b | c > d", "<|>", "x <- y", "<b>bold</b>", "[Source 1]", "[INSTALL]", "array[|i|]", "<html>", "|>", "List<String>",
    "<| spaced out |>", "$s$",
]


@pytest.mark.parametrize("marker", MARKERS)
def test_markup_in_documents_and_questions_becomes_text(marker: str) -> None:
    rendered = render_prompt(PROMPT, f"what is {marker}?", [Chunk("1", f"{marker}.md", f"a {marker}{marker} b", 1.0)])
    assert find_markup(marker) == [marker]
    assert marker not in rendered.instruction and not find_markup(rendered.instruction)
    (span,) = rendered.context
    assert rendered.instruction[span.start : span.end] == f"a {neutralise_markup(marker) * 2} b"
    assert neutralise_markup(marker).replace(" ", "") == marker


@pytest.mark.parametrize("text", HARMLESS)
def test_other_signs_stay_as_they_are(text: str) -> None:
    assert neutralise_markup(text) == text and not find_markup(text)


PIECES = ["<|end|>", "<|", "|>", "[INST]", "<<SYS>>", "<s>", "</s>", "[", "]", "<\uff5c", "\uff5c>", "<", "|", "end", " ", "\n"]


LETTERS = st.text(st.sampled_from("<|>/[]sINSTend\uff5c "), max_size=40)


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | LETTERS)
def test_neutralised_text_holds_no_markup(text: str) -> None:
    once = neutralise_markup(text)
    assert not find_markup(once) and neutralise_markup(once) == once


@pytest.mark.parametrize("text", ["<|[INST]|>", "<\uff5c</s>\uff5c>", "<|<|end|>|>", "a<|</think>[INST]|>"])
def test_nested_markers_are_broken_up_to_the_last(text: str) -> None:
    assert not find_markup(neutralise_markup(text)) and neutralise_markup(text).replace(" ", "") == text


def test_a_templates_own_markup_is_the_users() -> None:
    rendered = render_prompt(PromptSection(template="<|tool|>{context}{question}"), "q", [])
    assert rendered.instruction == "<|tool|>q"


# -----------------------------------------------------------------------------
# The teacher's other tasks


@pytest.mark.parametrize(("numbers", "listed"), [
    ([3], "is about source 3."), ([1, 5], "is about one or more of source 1 and source 5."),
])
def test_questions_are_asked_for_about_the_chosen_sources(numbers: list[int], listed: str) -> None:
    system, asked = (each["content"] for each in to_question_messages("Be right.", "Be long.", "PROMPT", numbers, 2, False))
    assert listed in asked and 'speaks of "the text", "the source", "the passage" or "the figure"' in asked
    assert system == "Be right.\n\nFor each answer: Be long.", "what is said of an answer is not taken for the questions"
    assert to_question_messages("", "", "PROMPT", numbers, 2, False)[0]["role"] == "user"


@pytest.mark.parametrize(("system", "instructions"), [("Be right.", "Be long."), ("Be right.", ""), ("", "")])
@pytest.mark.parametrize("reasoning", [True, False])
def test_the_form_of_an_improved_reply_is_described_once(system: str, instructions: str, reasoning: bool) -> None:
    first = to_answer_messages(system, instructions, "PROMPT", reasoning)
    improve = to_improve_messages(first, "ANSWER", 100, reasoning)
    assert improve[:-2] == to_answer_messages(system, instructions, "PROMPT", False)
    assert sum("Reply with a JSON object" in message["content"] for message in improve) == 1
    assert ("`reasoning`" in improve[-1]["content"]) is reasoning


def test_a_prescribed_sentence_goes_into_the_answer_of_a_structured_reply() -> None:
    first = to_answer_messages("", "", "PROMPT", True)
    improve = to_improve_messages(first, "ANSWER", 100, True)
    assert all("`answer` is that sentence" in messages[place]["content"] for messages, place in ((first, 0), (improve, -1)))


def test_steps_that_are_learnt_count_when_a_shorter_answer_is_asked_for() -> None:
    for steps_count in (True, False):
        asked = to_shorten_messages([], "ANSWER", 100, steps_count)[-1]["content"]
        assert "at most 60 words" in asked and ("`reasoning` and `answer` together" in asked) is steps_count
