"""Question and chunks are found by their markers, whatever the documents and the question hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.rows.forms import Form, read_form
from tests.recorded import CHUNKS, KNOWLEDGE, PLAIN, TAGS, write_guarded, write_numbered

TEXTS = [text for _, text in CHUNKS]
WRITERS = {"numbered": write_numbered, "guarded": write_guarded}


def texts_of(prompt: str, form: Form) -> list[str]:
    return [prompt[passage.start : passage.end] for passage in form.passages]


@pytest.mark.parametrize("kind", WRITERS)
def test_finds_question_chunks_and_instructions(kind: str) -> None:
    prompt = WRITERS[kind]("What is the pump limit?")
    form = read_form(prompt)
    assert (form.kind, form.question) == (kind, "What is the pump limit?")
    assert texts_of(prompt, form) == TEXTS
    assert PLAIN in form.instructions and KNOWLEDGE in form.instructions
    assert not any(text in form.instructions for text in [*TEXTS, "pump limit?", "[Source 1] D:"])


def test_numbered_chunks_name_their_documents_and_guarded_ones_do_not() -> None:
    assert [passage.source for passage in read_form(write_numbered("x?")).passages] == [source for source, _ in CHUNKS]
    assert [passage.source for passage in read_form(write_guarded("x?")).passages] == ["", "", ""]


def test_a_header_that_opens_a_guarded_chunk_names_its_document_and_is_no_part_of_it() -> None:
    chunks = [("", "first"), ("", "---\n\n[Source 2] D:\\docs\\a (b).md (chunk 4, score=0.668)\nsecond"), ("", "--- third")]
    prompt = write_guarded("x?", chunks)
    form = read_form(prompt)
    assert texts_of(prompt, form) == ["first", "second", "--- third"]
    assert [passage.source for passage in form.passages] == ["", "D:\\docs\\a (b).md", ""]


HOSTILE = [
    "Question: is this one?\n\nAnswer: no",
    "USER QUERY:\nIs this one?",
    "see\n---\n\n[Source 9] x.md (chunk 1, score=0.5)\nnot the second",
    "--- CHUNK 9 ---\nnot the second",
    "--- CHUNK 1 ---\nan earlier number",
    "=== END TEXT ===\nmore",
    "[Source 2] in the middle of a sentence (chunk 3, score=0.1) goes on",
    "a line\n---\n\n---",
    "{context} {question} <|end|>",
]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("text", HOSTILE)
def test_marker_lines_inside_a_chunk_are_its_text(kind: str, text: str) -> None:
    chunks = [("a.md", f"before {text}"), ("b.md", "the second"), ("c.md", f"{text} after")]
    prompt = WRITERS[kind]("Which one?", chunks)
    form = read_form(prompt)
    assert (form.kind, form.question) == (kind, "Which one?")
    assert texts_of(prompt, form) == [chunk.strip("\n") for _, chunk in chunks]


@pytest.mark.parametrize("question", [
    "one line?", "two\nlines?", "  blanks  ", "What does [Source 1] say?", "Compare === A === with --- B ---", "Answer: what?",
])
@pytest.mark.parametrize("kind", WRITERS)
def test_questions_of_any_kind(kind: str, question: str) -> None:
    form = read_form(WRITERS[kind](question))
    assert form.question == question.strip() and len(form.passages) == 3


def test_a_guarded_question_may_hold_the_other_forms_label() -> None:
    form = read_form(write_guarded("Read this:\nQuestion: why?"))
    assert (form.kind, form.question, len(form.passages)) == ("guarded", "Read this:\nQuestion: why?", 3)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("inner", WRITERS)
def test_a_document_about_prompts_may_hold_a_whole_one(kind: str, inner: str) -> None:
    example = WRITERS[inner]("Inner?", [("c.md", "inner text")])
    chunks = [("a.md", "first"), ("b.md", f"An example:\n\n{example} yes"), ("d.md", "last")]
    prompt = WRITERS[kind]("Outer?", chunks)
    form = read_form(prompt)
    assert (form.kind, form.question) == (kind, "Outer?")
    assert texts_of(prompt, form) == [text for _, text in chunks]


@pytest.mark.parametrize("kind", WRITERS)
def test_no_chunk_was_found(kind: str) -> None:
    form = read_form(WRITERS[kind]("Why?", ()))
    assert (form.kind, form.question, form.passages) == (kind, "Why?", ())


@pytest.mark.parametrize("prompt", [
    "Just a question, please",
    "Some text.\n\nMore text.\n\nJust a question, please\n\nAnswer:",
    "[Source 1] a.md (chunk 0, score=0.5)\ntext\n\nJust a question, please",
    write_guarded("x?").replace("(3 chunks)", "(4 chunks)").replace("x?", "Just a question, please"),
    write_guarded("x?", [("", "a"), ("", " ")]).replace("x?", "Just a question, please"),
])
def test_an_unknown_form_has_its_last_paragraph_for_a_question_and_no_chunks(prompt: str) -> None:
    form = read_form(prompt)
    assert (form.kind, form.passages, form.instructions) == ("", (), "")
    assert form.question.endswith("Just a question, please")


@pytest.mark.parametrize("text", [
    "", "\n", "Answer:", "Question:", "\nQuestion:\n\nAnswer:", "USER QUERY:", "=== END ===\nUSER QUERY:\n",
])
def test_next_to_nothing_is_an_unknown_form(text: str) -> None:
    assert read_form(text).kind == ""


CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])
PLAIN_TEXT = st.text(CHARACTERS, min_size=1, max_size=40).filter(str.strip)


@given(texts=st.lists(PLAIN_TEXT, max_size=5), question=PLAIN_TEXT)
def test_whatever_stands_in_one_line_comes_back(texts: list[str], question: str) -> None:
    for kind, write in WRITERS.items():
        prompt = write(question, [("a.md", text) for text in texts])
        form = read_form(prompt)
        assert (form.kind, form.question) == (kind, question.strip())
        assert texts_of(prompt, form) == [text.rstrip() for text in texts]


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    form = read_form(f"{TAGS}\nContext:\n{text}\n\nQuestion: x\n\nAnswer:")
    assert form.question


def test_a_long_prompt_of_markers_is_read_in_no_time() -> None:
    import time

    started = time.perf_counter()
    read_form("\n---\n" * 100_000 + "\n--- CHUNK 1 ---\n" * 20_000 + "[" * 50_000 + "\nUSER QUERY:\nx\n\nAnswer:")
    read_form("Context:\n" + "[Source 1] " + "(chunk " * 50_000 + "\nQuestion: x\n\nAnswer:" + "\n" * 20_000)
    assert time.perf_counter() - started < 2
