"""Requests to a teacher in a test: a config whose teacher is a server, and what each request got."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.config import Config
from distill.teacher.chat import run_jobs
from distill.teacher.journal import Journal
from distill.teacher.ledger import Ledger
from distill.teacher.prices import find_prices
from distill.teacher.requests import Ask, Reply, Request, RowError

KEY = "sk-test-7f3a9c2e"
PRICED = {"prompt_usd_per_million": 1.0, "answer_usd_per_million": 2.0}


def make_config(folder: Path, url: str, **teacher: Any) -> Config:
    """A config whose teacher answers at `url`; work_dir is the folder."""
    base = {"base_url": url, "model": "teacher-1", "requests_per_minute": 600_000, "max_attempts": 3, "temperature": 0.2}
    return Config.model_validate({"work_dir": str(folder), "generate": {"teacher": {**base, **teacher}}})


def make_request(name: str, **changes: Any) -> Request:
    """A request about the question `name`, for the row of the same name."""
    messages = [{"role": "user", "content": f"Question: {name}"}]
    return Request(**{"messages": messages, "row_ids": (name,), "purpose": "answer", "max_tokens": 64, **changes})


def make_requests(count: int, **changes: Any) -> list[Request]:
    """Requests q0, q1 and so on."""
    return [make_request(f"q{number}", **changes) for number in range(count)]


def ask_all(
    config: Config, requests: Sequence[Request], key: str = KEY, note: Callable[[str], None] = lambda spending: None
) -> dict[str, Reply | str]:
    """The reply of each request by its row, or the reason why there is none; raises what stops the run."""
    got: dict[str, Reply | str] = {}
    section = config.generate.teacher
    with Journal(config.training_dir, section) as journal, Ledger(config.training_dir) as ledger:
        jobs = [make_job(request, got) for request in requests]
        run_jobs(section, key, jobs, journal, ledger, find_prices(section), note)
    return got


def make_job(request: Request, got: dict[str, Reply | str]) -> Callable[[Ask], Any]:
    """A job that asks once."""

    async def work(ask: Ask) -> None:
        name = request.row_ids[0]
        assert name not in got
        try:
            got[name] = await ask(request)
        except RowError as error:
            got[name] = str(error)

    return work


def read_log(config: Config, name: str) -> list[dict[str, Any]]:
    """The lines of training_data/<name>.jsonl."""
    text = (config.training_dir / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
