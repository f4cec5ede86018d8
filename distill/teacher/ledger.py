"""Every call to teacher or judge and what it cost: ledger.jsonl in the folder of its replies, over all runs. No text.

An intent is on disk before a call is sent, its outcome before the reply counts. An intent without an outcome (the process was
killed) and an outcome whose cost nobody knows (a time-out) were possibly paid: a budget counts both at their maximum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.files import read_jsonl
from distill.teacher.journal import list_kept
from distill.teacher.logs import Log, tell_time
from distill.teacher.prices import Prices, describe_usd, read_amount

FILE_NAME = "ledger.jsonl"
REPLIED = "200"  # the status of a call whose reply is in the journal
MOST_LISTED = 10


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `status` is an HTTP status or a word such as "timeout".

    Tokens are None where the server named none; `cost_usd` is None where the call may have been paid and nobody knows how much.
    """

    status: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    cost_usd: float | None = None


@dataclass(frozen=True)
class Spending:
    """US dollars over all runs. `possible_usd` is the maximum of the `unsettled` calls, those that were possibly paid.

    `unpriced` are calls whose cost cannot even be bounded, because no price was known. `listed` are lines about the last of
    the unsettled calls, `lost` is how many requests were replied to and have no reply on disk.
    """

    calls: int = 0
    known_usd: float = 0.0
    possible_usd: float = 0.0
    unsettled: int = 0
    unpriced: int = 0
    listed: tuple[str, ...] = field(default=(), compare=False)
    lost: int = field(default=0, compare=False)

    @property
    def most_usd(self) -> float:
        """What has been spent at most."""
        return self.known_usd + self.possible_usd

    def describe(self) -> list[str]:
        """Console lines about earlier runs; none before the first call."""
        lines = [f"[OK] so far: {self.calls:,} calls, {describe_usd(self.known_usd)}"] if self.calls else []
        if self.unsettled:
            unpriced = f", {self.unpriced:,} of them without a known price: a budget counts the others in full"
            lines.append(
                f"[WARN] {self.unsettled:,} calls were cut off and possibly paid, {describe_usd(self.possible_usd)} at most"
                f"{unpriced if self.unpriced else ': a budget counts them in full'}"
            )
            lines += self.listed
            lines += [f"  and {more:,} more"] if (more := self.unsettled - len(self.listed)) and self.listed else []
        if self.lost:
            lines.append(
                f"[WARN] {self.lost:,} replies that were paid for are not in answers.jsonl, which was cut or deleted: "
                f"they are asked for again; put the file back to keep them"
            )
        return lines


class Ledger(Log):
    """The account of all runs, for `with`. `open` and `settle` may be called from any thread."""

    def __init__(self, folder: Path, encrypt: bool = False) -> None:
        super().__init__(folder / FILE_NAME, encrypt)
        self._calls = load_calls(folder)

    def open(
        self, call: str, request: str, purpose: str, model: str, host: str, most_prompt_tokens: int, most_answer_tokens: int,
        most_usd: float | None,
    ) -> None:
        """Note that the call of this name is about to be sent; on disk when this returns."""
        self._append({
            "event": "intent", "call": call, "request": request, "purpose": purpose, "model": model, "host": host,
            "most_prompt_tokens": most_prompt_tokens, "most_answer_tokens": most_answer_tokens, "most_usd": most_usd,
            "time": tell_time(),
        })

    def settle(self, call: str, request: str, outcome: Outcome, seconds: float) -> None:
        """Note how a call ended; on disk when this returns."""
        self._append({
            "event": "outcome", "call": call, "request": request, "status": outcome.status,
            "prompt_tokens": outcome.prompt_tokens, "answer_tokens": outcome.answer_tokens, "cost_usd": outcome.cost_usd,
            "seconds": round(seconds, 3), "time": tell_time(),
        })

    def _append(self, row: dict[str, Any]) -> None:
        self.append(row)
        merge(self._calls, row)

    def measure(self, prices: Prices | None) -> Spending:
        """The account as it stands."""
        return add_up(self._calls.values(), prices)


def load_spending(folder: Path, prices: Prices | None) -> Spending:
    """The account of earlier runs, read only. Raises PipelineError for a damaged file."""
    calls = load_calls(folder)
    replied = {row["request"] for row in calls.values() if row.get("status") == REPLIED and "request" in row}
    return replace(add_up(calls.values(), prices), lost=len(replied - list_kept(folder)) if replied else 0)


def load_calls(folder: Path) -> dict[str, dict[str, Any]]:
    """Each call's intent and outcome as one row. Raises PipelineError, with the line, for a file that was damaged."""
    path = folder / FILE_NAME
    calls: dict[str, dict[str, Any]] = {}
    for number, row in read_jsonl(path, torn_end=True) if path.exists() else ():
        if not isinstance(row.get("call"), str) or row.get("event") not in ("intent", "outcome"):
            raise PipelineError(f"{path}:{number} is no line of a ledger: mend or delete the line")
        merge(calls, row)
    return calls


def merge(calls: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
    """Add a line of the file to the row of its call."""
    calls[row["call"]] = {**calls.get(row["call"], {}), **row}


def add_up(rows: Iterable[dict[str, Any]], prices: Prices | None) -> Spending:
    """The sums over calls."""
    calls = unpriced = 0
    known = possible = 0.0
    unsettled: list[dict[str, Any]] = []
    for row in rows:
        calls += 1
        cost, most = find_cost(row, prices), find_most(row, prices)
        known += cost or 0.0
        if cost is None:
            unsettled.append(row)
            unpriced += most is None
            possible += most or 0.0
    listed = tuple(describe_call(row, find_most(row, prices)) for row in unsettled[-MOST_LISTED:])
    return Spending(calls, known, possible, len(unsettled), unpriced, listed)


def describe_call(row: dict[str, Any], most: float | None) -> str:
    """One line about a call that was possibly paid."""
    cost = "no known price" if most is None else f"at most {describe_usd(most)}"
    return f"  {row.get('time')} {row.get('purpose')}, request {row.get('request')}, {cost}"


def find_cost(row: dict[str, Any], prices: Prices | None) -> float | None:
    """What a call cost: as it was noted, or by its tokens where no price was known then; None where it was possibly paid."""
    if row.get("cost_usd") is not None:
        return read_amount(row["cost_usd"])
    tokens = row.get("prompt_tokens"), row.get("answer_tokens")
    if row["event"] == "intent" or None in tokens:
        return 0.0 if row.get("most_usd") == 0 else None
    if prices is None:
        return 0.0
    return read_amount(prices.cost(*tokens)) if is_of(row, prices) else None


def find_most(row: dict[str, Any], prices: Prices | None) -> float | None:
    """What a call can have cost at most; None where no price is known."""
    if row.get("most_usd") is not None:
        return read_amount(row["most_usd"])
    tokens = row.get("most_prompt_tokens"), row.get("most_answer_tokens")
    return prices.cost(*tokens) if prices and is_of(row, prices) and None not in tokens else None


def is_of(row: dict[str, Any], prices: Prices) -> bool:
    """Whether the prices are those of a call's model."""
    return prices.model in ("", row.get("model"))
