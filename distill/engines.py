"""What answers the evaluation's questions: Ollama, or llama.cpp inside this process.

Both get the same messages and the same options, load each model once, and turn whatever goes wrong with a call into an Answer
with an `error` and no text: a failure is never scored as an answer.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_text
from distill.ollama import OllamaClient, OllamaError
from distill.prompts import Message, to_messages
from distill.records import Answer, TrainingExample

Side = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = ("base", "tuned")
Ask = Callable[[str, Sequence[Message]], Answer]  # (example id, messages)
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """One side of the comparison: its name in Ollama, its GGUF file (`file`: relative to work_dir), and its Modelfile."""

    name: str
    path: Path
    file: str
    sha256: str
    bytes: int
    modelfile: Path


@dataclass(frozen=True)
class Reply:
    """What came back from one call; counts are tokens, `finish_reason` is "length" for an answer cut off at num_predict."""

    text: str
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Question:
    """One call to make; an answer on disk with the same `request_sha256` makes it unnecessary."""

    example_id: str
    messages: Sequence[Message]
    request_sha256: str


class Engine(Protocol):
    """Asks one model after the other; `with engine.load(side) as ask: answer = ask(example_id, messages)`."""

    def require_ready(self) -> None:
        """Raises PipelineError when a model cannot be asked."""

    def load(self, side: Side) -> AbstractContextManager[Ask]:
        """One model, loaded once and freed at the end of the block."""


def find_models(config: Config, manifest: Mapping[str, Any]) -> dict[Side, Model]:
    """Both sides as export_gguf.py left them. Raises PipelineError when the base, the control, is missing."""
    found = manifest["details"]["models"]
    if not found.get("base"):
        raise PipelineError(
            "gguf/ holds no base model to compare with: set export.export_base: true, run  python export_gguf.py --overwrite"
        )
    files = {output["path"]: output for output in manifest["outputs"]}
    return {side: to_model(config, found[side], files[found[side]["file"]]) for side in SIDES}


def to_model(config: Config, entry: Mapping[str, Any], output: Mapping[str, Any]) -> Model:
    """One entry of gguf/manifest.json."""
    return Model(
        name=entry["ollama_name"], path=config.work_dir / entry["file"], file=entry["file"], sha256=output["sha256"],
        bytes=output["bytes"], modelfile=config.work_dir / entry["modelfile"],
    )


def make_engine(config: Config, models: Mapping[Side, Model]) -> Engine:
    """The engine that config.evaluate.engine names."""
    settings = config.evaluate
    if settings.engine == "embedded":
        return EmbeddedEngine(models, make_options(config))
    return OllamaEngine(OllamaClient(settings.ollama_url, settings.timeout_seconds), models, make_options(config))


def make_options(config: Config) -> dict[str, Any]:
    """The options of every call, in Ollama's words; num_ctx is the one that the Modelfile serves with."""
    settings = config.evaluate
    return {
        "temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k, "seed": settings.seed,
        "num_ctx": config.export.num_ctx, "num_predict": settings.max_tokens,
    }


def plan_questions(config: Config, model: Model, examples: Sequence[TrainingExample]) -> list[Question]:
    """The calls to one model, in the order of the examples."""
    options, questions = make_options(config), []
    for example in examples:
        messages = to_messages(config.prompt.system, example.instruction)
        questions.append(Question(example.id, messages, hash_request(config.evaluate.engine, model, messages, options)))
    return questions


def hash_request(engine: str, model: Model, messages: Sequence[Message], options: Options) -> str:
    """What an answer depends on, as one sha256: the model's bytes, the engine, the messages and the options."""
    parts = [engine, model.sha256, list(messages), dict(options)]
    return sha256_text(json.dumps(parts, sort_keys=True, ensure_ascii=True))


# -----------------------------------------------------------------------------
# One call


def make_ask(side: Side, options: Options, complete: Callable[[Sequence[Message]], Reply]) -> Ask:
    """A function that never raises for a failed call: the reason becomes the answer's `error`."""

    def ask(example_id: str, messages: Sequence[Message]) -> Answer:
        started = time.monotonic()
        try:
            reply = complete(messages)
            require_whole_prompt(reply.prompt_tokens, options)
            fields = {"text": require_text(reply), "finish_reason": reply.finish_reason}
            counts = {"prompt_tokens": reply.prompt_tokens, "answer_tokens": reply.answer_tokens}
        except Exception as error:
            fields, counts = {"error": describe_error(error)}, {}
        seconds = round(time.monotonic() - started, 3)
        return Answer(example_id, side, seconds=seconds, options=dict(options), **fields, **counts)

    return ask


def require_whole_prompt(prompt_tokens: int, options: Options) -> None:
    """Raises PipelineError for a prompt that leaves no room for the answer: the engine cut it, or would cut it."""
    room = options["num_ctx"] - options["num_predict"]
    if prompt_tokens > room:
        raise PipelineError(
            f"the prompt has {prompt_tokens} tokens, but num_ctx {options['num_ctx']} leaves {room} beside max_tokens "
            f"{options['num_predict']}: lower evaluate.max_tokens or generate.top_k"
        )
    if not prompt_tokens:
        raise PipelineError("the engine gave no prompt_eval_count, so nobody can tell whether it cut the prompt: update Ollama")


