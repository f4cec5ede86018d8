"""A JSON-lines file that several threads append to: the ledger, the journal and the audit log stand on it."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Self

from distill.files import JsonlAppender


class Log:
    """For `with`: each line is on disk when `append` returns, whichever thread it comes from."""

    def __init__(self, path: Path, encrypt: bool = False) -> None:
        # Opening the appender first cuts off a line that a kill left half written.
        self._appender = JsonlAppender(path, encrypt)
        self._lock = threading.Lock()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; on return it is on disk."""
        with self._lock:
            self._appender.append(row)

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._appender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tell_time() -> str:
    """Now, in UTC and ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
