"""How every model is asked: sampling and sizes in Ollama's words, whichever engine is at work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.cases.case_set import Question
from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_text

Options = Mapping[str, Any]


def make_options(config: Config) -> dict[str, Any]:
    """The options of every call; num_ctx is the one that the Modelfile serves with.

    Raises PipelineError where the longest answer would leave no room for a prompt.
    """
    settings = config.evaluate
    if settings.max_tokens >= config.export.num_ctx:
        raise PipelineError(
            f"config.yaml evaluate.max_tokens is {settings.max_tokens}, but the models read and write {config.export.num_ctx} "
            "tokens in all (export.num_ctx): lower it, so that there is room for the prompt"
        )
    return {
        "temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k, "seed": settings.seed,
        "num_ctx": config.export.num_ctx, "num_predict": settings.max_tokens,
    }


def options_for(question: Question, options: Options) -> dict[str, Any]:
    """The options with the question's own longest answer, if it has one, and above temperature 0 with a seed of its own.

    With one seed for all, the sampler throws the same dice at every question: all answers would be lucky or unlucky together.
    Base and tuned get the same seed for the same question.
    """
    own = {**options, "num_predict": question.max_tokens or options["num_predict"]}
    if options["temperature"] > 0:
        own["seed"] = int(sha256_text(f"{options['seed']}\n{question.set}\n{question.id}")[:8], 16) % 2**31
    return own
