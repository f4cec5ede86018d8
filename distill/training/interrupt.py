"""Ctrl-C during training: the step in hand is finished and saved, and the same command goes on from it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

ECHO_SECONDS = 1.0  # torchrun passes on a Ctrl-C that the terminal has already sent to its processes


class StopOnInterrupt(TrainerCallback):
    """The first Ctrl-C (or SIGTERM) ends training after the step in hand, with a checkpoint; a second one at once.

    Use as a context manager around trainer.train(): signals are handled inside the block alone. Among several processes, one
    that was asked to stop stops all of them after the same step.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._asked_at: float | None = None
        self._step = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnInterrupt:
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):  # SIGBREAK: Ctrl-Break, on Windows
            number = getattr(signal, name, None)
            # Ignored: started in the background by a shell that keeps Ctrl-C from it.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                with contextlib.suppress(ValueError):  # not the main thread: nobody can interrupt it
                    self._before[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            # Not print: the signal may have come in the middle of one, which Python does not let begin again.
            with contextlib.suppress(OSError):
                os.write(2, b"\n[WARN] Stopping after this step, with a checkpoint; Ctrl-C again stops at once\n")
        elif not has_launcher() or now - self._asked_at > ECHO_SECONDS:
            raise KeyboardInterrupt

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.stop_if_asked(args, state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.stop_if_asked(args, state, control)

    def stop_if_asked(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        """Tell the trainer to log, save and end. After the last step the run is over anyway, and is finished."""
        if agree(self._asked_at is not None, args.device) and state.global_step < state.max_steps:
            self.stopped, self._step = True, state.global_step
            control.should_log = control.should_save = control.should_training_stop = True

    def exit_if_stopped(self) -> None:
        """Say where the run stands and leave with 130, as after any Ctrl-C. Call it after the block."""
        if self.stopped:
            print(f"[OK] Stopped at step {self._step}: run the same command to go on")
            sys.exit(130)


def has_launcher() -> bool:
    """Whether torchrun or the like started this process as one of several, and passes signals on to it."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def agree(asked: bool, device: Any) -> bool:
    """Whether any process of the run was asked; each must call this at the same points."""
    import torch
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return asked
    votes = torch.tensor(int(asked), device=device)
    distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
    return bool(votes.item())
