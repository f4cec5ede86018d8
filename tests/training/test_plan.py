"""The memory formula against a real GPU's figures, and plans that are fast, fit, and change nothing that is learnt."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.batches import lay_end_to_end
from distill.training.losses import add_answer_loss
from distill.training.plan import (
    CONTEXT_BYTES,
    GIB,
    MARGIN,
    Plan,
    Shape,
    Work,
    choose_plan,
    compare_peak,
    count_adapter_weights,
    count_layer_bytes,
    describe_work,
    list_plans,
    list_sizes,
    plan_for_cpu,
    predict_peak,
    predict_seconds,
    read_shape,
)
from tests.training.families import FAMILIES, add_random_lora, make_model, make_row, make_wrapped_model, write_model

PHI_4_MINI = Shape(32, 3072, query=3072, key_value=1024, feed_forward=8192, vocabulary=200_064, tied=True)
H200_RATE = 7e14
STEPS = tuple(tuple((length, length // 7) for length in (900, 1_000, 1_100, 1_400, 700, 800, 1_500, 1_300)) for _ in range(3))
WORK = Work(STEPS)


def make_settings(**changes: object) -> FinetuneSection:
    return FinetuneSection.model_validate(changes)


def list_all(work: Work = WORK, backend: str = "unsloth", **changes: object) -> list[Plan]:
    return list_plans(PHI_4_MINI, make_settings(**changes), work, backend, H200_RATE)


# -----------------------------------------------------------------------------
# Shapes


def test_sizes_of_phi_4_mini() -> None:
    assert PHI_4_MINI.linear == 3_221_225_472
    assert PHI_4_MINI.embeddings == 614_596_608
    assert count_adapter_weights(PHI_4_MINI, 16) == 23_068_672


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_shapes_count_the_weights_that_a_model_has(family: str, tied: bool, tmp_path: Path) -> None:
    """Whatever the heads' width, and whether or not projections are fused."""
    shape = read_shape(write_model(family, tmp_path / "base", tie_word_embeddings=tied, head_dim=16))
    model = make_model(family, tie_word_embeddings=tied, head_dim=16)
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2}
    embeddings = sum(size for name, size in matrices.items() if "embed_tokens" in name or "lm_head" in name)
    assert shape.embeddings == embeddings
    assert shape.linear == sum(matrices.values()) - embeddings
    assert shape.tied is tied


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_weights_are_those_of_fused_or_separate_projections(family: str, tmp_path: Path) -> None:
    tuned, shape = add_random_lora(make_model(family)), read_shape(write_model(family, tmp_path / "base"))
    assert count_adapter_weights(shape, 4) == sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def test_a_vision_tower_changes_nothing_in_the_decoders_shape(tmp_path: Path) -> None:
    make_wrapped_model().save_pretrained(tmp_path / "whole")
    assert read_shape(tmp_path / "whole") == read_shape(write_model("gemma3_text", tmp_path / "text"))
    assert read_shape(tmp_path / "whole").norms == 4


# -----------------------------------------------------------------------------
# The formula


@pytest.mark.parametrize(
    ("backend", "in_4bit", "recompute", "tokens", "answers", "measured_gb"),
    [
        ("unsloth", True, False, 4_090, 700, 18.62),
        ("unsloth", True, False, 8_190, 1_400, 32.51),
        ("unsloth", True, False, 32_760, 5_500, 116.08),
        ("unsloth", True, True, 8_190, 1_400, 5.27),
        ("unsloth", True, True, 32_760, 5_500, 9.10),
        ("unsloth", False, False, 8_190, 1_400, 36.89),
        ("unsloth", False, True, 8_190, 1_400, 10.09),
        ("peft", True, True, 8_190, 1_400, 6.80),
        ("peft", True, False, 8_190, 1_400, 39.69),
        ("peft", False, False, 8_190, 1_400, 44.46),
    ],
)
def test_peak_is_within_5_percent_of_what_an_h200_used(
    backend: str, in_4bit: bool, recompute: bool, tokens: int, answers: int, measured_gb: float
) -> None:
    """One forward and backward pass, before the optimizer made its two moments."""
    moments = 8 * count_adapter_weights(PHI_4_MINI, 16)
    predicted = predict_peak(PHI_4_MINI, in_4bit, recompute, backend, 16, tokens, answers, backend == "unsloth") - moments
    assert predicted / 1e9 == pytest.approx(measured_gb, rel=0.05)


