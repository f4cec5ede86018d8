"""
The text that a model really reads: as its Modelfile says, and as an engine shows it.

Knows no engine. Whether an engine shows the BOS token in front is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.engines.models import Model
from distill.errors import PipelineError
from distill.gguf.chat import FORMATS, ChatFormat, describe_difference
from distill.gguf.modelfile import read_modelfile
from distill.prompts import Message, to_messages

# Everything that a template engine could alter: quotes, markup, marks beyond ASCII, white space inside.
PROBE = 'What does "45\u00a0Nm" \u00b1 5 \u00b5m mean? {{ .Content }} {% if x %} <b>\\n</b>\n\n\tend'
BOS = re.compile(r"<[^<>\s]+>")


def find_format(model: Model) -> ChatFormat:
    """The chat format whose TEMPLATE stands in the model's Modelfile. Raises PipelineError when it is none of ours."""
    template = read_modelfile(model.modelfile).template
    for known in FORMATS:
        if known.template == template:
            return known
    raise PipelineError(f"{model.modelfile} has a TEMPLATE that is not of this version: run  python export_gguf.py --overwrite")


def make_probe(format: ChatFormat, system: str) -> list[Message]:
    """A conversation that every way to wrap messages writes the same, if it is the right way."""
    return format.tidy(to_messages(system, PROBE))


def render_opened(format: ChatFormat, messages: Sequence[Message], opening: str) -> str:
    """The prompt with the answer begun."""
    return format.render(format.tidy(messages)) + opening


def require_same_prompt(model: Model, format: ChatFormat, shown: str, messages: Sequence[Message]) -> None:
    """Raises PipelineError, with the place, when an engine makes another text of messages than training did."""
    wanted = format.render(messages)
    bare = shown.removesuffix(wanted)
    if shown.endswith(wanted) and (not bare or (format.bos and BOS.fullmatch(bare))):
        return
    raise PipelineError(
        f"{model.name} is asked with other prompts than it was trained with: {describe_difference(shown, wanted)}; "
        "run  python export_gguf.py --overwrite  and, with Ollama, create the model again"
    )
