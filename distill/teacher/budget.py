"""Keeps a run within its section's budget_usd: a call is sent only if the budget holds whatever the calls in flight cost."""

from __future__ import annotations

import asyncio

from distill.config import TeacherSection
from distill.errors import PipelineError
from distill.teacher.ledger import Outcome, Spending
from distill.teacher.prices import Prices, describe_usd

CENT_FRACTION = 1e-9  # US dollars; sums of floats are not exact


class Budget:
    """The money of one run, in US dollars. `limit`, budget_usd of `place`, is for all runs of the ledger; None is none."""

    def __init__(
        self, limit: float | None, prices: Prices | None, earlier: Spending, place: str = TeacherSection.place
    ) -> None:
        self._limit, self._prices, self._place = limit, prices, place
        self._known, self._possible = earlier.known_usd, earlier.possible_usd
        self._in_flight, self._waited_for, self._calls, self._tokens = 0.0, 0, 0, 0
        self._overrun = False  # a call cost more than it could: then no more than one is at risk at a time
        self._freed = asyncio.Condition()

    async def reserve(self, most: float) -> None:
        """Set a call's maximum aside, waiting for calls in flight while they may leave enough.

        Raises PipelineError when even their being free would not.
        """
        async with self._freed:
            while not self._fits(self._in_flight + most) or (self._overrun and self._limit is not None and self._waited_for):
                if not self._fits(most):
                    raise PipelineError(self._explain(most))
                await self._freed.wait()
            self._in_flight += most
            self._waited_for += 1

    def _fits(self, amount: float) -> bool:
        return self._limit is None or self._known + self._possible + amount <= self._limit + CENT_FRACTION

    def _explain(self, most: float) -> str:
        possible = f" and possibly {describe_usd(self._possible)}" if self._possible else ""
        return (
            f"{self._place}.budget_usd {self._limit:g} is reached: {describe_usd(self._known)}{possible} spent, and the "
            f"next request may cost {describe_usd(most)}; every reply is kept: raise budget_usd to go on"
        )

    async def settle(self, most: float, outcome: Outcome) -> None:
        """Replace a call's maximum by what it cost, or may have cost."""
        async with self._freed:
            self._in_flight -= most
            self._waited_for -= 1
            self._calls += 1
            self._tokens += (outcome.prompt_tokens or 0) + (outcome.answer_tokens or 0)
            if outcome.cost_usd is None and outcome.prompt_tokens is None:
                self._possible += most
            else:
                self._known += outcome.cost_usd or 0.0
                self._heed_overrun(most, outcome.cost_usd or 0.0)
            self._freed.notify_all()

    def _heed_overrun(self, most: float, cost: float) -> None:
        """Say once that a call cost more than max_tokens and the prices allow."""
        if self._overrun or self._prices is None or cost <= most + CENT_FRACTION:
            return
        self._overrun = True
        slower = "" if self._limit is None else ": from here on one request at a time, for the budget's sake"
        print(f"[WARN] a request that may cost {describe_usd(most)} at most was billed {describe_usd(cost)}{slower}")

    def describe(self) -> str:
        """A few words for a progress bar: money of all runs, requests of this one."""
        if not self._known and not self._possible and (self._prices is None or not self._prices.cost(1, 1)):
            return f"{self._calls:,} requests, {self._tokens:,} tokens"
        possible = f" (possibly {describe_usd(self._known + self._possible)})" if self._possible else ""
        limit = "" if self._limit is None else f" of {describe_usd(self._limit)}"
        return f"{describe_usd(self._known)}{possible}{limit}, {self._calls:,} requests"
