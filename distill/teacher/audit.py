"""What left this machine for teacher or judge: audit.jsonl beside the replies, one line per HTTP request, before it is sent.

It proves which bytes went where without repeating them: no text, no key.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.files import hold_lock
from distill.teacher.logs import Log, tell_time

FILE_NAME = "audit.jsonl"
ROWS: ContextVar[tuple[str, ...]] = ContextVar("rows", default=())


class Audit(Log):
    """For `with`; `record` is an event hook for the HTTP client, which calls it with the finished request."""

    def __init__(self, folder: Path, model: str, alone: bool = True) -> None:
        super().__init__(folder / FILE_NAME, alone=alone)
        self._model = model

    async def record(self, request: Any) -> None:
        """Note a request as it goes on the wire: time (UTC), host, path, model, size and sha256 of the body, row ids."""
        body = await request.aread()
        await asyncio.to_thread(self.append, {
            "time": tell_time(), "method": request.method, "host": request.url.host, "path": request.url.path,
            "model": self._model, "bytes": len(body), "rows": list(ROWS.get()), "sha256": hashlib.sha256(body).hexdigest(),
        })


def open_audit(folder: Path, model: str) -> Audit:
    """The log for what is sent before a run has its folder to itself: another run may be writing to it."""
    try:
        with hold_lock(folder):
            return Audit(folder, model)
    except PipelineError:
        return Audit(folder, model, alone=False)


@contextmanager
def name_rows(row_ids: tuple[str, ...]) -> Iterator[None]:
    """The requests sent in this block, by this task, are for these rows."""
    token = ROWS.set(row_ids)
    try:
        yield
    finally:
        ROWS.reset(token)
