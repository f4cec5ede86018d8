"""A proof before the first step: rows that lie end to end do not see one another in this model, on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from distill.errors import PipelineError
from distill.training.attention import is_unsloths_own
from distill.training.batches import lay_end_to_end
from distill.training.encode import EncodedExample
from distill.training.precision import choose_dtype

ROWS = 3
MOST_TOKENS = 512  # of a row: the proof takes a moment, not a step
NOISE = 0.1  # of a hidden state's norm; 32 layers in bfloat16 differ by a hundredth or two, a row that sees another by far more


def require_rows_apart(model: Any, rows: Sequence[EncodedExample], device: Any, longest: int = 0) -> None:
    """Compare the last hidden states of a few rows end to end with those of each row alone.

    Unsloth has attention of its own for some models, and remote or future models may have too: whatever they do with the
    boundaries between rows, it is measured here. `longest` is the trainer's, or its kernels would be compiled anew. Raises
    PipelineError where a row differs.
    """
    short = [cut(row) for row in sorted(rows, key=lambda row: len(row.input_ids))[:ROWS]]
    together = read_hidden(model, short, device, longest)
    start = 0
    for row in short:
        end = start + len(row.input_ids)
        alone = read_hidden(model, [row], device, longest)
        difference = float((together[start:end] - alone).norm() / alone.norm())
        if not difference < NOISE:
            raise PipelineError(
                f"rows that are learnt together see one another in this model (row {row.example_id} differs by "
                f"{difference:.0%}): set finetune.backend to peft, and tell us the base model"
            )
        start = end


def cut(row: EncodedExample) -> EncodedExample:
    """The beginning of a row."""
    return EncodedExample(row.example_id, row.input_ids[:MOST_TOKENS], row.labels[:MOST_TOKENS])


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Dropout draws anew each time: two readings would differ for that alone."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def read_hidden(model: Any, rows: Sequence[EncodedExample], device: Any, longest: int) -> Any:
    """Last hidden states, float32 [T, h]. With gradients switched on, as in training: other kernels would be no proof."""
    batch = lay_end_to_end(rows, device, longest)
    model.train()
    with without_dropout(model), torch.autocast(batch.input_ids.device.type, choose_dtype(), enabled=batch.input_ids.is_cuda):
        inputs = batch.to_unsloth_inputs() if is_unsloths_own(model) else batch.to_inputs()
        hidden = model.get_base_model().get_decoder()(**inputs).last_hidden_state
    return hidden[0].detach().float()
