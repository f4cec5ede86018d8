"""What every engine can do, and which one the config names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from distill.cases.case_set import Question
from distill.config import Config
from distill.engines.calls import Ask
from distill.engines.models import Model, Side
from distill.engines.options import make_options
from distill.ollama import OllamaClient


class Engine(Protocol):
    """Asks one model after the other: `with engine.load(side) as ask: answer = ask(question)`.

    `loads` counts how often each model had to be brought into memory; `workers` is how many questions may be in flight.
    """

    loads: Counter[Side]
    workers: int

    def require_ready(self) -> None:
        """Loads nothing. Raises PipelineError when a model cannot be asked, or the pair not under the same conditions."""

    def load(self, side: Side) -> AbstractContextManager[Ask]:
        """
        One model, loaded once and freed at the end of the block.

        Raises PipelineError when it cannot be loaded, and for base and tuned when it wraps messages otherwise than in training.
        """

    def describe_call(self, question: Question) -> str:
        """The way a question takes to a model, such as "ollama chat": other ways may give other answers."""


def make_engine(config: Config, models: Mapping[Side, Model]) -> Engine:
    """The engine that config.evaluate.engine names. Raises PipelineError for an Ollama that must not be called."""
    from distill.engines.embedded import EmbeddedEngine
    from distill.engines.ollama_engine import OllamaEngine

    settings, options = config.evaluate, make_options(config)
    if settings.engine == "embedded":
        return EmbeddedEngine(models, options, config.prompt.system)
    client = OllamaClient(settings.ollama_url, settings.timeout_seconds)
    return OllamaEngine(client, models, options, config.prompt.system, settings.endpoint, settings.concurrency)
