"""When to give a teacher, or a judge, up: it is not there, or most of its calls fail."""

from __future__ import annotations

from collections import deque

from distill.config import ServiceSection
from distill.errors import PipelineError
from distill.teacher.requests import RowError, role_of
from distill.teacher.verdicts import RepeatableError

HOPE_CALLS, FIRST_CALLS = 50, 20


class Hope:
    """What became of the last calls to a teacher or judge, each attempt counted."""

    def __init__(self, section: ServiceSection) -> None:
        self._role, self._address = role_of(section), section.base_url
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
        more = " (more reasons: training_data/failures.jsonl)" if self._role == "teacher" else ""
        raise self._explain_silence(self._last_error) or PipelineError(
            f"{failed} of the last {calls} calls to the {self._role} failed, so the run stops; the last: {self._last_error}. "
            f"Mend that{more}, then run again; every reply is kept"
        )

    def _explain_silence(self, error: Exception | None) -> PipelineError | None:
        """Why the run stops at a server that never answered; None for one that did."""
        if self._answered_once or not isinstance(error, RepeatableError) or not error.silent:
            return None
        return PipelineError(
            f"the {self._role} at {self._address} cannot be reached ({error}): is it running, is the address right?"
        )
