"""Finished stages, a server that behaves as Ollama does, and sets of questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.cases.case_set import CaseSet, Question
from distill.engines.collecting import Collected, collect_answers
from distill.engines.engine import make_engine
from distill.engines.models import Model, find_models
from distill.files import read_json
from tests.finished_stages import ModelServer, hash_models, write_config, write_stages

OPTIONS = {"temperature": 0.0, "top_p": 0.9, "top_k": 40, "seed": 42, "num_ctx": 512, "num_predict": 24}
MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a valve?"})
QUESTION = Question("heldout", "row-1", MESSAGES)
MODEL = Model("tuned", "student", Path("student.gguf"), "gguf/student.gguf", "ab" * 32, 10, Path("gguf/Modelfile"))


def make_set(system: str, count: int = 3, name: str = "heldout", **fields: Any) -> CaseSet:
    """Questions row-0, row-1..., each asking about its own number."""
    front = [{"role": "system", "content": system}] if system else []
    questions = [
        Question(name, f"row-{number}", (*front, {"role": "user", "content": f"{name}: what is part {number}?"}), **fields)
        for number in range(count)
    ]
    return CaseSet(name, name, questions, {}, "", lambda answers: [{} for _ in answers])


class Stages:
    """A work folder with stages 1 to 3 done, evaluated against `server`."""

    def __init__(self, folder: Path, server: ModelServer, extra: str = "", **fields: Any) -> None:
        self.folder, self.server = folder, server
        self.configure(extra)
        write_stages(self.config, 1, **fields)
        server.blobs = hash_models(self.config)

    def configure(self, extra: str) -> None:
        """Another line in the evaluate section."""
        self.config = write_config(self.folder, self.server.base_url, extra)

    def make_set(self, *args: Any, **fields: Any) -> CaseSet:
        """Questions under the config's system prompt."""
        return make_set(self.config.prompt.system, *args, **fields)

    def find_models(self) -> dict[Any, Model]:
        """As evaluate.py finds them."""
        return find_models(self.config, read_json(self.config.gguf_dir / "manifest.json"))

    def collect(self, *sets: CaseSet) -> Collected:
        """What evaluate.py does between the inputs and the scores."""
        models = self.find_models()
        engine = make_engine(self.config, models)
        engine.require_ready()
        return collect_answers(self.config, engine, models, sets or [self.make_set()], self.config.evaluation_dir)

    def list_asked(self) -> list[tuple[str, str]]:
        """(model, last message or prompt) of every question, in order."""
        return [(body["model"], text_of(body)) for body in self.server.list_chats()]


def text_of(body: Any) -> str:
    """What was asked, under either endpoint."""
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def fail_for(failing: Callable[[Any], bool], failure: Any = (500, {"error": "out of memory"})) -> Callable[[Any], Any]:
    """A reply that fails for some requests."""
    return lambda body: failure if failing(body) else f"I am {body['model']}."


def with_questions(cases: CaseSet, questions: Sequence[Question]) -> CaseSet:
    """The set with other questions."""
    return replace(cases, questions=questions)
