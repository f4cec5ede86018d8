from __future__ import annotations

import collections

import pytest

from benchmarks.teacher import FAULTS, find_fault, main


def test_a_small_run_loses_no_row_and_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = main(["--rows", "40", "--concurrency", "8", "--latency", "0.02"])
    assert found["kept"] == 40
    assert found["calls"] == sum(found["statuses"].values()) == 40 + sum(found["met"].get(name, 0) for name in FAULTS)
    assert found["calls"] > 40, "some calls failed"
    printed = capsys.readouterr().out
    assert "| rows asked, replies on disk | 40, 40 |" in printed and "| ratio to the ideal |" in printed


def test_one_call_in_ten_fails_in_every_way_alike_in_every_run() -> None:
    def draw() -> list[str | None]:
        seen: collections.Counter[str] = collections.Counter()
        body = '{"messages": [{"content": "Question %d: words"}]}'
        return [find_fault(seen, (body % (number % 500)).encode()) for number in range(4000)]

    drawn = draw()
    counts = collections.Counter(drawn)
    assert drawn == draw() and set(counts) == {None, *FAULTS}
    assert 340 <= 4000 - counts[None] <= 460 and all(70 <= counts[name] <= 130 for name in FAULTS)
