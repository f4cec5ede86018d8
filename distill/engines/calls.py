"""
One question to one model, whichever engine is at work.

Whatever goes wrong with a call turns into an Answer with an `error` and no text: a failure is never scored as an answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.cases.case_set import Question
from distill.engines.models import Model, Side
from distill.engines.options import Options, options_for
from distill.errors import PipelineError
from distill.files import sha256_text
from distill.gguf.modelfile import read_modelfile
from distill.ollama import with_tag
from distill.records import Answer

Ask = Callable[[Question], Answer]
HASH_VERSION = 3  # of what hash_request covers


@dataclass(frozen=True)
class Reply:
    """What came back from one call; counts are tokens, `finish_reason` is "length" for an answer cut off at num_predict.

    `first_token_seconds` is loading and reading the prompt, `answer_seconds` writing; 0 where the engine does not tell.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    first_token_seconds: float = 0.0
    answer_seconds: float = 0.0


Complete = Callable[[Question, Options], Reply]


def make_ask(side: Side, options: Options, complete: Complete) -> Ask:
    """A function that never raises for a failed call: the reason becomes the answer's `error`."""

    def ask(question: Question) -> Answer:
        started, own = time.monotonic(), options_for(question, options)
        try:
            fields = describe_reply(question, complete(question, own), own)
        except Exception as error:
            fields = {"error": describe_error(error)}
        seconds = round(time.monotonic() - started, 3)
        return Answer(question.id, side, set=question.set, seconds=seconds, options=own, **fields)

    return ask


def describe_reply(question: Question, reply: Reply, options: Options) -> dict[str, Any]:
    """The fields of an Answer. Raises PipelineError for a cut prompt and for no answer."""
    require_whole_prompt(reply.prompt_tokens, options)
    return {
        "text": require_text(reply, opened=bool(question.opening)), "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens, "answer_tokens": reply.answer_tokens,
        "first_token_seconds": round(reply.first_token_seconds, 4), "answer_seconds": round(reply.answer_seconds, 4),
    }


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


def require_text(reply: Reply, opened: bool = False) -> str:
    """The text as it can be written to a file: blank is what a model said when it made tokens, and no answer without them.

    What goes on from an opening keeps the white space it begins with, and may be nothing. Raises PipelineError for no answer.
    """
    text = reply.text.encode("utf-8", "replace").decode("utf-8")
    if opened:
        return text.rstrip()
    if not text.strip() and not reply.answer_tokens:
        raise PipelineError("empty answer")
    return text.strip()


def describe_error(error: Exception) -> str:
    """One line; an exception that is not ours keeps its class name."""
    message = " ".join(str(error).split())
    return message if isinstance(error, PipelineError) else f"{type(error).__name__}: {message}"


# -----------------------------------------------------------------------------
# What an answer depends on


def hash_request(call: str, model: Model, wrapping: Mapping[str, Any], question: Question, options: Options) -> str:
    """
    What an answer depends on, as one sha256; an answer with the same one need not be asked for again.

    call: the engine and its endpoint. wrapping: see describe_wrapping. Beside them the program that runs the model and its
    version, the model's bytes (its name where nobody tells their hash), the messages, the opening and the options.
    """
    messages = [dict(message) for message in question.messages]
    asked = [call, model.runtime, model.sha256 or with_tag(model.name), dict(wrapping)]
    parts = [HASH_VERSION, *asked, messages, question.opening, options_for(question, options)]
    return sha256_text(json.dumps(parts, sort_keys=True, ensure_ascii=True))


def describe_wrapping(model: Model) -> dict[str, Any]:
    """What our Modelfile puts around messages, and where it ends answers; a stock model's is part of its digest."""
    if model.modelfile is None:
        return {}
    made = read_modelfile(model.modelfile)
    return {"template": made.template, "system": made.system, "stops": list(made.stops)}