def measure_kept_values(family: str, layers: int, compiled: bool, sizes: dict[str, int]) -> float:
    """Bytes a token that a batch keeps for the way back: bfloat16 with float32 adapters, as on a GPU. Weights do not count.

    transformers' own attention: the row-by-row one of a CPU makes a copy that a GPU's kernel does not. The compiler's first
    half decides what is kept; its second, which makes kernels, is not needed.
    """
    import torch

    kinds = {"layer_types": ["full_attention"] * layers} if family == "gemma3_text" else {}
    model = make_model(family, num_hidden_layers=layers, sliding_window=512, **sizes, **kinds)
    add_answer_loss(model)
    tuned = add_random_lora(model.to(torch.bfloat16)).train()
    for parameter in tuned.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    for layer in model.get_decoder().layers if compiled else ():
        layer.compile(backend="aot_eager_decomp_partition")
    weights = {parameter.untyped_storage().data_ptr() for parameter in tuned.parameters()}
    kept: dict[int, Any] = {}  # the tensors themselves: a freed one's place would be taken by the next

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = lay_end_to_end([make_row("a", 200, 56)])
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tuned(input_ids=batch.input_ids, use_cache=False, predicting=batch.predicting, targets=batch.targets)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 256


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_any_family_keeps_what_the_formula_says(family: str, compiled: bool, tmp_path: Path) -> None:
    """Separate projections, norms of queries and keys, four norms a layer: each keeps other values than Phi3."""
    import torch

    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32}
    torch.compiler.reset()
    one, two = (measure_kept_values(family, layers, compiled, sizes) for layers in (1, 2))
    formula = count_layer_bytes(read_shape(write_model(family, tmp_path / "base", **sizes)), compiled)
    assert two - one == pytest.approx(formula, rel=0.05)


@given(st.booleans(), st.booleans(), st.sampled_from(["unsloth", "peft"]), st.integers(1, 40_000), st.integers(1, 40_000))
def test_more_tokens_never_take_less(in_4bit: bool, recompute: bool, backend: str, fewer: int, more: int) -> None:
    fewer, more = sorted((fewer, more))
    peaks = [predict_peak(PHI_4_MINI, in_4bit, recompute, backend, 16, tokens, tokens // 7) for tokens in (fewer, more)]
    seconds = [predict_seconds(PHI_4_MINI, 16, recompute, [tokens], H200_RATE) for tokens in (fewer, more)]
    assert peaks[0] <= peaks[1] and seconds[0] <= seconds[1]


def test_every_saving_saves() -> None:
    peaks = {
        (in_4bit, recompute): predict_peak(PHI_4_MINI, in_4bit, recompute, "unsloth", 16, 8_190, 1_400)
        for in_4bit in (True, False) for recompute in (True, False)
    }
    assert peaks[True, True] < peaks[False, True] < peaks[True, False] < peaks[False, False]
    slower, faster = (predict_seconds(PHI_4_MINI, 16, recompute, [8_190], H200_RATE) for recompute in (True, False))
    assert slower > faster


# -----------------------------------------------------------------------------
# Choosing

ROWS = st.lists(st.tuples(st.integers(1, 4_096), st.integers(1, 400)), min_size=1, max_size=12)


@st.composite
def works(draw: st.DrawFn) -> Work:
    return Work(tuple(tuple(step) for step in draw(st.lists(ROWS, min_size=1, max_size=4))))


@settings(deadline=None)
@given(works(), st.sampled_from(["unsloth", "peft"]), st.floats(4, 200), st.floats(4, 200))
def test_a_plan_fits_and_more_memory_is_never_slower(work: Work, backend: str, less: float, more: float) -> None:
    plans, chosen = list_all(work, backend), []
    for vram in (int(min(less, more) * GIB), int(max(less, more) * GIB)):
        try:
            chosen.append(choose_plan(plans, vram))
        except PipelineError as problem:
            assert not chosen and "\n" not in str(problem)  # what fits a small card fits a large one
        else:
            assert chosen[-1].peak_bytes <= (vram - CONTEXT_BYTES) * MARGIN < vram
    if len(chosen) == 2:
        assert chosen[1].step_seconds <= chosen[0].step_seconds


@settings(deadline=None)
@given(works())
def test_every_plan_learns_all_rows_of_every_step(work: Work) -> None:
    for plan in list_all(work):
        steps = work.split(plan.tokens_per_batch)
        assert [sum(tokens for tokens, _ in step) for step in steps] == [sum(n for n, _ in step) for step in work.steps]
        assert [sum(answers for _, answers in step) for step in steps] == [sum(n for _, n in step) for step in work.steps]
        largest = max(tokens for step in steps for tokens, _ in step)
        assert largest == plan.largest_tokens <= max(plan.tokens_per_batch, work.longest)
        assert plan.batches == pytest.approx(sum(map(len, steps)) / len(steps))


@settings(deadline=None)
@given(works())
def test_sizes_go_from_a_whole_step_down_to_the_longest_row(work: Work) -> None:
    sizes = list_sizes(work, "auto")
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[0] == work.largest_step and sizes[-1] == work.longest


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"load_in_4bit": True}, {"in_4bit": True}),
        ({"load_in_4bit": False}, {"in_4bit": False}),
        ({"gradient_checkpointing": True}, {"recompute": True}),
        ({"gradient_checkpointing": False}, {"recompute": False}),
        ({"tokens_per_batch": 3_000}, {"tokens_per_batch": 3_000}),
        ({"tokens_per_batch": 10}, {"tokens_per_batch": 1_500}),  # no less than the longest row
        (
            {"load_in_4bit": False, "gradient_checkpointing": True, "tokens_per_batch": 2_000},
            {"in_4bit": False, "recompute": True, "tokens_per_batch": 2_000},
        ),
    ],
)
def test_a_fixed_setting_is_fixed_in_every_plan(changes: dict, expected: dict) -> None:
    plans = list_all(**changes)
    assert plans
    for plan in plans:
        assert {key: getattr(plan, key) for key in expected} == expected


