"""What a call costs, what it can cost at most, what a run will cost: US dollars, from config.yaml or the provider's list."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill.config import Config, ServiceSection
from distill.curation.lengths import CHARACTERS_PER_TOKEN
from distill.errors import PipelineError
from distill.network import is_loopback
from distill.teacher.requests import Request

MILLION = 1_000_000
TOKENS_PER_MESSAGE = 32  # chat templates put a few marks around each message
EXPECTED_ANSWER_TOKENS = 350
EXPECTED_JUDGE_TOKENS = 60
TOKENS_PER_SECOND = 50  # what hosted models write
SECONDS_BEFORE_ANSWER = 1.0


@dataclass(frozen=True)
class Prices:
    """US dollars per token sent and received, and per request; `source` says where they come from, `model` whose they are."""

    prompt_usd: float
    answer_usd: float
    request_usd: float = 0.0
    source: str = "config.yaml"
    model: str = ""

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """US dollars for one call."""
        return self.request_usd + prompt_tokens * self.prompt_usd + answer_tokens * self.answer_usd

    def describe(self) -> str:
        """Per million tokens, as providers advertise it."""
        return f"${self.prompt_usd * MILLION:g} in, ${self.answer_usd * MILLION:g} out per million tokens ({self.source})"


def find_prices(section: ServiceSection, listed: Mapping[str, Any] | None = None) -> Prices | None:
    """Config's prices first, then the `pricing` of the provider's model list, then 0 for this machine; None: nobody knows.

    OpenRouter lists strings in US dollars per token: https://openrouter.ai/docs/models.
    """
    prompt, answer = section.prompt_usd_per_million, section.answer_usd_per_million
    pricing = listed or {}
    fee = read_price(pricing.get("request")) or 0.0  # config.yaml has no key for it
    if prompt is not None and answer is not None:
        return Prices(prompt / MILLION, answer / MILLION, fee, model=section.model)
    theirs = [read_price(pricing.get(key)) for key in ("prompt", "completion")]
    if None in theirs and is_loopback(section.base_url):
        theirs, source = [0.0, 0.0], "this machine"
    else:
        source = "the provider's list"
    both = [ours / MILLION if ours is not None else price for ours, price in zip((prompt, answer), theirs)]
    if both[0] is None or both[1] is None:
        return None
    return Prices(both[0], both[1], fee, source, section.model)


def read_price(value: Any) -> float | None:
    """A price per token; None when absent, unreadable or negative (a router whose price depends on the model it picks)."""
    try:
        price = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return price if math.isfinite(price) and price >= 0 else None


def read_amount(value: Any) -> float | None:
    """US dollars as a server or the ledger states them; None for what is no number, negative, infinite or not a number."""
    return read_price(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def require_prices(section: ServiceSection, prices: Prices | None) -> None:
    """Raises PipelineError for a budget that cannot be kept: no price is known, or web searches are billed besides."""
    if section.budget_usd is None:
        return
    if ":online" in section.model and not is_loopback(section.base_url):
        raise PipelineError(
            f"{section.place}.budget_usd cannot be kept with {section.model}, whose web searches cost extra: "
            f"take the model without :online"
        )
    if prices is None:
        raise PipelineError(
            f"{section.place}.budget_usd is set, but the price of {section.model} is not known: "
            f"set {section.place}.prompt_usd_per_million and answer_usd_per_million"
        )


# -----------------------------------------------------------------------------
# One request


def most_prompt_tokens(request: Request) -> int:
    """More tokens than the request can have: byte-level tokenizers make at most one per UTF-8 byte."""
    text = sum(len(message["content"].encode("utf-8", "replace")) + TOKENS_PER_MESSAGE for message in request.messages)
    return text + (len(json.dumps(request.schema)) if request.schema else 0)


def guess_prompt_tokens(request: Request) -> int:
    """Roughly how many tokens the request has."""
    characters = sum(len(message["content"]) for message in request.messages)
    return math.ceil((characters + len(json.dumps(request.schema or ""))) / CHARACTERS_PER_TOKEN)


def most_cost(prices: Prices | None, request: Request) -> float | None:
    """US dollars that one call can cost at most; None without prices."""
    return prices.cost(most_prompt_tokens(request), request.max_tokens) if prices else None


# -----------------------------------------------------------------------------
# A whole run


@dataclass(frozen=True)
class Estimate:
    """What a run will send and cost. Costs are None without prices; `most_usd` leaves out repeated and shortened answers."""

    requests: int
    prompt_tokens: int
    answer_tokens: int
    cost_usd: float | None
    most_usd: float | None
    seconds: float
    limit: str

    def describe(self) -> list[str]:
        """Console lines."""
        lines = [
            f"[OK] to send: about {self.requests:,} requests, {self.prompt_tokens:,} tokens; to receive: about "
            f"{self.answer_tokens:,} tokens; {describe_seconds(self.seconds)} ({self.limit})"
        ]
        if self.cost_usd is None or self.most_usd is None:
            return [*lines, "[WARN] the cost is not known: set generate.teacher.prompt_usd_per_million, answer_usd_per_million"]
        most = f"at most {describe_usd(self.most_usd)} if nothing is repeated"
        return [*lines, f"[OK] cost: about {describe_usd(self.cost_usd)}, {most}"]


def estimate(config: Config, requests: Sequence[Request], prices: Prices | None) -> Estimate:
    """What the given first requests, and those that follow from them (improve, judge), will take.

    Assumes four characters a token, answers of 350 tokens, half of max_tokens for a set of questions.
    """
    calls = [call for request in [*requests, *expect_golden_less(config, requests)] for call in list_calls(config, request)]
    prompt, answer = sum(call.prompt_tokens for call in calls), sum(call.answer_tokens for call in calls)
    cost = sum(prices.cost(call.prompt_tokens, call.answer_tokens) for call in calls) if prices else None
    most = sum(prices.cost(call.most_prompt_tokens, call.most_answer_tokens) for call in calls) if prices else None
    seconds, limit = estimate_seconds(config.generate.teacher, len(calls), prompt, answer)
    return Estimate(len(calls), prompt, answer, cost, most, seconds, limit)


@dataclass(frozen=True)
class Call:
    """The tokens of one expected call: likely, and at most."""

    prompt_tokens: int
    answer_tokens: int
    most_prompt_tokens: int
    most_answer_tokens: int


def expect_golden_less(config: Config, requests: Sequence[Request]) -> list[Request]:
    """As many requests as sets of questions will lead to for rows without the golden chunks, each as long as its set's."""
    sets = [request for request in requests if request.purpose == "questions"]
    share, teacher = config.generate.context.golden_less_share, config.generate.teacher
    extra = round(len(sets) * config.generate.documents.questions_per_set * min(1.0, share / (1 - share)))
    return [replace(sets[number % len(sets)], purpose="answer", max_tokens=teacher.max_tokens) for number in range(extra)]


