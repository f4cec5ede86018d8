"""Rows that lie end to end are learnt exactly as if each were alone, for every family of models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.training.attention import attend_within_rows, find_rotary_limit, plain_attention, use_row_attention
from distill.training.batches import lay_end_to_end, split_by_tokens
from distill.training.encode import EncodedExample
from distill.training.losses import add_answer_loss
from tests.training.families import (
    FAMILIES,
    SHAPE,
    VOCABULARY,
    WINDOW,
    add_random_lora,
    make_model,
    make_row,
    make_wrapped_model,
)

torch = pytest.importorskip("torch")

ROWS = [make_row("a", 20, 9), make_row("b", 3, 1), make_row("c", 30, 12), make_row("d", 1, 17)]
assert max(len(row.input_ids) for row in ROWS) > 2 * WINDOW


def make_student(family: str, **changes: Any) -> Any:
    """A model with adapters, as this trainer uses it."""
    return teach(make_model(family, **changes))


def teach(model: Any) -> Any:
    add_answer_loss(model)
    use_row_attention(model)
    return add_random_lora(model)


def learn_alone(reference: Any, row: EncodedExample) -> Any:
    """The summed loss of one row as transformers computes it, its own attention, labels and loss."""
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    return reference(input_ids=ids, labels=labels, use_cache=False).loss * row.answer_tokens


def learn_together(student: Any, rows: Sequence[EncodedExample]) -> Any:
    """The summed loss of each row of one batch, [rows]."""
    batch = lay_end_to_end(rows)
    places = batch.predicting.tolist()
    bounds = batch.boundaries.tolist()
    losses = []
    for start, end in itertools.pairwise(bounds):
        own = torch.tensor([start <= place < end for place in places])
        losses.append(student(**batch.to_inputs(), predicting=batch.predicting[own], targets=batch.targets[own]))
    return torch.stack(losses)


def collect_gradients(model: Any) -> dict[str, Any]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_the_losses_of_single_rows(family: str) -> None:
    student, reference = make_student(family), add_random_lora(make_model(family))
    with torch.no_grad():
        together = learn_together(student, ROWS)
        alone = torch.stack([learn_alone(reference, row) for row in ROWS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=0)
    assert alone.std() > 1  # the rows differ, so a mix-up would show


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_the_gradients_of_single_rows(family: str) -> None:
    student, reference = make_student(family), add_random_lora(make_model(family))
    batch = lay_end_to_end(ROWS)
    student(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets).backward()
    for row in ROWS:
        learn_alone(reference, row).backward()
    ours, theirs = collect_gradients(student), collect_gradients(reference)
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 2 * len(FAMILIES[family])
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name)


def test_a_decoder_beside_a_vision_tower_learns_as_it_does_alone() -> None:
    student, reference = teach(make_wrapped_model()), add_random_lora(make_wrapped_model())
    batch, alone = lay_end_to_end(ROWS), [learn_alone(reference, row) for row in ROWS]
    with torch.no_grad():
        torch.testing.assert_close(learn_together(student, ROWS), torch.stack(alone), rtol=1e-4, atol=0)
    student.train()
    student(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets).backward()
    torch.stack(alone).sum().backward()
    ours, theirs = collect_gradients(student), collect_gradients(reference)
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 2 * len(FAMILIES["gemma3_text"])
    for name, gradient in theirs.items():
        assert "language_model" in name and gradient.abs().max() > 0, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_never_sees_its_neighbours(family: str) -> None:
    student = make_student(family)
    changed = [(tokens + 1) % VOCABULARY if place < 30 else tokens for place, tokens in enumerate(ROWS[2].input_ids)]
    with torch.no_grad():
        before = learn_together(student, ROWS)
        after = learn_together(student, [*ROWS[:2], replace(ROWS[2], input_ids=changed), ROWS[3]])
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]]) and abs(before[2] - after[2]) > 1e-3


def test_a_sliding_window_is_kept_within_a_row() -> None:
    """With one layer, what lies a window back changes nothing, and what lies one token nearer does."""
    student = make_student("mistral", num_hidden_layers=1)
    row = make_row("a", 30, 1)
    reader = len(row.input_ids) - 2  # the place that predicts the only answer token

    def lose(changed_place: int) -> Any:
        tokens = list(row.input_ids)
        tokens[changed_place] += 1 if tokens[changed_place] < 90 else -1
        return learn_together(student, [ROWS[0], replace(row, input_ids=tokens, labels=row.labels)])[1]

    with torch.no_grad():
        before = learn_together(student, [ROWS[0], row])[1]
        assert lose(reader - WINDOW) == before != lose(reader - WINDOW + 1)


@pytest.mark.parametrize("short_first", [True, False])
def test_rotary_factors_of_a_long_row_do_not_reach_a_short_one(short_first: bool) -> None:
    """Phi-4-mini turns positions otherwise once a sequence is longer than the original context."""
    rope = {
        "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [3.0, 5.0, 7.0, 9.0], "rope_theta": 1e4,
        "original_max_position_embeddings": 24, "factor": 16.0,
    }
    shape = {"rope_parameters": rope, "original_max_position_embeddings": 24}
    student, reference = make_student("phi3", **shape), add_random_lora(make_model("phi3", **shape))
    rows = [make_row("short", 9, 4), make_row("long", 30, 12), make_row("also short", 7, 4)][:: 1 if short_first else -1]
    limit = find_rotary_limit(student.config.get_text_config())
    groups = split_by_tokens([len(row.input_ids) for row in rows], 1_000, limit)
    assert limit == 24 and len(groups) == 2
    with torch.no_grad():
        for group in groups:
            together = learn_together(student, [rows[place] for place in group])
            alone = torch.stack([learn_alone(reference, rows[place]) for place in group])
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_turn_all_positions_alike(family: str) -> None:
    assert find_rotary_limit(make_model(family).config.get_text_config()) == math.inf


@pytest.mark.parametrize("wrapped", [False, True])
def test_generation_goes_on_as_before(wrapped: bool) -> None:
    student, reference = [make_wrapped_model() if wrapped else make_model("gemma3_text") for _ in range(2)]
    student, reference = teach(student), add_random_lora(reference)
    prompt = torch.tensor([ROWS[0].input_ids])
    request = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt), "max_new_tokens": 12, "do_sample": False}
    with torch.no_grad(), plain_attention(student.get_base_model()):
        written = student.generate(**request)
    with torch.no_grad():
        expected = reference.generate(**request)
    assert written.tolist() == expected.tolist() and written.shape[1] == prompt.shape[1] + 12
    learn_together(student, ROWS)  # and training attends within rows again


@pytest.mark.parametrize("family", ["lfm2", "mamba", "bloom"])
def test_models_that_would_mix_rows_are_refused(family: str) -> None:
    """Convolutions, states and masks of a model's own know nothing of where a row ends."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {**SHAPE, **({"layer_types": ["conv", "full_attention"]} if family == "lfm2" else {})}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))
    with pytest.raises(PipelineError, match=r"mixes tokens by more than attention .*: use another base model"):
        use_row_attention(model)


@pytest.mark.parametrize("altered", [{"softcap": 50.0}, {"s_aux": [0.0]}])
def test_altered_scores_are_refused(altered: dict) -> None:
    query = torch.randn(1, 2, 3, 4)
    with pytest.raises(PipelineError, match="Linear alters its attention scores"):
        attend_within_rows(
            torch.nn.Linear(1, 1), query, query, query, None, cu_seq_lens_q=torch.tensor([0, 3]), max_length_q=3, **altered
        )
