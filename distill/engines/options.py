"""How every model is asked: sampling and sizes in Ollama's words, whichever engine is at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.cases.case_set import Question
from distill.config import Config

Options = Mapping[str, Any]


def make_options(config: Config) -> dict[str, Any]:
    """The options of every call; num_ctx is the one that the Modelfile serves with."""
    settings = config.evaluate
    return {
        "temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k, "seed": settings.seed,
        "num_ctx": config.export.num_ctx, "num_predict": settings.max_tokens,
    }


def options_for(question: Question, options: Options) -> dict[str, Any]:
    """The options with the question's own longest answer, if it has one."""
    return {**options, "num_predict": question.max_tokens or options["num_predict"]}
