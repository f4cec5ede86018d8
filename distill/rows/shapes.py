"""What a prompt asks an answer to look like: which citation tag, which words of refusal, which mark for general knowledge.

Found by form, never by a known prompt's wording, and only in the instructions: a document may hold anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distill.config import PromptSection
from distill.errors import PipelineError
from distill.prompts import demands_refusal, invites_knowledge, normalise, wants_citations

# [Source N], [Source: chunk_1]: a bracket that ends in a number, or in a capital N standing for one.
CITATION = re.compile(r"\[([A-Za-z][^\[\]\n]{0,40}?)(?:\d+|(?<![A-Za-z])N)\]")
# respond: "..."  say exactly: "..."  reply: "...": what is quoted is the refusal; it may run over lines.
REFUSAL = re.compile(
    r"\b(?:respond|reply|say|answer)(?: (?:exactly|only|with))*:\s*[\"\u201c]([^\"\u201c\u201d]{10,300})[\"\u201d]",
    re.IGNORECASE,
)
# "... knowledge ... prefix ... [Mark]" in one line.
MARK = re.compile(r"^(?=.*\bknowledge\b).*?\bprefix\b[^\n\[]{0,60}(\[[A-Za-z][^\[\]\n]{2,40}\])", re.IGNORECASE | re.MULTILINE)
SHOWN_LINES = 5


@dataclass(frozen=True)
class Shape:
    """The values of prompt.citation, prompt.refusal and prompt.general_knowledge that a prompt asks for; "" for none."""

    citation: str
    refusal: str
    general_knowledge: str


def find_shape(prompt: PromptSection, instructions: str) -> Shape:
    """The first tag, refusal and mark that the instructions show.

    Where none is seen by its form, the configured one counts if the instructions hold it.
    """
    tag, refusal, mark = (pattern.search(instructions) for pattern in (CITATION, REFUSAL, MARK))
    configured = Shape(
        prompt.citation if shows_citation(prompt, instructions) else "",
        prompt.refusal if demands_refusal(prompt, instructions) else "",
        prompt.general_knowledge if invites_knowledge(prompt, instructions) else "",
    )
    return Shape(
        f"[{tag[1]}{{number}}]" if tag else configured.citation,
        " ".join(refusal[1].split()) if refusal else configured.refusal,
        mark[1] if mark else configured.general_knowledge,
    )


def shows_citation(prompt: PromptSection, instructions: str) -> bool:
    """Whether the configured citation stands there with a number, or a letter in its place."""
    before, *after = map(re.escape, prompt.citation.split("{number}"))
    return bool(after) and bool(re.search(rf"{before}(?:\d+|[A-Za-z]){after[0]}", instructions, re.IGNORECASE))


def list_changes(prompt: PromptSection, shape: Shape) -> list[str]:
    """The lines of config.yaml, below `prompt:`, that make it ask for this shape; case and spacing do not matter."""
    return [
        f"{key}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in asdict(shape).items()
        if normalise(value).rstrip(".") != normalise(getattr(prompt, key)).rstrip(".")
    ]


def warn_of_template(prompt: PromptSection) -> list[str]:
    """One line for each of prompt.citation, refusal and general_knowledge that differs from what the template asks for.

    A refusal that the template does not hold would make no row refuse; a tag that it does not show would be asked of all.
    """
    instructions = prompt.template.replace("{context}", "").replace("{question}", "")
    changes = list_changes(prompt, find_shape(prompt, instructions))
    return [f"the template asks for another prompt.{line.split(':')[0]}: change it, or set  {line}" for line in changes]


def warn_of_system(prompt: PromptSection) -> list[str]:
    """A line where prompt.system, which stands before every prompt, asks for tags that the prompt does not want."""
    asks = not wants_citations(prompt) and re.search(r"\b(?:cite|citation)", prompt.system, re.IGNORECASE)
    return ["prompt.system asks for citations, but prompt.citation is empty: take that out of prompt.system"] if asks else []


# -----------------------------------------------------------------------------
# Recorded prompts


def require_one_shape(path: Path, prompt: PromptSection, shapes: Mapping[int, Shape]) -> None:
    """`shapes` is by line. Raises PipelineError when they differ among themselves, or from config.yaml."""
    lines: dict[Shape, list[int]] = {}
    for line, shape in shapes.items():
        lines.setdefault(shape, []).append(line)
    if len(lines) > 1:
        named = "; ".join(f"{describe_shape(shape)} ({name_lines(found)})" for shape, found in lines.items())
        raise PipelineError(f"{path} holds prompts of {len(lines)} shapes, and one run trains one: {named}: keep one of them")
    for shape in lines:
        if changes := list_changes(prompt, shape):
            listed = "".join(f"\n         {change}" for change in changes)
            raise PipelineError(f"{path} asks for other answers than config.yaml: set there below prompt:{listed}")


def describe_shape(shape: Shape) -> str:
    """A shape in one line."""
    return ", ".join(f"{key} {value!r}" if value else f"no {key}" for key, value in asdict(shape).items())


def name_lines(lines: Sequence[int]) -> str:
    """How many, and the first of them."""
    shown = ", ".join(map(str, lines[:SHOWN_LINES])) + ", ..." * (len(lines) > SHOWN_LINES)
    return f"{len(lines)} prompts, line{'s' * (len(lines) > 1)} {shown}"
