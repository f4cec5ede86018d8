"""When to give a teacher up: it is not there, or most of its calls fail."""

from __future__ import annotations

from collections import deque

from distill.errors import PipelineError
from distill.teacher.requests import RowError
from distill.teacher.verdicts import RepeatableError

HOPE_CALLS, FIRST_CALLS = 50, 20


class Hope:
    """What became of the last calls to the teacher at an address, each attempt counted."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._failed: deque[bool] = deque(maxlen=HOPE_CALLS)
        self._answered_once = False
        self._last_error: Exception | None = None

    def note(self, error: Exception | None) -> None:
        """How a call ended. Being asked to wait is no failure, until the row has no reply for it."""
        repeatable = isinstance(error, RepeatableError)
        self._answered_once |= not (repeatable and error.silent)
        self._last_error = error or self._last_error
        if not repeatable or error.retry_after is None:
            self._failed.append(error is not None)

    def give_up(self, error: RepeatableError, attempts: int) -> Exception:
        """What a row gets after its last attempt. A server that never said a word is not there."""
        if error.retry_after is not None:
            self._failed.append(True)
        return self._explain_silence(error) or RowError(f"{error} ({attempts} attempts)")

    def require(self) -> None:
        """Raises PipelineError when more than half of the last 50 calls failed, or all of the first 20."""
        failed, calls = sum(self._failed), len(self._failed)
        if (calls < HOPE_CALLS or failed <= HOPE_CALLS // 2) and not failed == calls >= FIRST_CALLS:
            return
        raise self._explain_silence(self._last_error) or PipelineError(
            f"{failed} of the last {calls} calls to the teacher failed, so the run stops; the last: {self._last_error}. "
            f"Mend that (more reasons: training_data/failures.jsonl), then run again; every reply is kept"
        )

    def _explain_silence(self, error: Exception | None) -> PipelineError | None:
        """Why the run stops at a server that never answered; None for one that did."""
        if self._answered_once or not isinstance(error, RepeatableError) or not error.silent:
            return None
        return PipelineError(
            f"the teacher at {self._address} cannot be reached ({error}): is it running, is the address right?"
        )
