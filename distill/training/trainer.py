"""TRL's SFTTrainer with every setting explicit (Unsloth changes its defaults), and callbacks that watch and tell."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.files import JsonlAppender, read_jsonl, write_jsonl_atomic
from distill.progress import Progress
from distill.training.encode import EncodedExample
from distill.training.lora import require_moved
from distill.training.students import has_bitsandbytes


def build_trainer(model: Any, tokenizer: Any, rows: Sequence[EncodedExample], settings: FinetuneSection, folder: Path) -> Any:
    """An SFTTrainer over token ids and labels; checkpoints go to folder/checkpoint-N.

    `max_length` None: lengths were checked before, so nothing is cut here.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    has_cuda = torch.cuda.is_available()
    data = Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.effective_batch_size // settings.batch_size,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        optim="adamw_8bit" if has_cuda and has_bitsandbytes() else "adamw_torch",
        bf16=has_cuda and torch.cuda.is_bf16_supported(),
        fp16=has_cuda and not torch.cuda.is_bf16_supported(),
        gradient_checkpointing=settings.gradient_checkpointing and has_cuda,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_length=None,
        packing=False,
        loss_type="nll",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,  # worker processes start anew on Windows and import everything again
        dataloader_pin_memory=has_cuda,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not has_cuda,
    )
    make_trainer = SFTTrainer if has_cuda else without_kernels(SFTTrainer)
    trainer = make_trainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def without_kernels(trainer_class: type) -> type:
    """TRL computes the loss in Triton kernels, which a CPU cannot run; transformers' own loss is the same sum without them."""
    from transformers import Trainer

    class CpuTrainer(trainer_class):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            return Trainer.compute_loss(self, model, inputs, return_outputs, num_items_in_batch)

    return CpuTrainer


class LearningCheck(TrainerCallback):
    """Stops the run when an adapter has not moved after the first step that could move it, or when the loss is not a number."""

    def __init__(self) -> None:
        self._checked = False
        self._rate = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Warm-up gives the first step a learning rate of zero; only a later one can move anything.
        self._rate = kwargs["lr_scheduler"].get_last_lr()[0]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._checked and self._rate > 0:
            require_moved(kwargs["model"])
            self._checked = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        loss = logs.get("loss")
        if loss is not None and not math.isfinite(loss):
            raise PipelineError(
                f"the loss is {loss} at step {state.global_step}: halve finetune.learning_rate and run with --overwrite"
            )


class TrainingLog(TrainerCallback):
    """Writes training_log.jsonl as the run goes and moves the progress bar.

    After a resume the rows beyond the checkpoint are dropped first, so the log reads like that of an unbroken run.
    """

    def __init__(self, path: Path, progress: Progress, resumed_step: int) -> None:
        kept = [row for _, row in read_jsonl(path, torn_end=True) if row["step"] <= resumed_step] if path.exists() else []
        write_jsonl_atomic(path, kept)
        self._log, self._progress = JsonlAppender(path), progress
        self._started = time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if "loss" in logs:
            kept = {key: logs[key] for key in ("loss", "grad_norm", "learning_rate", "epoch") if key in logs}
            self._log.append({"step": state.global_step, **kept, "seconds": round(time.monotonic() - self._started, 3)})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None)
        self._progress.advance(1, "" if last is None else f"loss {last:.4f}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._log.close()


def count_steps(rows: int, settings: FinetuneSection) -> int:
    """Optimizer steps of the whole run: the last, smaller batch of an epoch is a step too, as in transformers."""
    per_epoch = max(1, math.ceil(math.ceil(rows / settings.batch_size) / accumulation(settings)))
    return settings.max_steps or math.ceil(per_epoch * settings.epochs)


def accumulation(settings: FinetuneSection) -> int:
    """Batches of finetune.batch_size in one step."""
    return settings.effective_batch_size // settings.batch_size


def draw_loss(log: Path, target: Path) -> None:
    """loss.png: every logged loss, and their running mean over a tenth of the run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for _, row in read_jsonl(log)]
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    width = max(1, len(losses) // 10)
    windows = [losses[max(0, end - width) : end] for end in range(1, len(losses) + 1)]
    smooth = [sum(window) / len(window) for window in windows]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes.plot(steps, losses, color="#9db4c8", linewidth=1, label="each step")
    axes.plot(steps, smooth, color="#12436d", linewidth=2, label=f"mean of {width}")
    axes.set(xlabel="step", ylabel="training loss (answers only)", title="Training loss")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(target)
    pyplot.close(figure)
