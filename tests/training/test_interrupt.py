"""Ctrl-C: a checkpoint after the step in hand, the same command goes on, and a second one ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from distill.training.interrupt import ECHO_SECONDS, StopOnInterrupt
from tests.training.runs import ScriptedTrainer, make_trainer

ROOT = Path(__file__).parent.parent.parent
SAVING = {"save_strategy": "steps", "save_steps": 5}


def interrupt_at(wanted: int, number: int = signal.SIGINT) -> Any:
    """What to do during a step so that the signal comes in the middle of the wanted one."""
    def send(step: int) -> None:
        if step == wanted:
            signal.raise_signal(number)
    return send


def train_until_stopped(folder: Path, **changes: Any) -> tuple[ScriptedTrainer, StopOnInterrupt]:
    stop = StopOnInterrupt()
    trainer = make_trainer(folder, [stop], 10, **{**SAVING, **changes})
    with stop:
        trainer.train()
    return trainer, stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_saves_after_the_step_in_hand_and_exits_with_130(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer, stop = train_until_stopped(tmp_path, during=interrupt_at(3, number))
    assert stop.stopped and trainer.state.global_step == 3
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").exists()
    assert trainer.state.log_history[-2]["step"] == 3  # the last row is transformers' summary
    with pytest.raises(SystemExit) as left:
        stop.exit_if_stopped()
    assert left.value.code == 130
    assert "Stopped at step 3: run the same command to go on" in capfd.readouterr().out


def test_user_is_told_at_once_that_the_signal_was_heard(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_until_stopped(tmp_path, during=interrupt_at(3))
    assert "Ctrl-C again stops at once" in capfd.readouterr().err


@pytest.mark.parametrize("restore", [False, True])
def test_run_goes_on_from_there_as_if_nothing_had_happened(tmp_path: Path, restore: bool) -> None:
    whole = make_trainer(tmp_path / "whole", [], 10, **SAVING)
    whole.train()
    train_until_stopped(tmp_path / "parts", during=interrupt_at(3))
    stop = StopOnInterrupt()
    rest = make_trainer(tmp_path / "parts", [stop], 10, restore_callback_states_from_checkpoint=restore, **SAVING)
    with stop:
        rest.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-3"))
    assert not stop.stopped and rest.state.global_step == 10
    assert rest.model.weight.item() == whole.model.weight.item()


def test_log_line_is_written_even_between_two_of_them(tmp_path: Path) -> None:
    trainer, _ = train_until_stopped(tmp_path, during=interrupt_at(3), logging_steps=5)
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [3]


def test_signal_during_a_measurement_stops_after_it(tmp_path: Path) -> None:
    class Measured(ScriptedTrainer):
        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            return super().evaluation_loop(*args, **kwargs)

    stop = StopOnInterrupt()
    trainer = make_trainer(tmp_path, [stop], 10, eval_strategy="steps", eval_steps=2, **SAVING)
    trainer.__class__ = Measured
    with stop:
        trainer.train()
    assert stop.stopped and trainer.state.global_step == 2
    assert (tmp_path / "checkpoint-2").exists()


def test_signal_in_the_last_step_lets_the_run_finish(tmp_path: Path) -> None:
    trainer, stop = train_until_stopped(tmp_path, during=interrupt_at(10))
    assert not stop.stopped and trainer.state.global_step == 10
    stop.exit_if_stopped()


def press_twice(pause: float) -> Any:
    def press(step: int) -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(pause)
        signal.raise_signal(signal.SIGINT)
    return press


def test_the_same_signal_passed_on_by_a_launcher_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with StopOnInterrupt():
        press_twice(0)(1)
        time.sleep(ECHO_SECONDS + 0.1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_second_signal_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon it comes: without a launcher nobody passes on the first one."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_until_stopped(tmp_path, during=press_twice(0.1))
    assert not list(tmp_path.glob("checkpoint-*"))
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopOnInterrupt() as stop:
        assert signal.getsignal(signal.SIGINT) == stop.handle
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not stop.stopped


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopOnInterrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_handled() -> None:
    entered: list[bool] = []

    def enter() -> None:
        with StopOnInterrupt() as stop:
            entered.append(stop.stopped)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [False]


TWO_PROCESSES = """
import signal, sys, torch
from types import SimpleNamespace
from torch import distributed
from transformers import TrainerControl
from distill.training.interrupt import StopOnInterrupt

rank, meeting = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
args, control = SimpleNamespace(device=torch.device("cpu")), TrainerControl()
with StopOnInterrupt() as stop:
    for step in range(1, 6):
        if rank == 1 and step == 3:
            signal.raise_signal(signal.SIGINT)
        stop.on_step_end(args, SimpleNamespace(global_step=step, max_steps=9), control)
        if control.should_training_stop:
            break
stop.exit_if_stopped()
"""


def test_one_process_that_was_asked_stops_all_after_the_same_step(tmp_path: Path) -> None:
    meeting = (tmp_path / "meeting").as_uri()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(rank), meeting], cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    for process in processes:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 130 and "Stopped at step 3" in printed, printed
