"""Wording: offsets that hold, braces left alone, citations and refusals recognised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import PromptSection
from distill.prompts import (
    fill,
    find_citations,
    is_refusal,
    render_citation,
    render_prompt,
    strip_citations,
    to_messages,
    to_teacher_messages,
)
from distill.records import Chunk

PROMPT = PromptSection()
TEXTS = st.text(min_size=1, max_size=60)


@given(texts=st.lists(TEXTS, max_size=6), question=TEXTS)
def test_offsets_find_each_chunk_in_the_instruction(texts: list[str], question: str) -> None:
    chunks = [Chunk(f"c{i}", f"D:\\docs\\{i}.md", text, 0.5) for i, text in enumerate(texts)]
    rendered = render_prompt(PROMPT, question, chunks)
    assert [rendered.instruction[span.start : span.end] for span in rendered.context] == texts
    assert rendered.instruction.endswith("Question: " + question)


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
