"""
All sets of questions asked of all models: one load of each model, every answer on disk before it counts, nothing asked twice.

The file of answers, cache.jsonl, is found by what an answer depends on, so it serves later runs too: after another training the
control's answers are still there. Failed calls are never kept in it.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path

from distill.cases.case_set import CaseSet, Question, SetName
from distill.config import Config
from distill.encryption import find_key
from distill.engines.calls import Ask, describe_wrapping, hash_request
from distill.engines.engine import Engine
from distill.engines.models import Model, Side
from distill.engines.options import make_options
from distill.errors import PipelineError
from distill.files import JsonlAppender, read_jsonl
from distill.progress import show_progress
from distill.records import Answer

CACHE = "cache.jsonl"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
LOOK_SECONDS = 0.2  # on Windows nothing interrupts a longer wait, Ctrl-C included

Key = tuple[SetName, Side]


@dataclass(frozen=True)
class Collected:
    """Every answer in the order of its set's questions, how often each model was loaded, how many answers were there before."""

    answers: dict[Key, list[Answer]]
    loads: dict[Side, int]
    cached: int


@dataclass(frozen=True)
class Request:
    """A question to one model; equal ones have one `sha256`."""

    question: Question
    sha256: str


def collect_answers(
    config: Config, engine: Engine, models: Mapping[Side, Model], sets: Sequence[CaseSet], folder: Path
) -> Collected:
    """
    Ask what is not known yet, all sets of one model before the next model. The stock model is not asked to go on from openings.

    Raises PipelineError when too many calls to one model failed, or a model cannot be loaded; what was answered is kept.
    """
    plans = {(cases.name, side): plan(config, engine, models[side], cases) for side in models for cases in sets}
    plans = {key: requests for key, requests in plans.items() if requests or key[1] != "stock"}
    known = load_cache(folder / CACHE, {request.sha256 for requests in plans.values() for request in requests})
    total = sum(map(len, plans.values()))
    cached = sum(request.sha256 in known for requests in plans.values() for request in requests)
    if cached:
        print(f"[OK] {cached} of {total} answers are known from an earlier run ({folder.name}/{CACHE})")
    with (
        JsonlAppender(folder / CACHE, config.encrypt) as log,
        show_progress(total, "asking", "answer", done=cached) as progress,
    ):
        for side in models:
            own = {name: requests for (name, asked), requests in plans.items() if asked == side}
            with closing(ask_side(config, engine, side, own, known)) as replies:
                for request, answer in replies:
                    if not answer.error:
                        log.append(answer.to_row())
                    known[request.sha256] = answer
                    progress.advance(count(own, request.sha256), note=side)
    return Collected(arrange(plans, known), {side: engine.loads[side] for side in models}, cached)


def plan(config: Config, engine: Engine, model: Model, cases: CaseSet) -> list[Request]:
    """The calls that a set asks of a model, in the order of its questions."""
    options, wrapping = make_options(config), describe_wrapping(model)
    if model.side == "stock" and any(question.opening for question in cases.questions):
        return []
    return [
        Request(question, hash_request(engine.describe_call(question), model, wrapping, question, options))
        for question in cases.questions
    ]


def load_cache(path: Path, wanted: Collection[str]) -> dict[str, Answer]:
    """The answers of earlier runs by request_sha256, as far as they are wanted."""
    if not path.exists():
        return {}
    names = {field.name for field in fields(Answer)}
    rows = (row for _, row in read_jsonl(path, torn_end=True) if row.get("request_sha256") in wanted)
    return {row["request_sha256"]: Answer(**{key: row[key] for key in row.keys() & names}) for row in rows}


def check_cache(config: Config, folder: Path) -> None:
    """Raises PipelineError for a cache that cannot be read, or answers that could not be encrypted."""
    load_cache(folder / CACHE, ())
    if config.encrypt:
        find_key()  # without one yet it is made when the first answer is written


def count(plans: Mapping[SetName, Sequence[Request]], sha256: str) -> int:
    """How many questions one answer serves."""
    return sum(request.sha256 == sha256 for requests in plans.values() for request in requests)


