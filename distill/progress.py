"""A progress bar with rate and time left on a terminal; plain lines when the output goes to a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

LINE_SECONDS = 10.0


class Progress:
    """Counts finished units of work. `advance` is cheap; what is shown is limited in rate."""

    def __init__(self, total: int, description: str, unit: str, done: int = 0) -> None:
        self._total, self._description, self._unit, self._done, self._started_at = total, description, unit, done, done
        self._start = self._last_line = time.monotonic()
        # One bar for all processes of a run on several GPUs. ascii=True: Windows consoles in code page 437 or 1252 cannot show
        # tqdm's block characters.
        shown = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
        self._bar = tqdm(total=total, initial=done, desc=description, unit=unit, ascii=True) if shown else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished units; `note` is shown beside the rate."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line >= LINE_SECONDS or self._done == self._total:
            self._last_line = time.monotonic()
            print(self.describe(note), file=sys.stderr, flush=True)

    def describe(self, note: str = "") -> str:
        """One line: how far, how fast, how long still."""
        rate = (self._done - self._started_at) / max(time.monotonic() - self._start, 1e-9)
        left = (self._total - self._done) / rate if rate > 0 else float("inf")
        line = f"{self._description}: {self._done}/{self._total} {self._unit}, {rate:.2f} {self._unit}/s, {left:.0f} s left"
        return f"{line}, {note}" if note else line

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def show_progress(total: int, description: str, unit: str, done: int = 0) -> Iterator[Progress]:
    """Show progress while the block runs; `done` units were finished in an earlier run."""
    progress = Progress(total, description, unit, done)
    try:
        yield progress
    finally:
        progress.close()
