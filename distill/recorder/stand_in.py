"""What the recorder answers where no Ollama stands behind it: Ollama's own shapes around one fixed sentence.

It holds no model. A question's vector cannot be made up, so embedding is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from distill.curation.lengths import CHARACTERS_PER_TOKEN

KNOWN_MODELS = ("phi4-mini:latest", "mistral:7b", "phi4:14b", "gemma3:4b", "mistral-nemo:12b", "nomic-embed-text:latest")
VERSION = "0.30.0"
FIXED_ANSWER = "This prompt was recorded; no model was asked."
NO_EMBEDDER = "the recorder holds no embedding model: let it pass requests on to an Ollama that has one"
NANOSECONDS = 1_000_000  # every duration: a millisecond
DETAILS = {
    "parent_model": "", "format": "gguf", "family": "phi3", "families": ["phi3"], "parameter_size": "3.8B",
    "quantization_level": "Q4_K_M",
}


@dataclass(frozen=True)
class StandInAnswer:
    """An HTTP answer. `streamed`: the parts are sent one by one, without a length."""

    status: int
    content_type: str
    parts: tuple[bytes, ...]
    streamed: bool = False


def answer_alone(path: str, body: Any, models: Iterable[str]) -> StandInAnswer:
    """Ollama's answer to a request at `path`; `body` is its JSON, or None; `models` are said to be there."""
    plain = {
        "/api/version": {"version": VERSION}, "/api/ps": {"models": []},
        "/api/tags": {"models": [describe_model(name) for name in models]}, "/api/show": show_model(),
    }
    if path == "/":
        return StandInAnswer(200, "text/plain; charset=utf-8", (b"Ollama is running",))
    if path in plain:
        return to_json(plain[path])
    if path in ("/api/embed", "/api/embeddings"):
        return to_json({"error": NO_EMBEDDER}, 501)
    if path not in ("/api/generate", "/api/chat"):
        return to_json({"error": f"the recorder does not know {path}"}, 404)
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return to_json({"error": "a JSON object with a model is wanted"}, 400)
    return to_answer(path, body)


def to_json(value: Mapping[str, Any], status: int = 200) -> StandInAnswer:
    """One JSON object."""
    return StandInAnswer(status, "application/json; charset=utf-8", (json.dumps(value).encode(),))


def describe_model(name: str) -> dict[str, Any]:
    """An entry of /api/tags."""
    return {
        "name": name, "model": name, "modified_at": name_time(), "size": 2_491_876_774, "digest": f"{0:064x}",
        "details": DETAILS,
    }


def show_model() -> dict[str, Any]:
    """Any model, as /api/show describes it."""
    return {
        "modelfile": "", "parameters": "", "template": "{{ .Prompt }}", "details": DETAILS,
        "model_info": {"general.architecture": "phi3", "phi3.context_length": 131072}, "capabilities": ["completion"],
        "modified_at": name_time(),
    }


def name_time() -> str:
    """Now, as Ollama writes it."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def to_answer(path: str, body: Mapping[str, Any]) -> StandInAnswer:
    """The fixed sentence, word by word where a stream is wanted, which it is unless the request says otherwise.

    A request without a prompt loads a model, or unloads it, and gets no text.
    """
    prompt = count_characters(body)
    words = [f"{word} " for word in FIXED_ANSWER.split()] if prompt else []
    last = describe_end(body, prompt, len(words))
    if body.get("stream") is False:
        whole = {**wrap(path, body, "".join(words).strip()), **last}
        return to_json(whole)
    lines = [{**wrap(path, body, word), "done": False} for word in words] + [{**wrap(path, body, ""), **last}]
    return StandInAnswer(200, "application/x-ndjson", tuple(json.dumps(line).encode() + b"\n" for line in lines), streamed=True)


def count_characters(body: Mapping[str, Any]) -> int:
    """The length of what a request asks."""
    messages = body.get("messages")
    said = [message.get("content") for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    return sum(len(text) for text in (body.get("prompt"), *said) if isinstance(text, str))


def describe_end(body: Mapping[str, Any], prompt: int, words: int) -> dict[str, Any]:
    """The fields of a finished answer."""
    if not prompt:
        return {"done": True, "done_reason": "unload" if body.get("keep_alive") in (0, "0", "0s") else "load"}
    return {
        "done": True, "done_reason": "stop", "total_duration": 3 * NANOSECONDS, "load_duration": NANOSECONDS,
        "prompt_eval_count": max(1, prompt // CHARACTERS_PER_TOKEN), "prompt_eval_duration": NANOSECONDS,
        "eval_count": words, "eval_duration": NANOSECONDS,
    }


def wrap(path: str, body: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A piece of text as /api/generate or /api/chat sends it."""
    said = {"response": text} if path == "/api/generate" else {"message": {"role": "assistant", "content": text}}
    return {"model": body["model"], "created_at": name_time(), **said}
