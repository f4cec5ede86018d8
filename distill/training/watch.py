"""Callbacks that watch a training run: its log, whether it learns, and how fast it is.

They know nothing of models and rows beyond what transformers' Trainer hands to a callback.
"""

from __future__ import annotations

import importlib.util
import math
import platform
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distill.errors import PipelineError
from distill.files import JsonlAppender, read_jsonl, write_jsonl_atomic
from distill.progress import Progress
from distill.training.lora import copy_adapters, require_moved

GIB = 2**30  # what a "24 GB" card has 24 of
LOGGED = ("loss", "grad_norm", "learning_rate", "eval_loss")  # of transformers' figures; its epoch knows nothing of our plan

# -----------------------------------------------------------------------------
# Speed and memory


class StepMeter:
    """How much this process has learnt so far: real `tokens`, and the `batches` they were on the GPU in."""

    def __init__(self) -> None:
        self.tokens = 0
        self.batches = 0

    def add(self, tokens: int, batches: int) -> None:
        """Count one step."""
        self.tokens += tokens
        self.batches += batches


class Pace:
    """Tokens a second from the first step after a log line to the next log line: measuring and saving lie between the two.

    A log line has waited for the GPU to finish (it needs the loss); the end of a step has not.
    """

    def __init__(self, meter: StepMeter) -> None:
        self._meter = meter
        self._start: tuple[float, int] | None = None

    def start(self) -> None:
        """A step begins; only the first since `finish` counts."""
        self._start = self._start or (time.perf_counter(), self._meter.tokens)

    def finish(self) -> float | None:
        """Tokens a second since `start`; None when no step began or no token was counted."""
        if self._start is None:
            return None
        (began, before), self._start = self._start, None
        tokens = self._meter.tokens - before
        return tokens / max(time.perf_counter() - began, 1e-9) if tokens else None


def measure_peak() -> float | None:
    """GiB of GPU memory that PyTorch has held at most since the count was last reset; None without CUDA."""
    import torch

    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None


# -----------------------------------------------------------------------------
# The log


class TrainingLog(TrainerCallback):
    """Writes training_log.jsonl as the run goes and moves the progress bar; with several processes the first one does.

    A row has step, loss, grad_norm, learning_rate, epoch (by `epoch_of` a step, where given), tokens_per_second, peak_gb (CUDA
    only) and seconds, or step, eval_loss and seconds for the validation rows. What is not a finite number stands as null.
    After a resume the rows beyond the checkpoint are dropped first, so the log reads like that of an unbroken run.
    """

    def __init__(
        self, path: Path, progress: Progress, resumed_step: int, meter: StepMeter,
        epoch_of: Callable[[int], float] | None = None,
    ) -> None:
        self._path, self._progress, self._resumed_step, self._epoch_of = path, progress, resumed_step, epoch_of
        self._pace = Pace(meter)
        self._log: JsonlAppender | None = None
        self._started = time.monotonic()
        self._shown: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        before = read_jsonl(self._path, torn_end=True) if self._path.exists() else ()
        kept = [row for _, row in before if row.get("step", 0) <= self._resumed_step]
        write_jsonl_atomic(self._path, kept)
        self._log = JsonlAppender(self._path)
        self._started = time.monotonic() - (kept[-1].get("seconds", 0.0) if kept else 0.0)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._pace.start()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if self._log is None or not {"loss", "eval_loss"} & logs.keys():
            return
        kept = {key: logs[key] for key in LOGGED if key in logs}
        if "loss" in logs:
            kept |= self.measure(state.global_step)
        self._shown |= kept
        row = {"step": state.global_step, **kept, "seconds": round(time.monotonic() - self._started, 3)}
        self._log.append({key: value if math.isfinite(value) else None for key, value in row.items()})

    def measure(self, step: int) -> dict[str, float]:
        """What transformers does not log."""
        rate, peak = self._pace.finish(), measure_peak()
        found: dict[str, float] = {}
        if self._epoch_of is not None:
            found["epoch"] = self._epoch_of(step)
        if rate is not None:
            found["tokens_per_second"] = round(rate, 1)
        if peak is not None:
            found["peak_gb"] = round(peak, 2)
        return found

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._log is not None:
            self._progress.advance(1, describe(self._shown))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._log is not None:
            self._log.close()