def arrange(plans: Mapping[Key, Sequence[Request]], known: Mapping[str, Answer]) -> dict[Key, list[Answer]]:
    """The answers in the order of the questions, under their names: an answer may come from another run, or another set."""
    return {
        (name, side): [
            replace(known[request.sha256], set=name, example_id=request.question.id, side=side) for request in requests
        ]
        for (name, side), requests in plans.items()
    }


# -----------------------------------------------------------------------------
# One model


def ask_side(
    config: Config, engine: Engine, side: Side, plans: Mapping[SetName, Sequence[Request]], known: Mapping[str, Answer]
) -> Iterator[tuple[Request, Answer]]:
    """Answers as they come in, each request once. Raises PipelineError when too many calls failed."""
    todo = {request.sha256: request for requests in plans.values() for request in requests if request.sha256 not in known}
    if not todo:
        return
    limits = FailureLimits(config.evaluate.max_failed_share, side, {name: len(asked) for name, asked in plans.items()})
    with engine.load(side) as ask, closing(ask_all(config, ask, list(todo.values()), engine.workers)) as replies:
        for request, answer in replies:
            answer = replace(answer, request_sha256=request.sha256)
            yield request, answer
            limits.count(answer)


class FailureLimits:
    """Stops a run that fails too often to be believed: over the held-out questions, which decide, and over all."""

    def __init__(self, share: float, side: Side, sizes: Mapping[SetName, int]) -> None:
        self._share, self._side, self._failed = share, side, Counter[str]()
        self._sizes = {"held-out questions": sizes.get("heldout", 0), "questions": sum(sizes.values())}

    def count(self, answer: Answer) -> None:
        """Raises PipelineError, with the last error, when an answer is one failure too many."""
        if not answer.error:
            return
        self._failed["questions"] += 1
        self._failed["held-out questions"] += answer.set == "heldout"
        for what, size in self._sizes.items():
            if self._failed[what] > self._share * size:
                raise PipelineError(
                    f"{self._failed[what]} of {size} {what} to the {self._side} model failed, more than "
                    f"evaluate.max_failed_share {self._share:g} allows; the answers are kept, mend this and run again: "
                    f"{answer.error}"
                )


def ask_all(config: Config, ask: Ask, requests: Sequence[Request], workers: int) -> Iterator[tuple[Request, Answer]]:
    """Ask with up to `workers` questions in flight; answers come in any order."""
    if workers > 1:
        yield from ask_together(config, ask, requests, workers)
        return
    for request in requests:  # without a thread: llama.cpp's server does not stop while one waits for it
        yield request, ask_patiently(ask, request.question, config.evaluate.max_attempts, threading.Event())


def ask_together(config: Config, ask: Ask, requests: Sequence[Request], workers: int) -> Iterator[tuple[Request, Answer]]:
    """
    Several questions at once; the next one waits until an answer was taken.

    The threads are daemons: closing the iterator, or Ctrl-C, leaves the questions in flight to themselves.
    """
    waiting, stop = iter(requests), threading.Event()
    done: queue.SimpleQueue[Future[tuple[Request, Answer]]] = queue.SimpleQueue()

    def work(request: Request) -> None:
        future: Future[tuple[Request, Answer]] = Future()
        try:
            future.set_result((request, ask_patiently(ask, request.question, config.evaluate.max_attempts, stop)))
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            future.set_exception(error)
        done.put(future)

    def start(count: int) -> None:
        for request in itertools.islice(waiting, count):
            threading.Thread(target=work, args=(request,), daemon=True).start()

    start(workers)
    try:
        for _ in requests:
            yield wait_for(done).result()
            start(1)
    finally:
        stop.set()


def wait_for(done: queue.SimpleQueue[Future[tuple[Request, Answer]]]) -> Future[tuple[Request, Answer]]:
    """The next one that is done."""
    while True:
        try:
            return done.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            continue


def ask_patiently(ask: Ask, question: Question, attempts: int, stop: threading.Event) -> Answer:
    """The first answer that came, or the last of `attempts` failures; after each a pause, twice as long as the one before."""
    pause = FIRST_PAUSE_SECONDS
    for _ in range(attempts - 1):
        answer = ask(question)
        if not answer.error or stop.wait(pause):
            return answer
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return ask(question)
