"""The teacher: a chat model behind any OpenAI-compatible address, through the openai package.

Repeats what is worth repeating, and nothing else does: the openai package's own retries are off. A row's failure is an
Outcome; what no repetition can mend for any row (a wrong key, no credit, no such model) is a PipelineError and stops the run.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import openai
import tenacity

from distill.config import TeacherSection
from distill.errors import PipelineError
from distill.network import host_of, is_loopback, require_allowed
from distill.prompts import Message
from distill.teacher.keys import SET_KEY, require_https

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
LONGEST_RETRY_AFTER_SECONDS = 300.0
REPEATABLE = (408, 409, 429)
WINDOW_ROWS = 50
MESSAGE_CHARACTERS = 200


@dataclass(frozen=True)
class Request:
    """What the teacher is asked for one row."""

    id: str
    messages: list[Message]


@dataclass(frozen=True)
class Outcome:
    """The teacher's answer, or why there is none."""

    text: str = ""
    failure: str = ""


class RowError(Exception):
    """This row has no answer, and asking again would not change that."""


class RepeatableError(Exception):
    """This call failed, and the next may not. `retry_after` is in seconds, None when the server named no time."""

    def __init__(self, reason: str, retry_after: float | None = None, silent: bool = False) -> None:
        super().__init__(reason)
        self.retry_after, self.silent = retry_after, silent


# -----------------------------------------------------------------------------
# All rows


def ask_all(section: TeacherSection, key: str, requests: Sequence[Request], report: Callable[[Request, Outcome], None]) -> None:
    """Ask every request, `concurrency` at a time; `report` gets each outcome the moment it is there.

    Raises PipelineError as soon as going on makes no sense; what was reported until then stays.
    """
    asyncio.run(work_through(Teacher(section, key), section.concurrency, requests, report))


async def work_through(
    teacher: Teacher, concurrency: int, requests: Sequence[Request], report: Callable[[Request, Outcome], None]
) -> None:
    """Workers that share one iterator; the first error that stops a worker stops them all."""
    queue = iter(requests)

    async def work() -> None:
        for request in queue:
            report(request, await teacher.ask(request.messages))
            teacher.require_hope()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(requests))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await teacher.close()


class Pace:
    """Keeps call starts apart, so that a minute holds no more than the allowed number, and holds all when told to slow down."""

    def __init__(self, requests_per_minute: int) -> None:
        self._interval, self._next = 60 / requests_per_minute, 0.0

    async def wait(self) -> None:
        """Return when the next call may start."""
        start = max(time.monotonic(), self._next)
        self._next = start + self._interval
        await asyncio.sleep(start - time.monotonic())

    def hold(self, seconds: float) -> None:
        """No call starts within the next `seconds`."""
        self._next = max(self._next, time.monotonic() + seconds)


# -----------------------------------------------------------------------------
# One row


