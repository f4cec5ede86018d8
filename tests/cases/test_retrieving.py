"""Chunks for golden cases and for --ask: found as stage 1 finds them, rendered as the served model gets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.build_index import build_index
from distill.cases.retrieving import Retriever
from distill.errors import PipelineError
from distill.prompts import render_prompt
from tests.cases.worlds import OWNER, make_config, make_index
from tests.servers import OllamaServer, embed_words

REMOTE = {"ollama_url": "http://server.example:11434"}
QUESTION = "What is the pump limit?"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_index(tmp_path_factory.mktemp("index"))


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


def test_finds_at_most_top_k_chunks_the_one_that_answers_among_them(index: Path, ollama: OllamaServer) -> None:
    chunks = Retriever(make_config(index, ollama)).find(QUESTION)
    assert len(chunks) == 3 and len(Retriever(make_config(index, ollama, top_k=2)).find(QUESTION)) == 2
    (answering,) = [chunk for chunk in chunks if chunk.text.startswith("The pump limit is 20 degrees")]
    assert answering.source == r"D:\docs\pump.md"


def test_the_nearest_chunk_comes_first(index: Path, ollama: OllamaServer) -> None:
    scores = [chunk.score for chunk in Retriever(make_config(index, ollama, retrieval="vector", top_k=9)).find(QUESTION)]
    assert len(scores) == 9 and scores == sorted(scores, reverse=True) and scores[0] > scores[-1]


@pytest.mark.parametrize("retrieval", ["hybrid", "vector", "keyword"])
def test_every_way_of_retrieval_finds_the_document(index: Path, ollama: OllamaServer, retrieval: str) -> None:
    chunks = Retriever(make_config(index, ollama, retrieval=retrieval)).find("How long is the antenna log kept?")
    assert "antenna" in chunks[0].text


def test_what_lies_below_min_score_is_left_out(index: Path, ollama: OllamaServer) -> None:
    every = Retriever(make_config(index, ollama, min_score=-1)).find(QUESTION)
    bar = max(chunk.score for chunk in every) - 1e-6
    assert len(every) == 3
    kept = Retriever(make_config(index, ollama, min_score=bar)).find(QUESTION)
    assert kept == [chunk for chunk in every if chunk.score >= bar] and len(kept) < 3
    assert Retriever(make_config(index, ollama, min_score=1)).find(QUESTION) == []


def test_questions_are_embedded_with_the_prefix_and_once(index: Path, ollama: OllamaServer) -> None:
    retriever = Retriever(make_config(index, ollama))
    first = retriever.find_all([QUESTION, "What is the valve colour?", QUESTION])
    asked = len(ollama.requests)
    assert ollama.requests[-1]["body"]["input"] == [f"search_query: {QUESTION}", "search_query: What is the valve colour?"]
    assert [retriever.find(QUESTION), retriever.find_all([QUESTION])[0]] == [first[0], first[2]] == [first[0]] * 2
    retriever.render(QUESTION)
    assert len(ollama.requests) == asked


def test_finding_for_many_questions_is_finding_for_each(index: Path, ollama: OllamaServer) -> None:
    questions = ["What is the router colour?", "Who keeps the modem log?", QUESTION]
    together = Retriever(make_config(index, ollama)).find_all(questions)
    assert together == [Retriever(make_config(index, ollama)).find(question) for question in questions]


def test_nothing_is_opened_before_the_first_question(tmp_path: Path) -> None:
    retriever = Retriever(make_config(tmp_path / "nowhere", embedder={"base_url": "http://127.0.0.1:9"}))
    with pytest.raises(PipelineError, match=r"generate\.index_folder .*nowhere is missing") as caught:
        retriever.find(QUESTION)
    assert "\n" not in str(caught.value)


def test_an_index_of_another_model_is_refused_before_anything_is_found(index: Path) -> None:
    other = OllamaServer(embed=lambda texts: embed_words([text[::-1] for text in texts]))
    with other, pytest.raises(PipelineError, match="did not make this index"):
        Retriever(make_config(index, other)).find(QUESTION)


@pytest.mark.parametrize("evaluate", [{}, {"engine": "embedded", **REMOTE}], ids=["ollama here", "embedded"])
def test_nothing_is_masked_where_the_models_answer_on_this_machine(
    index: Path, ollama: OllamaServer, evaluate: dict[str, str]
) -> None:
    config = make_config(index, ollama, evaluate=evaluate)
    question = f"How many years does {OWNER} keep the pump log?"
    prompt = Retriever(config).render(question)
    assert prompt == render_prompt(config.prompt, question, Retriever(config).find(question))
    assert prompt.instruction.count(OWNER) >= 2


def test_what_leaves_this_machine_is_masked_in_question_sources_and_names(tmp_path: Path, ollama: OllamaServer) -> None:
    path = rf"D:\docs\{OWNER}.md"
    build_index(tmp_path, [(path, f"The pump log is kept by {OWNER} in a safe place.")], embed_words)
    retriever = Retriever(make_config(tmp_path, ollama, evaluate=REMOTE))
    prompt = retriever.render(f"Does {OWNER} keep the pump log?")
    (span,) = prompt.context
    assert OWNER not in prompt.instruction and prompt.instruction.count("[EMAIL]") == 3
    assert prompt.instruction[span.start : span.end] == "The pump log is kept by [EMAIL] in a safe place."
    assert span.source == path and retriever.find(f"Does {OWNER} keep the pump log?")[0].text.count(OWNER) == 1


def test_a_question_without_any_chunk_is_rendered_without_sources(index: Path, ollama: OllamaServer) -> None:
    prompt = Retriever(make_config(index, ollama, min_score=1)).render(QUESTION)
    assert prompt.context == () and prompt.instruction.endswith(f"Question: {QUESTION}")
