"""A real transformers Trainer on a model of one number, for tests of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from distill.training.watch import StepMeter

TOKENS = 100  # that every step is said to hold


class Slope(torch.nn.Module):
    """y = weight * x, with a squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


class ScriptedTrainer(Trainer):
    """Calls `during` with the number of each step while it is under way; `losses` are logged in place of the true ones."""

    def __init__(
        self, *args: Any, meter: StepMeter, during: Callable[[int], None] | None, losses: Sequence[float], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.meter, self.during, self.losses = meter, during, losses

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        step = self.state.global_step + 1
        self.meter.add(TOKENS, 1)
        if self.during:
            self.during(step)
        return torch.tensor(self.losses[step - 1]) if self.losses else loss


def make_trainer(
    folder: Path, callbacks: Sequence[TrainerCallback], steps: int, *, meter: StepMeter | None = None,
    during: Callable[[int], None] | None = None, losses: Sequence[float] = (), **changes: Any,
) -> ScriptedTrainer:
    """One row a step, no shuffling worth the name, nothing saved or measured unless `changes` say so."""
    rows = [{"x": torch.tensor([float(i % 7)]), "labels": torch.tensor([2.0 * (i % 7)])} for i in range(steps)]
    settings = {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": 1, "learning_rate": 1e-2,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, **changes,
    }
    trainer = ScriptedTrainer(
        Slope(), TrainingArguments(**settings), train_dataset=rows, eval_dataset=rows[:2], callbacks=list(callbacks),
        meter=meter or StepMeter(), during=during, losses=losses,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
