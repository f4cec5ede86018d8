"""What the teacher, or the judge, is asked and what it says, as all who ask see it. Knows no HTTP and no disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from distill.config import ServiceSection
from distill.prompts import Message

__all__ = ["Ask", "Message", "Purpose", "Reply", "Request", "RowError", "identify", "parse_json_reply", "role_of"]

Purpose = Literal["answer", "shorten", "improve", "judge", "questions"]


@dataclass(frozen=True)
class Request:
    """One question to the teacher, for one row or several; it costs at most one paid answer, however often it is asked.

    `schema` is a JSON schema that the reply must follow. `check` gives what is wrong with a reply's text, or None: a reply
    with a fault counts like an empty one and is asked for again.
    """

    messages: list[Message]
    row_ids: tuple[str, ...]
    purpose: Purpose
    max_tokens: int
    schema: dict[str, Any] | None = None
    check: Callable[[str], str | None] | None = None


@dataclass(frozen=True)
class Reply:
    """What the teacher said. `finish_reason` is "stop", or "length" where max_tokens cut it off.

    `cost_usd` is None where nobody knows it. `model` is what the provider says answered, `timestamp` UTC in ISO 8601.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    model: str
    prompt_tokens: int
    answer_tokens: int
    cost_usd: float | None
    timestamp: str


class RowError(Exception):
    """This request gets no reply, and asking again would not change that."""


Ask = Callable[[Request], Awaitable[Reply]]


def identify(section: ServiceSection, request: Request) -> str:
    """16 hex digits over everything that determines the reply: model, temperature, messages, schema, max_tokens.

    The address is left out: the same model behind another port gives the same answers, and those are paid for.
    """
    parts = [section.model, section.temperature, request.messages, request.schema, request.max_tokens]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()[:16]


def role_of(section: ServiceSection) -> str:
    """Whom a section describes, in a word for messages: teacher or judge."""
    return section.place.rpartition(".")[2]


def parse_json_reply(text: str) -> Any:
    """The JSON value of a structured reply, with or without a Markdown fence around it. Raises ValueError."""
    stripped = text.strip()
    if stripped.startswith("```") and stripped.endswith("```"):
        stripped = stripped.partition("\n")[2].removesuffix("```")
    return json.loads(stripped)
