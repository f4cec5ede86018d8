"""An Ollama that models can be created in; its replies have the fields that Ollama's docs/api.md and server/routes.go show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.gguf.chat import FORMATS
from tests.servers import Handler, OllamaServer, with_tag


def render_known(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """What Ollama makes of one of our TEMPLATEs."""
    return next(known for known in FORMATS if known.template == template).render(list(messages))


class RegistryServer(OllamaServer):
    """
    An Ollama that models can be created in: /api/create, /api/copy, /api/show, HEAD and POST /api/blobs, and the prompts of
    /api/chat and /api/generate under `_debug_render_only`.

    `number` is its version, `render` what it does with a TEMPLATE; `created` holds the bodies of /api/create by model, `files`
    the blobs by sha256. `show_prompts`: False for an Ollama that does not know `_debug_render_only`. `jinja`: what it shows as
    template where it prefers the GGUF's.
    """

    def __init__(
        self, number: str = "0.30.1", render: Callable[[str, Sequence[Mapping[str, str]]], str] = render_known,
        show_prompts: bool = True, jinja: str = "",
    ) -> None:
        super().__init__(models=())
        self.number, self.render, self.show_prompts, self.jinja = number, render, show_prompts, jinja
        self.created: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        """Answer what the plain server does not know."""
        if path == "/api/version":
            return handler.reply({"version": self.number})
        if path.startswith("/api/blobs/sha256:"):
            return self.answer_blob(handler, path.rpartition(":")[2], body)
        if path == "/api/create":
            return self.keep(handler, body["model"], body)
        if path == "/api/copy":
            self.keep_as(body["destination"], self.created[with_tag(body["source"])])
            return handler.reply_empty()
        return super().answer(handler, path, body, number)

    def answer_blob(self, handler: Handler, sha256: str, body: bytes | None) -> None:
        """HEAD asks for a file, POST brings it; a wrong digest is refused."""
        if body is None:
            return handler.reply_empty(200 if sha256 in self.files else 404)
        if hashlib.sha256(body).hexdigest() != sha256:
            return handler.reply({"error": "digest mismatch"}, 400)
        self.files[sha256] = body
        handler.reply_empty(201)

    def keep(self, handler: Handler, name: str, body: Any) -> None:
        """Create a model from files that were brought."""
        missing = [digest for digest in body["files"].values() if digest.removeprefix("sha256:") not in self.files]
        if missing:
            return handler.reply({"error": f"file not found: {missing[0]}"}, 400)
        self.keep_as(name, body)
        handler.reply({"status": "success"})

    def keep_as(self, name: str, body: dict[str, Any]) -> None:
        """A model under a name, instead of the one that had it."""
        self.created[with_tag(name)] = body
        self.models = [*dict.fromkeys([*self.models, with_tag(name)])]

    def send_show(self, handler: Handler, body: Any) -> None:
        """FROM names the blob; parameters stand one a line, names padded to 30, texts in Go's quotes."""
        made = self.created[with_tag(body["model"])]
        digest = next(iter(made["files"].values())).replace(":", "-")
        lines = [
            f"{name:30} {json.dumps(value)}"
            for name, values in made["parameters"].items() for value in (values if isinstance(values, list) else [values])
        ]
        handler.reply({
            "modelfile": f'FROM /models/blobs/{digest}\nTEMPLATE """{made["template"]}"""\nSYSTEM {made["system"]}\n',
            "parameters": "\n".join(lines), "template": self.jinja or made["template"],
            **({"system": made["system"]} if made["system"] else {}),
            "details": {"format": "gguf", "family": "phi3"}, "capabilities": ["completion"],
        })

    def send_chat(self, handler: Handler, body: Any) -> None:
        """The prompt, the model's SYSTEM in front unless the messages bring one."""
        if not (self.show_prompts and body.get("_debug_render_only")):
            return super().send_chat(handler, body)
        self.send_prompt(handler, body, body["messages"])

    def send_generate(self, handler: Handler, body: Any) -> None:
        """The prompt of one user message."""
        if not (self.show_prompts and body.get("_debug_render_only")):
            return super().send_generate(handler, body)
        self.send_prompt(handler, body, [{"role": "user", "content": body["prompt"]}])

    def send_prompt(self, handler: Handler, body: Any, messages: list[dict[str, str]]) -> None:
        """The rendered prompt and no answer."""
        made = self.created[with_tag(body["model"])]
        own = bool(made["system"]) and messages[0]["role"] != "system"
        served = [{"role": "system", "content": made["system"]}, *messages] if own else messages
        prompt = self.render(made["template"], served)
        handler.reply({"model": body["model"], "done": False, "_debug_info": {"rendered_template": prompt}})
