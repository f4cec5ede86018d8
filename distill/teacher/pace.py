"""When the next call may start: so many requests and tokens a minute, and so many jobs at once."""

from __future__ import annotations

import asyncio
import time

LONGEST_NAP_SECONDS = 0.25  # a wait looks again this often: usage gives tokens back, a server asks for a pause
JOBS_PER_SLOT = 2
# Calls that start together end together, and then the processor works in bursts while the network rests.
RAMP_SECONDS = 0.025


class Pace:
    """Keeps call starts apart, so that a minute holds no more than the allowed requests and tokens, and holds all when told to.

    Tokens are booked before a call as a guess and corrected by what the server counted. The first `ramp` calls start at
    least 25 ms apart.
    """

    def __init__(self, requests_per_minute: int, tokens_per_minute: int | None = None, ramp: int = 0) -> None:
        self._interval, self._ramp = 60 / requests_per_minute, ramp
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = self._tokens_paid = self._held = 0.0
        self._turn = asyncio.Lock()

    async def wait(self, tokens: int = 0) -> None:
        """Return when the next call, of so many tokens, may start; those who wait are served in order."""
        async with self._turn:
            while (left := max(self._next, self._tokens_paid, self._held) - time.monotonic()) > 0:
                await asyncio.sleep(min(left, LONGEST_NAP_SECONDS))
            now = time.monotonic()
            self._next = now + max(self._interval, RAMP_SECONDS if self._ramp > 0 else 0)
            self._ramp -= 1
            self._tokens_paid = max(self._tokens_paid, now) + tokens * self._seconds_per_token

    def correct(self, guessed: int, counted: int) -> None:
        """Replace the guess of a call by what the server counted."""
        self._tokens_paid += (counted - guessed) * self._seconds_per_token

    def hold(self, seconds: float) -> None:
        """No call starts within the next `seconds`."""
        self._held = max(self._held, time.monotonic() + seconds)


class Crew:
    """Lets jobs in as long as fewer than `size` are at work; one that pauses before a repetition makes room for another.

    A job that comes back is never turned away, so there are at most `size` times JOBS_PER_SLOT jobs in all.
    """

    def __init__(self, size: int) -> None:
        self._size, self._working, self._inside = size, 0, 0
        self._changed = asyncio.Condition()

    async def enter(self) -> None:
        """Return when the next job may start."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._working < self._size and self._inside < self._size * JOBS_PER_SLOT)
            self._working += 1
            self._inside += 1

    async def leave(self) -> None:
        """A job has ended."""
        async with self._changed:
            self._working -= 1
            self._inside -= 1
            self._changed.notify_all()

    async def pause(self, seconds: float) -> None:
        """Sleep without keeping another job out."""
        async with self._changed:
            self._working -= 1
            self._changed.notify_all()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._working += 1
