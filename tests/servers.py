"""Real HTTP servers on 127.0.0.1 for tests: an OpenAI-compatible teacher that can be told to fail, and Ollama's native API.

    with TeacherServer() as teacher:      # teacher.base_url, teacher.requests
    with OllamaServer() as ollama:        # ollama.base_url, ollama.requests
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

WORD = re.compile(r"[a-z0-9]+")


class Server:
    """An HTTP server in a thread; port chosen by the system. `requests` holds every request in order of arrival."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []  # as they came in
        self._lock = threading.Lock()
        self._http = QueueingServer(("127.0.0.1", 0), make_handler(self))
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Any:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def record(self, path: str, body: Any, headers: dict[str, str]) -> int:
        """Remember a request; returns its number, counted from 0."""
        with self._lock:
            self.requests.append({"path": path, "body": body, "headers": headers, "time": time.monotonic()})
            return len(self.requests) - 1

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        """Write one HTTP answer."""
        raise NotImplementedError


class QueueingServer(ThreadingHTTPServer):
    """Keeps dozens of clients that connect at once waiting: the default of 5 makes the others try again after a second."""

    daemon_threads = True
    request_queue_size = 128


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive; the class attribute `server_object` does the work."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes: without this each answer waits 40 ms
    server_object: Server

    def log_message(self, *_: Any) -> None:
        """Keep the test output quiet."""

    def do_GET(self) -> None:
        """Answer a GET."""
        self.dispatch(None)

    def do_HEAD(self) -> None:
        """Answer a HEAD: the server's `answer` sends no body."""
        self.dispatch(None)

    def do_POST(self) -> None:
        """Answer a POST with a JSON body; half a body comes from a client that was killed while it sent."""
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        self.server_object.bodies.append(body)
        is_file = self.headers.get("Content-Type") == "application/octet-stream"
        self.dispatch(body if is_file else json.loads(body or b"{}"))

    def dispatch(self, body: Any) -> None:
        """Record, then answer; a client that was killed meanwhile is no error."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        number = self.server_object.record(self.path, body, headers)
        try:
            self.server_object.answer(self, self.path, body, number)
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError):
            self.close_connection = True

    def reply(self, payload: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send JSON, or a str as HTML."""
        data = (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        kind = "text/html" if isinstance(payload, str) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def reply_empty(self, status: int = 200) -> None:
        """Send a status alone."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        self.connection.close()


def make_handler(server: Server) -> type[Handler]:
    """A handler class bound to one server."""
    return type("BoundHandler", (Handler,), {"server_object": server})


# -----------------------------------------------------------------------------
# The teacher

FAULTS: dict[str, tuple[int, Any]] = {
    "400": (400, {"error": {"message": "bad request"}}),
    "401": (401, {"error": {"message": "wrong key"}}),
    "402": (402, {"error": {"message": "no credit"}}),
    "404": (404, {"error": {"message": "no such model"}}),
    "408": (408, {"error": {"message": "request timeout"}}),
    "409": (409, {"error": {"message": "conflict"}}),
    "500": (500, {"error": {"message": "internal error"}}),
    "503": (503, "upstream is down"),
    "error-200": (200, {"error": {"code": 502, "message": "provider returned error"}}),
    "error-200-402": (200, {"error": {"code": 402, "message": "no credit"}}),
    "null-choices": (200, {"id": "x", "object": "chat.completion", "choices": None}),
    "no-choices": (200, {"id": "x", "object": "chat.completion", "choices": []}),
}


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


LETTERS = str.maketrans("0123456789", "ghijklmnop")  # an identifier with a digit would have to stand in the source


def question_of(body: Any) -> str:
    """The last line of the last message: the question, under the default prompt template."""
    return body["messages"][-1]["content"].rsplit("Question: ", 1)[-1].strip()


def answer_plainly(body: Any) -> str:
    """An answer that depends on the question alone, citing source 1 where there is one; no check can find fault with it."""
    text = body["messages"][-1]["content"]
    digest = hashlib.sha256(question_of(body).encode()).hexdigest()[:12].translate(LETTERS)
    return f"It is as described there: {digest}." + (" [Source 1]" if "[Source 1] " in text else "")


class TeacherServer(Server):
    """POST /v1/chat/completions. `fault(number, question)` names a fault from FAULTS or one of 429, length, filtered, empty,
    html, drop, slow, echo-key, or is a recorded reply {"status", "headers", "body"}; None answers. `number` counts requests
    from 0. GET /v1/models lists `models` (None: 404), or gives `lookup`; such requests are in `lookups`, not in
    `requests`. `usage(body)` gives the usage figures of an answer, None for a server that sends none."""

    def __init__(
        self,
        text: Callable[[Any], str] = answer_plainly,
        fault: Callable[[int, str], str | dict[str, Any] | None] = lambda number, question: None,
        delay_seconds: float = 0.0,
        retry_after: str = "0",
        models: Sequence[str | dict[str, Any]] | None = ("teacher-1",),
        usage: Callable[[Any], dict[str, Any] | None] = lambda body: USAGE,
        lookup: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.url = self.base_url + "/v1"
        self.text, self.fault, self.delay_seconds, self.retry_after = text, fault, delay_seconds, retry_after
        self.models, self.usage, self.lookup = models, usage, lookup
        self.lookups: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0

    def record(self, path: str, body: Any, headers: dict[str, str]) -> int:
        """Questions to the model are counted apart from questions about the server."""
        if body is not None:
            return super().record(path, body, headers)
        with self._lock:
            self.lookups.append({"path": path, "headers": headers})
            return len(self.lookups) - 1

    def count_questions(self) -> Counter[str]:
        """How often each question was asked."""
        with self._lock:
            return Counter(question_of(request["body"]) for request in self.requests)

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        """Answer, or fail as `fault` says."""
        if body is None and path == "/v1/models":
            return self.send_models(handler)
        if path != "/v1/chat/completions":
            return handler.reply({"error": {"message": "not found"}}, 404)
        self.wait()
        fault = self.fault(number, question_of(body))
        if isinstance(fault, dict):
            return handler.reply(fault["body"], fault["status"], fault.get("headers"))
        if fault in FAULTS:
            status, payload = FAULTS[fault]
            return handler.reply(payload, status)
        special = getattr(self, "send_" + (fault or "answer").replace("-", "_"))
        return special(handler, body)

    def send_models(self, handler: Handler) -> None:
        """The list of models, or the recorded reply `lookup`."""
        if self.lookup:
            return handler.reply(self.lookup["body"], self.lookup["status"])
        if self.models is None:
            return handler.reply({"error": {"message": "not found"}}, 404)
        models = [{"id": model, "object": "model"} if isinstance(model, str) else model for model in self.models]
        handler.reply({"object": "list", "data": models})

    def wait(self) -> None:
        """Take the configured time; `most_at_once` is how many requests ever waited together."""
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.delay_seconds)
        with self._lock:
            self.at_once -= 1

    def send_answer(self, handler: Handler, body: Any, text: str | None = None, reason: str = "stop") -> None:
        """A whole completion."""
        message = {"role": "assistant", "content": self.text(body) if text is None else text}
        handler.reply({
            "id": "x", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            **({"usage": usage} if (usage := self.usage(body)) else {}),
        })

    def send_429(self, handler: Handler, body: Any) -> None:
        """Too many requests, with Retry-After."""
        handler.reply({"error": {"message": "slow down"}}, 429, {"Retry-After": self.retry_after})

    def send_length(self, handler: Handler, body: Any) -> None:
        """An answer that max_tokens cut off."""
        self.send_answer(handler, body, "An answer that was cut off in the mid", "length")

    def send_filtered(self, handler: Handler, body: Any) -> None:
        """An answer that a content filter stopped."""
        self.send_answer(handler, body, "", "content_filter")

    def send_empty(self, handler: Handler, body: Any) -> None:
        """A completion without text."""
        self.send_answer(handler, body, "")

    def send_html(self, handler: Handler, body: Any) -> None:
        """A gateway's page with status 200."""
        handler.reply("<html>sign in to the network</html>")

    def send_drop(self, handler: Handler, body: Any) -> None:
        """No answer at all."""
        handler.drop()

    def send_slow(self, handler: Handler, body: Any) -> None:
        """An answer after 3 s."""
        time.sleep(3)
        self.send_answer(handler, body)

    def send_echo_key(self, handler: Handler, body: Any) -> None:
        """An error whose text repeats the caller's Authorization header."""
        handler.reply({"error": {"message": f"refused {handler.headers.get('Authorization')}"}}, 400)


# -----------------------------------------------------------------------------
# Ollama


def embed_words(texts: Sequence[str], dim: int = 64) -> np.ndarray:
    """Bag-of-words vectors [n, dim], float32, normalised: texts that share words are near each other. No model, no wait."""
    vectors = np.zeros((len(texts), dim), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in WORD.findall(text.lower()):
            digest = hashlib.sha256(word.encode()).digest()
            vectors[row, digest[0] % dim] += 1.0 if digest[1] % 2 else -1.0
            vectors[row, digest[2] % dim] += 1.0 if digest[3] % 2 else -1.0
        vectors[row, 0] += 1e-3
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class OllamaServer(Server):
    """Ollama's native API: /api/embed, /api/chat, /api/generate, /api/tags, /api/version. Unknown models are 404."""

    def __init__(
        self,
        models: Sequence[str] = ("nomic-embed-text:latest",),
        embed: Callable[[Sequence[str]], np.ndarray] = embed_words,
        chat: Callable[[Any], str] = lambda body: "pong",
        fault: Callable[[int, str], tuple[int, Any] | str | None] = lambda number, path: None,
    ) -> None:
        super().__init__()
        self.models, self.embed, self.chat, self.fault = list(models), embed, chat, fault

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        """Answer; `fault` may give (status, payload), or "drop", for a request."""
        fault = self.fault(number, path)
        if fault == "drop":
            return handler.drop()
        if isinstance(fault, tuple):
            return handler.reply(fault[1], fault[0])
        if path == "/api/tags":
            return handler.reply({"models": [{"name": name} for name in self.models]})
        if path == "/api/version":
            return handler.reply({"version": "0.30.1"})
        if with_tag(body["model"]) not in self.models:
            return handler.reply({"error": f"model '{body['model']}' not found"}, 404)
        return getattr(self, "send_" + path.rsplit("/", 1)[-1])(handler, body)

    def send_embed(self, handler: Handler, body: Any) -> None:
        """Vectors for one text or a list."""
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        bare = [text.removeprefix("search_query: ").removeprefix("search_document: ") for text in texts]
        handler.reply({"model": body["model"], "embeddings": self.embed(bare).tolist() if bare else []})

    def send_chat(self, handler: Handler, body: Any) -> None:
        """One message; a token is a word here."""
        text = self.chat(body)
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        handler.reply({
            "model": body["model"], "message": {"role": "assistant", "content": text}, "done": True, "done_reason": "stop",
            "total_duration": 2_000_000, "load_duration": 500_000, "prompt_eval_count": prompt,
            "prompt_eval_duration": 500_000, "eval_count": len(text.split()), "eval_duration": 1_000_000,
        })

    def send_generate(self, handler: Handler, body: Any) -> None:
        """Only what unloading a model needs."""
        handler.reply({"model": body["model"], "response": "", "done": True, "done_reason": "unload"})


def with_tag(name: str) -> str:
    """A model's name as Ollama keeps it."""
    return name if ":" in name else f"{name}:latest"
