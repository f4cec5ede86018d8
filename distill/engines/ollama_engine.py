"""
Ollama's native API: the OpenAI-compatible endpoint has no num_ctx and cuts a longer prompt without a word.

A model is loaded by a call of its own, so that no question waits for it; before each question Ollama is asked whether the model
is still in memory, so that every load is counted. Read in Ollama's source and documentation; tested against a server that loads
and evicts as Ollama does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distill.cases.case_set import Question
from distill.engines.calls import Ask, Reply, make_ask
from distill.engines.models import PAIR, Model, Side
from distill.engines.options import Options
from distill.engines.prompts import find_format, make_probe, render_opened, require_same_prompt
from distill.errors import PipelineError
from distill.gguf.modelfile import read_modelfile
from distill.ollama import OllamaClient, OllamaError, find_blob, with_tag

# Longer than the gap between two questions; sent with each call, since a server may be told to unload after every answer.
KEEP_ALIVE = "10m"


class OllamaEngine:
    """Asks /api/chat, or with `endpoint` generate /api/generate as HybridRAG3 does; `system` is the prompt's."""

    def __init__(
        self, client: OllamaClient, models: Mapping[Side, Model], options: Options, system: str = "", endpoint: str = "chat",
        workers: int = 1,
    ) -> None:
        self._client, self._models, self._options = client, models, options
        self._system, self._endpoint, self.workers = system, endpoint, workers
        self.loads: Counter[Side] = Counter()
        self._lock = threading.Lock()

    def require_ready(self) -> None:
        """Raises PipelineError with what to do when Ollama lacks a model, has another file, or serves the two unlike."""
        shown = {}
        for side, model in self._models.items():
            create = describe_creation(model)
            if not self._client.has_model(model.name):
                raise PipelineError(f"Ollama at {self._client.base_url} has no model {model.name}: {create}")
            if model.modelfile:
                find_format(model)
                shown[side] = self._show(model.name)
                self._require_file(model, find_blob(shown[side]), create)
                require_own_wrapping(model, shown[side], create)
        require_same_conditions([shown[side] for side in PAIR if shown.get(side)])

    def _require_file(self, model: Model, held: str, create: str) -> None:
        """`held`: the sha256 of the file that Ollama serves, "" if it does not tell."""
        if not held:
            print(f"[WARN] Ollama does not tell which file {model.name} was made from: if in doubt, {create}")
        elif held != model.sha256:
            raise PipelineError(f"{model.name} in Ollama was not made from the present {model.file}: {create}")

    def _show(self, name: str) -> dict[str, Any]:
        """What Ollama knows of a model; nothing, if it does not tell."""
        try:
            return self._client.show(name)
        except OllamaError:
            return {}

    def describe_call(self, question: Question) -> str:
        """An opening takes a way of its own, under either endpoint."""
        return "ollama raw" if question.opening else f"ollama {self._endpoint}"

    @contextmanager
    def load(self, side: Side) -> Iterator[Ask]:
        """Afterwards the model's memory is freed for the next one."""
        model = self._models[side]
        self._bring(side, model.name)
        try:
            if model.modelfile:
                self._compare_prompt(model)
            yield make_ask(side, self._options, lambda question, options: self._complete(side, question, options))
        finally:
            try:
                self._client.unload(model.name)
            except OllamaError as error:
                print(f"[WARN] {model.name} stays loaded: {error}")

    def _bring(self, side: Side, name: str) -> None:
        """Load the model, and count it."""
        self._client.load(name, self._options, KEEP_ALIVE)
        self.loads[side] += 1

    def _compare_prompt(self, model: Model) -> None:
        """Raises PipelineError when Ollama makes another text of messages than training did."""
        format = find_format(model)
        probe = make_probe(format, self._system)
        if self._endpoint == "generate":
            shown = self._client.render_generate(model.name, probe[-1]["content"], self._options, KEEP_ALIVE)
        else:
            shown = self._client.render_chat(model.name, probe, self._options, KEEP_ALIVE)
        if shown:
            require_same_prompt(model, format, shown, probe)
        else:
            print(f"[WARN] Ollama does not show the prompt that it makes for {model.name}: it was not compared with training's")

    def _complete(self, side: Side, question: Question, options: Options) -> Reply:
        model, client = self._models[side], self._client
        with self._lock:  # one thread brings the model back, the others wait for it
            if self._is_gone(model.name):
                self._bring(side, model.name)
        if question.opening:
            prompt = render_opened(find_format(model), question.messages, question.opening)
            reply = client.generate(model.name, prompt, options, KEEP_ALIVE, raw=True)
        elif self._endpoint == "generate":
            reply = client.generate(model.name, question.messages[-1]["content"], options, KEEP_ALIVE)
        else:
            reply = client.chat(model.name, question.messages, options, KEEP_ALIVE)
        first = reply.load_seconds + reply.prompt_seconds
        return Reply(reply.text, reply.done_reason, reply.prompt_tokens, reply.answer_tokens, first, reply.answer_seconds)

    def _is_gone(self, name: str) -> bool:
        """Whether Ollama has let go of the model; an Ollama without /api/ps is taken to hold it."""
        try:
            return with_tag(name) not in self._client.list_loaded()
        except OllamaError as error:
            if error.status == 404:
                return False
            raise


def describe_creation(model: Model) -> str:
    """The command that brings a model into Ollama."""
    return f'run  ollama create {model.name} -f "{model.modelfile}"' if model.modelfile else f"run  ollama pull {model.name}"


def require_own_wrapping(model: Model, shown: Mapping[str, Any], create: str) -> None:
    """Raises PipelineError when Ollama's TEMPLATE or SYSTEM is not the Modelfile's; what it does not tell passes for right."""
    wanted = read_modelfile(model.modelfile)
    # Where Ollama prefers the GGUF's Jinja, that stands under "template", and ours in the Modelfile alone.
    texts = [text for text in (shown.get("template"), shown.get("modelfile")) if text]
    if texts and not any(wanted.template in text for text in texts):
        raise PipelineError(f"{model.name} in Ollama has another TEMPLATE than {model.modelfile}: {create}")
    if texts and (shown.get("system") or "") != wanted.system:
        raise PipelineError(f"{model.name} in Ollama has another SYSTEM than {model.modelfile}: {create}")


def require_same_conditions(shown: list[Mapping[str, Any]]) -> None:
    """Raises PipelineError when Ollama wraps messages, ends answers or samples in another way for one of the models."""
    for name, key in (("TEMPLATEs", "template"), ("SYSTEM prompts", "system"), ("PARAMETER lines", "parameters")):
        if len({tuple(sorted(" ".join(line.split()) for line in (told.get(key) or "").splitlines())) for told in shown}) > 1:
            raise PipelineError(
                f"base and tuned have different {name} in Ollama: create both again from gguf/Modelfile and gguf/Modelfile.base"
            )