def test_without_bitsandbytes_no_plan_is_in_4_bits() -> None:
    plans = list_plans(PHI_4_MINI, make_settings(), WORK, "peft", H200_RATE, has_4bit=False)
    assert plans and not any(plan.in_4bit for plan in plans)
    assert not list_plans(PHI_4_MINI, make_settings(load_in_4bit=True), WORK, "peft", H200_RATE, has_4bit=False)


@pytest.mark.parametrize(
    ("vram_gb", "recompute", "batches"),
    [(5, True, 3), (8, True, 1), (12, False, 4), (16, False, 3), (24, False, 3), (141, False, 1)],
)
def test_a_larger_card_recomputes_less_and_then_takes_more_at_once(vram_gb: int, recompute: bool, batches: int) -> None:
    plan = choose_plan(list_all(), vram_gb * GIB)
    assert (plan.in_4bit, plan.recompute, plan.batches) == (True, recompute, batches)


def test_nothing_fits_is_one_line_with_what_to_change() -> None:
    with pytest.raises(PipelineError) as problem:
        choose_plan(list_all(load_in_4bit=False), 6 * GIB)
    message = str(problem.value)
    assert "no plan fits 6.0 G" in message and "\n" not in message
    assert "leave finetune.load_in_4bit, gradient_checkpointing and tokens_per_batch on auto" in message
    needed = float(message.split("needs about ")[1].split(":")[0])
    assert choose_plan(list_all(load_in_4bit=False), int((needed + 0.1) * GIB)).peak_bytes < needed * GIB


def test_of_equally_fast_plans_the_smallest_wins() -> None:
    plan = Plan(True, False, 100, 1.0, 100, peak_bytes=5 * GIB, step_seconds=1.0)
    smaller = dataclasses.replace(plan, peak_bytes=4 * GIB, step_seconds=1.02)
    slower = dataclasses.replace(plan, peak_bytes=3 * GIB, step_seconds=1.1)
    assert choose_plan([plan, smaller, slower], 24 * GIB) == smaller
    assert choose_plan([plan, smaller, slower], int((3 / MARGIN + 0.7) * GIB)) == slower


# -----------------------------------------------------------------------------
# The work


def test_work_is_that_of_the_busiest_gpu() -> None:
    rows = [make_row(str(length), length - 2, 2) for length in (50, 40, 30, 20)]
    assert describe_work(rows, [[0, 1, 2, 3], [3]]) == Work((((50, 2), (40, 2), (30, 2), (20, 2)), ((20, 2),)))
    shared = describe_work(rows, [[0, 1, 2, 3], [3]], gpus=2)
    assert [sum(tokens for tokens, _ in step) for step in shared.steps] == [70, 20]
    assert shared.longest == 50 and shared.largest_step == 70


@pytest.mark.parametrize(("changes", "tokens"), [({}, 140), ({"tokens_per_batch": 60}, 60), ({"tokens_per_batch": 5}, 50)])
def test_a_cpu_takes_a_step_at_once_unless_told_otherwise(changes: dict, tokens: int) -> None:
    rows = [make_row(str(length), length - 2, 2) for length in (50, 40, 30, 20)]
    plan, _ = plan_for_cpu(PHI_4_MINI, make_settings(**changes), describe_work(rows, [[0, 1, 2, 3]]), "peft")
    assert (plan.tokens_per_batch, plan.in_4bit, plan.recompute) == (tokens, False, False)


def test_description_says_what_is_on_the_gpu_at_once() -> None:
    text = Plan(True, True, 8_190, 2.5, 8_000, 1, 1.0).describe()
    assert text == "4-bit base, activations computed again, up to 8,190 tokens at once (2.5 batches a step)"


def test_without_a_gpu_there_is_no_peak_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compare_peak(Plan(True, True, 1, 1.0, 1, 1, 1.0)) == {}


def test_rows_that_the_trainer_learns_alone_are_planned_alone() -> None:
    long = Work((((5_000, 100),) * 4,))
    shape = dataclasses.replace(PHI_4_MINI, rotary_limit=4_096)
    plans = list_plans(shape, make_settings(), long, "unsloth", H200_RATE)
    assert {plan.batches for plan in plans} == {4} and {plan.largest_tokens for plan in plans} == {5_000}
    assert {plan.batches for plan in list_all(long)} != {4}