def require_text(reply: Reply) -> str:
    """The text as it can be written to a file: blank is what a model said when it made tokens, and no answer without them.

    Raises PipelineError for the latter.
    """
    text = reply.text.encode("utf-8", "replace").decode("utf-8").strip()
    if not text and not reply.answer_tokens:
        raise PipelineError("empty answer")
    return text


def describe_error(error: Exception) -> str:
    """One line; an exception that is not ours keeps its class name."""
    message = " ".join(str(error).split())
    return message if isinstance(error, PipelineError) else f"{type(error).__name__}: {message}"


# -----------------------------------------------------------------------------
# Ollama


class OllamaEngine:
    """Ollama's /api/chat: the OpenAI-compatible endpoint has no num_ctx and cuts a longer prompt without a word."""

    def __init__(self, client: OllamaClient, models: Mapping[Side, Model], options: Options) -> None:
        self._client, self._models, self._options = client, models, options

    def require_ready(self) -> None:
        """Raises PipelineError with what to do when Ollama lacks a model, has another file, or another prompt for each side."""
        shown = []
        for model in self._models.values():
            create = f'run  ollama create {model.name} -f "{model.modelfile}"'
            if not self._client.has_model(model.name):
                raise PipelineError(f"Ollama at {self._client.base_url} has no model {model.name}: {create}")
            shown.append(self._show(model.name))
            held = find_blob(shown[-1])
            if not held:
                print(f"[WARN] Ollama does not tell which file {model.name} was made from: if in doubt, {create}")
            elif held != model.sha256:
                raise PipelineError(f"{model.name} in Ollama was not made from the present {model.file}: {create}")
        require_same_prompts(shown)

    def _show(self, name: str) -> dict[str, Any]:
        """What Ollama knows of a model; nothing, if it does not tell."""
        try:
            return self._client.show(name)
        except OllamaError:
            return {}

    @contextmanager
    def load(self, side: Side) -> Iterator[Ask]:
        """Ollama loads the model at the first question; afterwards its memory is freed for the next one."""
        name = self._models[side].name

        def complete(messages: Sequence[Message]) -> Reply:
            reply = self._client.chat(name, messages, self._options)
            return Reply(reply.text, reply.done_reason, reply.prompt_tokens, reply.answer_tokens)

        try:
            yield make_ask(side, self._options, complete)
        finally:
            try:
                self._client.unload(name)
            except OllamaError as error:
                print(f"[WARN] {name} stays loaded: {error}")


def find_blob(shown: Mapping[str, Any]) -> str:
    """The sha256 of the GGUF file behind a model, which Ollama keeps as it is and names in FROM; "" if it does not tell."""
    found = re.search(r"^FROM .*sha256[-:]([0-9a-f]{64})", shown.get("modelfile") or "", re.MULTILINE)
    return found[1] if found else ""


def require_same_prompts(shown: Sequence[Mapping[str, Any]]) -> None:
    """Raises PipelineError when Ollama wraps messages, or ends answers, in another way for one of the models."""
    told = [answer for answer in shown if answer]
    templates = {answer.get("template") or "" for answer in told}
    stops = {tuple(sorted(re.findall(r"^stop\s+(.+?)\s*$", answer.get("parameters") or "", re.MULTILINE))) for answer in told}
    for name, found in (("TEMPLATEs", templates), ("PARAMETER stop lines", stops)):
        if len(found) > 1:
            raise PipelineError(
                f"base and tuned have different {name} in Ollama: create both again from gguf/Modelfile and gguf/Modelfile.base"
            )


# -----------------------------------------------------------------------------
# llama.cpp inside this process


class EmbeddedEngine:
    """llama.cpp in this process, with the chat template of the GGUF file and the stops of the Modelfile beside it."""

    def __init__(self, models: Mapping[Side, Model], options: Options) -> None:
        self._models, self._options = models, options

    def require_ready(self) -> None:
        """Nothing to check: gguf/manifest.json has vouched for both files."""

    @contextmanager
    def load(self, side: Side) -> Iterator[Ask]:
        """Raises PipelineError when llama.cpp refuses the file; that is no failed call, and ends the run."""
        from distill.gguf.modelfile import read_modelfile
        from distill.llamacpp import LlamaModel

        options, stops = self._options, read_modelfile(self._models[side].modelfile).stops
        with LlamaModel(self._models[side].path, n_ctx=options["num_ctx"]) as model:

            def complete(messages: Sequence[Message]) -> Reply:
                made = model.complete(
                    model.apply_template(messages), temperature=options["temperature"], top_p=options["top_p"],
                    top_k=options["top_k"], max_tokens=options["num_predict"], seed=options["seed"], stop=stops,
                )
                return Reply(made.text, made.finish_reason, made.prompt_tokens, made.generated_tokens)

            yield make_ask(side, options, complete)
