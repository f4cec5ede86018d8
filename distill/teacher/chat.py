"""The teacher, and stage 4's judge: a chat model behind any OpenAI-compatible address, through the openai package.

Repeats what is worth repeating, and nothing else does: the openai package's own retries are off. A reply is in the ledger
and in the journal, on disk, before it is handed out. What a row cannot get is a RowError; what no repetition can mend for
any row (a wrong key, no credit, no such model, the budget) is a PipelineError and stops the run.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import openai
import tenacity
from openai.types.chat import ChatCompletion

from distill.config import ServiceSection
from distill.errors import PipelineError
from distill.network import host_of, require_allowed
from distill.teacher.audit import Audit, name_rows
from distill.teacher.budget import Budget
from distill.teacher.hope import Hope
from distill.teacher.journal import Journal
from distill.teacher.keys import require_https
from distill.teacher.ledger import Ledger, Outcome
from distill.teacher.logs import tell_time
from distill.teacher.pace import Crew, Pace
from distill.teacher.prices import (
    Prices,
    find_prices,
    guess_prompt_tokens,
    most_cost,
    most_prompt_tokens,
    require_prices,
)
from distill.teacher.requests import Ask, Reply, Request, identify
from distill.teacher.verdicts import Judge, RepeatableError, Verdict
from distill.teacher.wire import make_body, make_client

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
# A server that turns a quarter of the calls away is at its limit, and then all wait; a rare refusal holds its own row alone.
WINDOW_CALLS, MANY_REFUSALS = 20, 5
ROOM_BYTES = 8 * 2**20  # for the answers in flight
NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")

Job = Callable[[Ask], Awaitable[None]]


# -----------------------------------------------------------------------------
# All jobs


def run_jobs(
    section: ServiceSection, key: str, jobs: Sequence[Job], journal: Journal, ledger: Ledger, prices: Prices | None,
    note: Callable[[str], None] = lambda spending: None,
) -> None:
    """Run every job, with enough at work to keep the section's concurrency of calls in flight; the audit is beside the ledger.

    A job may ask several times, and handles RowError itself. `prices` are those of the preflight; None: config's, or 0 on
    this machine. `note` hears what was spent after each reply. Raises PipelineError as soon as going on makes no sense;
    calls in flight are waited for then, since they are paid.
    """
    asyncio.run(work_through(section, key, jobs, journal, ledger, prices, note))


async def work_through(
    section: ServiceSection, key: str, jobs: Sequence[Job], journal: Journal, ledger: Ledger, prices: Prices | None,
    note: Callable[[str], None],
) -> None:
    """The first error that stops a job stops them all."""
    prices = prices or find_prices(section)
    with Audit(ledger.path.parent, section.model) as audit:
        teacher = Teacher(section, key, journal, ledger, audit, prices, note)
        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    await teacher.crew.enter()
                    group.create_task(teacher.serve(job))
        except BaseExceptionGroup as errors:
            await teacher.drain()
            raise errors.exceptions[0] from None
        finally:
            await teacher.close()


# -----------------------------------------------------------------------------
# One request


class Teacher:
    """Answers requests: from the journal, or by a call, repeating failed calls with growing pauses."""

    def __init__(
        self, section: ServiceSection, key: str, journal: Journal, ledger: Ledger, audit: Audit, prices: Prices | None = None,
        note: Callable[[str], None] = lambda spending: None,
    ) -> None:
        require_allowed(section.base_url)
        require_https(section)
        require_prices(section, prices)
        self._section, self._journal, self._ledger, self._prices, self._note = section, journal, ledger, prices, note
        self._client = make_client(section, key, audit)
        self._judge = Judge(section, key, prices)
        self._budget = Budget(section.budget_usd, prices, ledger.measure(prices), section.place)
        self._pace = Pace(section.requests_per_minute, section.tokens_per_minute, ramp=section.concurrency)
        self._slots = asyncio.Semaphore(section.concurrency)
        self.crew = Crew(section.concurrency)
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._exchanges: set[asyncio.Task[Reply]] = set()
        self._hope = Hope(section)
        self._refused: deque[bool] = deque(maxlen=WINDOW_CALLS)

    async def serve(self, job: Job) -> None:
        """Run one job."""
        try:
            await job(self.ask)
        finally:
            await self.crew.leave()

    async def drain(self) -> None:
        """Wait for the calls in flight: they are paid, so their replies are kept."""
        await asyncio.gather(*self._exchanges, return_exceptions=True)

    async def close(self) -> None:
        """Give up the calls in flight, which the ledger then holds as possibly paid, and close the connections."""
        for exchange in self._exchanges:
            exchange.cancel()
        await self.drain()
        await self._client.close()

    def describe_spending(self) -> str:
        """A few words for a progress bar, such as "$0.12 of $5.00, 41 requests"."""
        return self._budget.describe()

    async def ask(self, request: Request) -> Reply:
        """The reply on disk, or that of at most max_attempts calls. Raises RowError; PipelineError where no row can succeed."""
        identity = identify(self._section, request)
        async with self._asking[identity]:
            known = self._journal.get(request)
            if known and not find_fault(request, known):
                return known
            return await self._ask_anew(request, identity)

    async def _ask_anew(self, request: Request, identity: str) -> Reply:
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._section.max_attempts), wait=choose_wait, reraise=True,
            retry=tenacity.retry_if_exception_type(RepeatableError), sleep=self.crew.pause,
        )
        try:
            return await retrying(self._attempt, request, identity)
        except RepeatableError as error:
            raise self._hope.give_up(error, self._section.max_attempts) from None

    def require_room(self) -> None:
        """Raises PipelineError for a disk on which an answer, once paid for, could not be kept."""
        folder = self._ledger.path.parent
        if shutil.disk_usage(folder).free < ROOM_BYTES:
            raise PipelineError(f"the disk of {folder} is full, so nothing is sent: make room and run again")

    # -------------------------------------------------------------------------
    # One call

    async def _attempt(self, request: Request, identity: str) -> Reply:
        """Wait for a slot, the pace and the budget, then call. Raises RowError, RepeatableError or PipelineError."""
        most = most_cost(self._prices, request)
        await self._slots.acquire()
        try:
            await self._pace.wait(guess_prompt_tokens(request) + request.max_tokens)
            self._hope.require()
            self.require_room()
            await self._budget.reserve(most or 0.0)
        except BaseException:
            self._slots.release()
            raise
        # A task of its own: when another job stops the run, this call is already paid and ends in its own time.
        exchange = asyncio.create_task(self._exchange(request, identity, most))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)
        return await asyncio.shield(exchange)

    async def _exchange(self, request: Request, identity: str, most: float | None) -> Reply:
        """One call: its intent on disk, the call, its reply and outcome on disk. Raises as `_attempt`; gives the slot back."""
        call, started = secrets.token_hex(8), time.monotonic()
        verdict = self._judge.judge_silence("given up", sent=True)
        try:
            await asyncio.to_thread(self._open, call, request, identity, most)
            verdict = await self._send(request)
        finally:
            self._slots.release()  # before the disk's turn: the next call may go out meanwhile
            reply, error = conclude(request, verdict)
            # The ledger says 200 of what the journal holds.
            outcome = verdict.outcome if reply or verdict.error else replace(verdict.outcome, status="200 not as asked")
            await asyncio.to_thread(self._write, call, request, identity, outcome, reply, time.monotonic() - started)
            await self._learn(request, outcome, error, most)
        if error:
            raise error
        return reply

    def _open(self, call: str, request: Request, identity: str, most: float | None) -> None:
        """The call's intent; on disk when this returns."""
        section = self._section
        self._ledger.open(
            call, identity, request.purpose, section.model, host_of(section.base_url), most_prompt_tokens(request),
            request.max_tokens, most,
        )

    def _write(
        self, call: str, request: Request, identity: str, outcome: Outcome, reply: Reply | None, seconds: float
    ) -> None:
        """The reply, then the call's outcome; on disk when this returns. A kill between them makes the call possibly paid."""
        if reply:
            self._journal.add(request, reply)
        self._ledger.settle(call, identity, outcome, seconds)

    async def _learn(self, request: Request, outcome: Outcome, error: Exception | None, most: float | None) -> None:
        """Everything else that a finished call changes: budget, pace, hope."""
        await self._budget.settle(most or 0.0, outcome)
        if outcome.prompt_tokens is not None:
            counted = outcome.prompt_tokens + (outcome.answer_tokens or 0)
            self._pace.correct(guess_prompt_tokens(request) + request.max_tokens, counted)
        self._heed(error)
        self._note(self.describe_spending())

    def _heed(self, error: Exception | None) -> None:
        """Learn from how a call ended: whether there is hope, and whether the server asks everybody to slow down."""
        self._hope.note(error)
        asked = error.retry_after if isinstance(error, RepeatableError) else None
        self._refused.append(asked is not None)
        if asked is not None and sum(self._refused) >= MANY_REFUSALS:
            self._pace.hold(asked)

    async def _send(self, request: Request) -> Verdict:
        """One HTTP call, whatever comes back."""
        try:
            return await self._call(request)
        except RecursionError:
            return self._judge.judge_nonsense("it is nested too deeply")

    async def _call(self, request: Request) -> Verdict:
        """One HTTP call. Raises RecursionError for a body that is nested too deeply to be read."""
        section, judge = self._section, self._judge
        try:
            # The openai package's timeout starts anew with every byte, and some servers send blanks while they think.
            with name_rows(request.row_ids):
                async with asyncio.timeout(section.timeout_seconds):
                    completion = await self._client.post(
                        "/chat/completions", cast_to=ChatCompletion, body=make_body(section, request, self._prices)
                    )
        except TimeoutError:
            return judge.judge_silence(f"no answer within {section.timeout_seconds:g} s", sent=True, silent=False)
        except openai.APIConnectionError as error:
            return self._judge_connection(error)
        except openai.APIStatusError as error:
            return judge.judge_status(error.status_code, error.body, error.response.headers, bool(request.schema))
        except (openai.APIError, ValueError) as error:
            return judge.judge_nonsense(error)
        return judge.judge_completion(completion, request.max_tokens)

    def _judge_connection(self, error: openai.APIConnectionError) -> Verdict:
        """A connection that was not made, or broke; the cause tells which. Raises OSError where our own disk is the cause."""
        cause = error.__cause__ or error
        if isinstance(cause, OSError):  # httpx has its own errors for the network: this is the audit log's
            raise cause
        sent = type(cause).__name__ not in NEVER_SENT
        if isinstance(error, openai.APITimeoutError) and sent:
            return self._judge.judge_silence(f"no answer within {self._section.timeout_seconds:g} s", sent=True, silent=False)
        return self._judge.judge_silence(f"connection failed: {cause or type(cause).__name__}", sent)


