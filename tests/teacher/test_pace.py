from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from distill.teacher.pace import Crew, Pace


def measure(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds that a coroutine takes."""

    async def run() -> float:
        begun = time.monotonic()
        await work()
        return time.monotonic() - begun

    return asyncio.run(run())


def test_one_rows_retry_after_holds_the_others_too() -> None:
    async def work() -> None:
        pace = Pace(60_000)
        pace.hold(0.3)
        await asyncio.gather(pace.wait(), pace.wait())

    assert measure(work) >= 0.29


def test_a_hold_reaches_those_who_wait_already() -> None:
    async def work() -> None:
        pace = Pace(600)
        await pace.wait()
        waiting = asyncio.create_task(pace.wait())
        await asyncio.sleep(0)
        pace.hold(0.4)
        await waiting

    assert measure(work) >= 0.39


@pytest.mark.parametrize(("counted", "least", "most"), [(500, 0.45, 0.8), (100, 0.05, 0.4)])
def test_tokens_are_booked_as_guessed_and_corrected_as_counted(counted: int, least: float, most: float) -> None:
    async def work() -> None:
        pace = Pace(60_000, 60_000)
        await pace.wait(500)
        pace.correct(500, counted)
        await pace.wait(1)

    assert least <= measure(work) <= most


def test_tokens_given_back_let_the_next_start_at_once() -> None:
    async def work() -> None:
        pace = Pace(60_000, 600)
        await pace.wait(600)
        waiting = asyncio.create_task(pace.wait(1))
        await asyncio.sleep(0.05)
        pace.correct(600, 1)
        await waiting

    assert measure(work) < 1


def test_after_a_rest_starts_are_not_made_up_for() -> None:
    async def work() -> None:
        pace = Pace(600)
        await pace.wait()
        await asyncio.sleep(0.35)
        for _ in range(3):
            await pace.wait()

    assert measure(work) >= 0.54, "three starts after the rest are 0.2 s apart in all"


def test_a_job_that_pauses_makes_room_for_another() -> None:
    order: list[str] = []

    async def work() -> None:
        crew = Crew(1)

        async def pausing() -> None:
            order.append("first begins")
            await crew.pause(0.1)
            order.append("first ends")
            await crew.leave()

        async def other() -> None:
            order.append("second")
            await crew.leave()

        async with asyncio.TaskGroup() as group:
            for job in (pausing, other):
                await crew.enter()
                group.create_task(job())

    measure(work)
    assert order == ["first begins", "second", "first ends"]


def test_however_many_pause_no_more_than_twice_the_size_are_inside() -> None:
    inside = most = 0

    async def work() -> None:
        crew = Crew(3)

        async def job() -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await crew.pause(0.02)
            inside -= 1
            await crew.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                await crew.enter()
                group.create_task(job())

    measure(work)
    assert most == 6