def list_calls(config: Config, request: Request) -> list[Call]:
    """The call for a first request, and those that follow for each of its rows: each repeats its prompt and the answer."""
    several = request.purpose == "questions"
    answer = request.max_tokens // 2 if several else min(EXPECTED_ANSWER_TOKENS, request.max_tokens)
    prompt, most = guess_prompt_tokens(request), most_prompt_tokens(request)
    rows = config.generate.documents.questions_per_set if several else 1
    sent, most_sent = prompt + answer // rows, most + request.max_tokens
    later = []
    if config.generate.teacher.two_pass:
        later.append(Call(sent, answer // rows, most_sent, request.max_tokens))
    if config.generate.checks.judge:
        later.append(Call(sent, min(EXPECTED_JUDGE_TOKENS, request.max_tokens), most_sent, request.max_tokens))
    return [Call(prompt, answer, most, request.max_tokens), *later * rows]


def estimate_seconds(section: ServiceSection, calls: int, prompt: int, answer: int) -> tuple[float, str]:
    """How long that takes, and which limit decides: the pace, or a model that writes 50 tokens a second."""
    writing = (calls * SECONDS_BEFORE_ANSWER + answer / TOKENS_PER_SECOND) / section.concurrency
    limits = {
        f"{section.requests_per_minute:,} requests a minute": calls * 60 / section.requests_per_minute,
        f"{section.concurrency} at once, {TOKENS_PER_SECOND} tokens/s each": writing,
    }
    if section.tokens_per_minute:
        limits[f"{section.tokens_per_minute:,} tokens a minute"] = (prompt + answer) * 60 / section.tokens_per_minute
    limit = max(limits, key=lambda name: limits[name])
    return limits[limit], limit


def describe_seconds(seconds: float) -> str:
    """For a person: "about 40 s", "about 12 min", "about 3.5 h"."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"


def describe_usd(amount: float) -> str:
    """For a person: to the cent, or to a hundredth of one below ten cents."""
    return f"${amount:,.2f}" if round(amount, 4) >= 0.1 or not amount else f"${amount:.4f}"