def conclude(request: Request, verdict: Verdict) -> tuple[Reply | None, Exception | None]:
    """The reply of a call, or the error that stands for it; a reply that is not what was asked for is worth another call."""
    if verdict.error:
        return None, verdict.error
    outcome = verdict.outcome
    reply = Reply(
        verdict.text, verdict.finish_reason, verdict.model, outcome.prompt_tokens or 0, outcome.answer_tokens or 0,
        outcome.cost_usd, tell_time(),
    )
    fault = find_fault(request, reply)
    return (None, RepeatableError(f"a reply that is not as asked: {fault}")) if fault else (reply, None)


def find_fault(request: Request, reply: Reply) -> str | None:
    """What the request's own check finds; a reply that was cut off is for the caller to judge."""
    return request.check(reply.text) if request.check and reply.finish_reason == "stop" else None


# -----------------------------------------------------------------------------
# Waiting


def choose_wait(state: tenacity.RetryCallState) -> float:
    """Seconds to the next attempt: what the server asks for, or twice as long each time; with jitter, so that rows spread."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RepeatableError) and error.retry_after is not None:
        return error.retry_after + random.uniform(0, 0.25)
    wait = min(FIRST_WAIT_SECONDS * 2 ** (state.attempt_number - 1), LONGEST_WAIT_SECONDS)
    return wait * random.uniform(0.5, 1.5)
