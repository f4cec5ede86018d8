"""
The text of an Ollama Modelfile, and what such a file says.

Without a TEMPLATE Ollama would send prompts bare, or guess. Knows text only: neither GGUF files nor Ollama.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import PipelineError
from distill.files import read_text
from distill.gguf.chat import ChatFormat

if TYPE_CHECKING:
    from distill.gguf.families.common import Model

QUOTES = '"""'
# A text in three quotation marks, or a parameter. Searched in turn, so that no line inside a text is taken for a parameter.
COMMANDS = re.compile(
    r'^(?:(?P<text>TEMPLATE|SYSTEM) """(?P<body>[\s\S]*?)"""|PARAMETER (?P<name>\w+) (?P<value>.+))$', re.MULTILINE
)


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile of ours says; `parameters` as they stand there, one for each line."""

    template: str
    system: str
    parameters: tuple[tuple[str, str], ...]

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        return tuple(value.strip('"') for name, value in self.parameters if name == "stop")


def render_modelfile(
    gguf_name: str,
    *,
    format: ChatFormat,
    system: str,
    temperature: float,
    top_p: float,
    top_k: int,
    num_ctx: int,
    comments: Sequence[str] = (),
) -> str:
    """
    A Modelfile for the GGUF that lies beside it; LF line ends.

    comments: header lines, without their number sign. An empty system prompt is left out.
    Raises PipelineError for a system prompt that Ollama's parser would alter.
    """
    require_plain_text(system)
    system = system.strip() if "system" in format.trims else system
    lines = [f"# {' '.join(comment.split())}".rstrip() for comment in comments]
    lines += [f"FROM ./{gguf_name}", "", f"TEMPLATE {QUOTES}{format.template}{QUOTES}", ""]
    if system:
        lines += [f"SYSTEM {QUOTES}{system}{QUOTES}", ""]
    lines += [f'PARAMETER stop "{stop}"' for stop in format.stops]
    numbers = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "num_ctx": num_ctx}
    lines += [f"PARAMETER {name} {value}" for name, value in numbers.items()]
    return "\n".join(lines) + "\n"


def require_plain_text(system: str) -> None:
    """
    Raises PipelineError for text that does not survive Ollama's Modelfile parser.

    The parser ends a text at three quotation marks, and drops every character that does not print: carriage returns, no-break
    and other special spaces, zero-width characters.
    """
    if QUOTES in system:
        raise PipelineError('config.yaml prompt.system: three quotation marks in a row end a Modelfile\'s SYSTEM: remove them')
    for place, character in enumerate(system):
        if character not in "\n\t" and not character.isprintable():
            raise PipelineError(
                f"config.yaml prompt.system: character U+{ord(character):04X} after {system[max(0, place - 20):place]!r} "
                "would be lost in Ollama's Modelfile: replace it by a plain space or remove it"
            )


def require_context(model: Model, num_ctx: int) -> None:
    """Raises PipelineError when a served context would be longer than the one that the model was trained for."""
    if num_ctx > model.trained_context:
        raise PipelineError(
            f"config.yaml export.num_ctx {num_ctx} is above {model.trained_context}: {model.context_reason}; "
            f"set export.num_ctx to {model.trained_context} or less"
        )


def read_modelfile(path: Path) -> Modelfile:
    """A Modelfile that render_modelfile wrote. Raises PipelineError when it is missing or tells no TEMPLATE or no stops."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: run  python export_gguf.py --overwrite")
    texts, parameters = {"TEMPLATE": "", "SYSTEM": ""}, []
    for found in COMMANDS.finditer(read_text(path)):
        if found["text"]:
            texts[found["text"]] = found["body"]
        else:
            parameters.append((found["name"], found["value"]))
    modelfile = Modelfile(texts["TEMPLATE"], texts["SYSTEM"], tuple(parameters))
    if not modelfile.template or not modelfile.stops:
        raise PipelineError(f"{path} has no TEMPLATE or no PARAMETER stop: run  python export_gguf.py --overwrite")
    return modelfile