class Teacher:
    """Asks for one row at a time, repeating failed calls with growing pauses; counts how rows end."""

    def __init__(self, section: TeacherSection, key: str) -> None:
        require_allowed(section.base_url)
        require_https(section.base_url)
        self._section, self._key, self._pace = section, key, Pace(section.requests_per_minute)
        self._client = make_client(section, key)
        self._failed: deque[bool] = deque(maxlen=WINDOW_ROWS)
        self._answered_once = False

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, messages: list[Message]) -> Outcome:
        """The outcome after at most max_attempts calls. Raises PipelineError where no row can succeed."""
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._section.max_attempts), wait=choose_wait, reraise=True,
            retry=tenacity.retry_if_exception_type(RepeatableError),
        )
        try:
            outcome = Outcome(text=await retrying(self._call, messages))
            self._answered_once = True
        except RowError as error:
            self._answered_once = True
            outcome = Outcome(failure=str(error))
        except RepeatableError as error:
            if error.silent and not self._answered_once:
                raise PipelineError(
                    f"the teacher at {self._section.base_url} cannot be reached ({error}): is it running, is the address right?"
                ) from None
            outcome = Outcome(failure=f"{error} ({self._section.max_attempts} attempts)")
        self._failed.append(bool(outcome.failure))
        return outcome

    def require_hope(self) -> None:
        """Raises PipelineError when more than half of the last 50 rows failed."""
        failed = sum(self._failed)
        if failed > WINDOW_ROWS // 2:
            raise PipelineError(
                f"{failed} of the last {len(self._failed)} calls to the teacher failed, so the run stops: "
                f"read the reasons in training_data/failures.jsonl, then run again; answers are kept"
            )

    async def _call(self, messages: list[Message]) -> str:
        """One HTTP call. Raises RowError, RepeatableError or PipelineError."""
        section = self._section
        await self._pace.wait()
        try:
            # The openai package's timeout starts anew with every byte, and some servers send blanks while they think.
            async with asyncio.timeout(section.timeout_seconds):
                completion = await self._client.chat.completions.create(
                    model=section.model, messages=messages, temperature=section.temperature, max_tokens=section.max_tokens
                )
        except (TimeoutError, openai.APITimeoutError):
            raise RepeatableError(f"no answer within {section.timeout_seconds:g} s") from None
        except openai.APIConnectionError as error:
            raise RepeatableError(f"connection failed: {self._clean(error.__cause__ or error)}", silent=True) from None
        except openai.APIStatusError as error:
            raise self._judge(error.status_code, error.body, read_retry_after(error.response.headers)) from None
        except (openai.APIError, ValueError) as error:
            raise RepeatableError(f"an answer that is not a completion: {self._clean(error)}") from None
        try:
            return self._read(completion)
        except (AttributeError, TypeError, LookupError):
            raise RepeatableError("an answer that is not a completion") from None

    def _read(self, completion: Any) -> str:
        """The answer's text. Raises as `_call`: status 200 may hold an error, no choices, or half an answer."""
        choice = completion.choices[0] if completion.choices else None
        problem = (completion.model_extra or {}).get("error") or (choice and (choice.model_extra or {}).get("error"))
        if problem:
            code = problem.get("code") if isinstance(problem, dict) else None
            raise self._judge(code if isinstance(code, int) else 500, problem, None)
        if choice is None:
            raise RepeatableError("an answer without choices")
        if choice.finish_reason == "length":
            raise RowError(f"cut off at max_tokens {self._section.max_tokens}: raise generate.teacher.max_tokens")
        if choice.finish_reason in ("content_filter", "tool_calls"):
            raise RowError(f"stopped by the teacher: {choice.finish_reason}")
        text = mend_text(choice.message.content or "").strip() if choice.message else ""
        if not text or choice.finish_reason == "error":
            raise RepeatableError("an empty answer" if not text else "an answer that broke off")
        return text

    def _judge(self, status: int, body: Any, retry_after: float | None) -> Exception:
        """What an HTTP status means for the row or the run."""
        section, host = self._section, host_of(self._section.base_url)
        reason = self._clean(body.get("message") or body if isinstance(body, dict) else body or "no reason given")
        if status == 401:
            return PipelineError(f"{host} refuses the key (401): set {section.api_key_env}, or run  {SET_KEY}")
        if status == 402:
            return PipelineError(f"{host} wants payment (402): top up the account, then run again; answers are kept")
        if status == 404:
            return PipelineError(
                f"{section.base_url} has no model {section.model} or no chat there (404: {reason}): "
                f"mend generate.teacher.model or base_url"
            )
        if status not in REPEATABLE and status < 500:
            return RowError(f"refused with {status}: {reason}")
        if retry_after is not None and retry_after > LONGEST_RETRY_AFTER_SECONDS:
            return PipelineError(f"{host} asks to wait {retry_after:.0f} s ({status}): run again then; answers are kept")
        self._pace.hold(retry_after or 0)
        return RepeatableError(f"status {status}: {reason}", retry_after)

    def _clean(self, problem: Any) -> str:
        """A server's words as one short line. Servers repeat headers in their errors, so the key is taken out."""
        text = " ".join(mend_text(str(problem)).split())
        return (text.replace(self._key, "[key]") if self._key else text)[:MESSAGE_CHARACTERS]


def mend_text(text: str) -> str:
    """A text that can be written as UTF-8: a lone surrogate, half of an emoji cut in two, becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def make_client(section: TeacherSection, key: str) -> openai.AsyncOpenAI:
    """No retries, no redirects (they could leave this machine), no proxy for this machine, no OPENAI_* identity headers."""
    return openai.AsyncOpenAI(
        api_key=key or "none", base_url=section.base_url, max_retries=0, timeout=section.timeout_seconds,
        default_headers={"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()},  # type: ignore[dict-item]
        http_client=openai.DefaultAsyncHttpxClient(
            trust_env=not is_loopback(section.base_url), follow_redirects=False, timeout=section.timeout_seconds
        ),
    )


# -----------------------------------------------------------------------------
# Waiting


def choose_wait(state: tenacity.RetryCallState) -> float:
    """Seconds to the next attempt: what the server asks for, or twice as long each time; with jitter, so that rows spread."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RepeatableError) and error.retry_after is not None:
        return error.retry_after + random.uniform(0, 0.25)
    wait = min(FIRST_WAIT_SECONDS * 2 ** (state.attempt_number - 1), LONGEST_WAIT_SECONDS)
    return wait * random.uniform(0.5, 1.5)


def read_retry_after(headers: Any) -> float | None:
    """Seconds from a Retry-After header, a number or a date; None when it is absent or unreadable."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
