"""What a server's answer means: a reply, something to try again, a row without a reply, or the end of the run.

Status 200 proves nothing: it may hold an error, no choices, or half an answer. Shapes are those of OpenRouter, OpenAI,
Ollama's /v1 and llama.cpp's server; tests/teacher/replies holds one of each.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from distill.config import ServiceSection
from distill.errors import PipelineError
from distill.network import host_of
from distill.teacher.keys import explain_refused
from distill.teacher.ledger import Outcome
from distill.teacher.prices import Prices, read_amount
from distill.teacher.requests import RowError, role_of

LONGEST_RETRY_AFTER_SECONDS = 300.0
REPEATABLE = (408, 409, 425, 429)
REFUSED_STATUS = (400, 422)  # where servers say that they do not know a parameter
# Of the errors below 500 these are no refusals: a gateway gave up waiting for an answer that may be written, and paid.
GIVEN_UP = (408, 499)
MOST_TOKENS = 10**9  # more in one call is no count of tokens
MESSAGE_CHARACTERS = 200
NO_MONEY = re.compile(r"insufficient_quota|exceeded your current quota|key limit exceeded|billing_hard_limit", re.IGNORECASE)
DAILY = re.compile(r"per[ -]day\b", re.IGNORECASE)
NO_SCHEMA = re.compile(r"response_format|json_schema|structured output|grammar", re.IGNORECASE)
THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


class RepeatableError(Exception):
    """This call failed, and the next may not. `retry_after` is in seconds, None when the server named no time."""

    def __init__(self, reason: str, retry_after: float | None = None, silent: bool = False) -> None:
        super().__init__(reason)
        self.retry_after, self.silent = retry_after, silent


@dataclass(frozen=True)
class Verdict:
    """How a call ended, for the ledger, and either its text or its error."""

    outcome: Outcome
    error: Exception | None = None
    text: str = ""
    finish_reason: Literal["stop", "length"] = "stop"
    model: str = ""


class Judge:
    """Judges what comes back from one teacher, or stage 4's judge; knows the key only to take it out of what servers repeat."""

    def __init__(self, section: ServiceSection, key: str, prices: Prices | None) -> None:
        self._section, self._key, self._prices = section, key, prices

    # -------------------------------------------------------------------------
    # No completion

    def judge_status(self, status: int, body: Any, headers: Mapping[str, str], schema: bool = False) -> Verdict:
        """An HTTP error; `schema`: the request asked for JSON."""
        outcome = Outcome(str(status), cost_usd=0.0 if is_refusal(status) else None)
        return Verdict(outcome, self.explain_status(status, body, read_retry_after(headers), schema))

    def explain_status(self, status: int, body: Any, retry_after: float | None, schema: bool = False) -> Exception:
        """What a status means for the row or the run."""
        section, host, reason = self._section, host_of(self._section.base_url), self.read_reason(body)
        if status == 401:
            return explain_refused(section)
        if status == 402 or NO_MONEY.search(f"{reason} {body}"):
            return PipelineError(
                f"{host} wants payment ({status}: {reason}): top up the account or the key's limit, then run again; "
                f"every reply is kept"
            )
        if status == 404:
            return PipelineError(self.explain_missing(reason))
        if status == 429 and DAILY.search(reason):
            return PipelineError(f"{host} has a daily limit (429: {reason}): run again tomorrow; every reply is kept")
        if status in REFUSED_STATUS and schema and NO_SCHEMA.search(f"{reason} {body}"):
            return RowError(f"takes no JSON schema ({status}: {reason}): choose another {section.place}.model")
        if status not in REPEATABLE and status < 500:
            return RowError(f"refused with {status}: {reason}")
        if retry_after is not None and retry_after > LONGEST_RETRY_AFTER_SECONDS:
            return PipelineError(f"{host} asks to wait {retry_after:.0f} s ({status}): run again then; every reply is kept")
        return RepeatableError(f"status {status}: {reason}", retry_after)

    def explain_missing(self, reason: str) -> str:
        """404: no such model, no chat at that address, or (OpenRouter) no provider that satisfies what the request demands."""
        section = self._section
        start = f"{section.base_url} has no model {section.model} or no chat there (404: {reason}): "
        if "endpoints" in reason or "providers" in reason:
            return start + f"no provider satisfies {section.place}.openrouter and the prices: mend those, or the model"
        return start + f"mend {section.place}.model or base_url"

    def read_reason(self, body: Any) -> str:
        """The server's words; OpenRouter keeps those of the provider behind it in metadata."""
        if not isinstance(body, dict):
            return self.clean(body or "no reason given")
        metadata = body.get("metadata") if isinstance(body.get("metadata"), dict) else {}
        details = [metadata.get("provider_name"), metadata.get("raw") or metadata.get("reasons")]
        reason = body.get("message") or body
        return self.clean(": ".join(str(part) for part in (reason, *details) if part))

    def judge_silence(self, reason: str, sent: bool, silent: bool = True) -> Verdict:
        """No answer at all; `sent` unless the connection was never made. `silent`: nothing shows that there is a server."""
        outcome = Outcome("no answer", cost_usd=None) if sent else Outcome("not sent", cost_usd=0.0)
        return Verdict(outcome, RepeatableError(self.clean(reason), silent=silent))

    def judge_nonsense(self, problem: Any = "") -> Verdict:
        """Status 200 with something that is no completion: nobody knows what it cost."""
        reason = "an answer that is not a completion" + (f": {self.clean(problem)}" if problem else "")
        return Verdict(Outcome("200 unreadable"), RepeatableError(reason))

    def clean(self, problem: Any) -> str:
        """A server's words as one short line. Servers repeat headers in their errors, so the key is taken out."""
        text = " ".join(mend_text(str(problem)).split())
        return (text.replace(self._key, "[key]") if self._key else text)[:MESSAGE_CHARACTERS]

    # -------------------------------------------------------------------------
    # Completions

    def judge_completion(self, completion: Any, max_tokens: int) -> Verdict:
        """A reply, or what is wrong with it: an error, no choices, no text, an end before the end."""
        try:
            outcome = self.read_usage(completion)
            text, reason = self.read_text(completion, max_tokens)
            model = self.clean(completion.model) if isinstance(completion.model, str) else ""
            return Verdict(outcome, None, text, reason, model or self._section.model)
        except (RowError, RepeatableError, PipelineError) as error:
            cost = self.find_cost_of_failure(completion, outcome)
            return Verdict(Outcome("200 error", outcome.prompt_tokens, outcome.answer_tokens, cost), error)
        except (AttributeError, TypeError, LookupError, ValueError, ArithmeticError):
            return self.judge_nonsense()

    def read_usage(self, completion: Any) -> Outcome:
        """Tokens and cost: the provider's own figure where it gives one (OpenRouter), else tokens times price.

        Figures that cannot be true are not believed: the outcome has none then, and a budget counts the call's maximum.
        """
        usage, extra = completion.usage, (completion.usage and completion.usage.model_extra) or {}
        prompt, answer = (read_tokens(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens"))
        cost = self.price(prompt or 0, answer or 0)
        if extra.get("cost") is not None:
            cost = self.read_cost(extra)
        elif self.is_free():
            return Outcome("200", prompt, answer, cost)
        if not prompt or answer is None or (answer == 0 and has_text(completion)) or (cost is None and "cost" in extra):
            return Outcome("200")
        return Outcome("200", prompt, answer, cost)

    def read_cost(self, extra: Mapping[str, Any]) -> float | None:
        """US dollars as the provider states them; None for a figure that cannot be true, such as 0 for a model with a price."""
        cost = read_amount(extra["cost"])
        if extra.get("is_byok") is True:  # an own key: the provider behind it bills apart
            theirs = read_amount((extra.get("cost_details") or {}).get("upstream_inference_cost"))
            return None if cost is None or theirs is None else cost + theirs
        return None if cost == 0 and not self.is_free() else cost

    def is_free(self) -> bool:
        """Whether any call costs nothing."""
        return self.price(1, 1) == 0

    def price(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """US dollars; None without prices."""
        return self._prices.cost(prompt_tokens, answer_tokens) if self._prices else None

    def find_cost_of_failure(self, completion: Any, outcome: Outcome) -> float | None:
        """A refusal inside a 200 costs nothing unless usage says otherwise; any other failure may have been paid."""
        problem = find_problem(completion)
        if outcome.prompt_tokens is None and problem and is_refusal(find_code(problem)) and not has_text(completion):
            return 0.0
        return outcome.cost_usd

    def read_text(self, completion: Any, max_tokens: int) -> tuple[str, Literal["stop", "length"]]:
        """The answer's text and how it ended. Raises RowError, RepeatableError or PipelineError."""
        choice = completion.choices[0] if completion.choices else None
        problem = find_problem(completion)
        if problem:
            raise self.explain_status(find_code(problem), problem, None)
        if choice is None:
            raise RepeatableError("an answer without choices")
        if choice.finish_reason in ("content_filter", "tool_calls"):
            raise RowError(f"stopped by the {role_of(self._section)}: {choice.finish_reason}")
        if choice.message and choice.message.refusal:
            raise RowError(f"refused by the {role_of(self._section)}: {self.clean(choice.message.refusal)}")
        text = THOUGHTS.sub("", mend_text(read_content(choice))).strip()
        if choice.finish_reason == "length":
            if not text or text.startswith("<think>"):
                raise RowError(f"cut off at {max_tokens} tokens before any answer: raise {self._section.place}.max_tokens")
            return text, "length"
        if not text or choice.finish_reason == "error":
            raise RepeatableError("an empty answer" if not text else "an answer that broke off")
        return text, "stop"


def find_problem(completion: Any) -> Any:
    """The error that stands in a completion or in its first choice."""
    choice = completion.choices[0] if completion.choices else None
    return (completion.model_extra or {}).get("error") or (choice and (choice.model_extra or {}).get("error"))


def find_code(problem: Any) -> int:
    """The HTTP status that an error inside a 200 stands for; 500 where it names none."""
    code = problem.get("code") if isinstance(problem, dict) else None
    return code if type(code) is int and 400 <= code < 600 else 500


def is_refusal(status: int) -> bool:
    """Whether a status says that nothing was computed, so that nothing is to be paid."""
    return status < 500 and status not in GIVEN_UP


def read_tokens(value: Any) -> int | None:
    """A count of tokens; None for what is none."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def read_content(choice: Any) -> str:
    """The text of a choice; some servers send it in parts. Raises TypeError for what is no text."""
    content = choice.message.content if choice.message else None
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text")
    if not isinstance(content, str | None):
        raise TypeError("content is no text")
    return content or ""


def has_text(completion: Any) -> bool:
    """Whether a completion holds an answer, or a piece of one."""
    return bool(completion.choices and read_content(completion.choices[0]))


def mend_text(text: str) -> str:
    """A text that can be written as UTF-8: a lone surrogate, half of an emoji cut in two, becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, a number or a date, or from retry-after-ms; None when absent or unreadable."""
    try:
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    except ValueError:
        pass
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
