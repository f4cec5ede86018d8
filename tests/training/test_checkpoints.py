"""Which checkpoint a killed run goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.training.checkpoints import NEEDED, find_last_checkpoint, require_same_run


def make_checkpoint(folder: Path, step: int, without: str = "", state: str = "{}", random_state: str = "rng_state.pth") -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in (*NEEDED, random_state):
        if name != without:
            (path / name).write_text(state if name == "trainer_state.json" else "x", encoding="utf-8")
    return path


def test_highest_complete_checkpoint_wins(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 9)
    expected = make_checkpoint(tmp_path, 10)
    assert find_last_checkpoint(tmp_path) == expected


def test_a_run_on_several_gpus_goes_on_on_any_number(tmp_path: Path) -> None:
    """Each of its processes saves a random state of its own."""
    expected = make_checkpoint(tmp_path, 5, random_state="rng_state_0.pth")
    assert find_last_checkpoint(tmp_path) == expected


@pytest.mark.parametrize("missing", [*NEEDED, "rng_state.pth"])
def test_half_written_checkpoint_is_passed_over(tmp_path: Path, missing: str) -> None:
    expected = make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10, without=missing)
    assert find_last_checkpoint(tmp_path) == expected


def test_torn_state_is_passed_over(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 10, state='{"global_step": 1')
    assert find_last_checkpoint(tmp_path) is None


def test_run_that_saved_nothing_holds_nobody_back(tmp_path: Path) -> None:
    require_same_run(tmp_path, {"targets": "wrong"})
    make_checkpoint(tmp_path / "checkpoints", 1, without="optimizer.pt")
    require_same_run(tmp_path, {"targets": "right"})


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    require_same_run(tmp_path, {"seed": 1, "data": "a"})
    make_checkpoint(tmp_path / "checkpoints", 1)
    require_same_run(tmp_path, {"seed": 1, "data": "a"})
    with pytest.raises(PipelineError, match=r"holds an unfinished run that differs in data: .*--overwrite"):
        require_same_run(tmp_path, {"seed": 1, "data": "b"})
