"""The one place that knows Ollama's native API.

Each call is one HTTP request on a connection of its own, so a client may be used from several threads. No retries: Ollama
runs on this machine or the next, and what fails there once fails again.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from distill.errors import PipelineError
from distill.network import is_loopback, require_allowed

NANOSECONDS = 1e-9


class OllamaError(PipelineError):
    """A call to Ollama failed; `status` is the HTTP status, 0 when there was no answer at all."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class OllamaReply:
    """One answer. Counts are tokens (prompt_eval_count and eval_count in Ollama's words), times are seconds.

    `load_seconds` is what passed before the model was at hand, `prompt_seconds` reading the prompt, `answer_seconds` writing.
    """

    text: str
    done_reason: str
    prompt_tokens: int
    answer_tokens: int
    total_seconds: float
    load_seconds: float
    prompt_seconds: float
    answer_seconds: float


class RefuseRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from this machine to another one."""

    def redirect_request(self, *_: Any) -> None:
        """Let the 3xx answer stand as an error."""
        return None


class OllamaClient:
    """Ollama at `base_url`; loopback addresses ignore proxy settings."""

    def __init__(self, base_url: str, timeout_seconds: float = 600) -> None:
        require_allowed(base_url)
        self.base_url, self._timeout_seconds = base_url.rstrip("/"), timeout_seconds
        proxies = [urllib.request.ProxyHandler({})] if is_loopback(base_url) else []
        self._opener = urllib.request.build_opener(RefuseRedirect, *proxies)

    def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, in one request. Raises OllamaError."""
        vectors = self._call("/api/embed", {"model": model, "input": list(texts)}).get("embeddings")
        if not isinstance(vectors, list) or len(vectors) != len(texts):
            raise OllamaError(f"Ollama at {self.base_url} gave no vector for each text: is {model} an embedding model?")
        return vectors

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        options: Mapping[str, Any],
        keep_alive: str | int | None = None,
    ) -> OllamaReply:
        """One answer, not streamed. `options` are Ollama's (num_ctx, num_predict, temperature...). Raises OllamaError."""
        body = {"model": model, "messages": list(messages), **describe_call(options, keep_alive)}
        answer = self._call("/api/chat", body)
        message = answer.get("message")
        return self._to_reply("/api/chat", answer, message.get("content") or "" if isinstance(message, dict) else None)

    def generate(
        self,
        model: str,
        prompt: str,
        options: Mapping[str, Any],
        keep_alive: str | int | None = None,
        raw: bool = False,
    ) -> OllamaReply:
        """One answer to one prompt, wrapped by the model's TEMPLATE and SYSTEM, or `raw`, as it stands. Raises OllamaError."""
        body = {"model": model, "prompt": prompt, **({"raw": True} if raw else {}), **describe_call(options, keep_alive)}
        answer = self._call("/api/generate", body)
        return self._to_reply("/api/generate", answer, answer.get("response"))

    def load(self, model: str, options: Mapping[str, Any], keep_alive: str | int) -> None:
        """Have a model in memory, with room for options["num_ctx"] tokens; comes back when it is there. Raises OllamaError."""
        self._call("/api/generate", {"model": model, **describe_call(options, keep_alive)})

    def list_loaded(self) -> list[str]:
        """The names of the models that are in memory now."""
        return [model.get("name") or "" for model in self._call("/api/ps").get("models") or []]

    def list_models(self) -> list[str]:
        """The names of the models that Ollama holds, such as phi4-mini:latest."""
        return [model["name"] for model in self._list_tags()]

    def has_model(self, name: str) -> bool:
        """Whether Ollama holds a model; a name without a tag means :latest."""
        return with_tag(name) in self.list_models()

    def find_model(self, name: str) -> dict[str, Any]:
        """What Ollama lists of a model, such as its digest and size; empty when it does not hold it."""
        return next((model for model in self._list_tags() if model["name"] == with_tag(name)), {})

    def show(self, model: str) -> dict[str, Any]:
        """What Ollama knows of a model, its Modelfile under "modelfile". Raises OllamaError, status 404 without the model."""
        return self._call("/api/show", {"model": model})

    def render_chat(
        self, model: str, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any] | None = None,
        keep_alive: str | int | None = None,
    ) -> str:
        """The prompt that Ollama would make of the messages, without asking the model; "" if this Ollama does not show it.

        Loads the model, again where `options` ask for another num_ctx than it was loaded with. `_debug_render_only` is not
        documented; a server that does not know it answers with one token.
        """
        return self._render("/api/chat", {"model": model, "messages": list(messages)}, options, keep_alive)

    def render_generate(
        self, model: str, prompt: str, options: Mapping[str, Any] | None = None, keep_alive: str | int | None = None
    ) -> str:
        """The same for /api/generate, where HybridRAG3 sends its prompts."""
        return self._render("/api/generate", {"model": model, "prompt": prompt}, options, keep_alive)

    def has_blob(self, sha256: str) -> bool:
        """Whether Ollama holds a file already, so that creating a model from it takes no room."""
        try:
            self._call(f"/api/blobs/sha256:{sha256}", method="HEAD")
        except OllamaError as error:
            if error.status == 404:
                return False
            raise
        return True

    def copy(self, source: str, destination: str) -> None:
        """Give a model a second name; its files are shared. Raises OllamaError."""
        self._call("/api/copy", {"source": source, "destination": destination})

    def version(self) -> str:
        """Ollama's version, such as 0.30.1."""
        return str(self._call("/api/version").get("version", ""))

    def unload(self, model: str) -> None:
        """Free the memory that a model takes. Raises OllamaError."""
        self._call("/api/generate", {"model": model, "keep_alive": 0})

    def _list_tags(self) -> list[dict[str, Any]]:
        return self._call("/api/tags").get("models") or []

    def _render(
        self, path: str, body: dict[str, Any], options: Mapping[str, Any] | None, keep_alive: str | int | None
    ) -> str:
        settings = describe_call({**(options or {}), "num_predict": 1}, keep_alive)
        shown = self._call(path, {**body, **settings, "_debug_render_only": True}).get("_debug_info") or {}
        return shown.get("rendered_template") or ""

    def _to_reply(self, path: str, body: dict[str, Any], text: object) -> OllamaReply:
        if not isinstance(text, str) or not body.get("done", True):
            raise OllamaError(f"Ollama at {self.base_url} answered {path} without a finished message")

        def seconds(name: str) -> float:
            return (body.get(name) or 0) * NANOSECONDS

        return OllamaReply(
            text=text, done_reason=body.get("done_reason") or "",
            prompt_tokens=body.get("prompt_eval_count") or 0, answer_tokens=body.get("eval_count") or 0,
            total_seconds=seconds("total_duration"), load_seconds=seconds("load_duration"),
            prompt_seconds=seconds("prompt_eval_duration"), answer_seconds=seconds("eval_duration"),
        )

    def _call(self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> dict[str, Any]:
        """GET, or POST when there is a body. Every way to fail becomes an OllamaError."""
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = urllib.request.Request(self.base_url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as response:
                text = response.read()
                # /api/copy and HEAD say yes with an empty body.
                answer = json.loads(text) if text else {}
        except urllib.error.HTTPError as error:
            raise self._explain_status(path, error.code, read_error(error), (body or {}).get("model")) from None
        except (OSError, HTTPException) as error:
            raise self._explain_silence(path, error) from None
        except ValueError:
            raise OllamaError(f"{self.base_url}{path} did not answer with JSON: is that address Ollama's?") from None
        if not isinstance(answer, dict) or answer.get("error"):
            problem = answer.get("error") if isinstance(answer, dict) else "no JSON object"
            raise OllamaError(f"Ollama at {self.base_url} answered {path} with an error: {problem}", 200)
        return answer

    def _explain_status(self, path: str, status: int, problem: str, model: str | None) -> OllamaError:
        if status == 404 and model and "model" in problem:
            return OllamaError(f"Ollama at {self.base_url} has no model {model}: run  ollama pull {model}", status)
        return OllamaError(f"Ollama at {self.base_url} answered {path} with {status}: {problem or 'no reason given'}", status)

    def _explain_silence(self, path: str, error: Exception) -> OllamaError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return OllamaError(f"Ollama at {self.base_url} did not answer {path} within {self._timeout_seconds:g} s")
        if isinstance(reason, ConnectionRefusedError):
            return OllamaError(f"nothing answers at {self.base_url}: start Ollama there (ollama serve), or mend the address")
        text = " ".join(str(reason).split()) or type(reason).__name__
        return OllamaError(f"the connection to Ollama at {self.base_url} broke: {text}")


def describe_call(options: Mapping[str, Any], keep_alive: str | int | None) -> dict[str, Any]:
    """What every question carries; without `keep_alive` the server's own setting says how long a model stays in memory."""
    return {"options": dict(options), "stream": False, **({} if keep_alive is None else {"keep_alive": keep_alive})}


def with_tag(name: str) -> str:
    """A model's name as Ollama lists it: one without a tag means :latest."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def find_blob(shown: Mapping[str, Any]) -> str:
    """The sha256 of the GGUF file behind a model that /api/show told of, which FROM names; "" if it does not tell."""
    found = re.search(r"^FROM .*sha256[-:]([0-9a-f]{64})", shown.get("modelfile") or "", re.MULTILINE)
    return found[1] if found else ""


def read_error(error: urllib.error.HTTPError) -> str:
    """The reason in an error answer's body, one line of at most 300 characters."""
    try:
        text = error.read().decode("utf-8", "replace")
        found = json.loads(text)
        text = str(found.get("error", text)) if isinstance(found, dict) else text
    except (OSError, HTTPException):
        return ""
    except ValueError:
        pass
    return " ".join(text.split())[:300]
