"""A JSON-lines file that several threads append to: the ledger, the journal and the audit log stand on it."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Self

from distill.files import JsonlAppender, flush_to_disk, to_line


class Guest:
    """Appends to a file that another run has open: cuts nothing off, and writes each line at one go."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0, opener=open_private)  # noqa: SIM115 - closed by close()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row; on return it is on disk."""
        self._file.write(to_line(row).encode("utf-8"))
        flush_to_disk(self._file)

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._file.close()


def open_private(path: str, flags: int) -> int:
    """An opener for open(): what it makes is the user's alone."""
    return os.open(path, flags, 0o600)


class Log:
    """For `with`: each line is on disk when `append` returns, whichever thread it comes from."""

    def __init__(self, path: Path, encrypt: bool = False, alone: bool = True) -> None:
        self.path = path
        # Opening an appender cuts off a line that a kill left half written; it may be one that another run is writing.
        self._appender = JsonlAppender(path, encrypt) if alone else Guest(path)
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
