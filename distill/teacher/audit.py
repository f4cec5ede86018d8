"""What left this machine for the teacher: training_data/audit.jsonl, one line per HTTP request, on disk before it is sent.

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

from distill.teacher.logs import Log, tell_time

FILE_NAME = "audit.jsonl"
ROWS: ContextVar[tuple[str, ...]] = ContextVar("rows", default=())


class Audit(Log):
    """For `with`; `record` is an event hook for the HTTP client, which calls it with the finished request."""

    def __init__(self, folder: Path, model: str) -> None:
        super().__init__(folder / FILE_NAME)
        self._model = model

    async def record(self, request: Any) -> None:
        """Note a request as it goes on the wire: time (UTC), host, path, model, size and sha256 of the body, row ids."""
        body = await request.aread()
        await asyncio.to_thread(self.append, {
            "time": tell_time(), "method": request.method, "host": request.url.host, "path": request.url.path,
            "model": self._model, "bytes": len(body), "rows": list(ROWS.get()), "sha256": hashlib.sha256(body).hexdigest(),
        })


@contextmanager
def name_rows(row_ids: tuple[str, ...]) -> Iterator[None]:
    """The requests sent in this block, by this task, are for these rows."""
    token = ROWS.set(row_ids)
    try:
        yield
    finally:
        ROWS.reset(token)
