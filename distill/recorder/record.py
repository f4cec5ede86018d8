"""Writes down each prompt that HybridRAG3 sends to Ollama, standing in its place (distill/relay.py).

Each prompt is on disk before its reply begins. With no Ollama to pass it on to, stand_in.py answers. Knows nothing of
what a prompt says; embedding requests are passed on and not recorded.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill.files import JsonlAppender, hold_lock, is_unicode, sha256_text
from distill.recorder.relay import Relay
from distill.recorder.stand_in import KNOWN_MODELS, StandInAnswer, answer_alone

OLLAMA_PATHS, OPENAI_PATHS = ("/api/generate", "/api/chat"), ("/v1/completions", "/v1/chat/completions")
PROMPT_PATHS = OLLAMA_PATHS + OPENAI_PATHS
TEXT_PATHS = ("/api/generate", "/v1/completions")  # the others send messages
# Requests with a body that asks no model for text.
OTHER_PATHS = {"/api/" + name for name in ("embed", "embeddings", "show", "pull", "push", "create", "copy", "delete", "me")}
OTHER_PATHS |= {"/v1/embeddings", "/api/tags", "/api/ps", "/api/version"}
BLOBS = "/api/blobs/"
LONGEST_PATH = 100


def record_prompts(path: Path, *, port: int, forward: str | None, encrypt: bool, answer_here: bool = False) -> None:
    """Record into the JSONL file at `path`, which grows, until Ctrl-C. `forward` is Ollama's address, None to answer alone.

    With `answer_here` prompts get a fixed sentence at once, and only the rest is passed on, such as embedding, and prompts in
    OpenAI's form (/v1), which are recorded too. Raises PipelineError when the port is taken, the address may not be called, or
    another recorder writes the file.
    """
    here = answer_here or not forward
    with hold_lock(path), Recorder(path, port=port, forward=forward, encrypt=encrypt, answer_here=here) as recorder:
        print(f"[OK] recording prompts into {path}{' (encrypted)' if encrypt else ''}")
        print(f"[OK] prompts are {'answered here by one fixed sentence' if here else f'passed on to {forward}'}")
        print(f"[OK] all else is {f'passed on to {forward}' if forward else 'answered here; embedding is not possible'}")
        print(f"     Set  ollama.base_url: {recorder.url}  in HybridRAG3's config.yaml and start it anew.")
        print("     Ask your questions there. Then press Ctrl-C here, and put the old address back.")
        try:
            recorder.serve()
        except KeyboardInterrupt:
            print(f"\n[OK] {recorder.count} prompts recorded; name the file in generate.recordings_file: {path}")


class Recorder:
    """The server and its file. `url` is where it listens, `count` how many prompts it recorded; `port` 0 takes any free one."""

    def __init__(
        self, path: Path, *, port: int, forward: str | None, encrypt: bool = False, answer_here: bool = False
    ) -> None:
        self.count, self._models = 0, dict.fromkeys(KNOWN_MODELS)
        self._lock, self._warned = threading.Lock(), set[str]()
        self._relay = Relay(port, forward, self.record, self.answer, OLLAMA_PATHS if answer_here else ())
        self.url, self.serve, self.stop = self._relay.url, self._relay.serve, self._relay.stop
        try:
            self._appender = JsonlAppender(path, encrypt=encrypt)
        except BaseException:
            self._relay.close()
            raise

    def record(self, path: str, data: bytes) -> None:
        """Write a prompt down; on return it is on disk. What holds no prompt is left alone, what may hold one is named."""
        body = parse_json(data)
        if problem := find_problem(path, data, body):
            return self.warn(path, problem)
        if path not in PROMPT_PATHS or not holds_prompt(path, body):
            return
        if not is_unicode(body):
            return print(f"[WARN] a prompt to {path} holds half of a character: not recorded")
        row = describe_prompt(path, body)
        with self._lock:
            self._appender.append(row)
            self.count += 1
            self._models[str(row["model"])] = None
            print(f"[OK] prompt {self.count}: {count_characters(row):,} characters")

    def warn(self, path: str, problem: str) -> None:
        """Say, once for each path, that a request was not written down. The path is the caller's: no sign of it is obeyed."""
        with self._lock:
            known = path in self._warned
            self._warned.add(path)
        if not known:
            print(f"[WARN] a request to {path[:LONGEST_PATH]!a} was not recorded: {problem}")

    def answer(self, path: str, data: bytes) -> StandInAnswer:
        """Where there is no Ollama; a model that was asked for is said to be there from then on."""
        with self._lock:
            models = list(self._models)
        return answer_alone(path, parse_json(data), models)

    def close(self) -> None:
        """Free the port; every recorded prompt is on disk already."""
        self._relay.close()
        with self._lock:
            self._appender.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -----------------------------------------------------------------------------
# What is written down


def find_problem(path: str, data: bytes, body: Any) -> str:
    """Why a request that may hold a prompt cannot be written down; "" for one that can be, or that holds none for sure."""
    if not data.strip() or path in OTHER_PATHS or path.startswith(BLOBS):
        return ""
    if path not in PROMPT_PATHS:
        return "whether it holds a prompt is not known"
    if not isinstance(body, dict):
        return "its body is no JSON object that can be read (compressed?)"
    said = body.get("prompt" if path in TEXT_PATHS else "messages")
    return "its prompt is not plain text" if said and not holds_prompt(path, body) else ""


def holds_prompt(path: str, body: Any) -> bool:
    """Whether a request asks a model for text; one without a prompt is Ollama's way to load or unload a model.

    The last of its messages must be text: OpenAI's form allows lists of texts and pictures as well.
    """
    if not isinstance(body, dict):
        return False
    if path in TEXT_PATHS:
        return isinstance(body.get("prompt"), str) and bool(body["prompt"])
    messages = body.get("messages")
    every = isinstance(messages, list) and bool(messages) and all(isinstance(message, dict) for message in messages)
    return every and isinstance(messages[-1].get("content"), str)


def describe_prompt(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A request as a row: the prompt to the byte, or the messages, and what it asks for beside them."""
    said = {"prompt": body["prompt"]} if path in TEXT_PATHS else {"messages": body["messages"]}
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "path": path, "model": body.get("model"), **said,
        "system": body.get("system"), "options": body.get("options"), "sha256": hash_prompt(said),
    }


def hash_prompt(row: Mapping[str, Any]) -> str:
    """The sha256 of a row's prompt, or of each message's role and content: the reader of recordings compares it."""
    if isinstance(row.get("prompt"), str):
        return sha256_text(row["prompt"])
    return sha256_text("".join(f"{message.get('role')}\n{message.get('content')}\n" for message in row.get("messages") or ()))


def count_characters(row: Mapping[str, Any]) -> int:
    """The length of what was asked."""
    return len(row["prompt"]) if "prompt" in row else sum(len(str(message.get("content"))) for message in row["messages"])


def parse_json(data: bytes) -> Any:
    """None for what is no JSON, or nested too deep to be read."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
