"""Rows end to end that see one another are found out before the first step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.encode import IGNORE, EncodedExample
from distill.training.lora import iterate_adapters
from distill.training.proofs import require_rows_apart
from distill.training.students import load_student


def make_rows(count: int) -> list[EncodedExample]:
    rng = random.Random(0)
    rows = [[rng.randrange(10, 900) for _ in range(rng.randrange(20, 60))] for _ in range(count)]
    return [EncodedExample(str(number), ids, [IGNORE] * 10 + ids[10:]) for number, ids in enumerate(rows)]


def attend_to_everything(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """Causal over the whole batch, as if it were one row."""
    return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2), None


@pytest.fixture
def student(tiny_phi3: Path) -> Any:
    return load_student("peft", tiny_phi3, FinetuneSection(backend="peft", lora_r=4))[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_that_are_kept_apart_pass(student: Any, count: int) -> None:
    require_rows_apart(student, make_rows(count), "cpu")


def test_rows_that_see_one_another_stop_the_run(student: Any) -> None:
    AttentionInterface.register("leaky", attend_to_everything)
    student.get_base_model().config._attn_implementation = "leaky"
    with pytest.raises(PipelineError, match=r"see one another in this model \(row \d differs by \d+%\): set finetune.backend"):
        require_rows_apart(student, make_rows(5), "cpu")


def test_dropout_is_no_reason_to_stop(tiny_phi3: Path) -> None:
    model, _ = load_student("peft", tiny_phi3, FinetuneSection(backend="peft", lora_r=4, lora_dropout=0.3))
    with torch.no_grad():
        for _, weight in iterate_adapters(model):
            weight.normal_()  # as after a round: zeros would hide what dropout does
    require_rows_apart(model, make_rows(5), "cpu")
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts and all(module.training for module in dropouts)


def test_no_gradient_and_no_mode_is_left_behind(student: Any) -> None:
    require_rows_apart(student, make_rows(3), "cpu")
    assert student.training
    assert all(weight.grad is None for weight in student.parameters())
