"""Ollama against a server that loads, evicts and renders as Ollama does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from distill.engines.engine import make_engine
from distill.engines.ollama_engine import OllamaEngine
from distill.errors import PipelineError
from distill.gguf.chat import FORMATS
from distill.gguf.modelfile import read_modelfile
from tests.engines.worlds import Stages, make_set
from tests.finished_stages import BASE, STOCK, TUNED, ModelServer


def make(stages: Stages, extra: str = "") -> OllamaEngine:
    stages.configure(extra)
    return make_engine(stages.config, stages.find_models())


# -----------------------------------------------------------------------------
# Before anything is asked


def test_ready_models_are_not_even_loaded(stages: Stages, server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    make(stages, f"stock_model: {STOCK}").require_ready()
    assert server.loads == [] and capsys.readouterr().out == ""


STOPS: list[tuple[Callable[[ModelServer], Any], str]] = [
    (lambda server: server.models.remove("student-base:latest"),
     r'has no model student-base: run  ollama create student-base -f ".*gguf.Modelfile.base"'),
    (lambda server: server.blobs.update({TUNED: "0" * 64}), "student in Ollama was not made from the present gguf/stud"),
    (lambda server: server.templates.update({BASE: "{{ .Prompt }}"}), "student-base in Ollama has another TEMPLATE than"),
    (lambda server: server.systems.update({TUNED: "Be rude."}), "student in Ollama has another SYSTEM than .*Modelfile: run"),
    (lambda server: server.stops.update({TUNED: ["<|end|>"]}), "base and tuned have different PARAMETER lines"),
]


@pytest.mark.parametrize(("change", "message"), STOPS, ids=[message[:30] for _, message in STOPS])
def test_what_ollama_serves_otherwise_stops_before_a_load(
    stages: Stages, server: ModelServer, change: Callable[[ModelServer], Any], message: str
) -> None:
    engine = make(stages)
    change(server)
    with pytest.raises(PipelineError, match=message) as caught:
        engine.require_ready()
    assert server.loads == [] and "\n" not in str(caught.value)


def test_an_ollama_that_does_not_tell_its_files_is_a_warning(
    stages: Stages, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.blobs.clear()
    make(stages).require_ready()
    assert capsys.readouterr().out.count("[WARN] Ollama does not tell which file student") == 2


def test_a_stock_model_that_left_ollama_says_what_to_pull(stages: Stages, server: ModelServer) -> None:
    engine = make(stages, f"stock_model: {STOCK}")
    server.models.remove(f"{STOCK}:latest")
    with pytest.raises(PipelineError, match=f"has no model {STOCK}: run  ollama pull {STOCK}"):
        engine.require_ready()


def test_the_order_of_parameters_is_no_difference(stages: Stages, server: ModelServer) -> None:
    server.stops[TUNED].reverse()
    make(stages).require_ready()


# -----------------------------------------------------------------------------
# Loading


def test_a_model_is_loaded_before_the_first_question_and_let_go_after_the_last(stages: Stages, server: ModelServer) -> None:
    engine = make(stages)
    with engine.load("base") as ask:
        assert server.loads == [BASE]
        first = ask(stages.make_set().questions[0])
    assert server.loads == [BASE] and server.held == {} and engine.loads == {"base": 1}
    assert first.text == f"I am {BASE}." and 0 < first.first_token_seconds < 0.1  # the load is not counted among its seconds


@pytest.mark.parametrize("endpoint", ["chat", "generate"])
@pytest.mark.parametrize("keep_alive", [0, "5m"])
def test_a_server_that_unloads_after_each_answer_is_told_not_to(
    stages: Stages, server: ModelServer, keep_alive: Any, endpoint: str
) -> None:
    server.keep_alive = keep_alive
    engine = make(stages, f"endpoint: {endpoint}")
    with engine.load("tuned") as ask:
        for question in stages.make_set(count=5).questions:
            assert not ask(question).error
        ask(replace(question, opening="It is"))
    assert server.loads == [TUNED] and engine.loads["tuned"] == 1


def test_a_model_that_someone_else_evicts_is_loaded_again_and_counted(stages: Stages, server: ModelServer) -> None:
    engine = make(stages)
    with engine.load("base") as ask:
        for question in stages.make_set(count=4).questions:
            ask(question)
            server.held.clear()  # as another program's model would do
    assert server.loads == [BASE] * 4 and engine.loads["base"] == 4


def test_of_several_threads_one_brings_the_model_back_and_the_others_wait(stages: Stages, server: ModelServer) -> None:
    engine = make(stages)
    with engine.load("base") as ask, ThreadPoolExecutor(8) as pool:
        server.held.clear()
        answers = list(pool.map(ask, stages.make_set(count=8).questions))
    assert not [answer for answer in answers if answer.error]
    assert server.loads == [BASE] * 2 and engine.loads["base"] == 2


def test_a_model_in_memory_with_another_num_ctx_is_loaded_once(stages: Stages, server: ModelServer) -> None:
    server.bring({"model": BASE, "options": {"num_ctx": 131072}})
    engine = make(stages)
    with engine.load("base") as ask:
        ask(stages.make_set().questions[0])
    assert server.loads == [BASE, BASE] and engine.loads["base"] == 1


def test_an_ollama_without_ps_is_asked_all_the_same(stages: Stages, server: ModelServer) -> None:
    server.tells_loaded = False
    with make(stages).load("base") as ask:
        assert not ask(stages.make_set().questions[0]).error


def test_a_model_that_cannot_be_loaded_ends_the_run(stages: Stages, server: ModelServer) -> None:
    engine = make(stages)
    server.fault = lambda number, path: (500, {"error": "not enough memory"})
    with pytest.raises(PipelineError, match="with 500: not enough memory"), engine.load("base"):
        pass


def test_memory_is_freed_even_when_asking_breaks(stages: Stages, server: ModelServer) -> None:
    with pytest.raises(ZeroDivisionError), make(stages).load("base"):
        assert server.held
        raise ZeroDivisionError
    assert server.held == {}


def test_a_server_that_goes_away_at_the_end_is_a_warning(
    stages: Stages, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with make(stages).load("base"):
        server.fault = lambda number, path: (503, "gone")
    assert f"[WARN] {BASE} stays loaded: " in capsys.readouterr().out


def test_a_server_that_goes_away_is_a_failed_call(stages: Stages, server: ModelServer) -> None:
    with make(stages).load("base") as ask:
        server.fault = lambda number, path: "drop"
        answer = ask(stages.make_set().questions[0])
        server.fault = lambda number, path: None
    assert "broke" in answer.error and answer.text == ""


# -----------------------------------------------------------------------------
# The rendered prompt


@pytest.mark.parametrize("endpoint", ["chat", "generate"])
def test_the_prompt_is_compared_once_per_model(stages: Stages, server: ModelServer, endpoint: str) -> None:
    engine = make(stages, f"endpoint: {endpoint}")
    for side in ("base", "tuned"):
        with engine.load(side) as ask:
            for question in stages.make_set().questions:
                ask(question)
    shown = [request for request in server.requests if "_debug_render_only" in (request["body"] or {})]
    assert [each["body"]["model"] for each in shown] == [BASE, TUNED]
    assert {each["path"] for each in shown} == {f"/api/{endpoint}"}
    assert server.loads == [BASE, TUNED]


@pytest.mark.parametrize("endpoint", ["chat", "generate"])
@pytest.mark.parametrize("wrong", [
    lambda prompt: prompt.replace("<|end|><|user|>", "<|user|>"),  # as the library's own phi4-mini template
    lambda prompt: prompt.replace("<|end|>", "<|end|>\n"),
    lambda prompt: prompt.replace("\u00a0", " "),
    lambda prompt: prompt.removesuffix("<|assistant|>"),
])
def test_a_prompt_unlike_trainings_stops_before_a_question(
    stages: Stages, server: ModelServer, wrong: Callable[[str], str], endpoint: str
) -> None:
    engine, render = make(stages, f"endpoint: {endpoint}"), server.render
    server.render = lambda template, messages: wrong(render(template, messages))
    with pytest.raises(PipelineError, match=f"{BASE} is asked with other prompts than it was trained"), engine.load("base"):
        pass
    assert server.list_chats() == [] and server.held == {}


def test_the_stock_model_may_wrap_messages_as_it_likes(stages: Stages, server: ModelServer) -> None:
    with make(stages, f"stock_model: {STOCK}").load("stock") as ask:
        assert ask(stages.make_set().questions[0]).text == f"I am {STOCK}."


def test_an_ollama_that_does_not_show_prompts_is_a_warning(
    stages: Stages, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.shows_prompts = False
    with make(stages).load("base") as ask:
        assert not ask(stages.make_set().questions[0]).error
    assert capsys.readouterr().out.startswith(f"[WARN] Ollama does not show the prompt that it makes for {BASE}")


# -----------------------------------------------------------------------------
# Calls


def test_chat_sends_messages_and_options(stages: Stages, server: ModelServer) -> None:
    question = stages.make_set().questions[0]
    with make(stages).load("tuned") as ask:
        ask(question)
    [body] = server.list_chats()
    assert body == {
        "model": TUNED, "messages": list(question.messages), "stream": False, "keep_alive": "10m",
        "options": {"temperature": 0.0, "top_p": 0.9, "top_k": 40, "seed": 42, "num_ctx": 4096, "num_predict": 512},
    }


def test_generate_is_hybridrag3s_own_call(stages: Stages, server: ModelServer) -> None:
    question = stages.make_set().questions[0]
    with make(stages, "endpoint: generate").load("tuned") as ask:
        answer = ask(question)
    [body] = server.list_chats()
    assert body["prompt"] == question.messages[-1]["content"] and body["stream"] is False
    assert not {"system", "template", "messages", "raw", "context"} & body.keys()
    # Ollama puts the Modelfile's SYSTEM in front by itself
    assert answer.prompt_tokens == sum(len(message["content"].split()) for message in question.messages)


@pytest.mark.parametrize("endpoint", ["chat", "generate"])
def test_an_opening_is_gone_on_from_as_it_stands(stages: Stages, server: ModelServer, endpoint: str) -> None:
    question = replace(stages.make_set().questions[0], opening="The code is", max_tokens=6)
    engine = make(stages, f"endpoint: {endpoint}")
    assert engine.describe_call(question) == "ollama raw" != engine.describe_call(replace(question, opening=""))
    with engine.load("tuned") as ask:
        ask(question)
    [body] = server.list_chats()
    system, user = (message["content"] for message in question.messages)
    assert body["raw"] is True and body["options"]["num_predict"] == 6 and not {"system", "template"} & body.keys()
    assert body["prompt"] == f"<|system|>{system}<|end|><|user|>{user}<|end|><|assistant|>The code is"


def test_an_opening_follows_the_format_of_the_modelfile(stages: Stages, server: ModelServer) -> None:
    gemma = next(known for known in FORMATS if known.name == "gemma-3")
    path = stages.config.gguf_dir / "Modelfile"
    path.write_text(path.read_text(encoding="utf-8").replace(read_modelfile(path).template, gemma.template), encoding="utf-8")
    server.templates[TUNED] = gemma.template
    with make(stages).load("tuned") as ask:
        ask(replace(make_set("").questions[0], opening="It is"))
    assert server.list_chats()[0]["prompt"].endswith("<end_of_turn>\n<start_of_turn>model\nIt is")


def test_both_endpoints_are_told_apart(stages: Stages) -> None:
    question = stages.make_set().questions[0]
    calls = {make(stages, f"endpoint: {endpoint}").describe_call(question) for endpoint in ("chat", "generate")}
    assert calls == {"ollama chat", "ollama generate"}
