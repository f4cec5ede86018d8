"""Without Ollama the recorder answers in Ollama's own shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distill.recorder.stand_in import FIXED_ANSWER, KNOWN_MODELS, answer_alone

CHAT = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}
GENERATE = {"model": "m", "prompt": "why?"}


def read(path: str, body: Any = None) -> dict[str, Any]:
    answer = answer_alone(path, body, KNOWN_MODELS)
    assert answer.status == 200 and not answer.streamed
    return json.loads(b"".join(answer.parts))


@pytest.mark.parametrize(("path", "body"), [("/api/generate", GENERATE), ("/api/chat", CHAT)])
def test_one_answer_and_a_stream_say_the_same(path: str, body: dict[str, Any]) -> None:
    whole = read(path, {**body, "stream": False})
    streamed = answer_alone(path, body, ())  # a stream is Ollama's default
    lines = [json.loads(part) for part in streamed.parts]
    assert streamed.streamed and streamed.content_type == "application/x-ndjson"
    assert all(part.endswith(b"\n") and part.count(b"\n") == 1 for part in streamed.parts)
    said = [line.get("response", line.get("message", {}).get("content")) for line in [*lines, whole]]
    assert "".join(said[:-1]).strip() == said[-1] == FIXED_ANSWER
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    for last in (whole, lines[-1]):
        assert last["done_reason"] == "stop" and last["prompt_eval_count"] > 0 and last["eval_count"] == len(lines) - 1
        assert last["model"] == "m" and last["created_at"].endswith("Z") and last["total_duration"] > 0


@pytest.mark.parametrize(("keep_alive", "reason"), [(0, "unload"), (-1, "load"), ("5m", "load"), (None, "load")])
def test_a_request_without_a_prompt_loads_or_unloads(keep_alive: Any, reason: str) -> None:
    found = read("/api/generate", {"model": "m", "keep_alive": keep_alive, "stream": False})
    assert (found["response"], found["done"], found["done_reason"]) == ("", True, reason)


def test_the_list_of_models_and_what_describes_one() -> None:
    assert [model["name"] for model in read("/api/tags")["models"]] == list(KNOWN_MODELS)
    assert read("/api/version")["version"] and read("/api/ps") == {"models": []}
    assert read("/api/show", {"model": "m"})["capabilities"] == ["completion"]
    assert answer_alone("/", None, ()).parts == (b"Ollama is running",)


@pytest.mark.parametrize(("path", "body", "status"), [
    ("/api/embed", {"model": "m", "input": "x"}, 501), ("/api/embeddings", {"model": "m", "prompt": "x"}, 501),
    ("/api/pull", {"model": "m"}, 404), ("/v1/models", None, 404), ("/api/generate", None, 400),
    ("/api/chat", {"model": 5}, 400),
])
def test_what_it_cannot_do_is_an_error_in_words(path: str, body: Any, status: int) -> None:
    answer = answer_alone(path, body, ())
    assert answer.status == status and json.loads(b"".join(answer.parts))["error"]
