"""The replies that requests already have: answers.jsonl in training_data/ or evaluation/judge/, keyed by what was asked.

Rows and judgements are made anew from it in every run, so that it holds no more than what was said. Replies to other prompts,
models and settings stay in it, and count again when the config goes back to them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from distill.config import ServiceSection
from distill.errors import PipelineError
from distill.files import read_jsonl, read_text, replace_file, write_text_atomic
from distill.teacher.logs import Log
from distill.teacher.requests import Reply, Request, identify

FILE_NAME = "answers.jsonl"
FIRST_PURPOSES = ("answer", "questions")  # the others follow from a reply, and nobody knows them beforehand
REPLY_KEYS = tuple(field.name for field in fields(Reply))
REPLY = TypeAdapter(Reply)


class Journal(Log):
    """The replies of all runs, for `with`: each is added to the file the moment it is there."""

    def __init__(self, folder: Path, section: ServiceSection, encrypt: bool = False) -> None:
        super().__init__(folder / FILE_NAME, encrypt)
        self._section = section
        self.replies = load_replies(folder)

    def get(self, request: Request) -> Reply | None:
        """The reply that this very request has on disk, from this run or an earlier one."""
        return self.replies.get(identify(self._section, request))

    def add(self, request: Request, reply: Reply) -> None:
        """Keep a reply; on disk when this returns."""
        identity = identify(self._section, request)
        self.append({"request": identity, "purpose": request.purpose, "rows": list(request.row_ids), **asdict(reply)})
        self.replies[identity] = reply


def load_replies(folder: Path) -> dict[str, Reply]:
    """Replies by request; empty before the first run. Raises PipelineError, with the line, for a file that was damaged."""
    return {row["request"]: reply for row, reply in read_rows(folder)}


def list_kept(folder: Path) -> set[str]:
    """The requests that have a reply on disk, those that were set aside included."""
    kept: set[str] = set()
    for path in folder.glob("answers*.jsonl"):
        with suppress(PipelineError):  # the file in use is read, and judged, by load_replies
            kept.update(str(row.get("request")) for _, row in read_jsonl(path, torn_end=True))
    return kept


def read_rows(folder: Path) -> list[tuple[dict[str, Any], Reply]]:
    """The file's lines with their replies; lines of another shape (earlier versions kept answers by row) are passed over."""
    path = folder / FILE_NAME
    rows = [row for _, row in read_jsonl(path, torn_end=True)] if path.exists() else []
    return [(row, reply) for row in rows if (reply := read_reply(row))]


def read_reply(row: Mapping[str, Any]) -> Reply | None:
    """The reply that a line holds, None for a line of another shape."""
    if not isinstance(row.get("request"), str):
        return None
    try:
        return REPLY.validate_python({key: row[key] for key in REPLY_KEYS})
    except (KeyError, ValidationError):
        return None


def list_missing(section: ServiceSection, requests: Sequence[Request], replies: Mapping[str, Reply]) -> list[Request]:
    """The requests that have no reply yet, each once."""
    wanted = {identify(section, request): request for request in requests}
    return [request for identity, request in wanted.items() if identity not in replies]


def describe_journal(folder: Path, section: ServiceSection, requests: Sequence[Request]) -> str:
    """One line: how many replies on disk are for these first requests of the rows, and how many for others."""
    wanted = {identify(section, request) for request in requests}
    rows = {row["request"]: row for row, _ in read_rows(folder)}
    ours = sum(identity in rows for identity in wanted)
    line = f"[OK] {ours:,} of {len(wanted):,} replies are on disk"
    others = sum(row.get("purpose") in FIRST_PURPOSES for identity, row in rows.items() if identity not in wanted)
    return f"{line}; {others:,} are for other requests (question, prompt, model or settings changed)" if others else line


def set_aside(folder: Path, row_ids: Collection[str] | None = None) -> Path | None:
    """Keep the replies under a dated name, and none of those to the given rows (None: to any) under the usual one.

    Nothing that was paid for is lost. Returns the dated file; None when there are no replies.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    kept = path.with_name(f"answers-{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}.jsonl")
    if row_ids is None:
        replace_file(path, kept)
        return kept
    wanted = set(row_ids)
    dropped = {number for number, row in read_jsonl(path, torn_end=True) if not wanted.isdisjoint(row.get("rows") or ())}
    # As they stand there, perhaps encrypted.
    lines = [f"{line}\n" for line in read_text(path, whole_lines=True).split("\n")[:-1]]
    write_text_atomic(kept, "".join(lines), private=True)
    write_text_atomic(path, "".join(line for number, line in enumerate(lines, 1) if number not in dropped), private=True)
    return kept
