"""The trainer: transformers' loop, with steps that hold their rows whatever the memory, and an exact loss.

A step is effective_batch_size whole rows. Their gradients are summed over as many batches as the plan's tokens allow and
divided once by the answer tokens of the whole step, on all GPUs together, so neither the batches nor the number of GPUs changes
what is learnt. When the GPU runs out of memory the step is begun again with half the tokens at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.attention import find_rotary_limit, is_unsloths_own
from distill.training.batches import lay_end_to_end, share_rows, split_by_tokens
from distill.training.encode import EncodedExample
from distill.training.precision import choose_dtype
from distill.training.watch import StepMeter


class StudentTrainer(Trainer):
    """Learns `rows` in the order of `steps` (row numbers of each optimizer step), at most `tokens_per_batch` tokens at once.

    `validation` rows are measured by `evaluate`; `meter` counts what was learnt.
    """

    def __init__(
        self, model: Any, args: TrainingArguments, rows: Sequence[EncodedExample], steps: Sequence[Sequence[int]],
        validation: Sequence[EncodedExample], tokens_per_batch: int, meter: StepMeter,
    ) -> None:
        order = [list(step) for step in steps]
        super().__init__(model=model, args=args, train_dataset=order, eval_dataset=list(validation) or None)
        self.rows, self.validation, self.tokens_per_batch, self.meter = rows, validation, tokens_per_batch, meter
        self.rotary_limit, self.unsloths_own = find_rotary_limit(model.config.get_text_config()), is_unsloths_own(model)
        self.longest = max(len(row.input_ids) for row in [*rows, *validation])

    def get_train_dataloader(self) -> DataLoader:
        """The steps in their planned order. Every GPU reads all of them and takes its share of the rows itself."""
        return DataLoader(self.train_dataset, batch_size=1, collate_fn=lambda steps: {"rows": steps[0]})

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        """No further step for a run that goes on after its patience had ended: transformers would learn one first."""
        return ([], None) if self.control.should_training_stop else super().get_batch_samples(*args)

    def floating_point_ops(self, inputs: Any) -> int:
        """transformers' estimate looks for tensors here; ours is in plan.py."""
        return 0

    def training_step(self, model: Any, inputs: dict[str, list[int]], num_items_in_batch: Any = None) -> Any:
        """Forward and backward over one step's rows; returns their mean loss per answer token."""
        model.train()
        while True:
            try:
                return self.learn([self.rows[number] for number in inputs["rows"]])
            except torch.OutOfMemoryError:
                self.halve_batches()
            # Outside of the handler: the traceback holds the activations.
            self.model.zero_grad()
            torch.cuda.empty_cache()

    def learn(self, rows: Sequence[EncodedExample]) -> Any:
        """Add the gradients of a step's rows, all GPUs together, and return its mean loss."""
        answers = sum(row.answer_tokens for row in rows)
        share = share_rows([len(row.input_ids) for row in rows], self.args.world_size)[self.args.process_index]
        # A GPU without a row runs one for nothing: the others wait for its gradients.
        own, weight = ([rows[place] for place in share], self.args.world_size / answers) if share else (rows[:1], 0.0)
        batches = split_by_tokens([len(row.input_ids) for row in own], self.tokens_per_batch, self.rotary_limit)
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches, start=1):
            with contextlib.nullcontext() if number == len(batches) else self.accelerator.no_sync(self.model_wrapped):
                loss = self.sum_loss(self.model_wrapped, [own[place] for place in batch]) * weight
                self.accelerator.backward(loss)
            total += loss.detach()
        self.meter.add(sum(len(row.input_ids) for row in rows), len(batches))
        return total

    def sum_loss(self, model: Any, rows: Sequence[EncodedExample]) -> Any:
        """The summed answer loss of rows that are on the GPU together."""
        batch = lay_end_to_end(rows, self.args.device, self.longest)
        # accelerate would do so for training alone; the proof of the plan and the validation run as the steps do.
        with torch.autocast(self.args.device.type, choose_dtype(), enabled=self.args.bf16 or self.args.fp16):
            inputs = batch.to_unsloth_inputs() if self.unsloths_own else batch.to_inputs()
            return model(**inputs, predicting=batch.predicting, targets=batch.targets)

    def halve_batches(self) -> None:
        """After running out of memory. Raises PipelineError where a single row does not fit."""
        before, longest = self.tokens_per_batch, max(len(row.input_ids) for row in self.rows)
        self.tokens_per_batch = max(before // 2, longest)
        if self.tokens_per_batch >= before or self.args.world_size > 1:
            raise PipelineError(
                f"out of GPU memory with {before:,} tokens at once: set finetune.gradient_checkpointing and load_in_4bit to "
                "true, or lower finetune.tokens_per_batch, max_length or lora_r; the last checkpoint is kept"
            ) from None
        print(
            f"\n[WARN] Out of GPU memory with {before:,} tokens at once: going on with {self.tokens_per_batch:,}, "
            f"{self.args.per_device_train_batch_size} rows a step as before"
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The mean loss per answer token of the validation rows, as eval_loss: one figure, the same on every GPU."""
        model = self.accelerator.unwrap_model(self.model)
        was_training, lengths = model.training, [len(row.input_ids) for row in self.validation]
        share = share_rows(lengths, self.args.world_size)[self.args.process_index]
        own, total = [self.validation[place] for place in share], torch.zeros((), device=self.args.device)
        model.eval()
        with torch.no_grad():
            for batch in split_by_tokens([len(row.input_ids) for row in own], max(lengths), self.rotary_limit):
                total += self.sum_loss(model, [own[place] for place in batch])
        model.train(was_training)
        answers = sum(row.answer_tokens for row in self.validation)
        metrics = {"eval_loss": float(self.accelerator.reduce(total, "sum")) / answers}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def prove_plan(self) -> None:
        """Run the largest batch forward and back once, and forget it: what does not fit shows here, and is halved."""
        proven = False
        while not proven:
            try:
                with torch.random.fork_rng():
                    self.model.train()
                    self.sum_loss(self.model, self.find_largest_batch()).backward()
                proven = True
            except torch.OutOfMemoryError:
                self.halve_batches()
            self.model.zero_grad()
            torch.cuda.empty_cache()

    def find_largest_batch(self) -> list[EncodedExample]:
        """The rows of the batch with the most tokens that this GPU will learn."""
        found: list[EncodedExample] = []
        for step in self.train_dataset:
            lengths = [len(self.rows[row].input_ids) for row in step]
            share = share_rows(lengths, self.args.world_size)[self.args.process_index]
            own = [self.rows[step[place]] for place in share]
            for batch in split_by_tokens([len(row.input_ids) for row in own], self.tokens_per_batch, self.rotary_limit):
                found = max(found, [own[place] for place in batch], key=lambda rows: sum(len(row.input_ids) for row in rows))
        return found or list(self.rows[:1])  # with more GPUs than rows in a step one may have none


def build_trainer(
    model: Any, rows: Sequence[EncodedExample], steps: Sequence[Sequence[int]], validation: Sequence[EncodedExample],
    settings: FinetuneSection, folder: Path, tokens_per_batch: int,
) -> StudentTrainer:
    """A trainer whose checkpoints go to folder/checkpoint-N; with validation rows it measures at each and keeps the best."""
    has_cuda, measures = torch.cuda.is_available(), bool(validation)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=len(steps),
        per_device_train_batch_size=settings.effective_batch_size,
        gradient_accumulation_steps=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=1.0,
        optim="adamw_torch_fused" if has_cuda else "adamw_torch",
        bf16=choose_dtype() is torch.bfloat16,
        fp16=choose_dtype() is torch.float16,
        remove_unused_columns=False,
        dataloader_num_workers=0,  # worker processes start anew on Windows and import everything again
        average_tokens_across_devices=False,  # learn() counts them for all GPUs
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen (watch.LearningCheck)
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        eval_strategy="steps" if measures else "no",
        eval_steps=settings.save_steps,
        load_best_model_at_end=measures,
        metric_for_best_model="eval_loss" if measures else None,
        greater_is_better=False if measures else None,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not has_cuda,
        ddp_find_unused_parameters=False,
    )
    trainer = StudentTrainer(model, arguments, rows, steps, validation, tokens_per_batch, StepMeter())
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(GoingOn())
    if measures and settings.early_stopping_patience:
        trainer.add_callback(Patience(settings.early_stopping_patience))
    return trainer


def describe_end(state: TrainerState) -> None:
    """Which checkpoint is kept, and whether the run ended early."""
    if state.best_global_step is not None and state.best_model_checkpoint is None:
        print(f"[WARN] The best checkpoint, of step {state.best_global_step}, is gone: kept the last one")
    elif state.best_global_step is not None:
        print(f"[OK] Kept the checkpoint of step {state.best_global_step}, validation loss {state.best_metric:.4f}")
    if state.global_step < state.max_steps:
        print(f"[OK] Stopped early at step {state.global_step} of {state.max_steps}: validation loss no longer fell")


class GoingOn(TrainerCallback):
    """A run that goes on takes its settings from config.yaml and finds its best checkpoint where the folder stands now.

    transformers would take save_steps and logging_steps, and the best checkpoint's full path, from the state it saved.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.compute_steps(args, state.max_steps)
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if state.best_global_step is not None and best.is_dir():
            state.best_model_checkpoint = str(best)


class Patience(TrainerCallback):
    """Ends training after `most` checkpoints without a better one.

    It counts in the log, which a resumed run has too: transformers' own would begin at zero, or with the patience of before.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.stop_if_worse(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.stop_if_worse(state, control)

    def stop_if_worse(self, state: TrainerState, control: TrainerControl) -> None:
        """After the best measurement there were `most` others."""
        losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
        if losses and len(losses) - 1 - losses.index(min(losses)) >= self.most:
            control.should_training_stop = True
