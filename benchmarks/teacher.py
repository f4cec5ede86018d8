"""
The teacher client against a server that answers after a second and fails one call in ten: python benchmarks/teacher.py

    python benchmarks/teacher.py --rows 1000 --concurrency 32 --latency 1.0

The faults are 429 with Retry-After, 500, a dropped connection, and an error inside a 200, in equal parts. The server runs
as a process of its own, and counts. Beside it the loop of the tutorial: one request after the other, a pause after each.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import hashlib
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import openai

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that the file runs as a script

from distill.config import Config  # noqa: E402 - needs the path above
from distill.teacher.chat import run_jobs  # noqa: E402
from distill.teacher.journal import Journal, load_replies  # noqa: E402
from distill.teacher.ledger import Ledger, load_calls  # noqa: E402
from distill.teacher.prices import find_prices  # noqa: E402
from distill.teacher.requests import Ask, Request  # noqa: E402

FAULTS = ("429", "500", "drop", "error in 200")
ONE_CALL_IN = 10
SAMPLE_ROWS = 5
TUTORIAL_PAUSE_SECONDS = 1.0
PROMPT_CHARACTERS = 6000  # HybridRAG3's prompt with five chunks


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=1.0, metavar="SECONDS")
    return parser.parse_args(arguments)


# -----------------------------------------------------------------------------
# The server


def find_fault(seen: collections.Counter[str], body: bytes) -> str | None:
    """Which fault a request meets: chosen by a hash of its question and of how often it came, so that every run is alike."""
    question = json.loads(body)["messages"][0]["content"].partition(":")[0]
    seen[question] += 1
    digest = int.from_bytes(hashlib.sha256(f"{question}, call {seen[question]}".encode()).digest()[:8], "big")
    return FAULTS[digest // ONE_CALL_IN % len(FAULTS)] if digest % ONE_CALL_IN == 0 else None


def make_answer(fault: str | None) -> bytes:
    """The HTTP answer to a request."""
    message = {"role": "assistant", "content": "The limit is 80 C. [Source 1]"}
    usage = {"prompt_tokens": 1500, "completion_tokens": 12, "total_tokens": 1512}
    completion = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "teacher-1", "usage": usage,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    status, payload = {
        "429": ("429 Too Many Requests\r\nRetry-After: 1", {"error": {"message": "slow down", "code": 429}}),
        "500": ("500 Internal Server Error", {"error": {"message": "internal error", "code": 500}}),
        "error in 200": ("200 OK", {"error": {"message": "Provider returned error", "code": 502}}),
    }.get(fault or "", ("200 OK", completion))
    body = json.dumps(payload).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def serve(latency: float, pipe: Connection) -> None:
    """Answer until the pipe is closed; sends the port first, and the counts of faults when asked."""
    seen: collections.Counter[str] = collections.Counter()
    met: collections.Counter[str] = collections.Counter()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                fault = find_fault(seen, await reader.readexactly(length))
                met[fault or "answer"] += 1
                await asyncio.sleep(latency)
                if fault == "drop":
                    return
                writer.write(make_answer(fault))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=2**20, backlog=256)
    pipe.send(server.sockets[0].getsockname()[1])
    while (await asyncio.to_thread(pipe.recv)) == "counts":
        pipe.send(dict(met))
    server.close()


def run_server(latency: float, pipe: Connection) -> None:
    """The server's process."""
    asyncio.run(serve(latency, pipe))


# -----------------------------------------------------------------------------
# The clients


def make_messages(number: int) -> list[dict[str, str]]:
    """A prompt as long as HybridRAG3's."""
    sentence = "The antenna gain is 12 dBi at 2.4 GHz. "
    return [{"role": "user", "content": f"Question {number}: " + sentence * (PROMPT_CHARACTERS // len(sentence))}]


def ask_with_client(args: argparse.Namespace, url: str, folder: Path) -> tuple[float, int, dict[str, int]]:
    """Seconds, replies on disk and statuses of the ledger, with this project's client."""
    teacher = {
        "base_url": url, "model": "teacher-1", "concurrency": args.concurrency, "requests_per_minute": 1_000_000,
        "max_attempts": 8,
    }
    config = Config.model_validate({"work_dir": str(folder), "generate": {"teacher": teacher}})
    section = config.generate.teacher
    requests = [Request(make_messages(number), (f"row{number}",), "answer", 512) for number in range(args.rows)]
    begun = time.monotonic()
    with Journal(config.training_dir, section) as journal, Ledger(config.training_dir) as ledger:
        run_jobs(section, "", [make_job(request) for request in requests], journal, ledger, find_prices(section))
    seconds = time.monotonic() - begun
    statuses = collections.Counter(row["status"] for row in load_calls(config.training_dir).values())
    return seconds, len(load_replies(config.training_dir)), dict(statuses)


def make_job(request: Request) -> Any:
    """A job that asks once."""

    async def work(ask: Ask) -> None:
        await ask(request)

    return work


def ask_one_at_a_time(args: argparse.Namespace, url: str) -> float:
    """Seconds per row of the tutorial's loop, over a few rows: ask, wait for the answer, sleep, go on."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    rows = min(SAMPLE_ROWS, args.rows)
    begun = time.monotonic()
    for number in range(rows):
        messages: Any = make_messages(-1 - number)
        with contextlib.suppress(openai.APIError):  # the tutorial's loop prints the error and goes on: the row is lost
            client.chat.completions.create(model="teacher-1", messages=messages, max_tokens=512)
        time.sleep(TUTORIAL_PAUSE_SECONDS * args.latency)
    client.close()
    return (time.monotonic() - begun) / rows


# -----------------------------------------------------------------------------
# The table


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Both clients against one server."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=run_server, args=(args.latency, theirs), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    with tempfile.TemporaryDirectory() as folder:
        seconds, kept, statuses = ask_with_client(args, url, Path(folder))
    ours.send("counts")
    met = ours.recv()
    per_row = ask_one_at_a_time(args, url)
    ours.send("end")
    process.join(10)
    calls = sum(met.values())
    return {
        "seconds": seconds, "kept": kept, "met": met, "statuses": statuses, "calls": calls,
        "ideal": calls * args.latency / args.concurrency, "one_at_a_time": per_row * args.rows,
    }


def describe(args: argparse.Namespace, found: dict[str, Any]) -> str:
    """The result as Markdown."""
    faults = ", ".join(f"{name}: {found['met'].get(name, 0)}" for name in FAULTS)
    sampled = min(SAMPLE_ROWS, args.rows)
    rows = [
        ("rows asked, replies on disk", f"{args.rows:,}, {found['kept']:,}"),
        ("calls", f"{found['calls']:,} ({faults})"),
        (f"ideal: calls x {args.latency:g} s / {args.concurrency}", f"{found['ideal']:.1f} s"),
        (f"this client, {args.concurrency} at once, every line fsynced", f"{found['seconds']:.1f} s"),
        ("ratio to the ideal", f"{found['seconds'] / found['ideal']:.3f}"),
        (f"one at a time (from {sampled} rows, extrapolated; failed rows are lost)", f"{found['one_at_a_time']:.0f} s"),
        ("one at a time / this client", f"{found['one_at_a_time'] / found['seconds']:.0f} x"),
    ]
    machine = f"{date.today()}, Python {platform.python_version()}, openai {version('openai')}, {platform.system()}"
    return "\n".join([machine, "", "| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(arguments)
    found = measure(args)
    print(describe(args, found))
    return found


if __name__ == "__main__":
    main()