def describe(shown: dict[str, float]) -> str:
    """The latest figures beside the progress bar."""
    forms = {
        "loss": "loss {:.4f}", "eval_loss": "validation {:.4f}", "tokens_per_second": "{:,.0f} tokens/s",
        "peak_gb": "{:.1f} GB",
    }
    return ", ".join(form.format(shown[key]) for key, form in forms.items() if key in shown)


def require_tensorboard() -> None:
    """Raises PipelineError where the events cannot be written."""
    if importlib.util.find_spec("tensorboard") is None:
        raise PipelineError(
            "config.yaml finetune.tensorboard is true but tensorboard is not installed: pip install tensorboard, "
            "or set it to false"
        )


class TensorBoardEvents(TrainerCallback):
    """Losses, gradient norm and learning rate as TensorBoard events in `folder`, and nothing else.

    transformers' own callback also writes all of its arguments, which hold paths of this machine. After a resume TensorBoard
    is told to forget what lies beyond the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        self._folder = folder
        self._writer: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if state.is_world_process_zero:
            self._writer = SummaryWriter(str(self._folder), purge_step=state.global_step + 1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if self._writer is None:
            return
        for name in (name for name in LOGGED if name in logs):
            self._writer.add_scalar(name, logs[name], state.global_step)
        self._writer.flush()  # a killed run keeps what it has logged

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._writer is not None:
            self._writer.close()


# -----------------------------------------------------------------------------
# Does it learn


WINDOW = 5  # logged losses in a running mean
NAMED = 8  # rows, in an error
EXPLODED_RATIO = 3.0
EXPLODED_NATS = 1.0  # so that noise about a loss near zero is no explosion


class LearningCheck(TrainerCallback):
    """Stops the run when an adapter has not moved after the first step that could, or the loss is no number or explodes.

    Exploding: after warm-up the mean of the last five logged losses is over three times the lowest such mean so far, plus 1.
    `rows_of` a step names the rows that were learnt in it; those since the last log line are in the error.
    """

    def __init__(self, rows_of: Callable[[int], Sequence[str]] | None = None) -> None:
        self._rows_of = rows_of
        self._checked = False
        self._before: dict[str, Any] = {}
        self._rate = 0.0
        self._logged_step = 0
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._best = math.inf

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._before = copy_adapters(kwargs["model"])
        args.logging_nan_inf_filter = False  # transformers would log a mean in place of a loss that is no number
        self._logged_step = state.global_step
        for row in state.log_history:  # of the run that this one goes on with
            if "loss" in row:
                self.follow(row["loss"])

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Warm-up gives the first step a learning rate of zero; only a later one can move anything.
        self._rate = kwargs["lr_scheduler"].get_last_lr()[0]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # In float16 the first steps may be left out, until the scale of the gradients is found.
        skipped = getattr(kwargs.get("optimizer"), "step_was_skipped", False)
        if not self._checked and self._rate > 0 and not skipped:
            require_moved(kwargs["model"], self._before)
            self._checked = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        for name, key in (("loss", "loss"), ("validation loss", "eval_loss")):
            if not math.isfinite(logs.get(key, 0.0)):
                raise PipelineError(f"the {name} is {logs[key]} at step {state.global_step}: {self.advise(state.global_step)}")
        if "loss" not in logs:
            return
        mean = self.follow(logs["loss"])
        warming_up = state.global_step <= args.get_warmup_steps(state.max_steps)
        if not warming_up and mean > EXPLODED_RATIO * self._best + EXPLODED_NATS:
            raise PipelineError(
                f"the loss rose from {self._best:.2f} to {mean:.2f} by step {state.global_step}: "
                f"{self.advise(state.global_step)}"
            )
        self._logged_step = state.global_step

    def follow(self, loss: float) -> float:
        """The mean of the last losses with this one; the lowest is kept."""
        self._last.append(loss)
        mean = statistics.fmean(self._last)
        if len(self._last) == WINDOW:
            self._best = min(self._best, mean)
        return mean

    def advise(self, step: int) -> str:
        """What to do, and which rows to look at."""
        steps = range(min(self._logged_step + 1, step), step + 1)
        rows = [row for number in steps for row in self._rows_of(number)] if self._rows_of else []
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        named = f" ({', '.join(rows[:NAMED])}{more})" if rows else ""
        return f"look at the rows of the last steps{named}, halve finetune.learning_rate and run with --overwrite"


# -----------------------------------------------------------------------------
# Is it as fast as it was


UNSTEADY_STEPS, USUAL_STEPS, RECENT_STEPS = 3, 20, 5  # the first steps compile kernels
SLOWED_DOWN = 3.0
NEARLY_FULL = 0.95


class StepTimeCheck(TrainerCallback):
    """Says once that the last 5 steps ran at less than a third of the speed of the first 20 steady ones (medians)."""

    def __init__(self, meter: StepMeter) -> None:
        self._pace = Pace(meter)
        self._rates: list[float] = []
        self._said = False

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._pace.start()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if self._said or "loss" not in logs or (rate := self._pace.finish()) is None:
            return
        self._rates.append(rate)
        drop = find_slowdown(self._rates, args.logging_steps)
        if drop is not None:
            self._said = True
            usual, now = drop
            if state.is_world_process_zero:
                reason = explain_slowdown(is_windows_driver(), *measure_fill())
                tqdm.write(f"[WARN] Step {state.global_step}: {now:,.0f} tokens/s instead of {usual:,.0f}: {reason}")


def find_slowdown(rates: Sequence[float], logging_steps: float) -> tuple[float, float] | None:
    """(usual, present) tokens a second when the present ones are under a third; `rates` has one value a log line."""
    lines = [math.ceil(steps / max(logging_steps, 1)) for steps in (UNSTEADY_STEPS, USUAL_STEPS, RECENT_STEPS)]
    unsteady, usual_lines, recent = lines
    if len(rates) < sum(lines):
        return None
    usual = statistics.median(rates[unsteady : unsteady + usual_lines])
    now = statistics.median(rates[-recent:])
    return (usual, now) if now * SLOWED_DOWN < usual else None


def is_windows_driver() -> bool:
    """Windows, or Linux inside it (WSL): there the driver may move GPU memory into the computer's own."""
    return sys.platform == "win32" or "microsoft" in platform.release().lower()


def measure_fill() -> tuple[int, int]:
    """Bytes of GPU memory that PyTorch holds reserved, and that the card has; zeros without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return 0, 0
    return torch.cuda.memory_reserved(), torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory


def explain_slowdown(windows: bool, reserved: int, total: int) -> str:
    """The likeliest reason that steps take longer, and what to do about it. Sizes in bytes, `total` 0 without a GPU."""
    if not total:
        return "another program may be using the processor or the memory of this machine: close it"
    spill = (
        "GPU memory may be spilling into the computer's own (NVIDIA Control Panel, Manage 3D settings, CUDA - Sysmem Fallback "
        "Policy: Prefer No Sysmem Fallback): stop with Ctrl-C, lower finetune.vram_gb or finetune.tokens_per_batch and go on"
    )
    if windows:
        return spill
    if reserved >= NEARLY_FULL * total:
        return f"{reserved / total:.0%} of the GPU memory is taken; {spill}"
    return "another program may be using the GPU, or heat slows it down: nvidia-smi shows both"
