"""Sample answers: greedy, to the served prompt, ended by the end marker, and the model is left as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill.records import TrainingExample
from distill.training.attention import NAME, use_row_attention
from distill.training.encode import encode_example
from distill.training.samples import CUT, answer_samples, choose_samples, read_answer

SYSTEM = "Be exact."
QUESTIONS = ("Why?", "What does the pump record before start-up, and who checks the oil level?", "Which valve?")


def make_rows(questions: tuple[str, ...] = QUESTIONS, output: str = "Because.") -> list[TrainingExample]:
    return [TrainingExample(id=f"r{i}", instruction=text, output=output) for i, text in enumerate(questions)]


@pytest.fixture(scope="module")
def tokenizer(tiny_phi3: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_phi3)


@pytest.fixture
def student(tiny_phi3: Path) -> Any:
    """A student whose adapters have moved, in training, with dropout."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32), lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.config.use_cache = False
    return model.train()


def answer_slowly(model: Any, tokenizer: Any, row: TrainingExample, tokens: int) -> str:
    """One row alone, no cache, the whole text again for every token."""
    encoded = encode_example(tokenizer, SYSTEM, row)
    ids = encoded.input_ids[: len(encoded.input_ids) - encoded.answer_tokens]
    start, ends = len(ids), {tokenizer.convert_tokens_to_ids("<|end|>"), tokenizer.eos_token_id}
    model.eval()
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        if ids[-1] in ends:
            return tokenizer.decode(ids[start:-1]).strip()
    return tokenizer.decode(ids[start:], skip_special_tokens=True).strip() + CUT


@contextmanager
def hooked(model: Any, change: Callable[..., Any]) -> Iterator[None]:
    """`change` sees every forward pass of the model and may replace what it returns."""
    handle = model.base_model.model.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


# -----------------------------------------------------------------------------
# Answers


@pytest.mark.parametrize("end_to_end", [False, True])
def test_rows_answered_together_get_the_answer_that_each_gets_alone(student, tokenizer, end_to_end: bool) -> None:
    if end_to_end:
        use_row_attention(student)  # as in training
    found = answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=12)
    student.config.get_text_config()._attn_implementation = "sdpa"
    assert found == [answer_slowly(student, tokenizer, row, 12) for row in make_rows()]
    assert len(set(found)) == 3


def test_adapters_that_are_off_answer_as_the_base_does(student, tokenizer, tiny_phi3: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    tuned = answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=8)
    with student.disable_adapter():
        before = answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=8)
    assert before == answer_samples(base, tokenizer, SYSTEM, make_rows(), max_new_tokens=8) != tuned
    assert answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=8) == tuned


def test_answer_stops_at_the_templates_end_marker(student, tokenizer) -> None:
    """The model's own settings name <|endoftext|> alone, as the tiny student's do."""
    end, calls = tokenizer.convert_tokens_to_ids("<|end|>"), []
    assert student.generation_config.eos_token_id != end

    def end_after_two(module: Any, inputs: Any, output: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            output.logits[..., end] = 1e4
        return output

    with hooked(student, end_after_two):
        found = answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=50)
    assert len(calls) == 3
    assert found == [
        answer_slowly(student, tokenizer, row, 2).removesuffix(CUT) for row in make_rows()
    ]
    assert not any("<|" in answer for answer in found)


def test_end_marker_that_the_tokenizer_takes_for_text_is_no_part_of_the_answer(tokenizer) -> None:
    words, end = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the pump", " valve"))
    assert read_answer(tokenizer, [*words, *end, *words], [end[0]]) == "the pump"


def test_answer_that_is_cut_says_so(student, tokenizer) -> None:
    found = answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=3)
    assert all(answer.endswith(CUT) for answer in found)


def test_the_rows_own_answer_has_no_part_in_it(student, tokenizer) -> None:
    """Not even when it could not be learnt."""
    plain, marked = (make_rows(output=text) for text in ("Because.", "It ends with <|end|>"))
    found = [answer_samples(student, tokenizer, SYSTEM, rows, max_new_tokens=4) for rows in (plain, marked)]
    assert found[0] == found[1] != ["", "", ""]


def test_no_rows_need_no_model(tokenizer, student) -> None:
    assert answer_samples(student, tokenizer, SYSTEM, []) == []


# -----------------------------------------------------------------------------
# The model afterwards


def describe_state(model: Any) -> dict[str, Any]:
    """All that generation might leave changed."""
    return {
        "training": [module.training for module in model.modules()],
        "checkpointing": [getattr(module, "gradient_checkpointing", None) for module in model.modules()],
        "use_cache": model.config.use_cache,
        "attention": model.config.get_text_config()._attn_implementation,
        "generation": model.generation_config.to_dict(),
        "random": torch.get_rng_state().tolist(),
        "grad": [parameter.requires_grad for parameter in model.parameters()],
    }


class StandIn:
    """What unsloth's two functions do to a model's flags (unsloth 2026.10: models/vision.py)."""

    @staticmethod
    def for_inference(model: Any) -> None:
        model.eval()
        model.config.use_cache = True
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = False

    @staticmethod
    def for_training(model: Any, use_gradient_checkpointing: bool = True) -> None:
        model.train()
        model.config.use_cache = False
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = use_gradient_checkpointing


@pytest.mark.parametrize("unsloth", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_model_is_left_as_it_was(
    student, tokenizer, monkeypatch: pytest.MonkeyPatch, unsloth: bool, checkpointing: bool, training: bool
) -> None:
    if unsloth:
        monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=StandIn))
    if checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    use_row_attention(student)
    student.train(training)
    student.config.use_cache = not training
    before = describe_state(student)
    assert before["attention"] == NAME
    assert all(answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=3))
    assert describe_state(student) == before


def test_answers_are_given_in_evaluation_mode_with_a_cache(student, tokenizer) -> None:
    seen = []

    def look(module: Any, inputs: Any, output: Any) -> None:
        seen.append((module.training, output.past_key_values is not None, output.logits.shape[1]))

    student.gradient_checkpointing_enable({"use_reentrant": False})
    with hooked(student, look):
        answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=3)
    assert seen == [(False, True, 1)] * 3


# -----------------------------------------------------------------------------
# Failures


def test_failure_costs_a_warning_and_not_the_run(student, tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nsee documentation")

    before = describe_state(student)
    with hooked(student, fail):
        assert answer_samples(student, tokenizer, SYSTEM, make_rows()) == ["", "", ""]
    printed = capsys.readouterr().out
    assert "[WARN] no sample answers (OutOfMemoryError: CUDA out of memory. Tried" in printed and len(printed.splitlines()) == 1
    assert describe_state(student) == before
    assert all(answer_samples(student, tokenizer, SYSTEM, make_rows(), max_new_tokens=2))


def test_template_that_cannot_be_rendered_is_a_failure_like_any_other(student, tiny_phi3: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_phi3)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    assert answer_samples(student, tokenizer, SYSTEM, make_rows()) == ["", "", ""]


def test_ctrl_c_is_no_failure(student, tokenizer) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = describe_state(student)
    with hooked(student, interrupt), pytest.raises(KeyboardInterrupt):
        answer_samples(student, tokenizer, SYSTEM, make_rows())
    assert describe_state(student) == before


# -----------------------------------------------------------------------------
# Which rows


@pytest.mark.parametrize(("count", "chosen"), [
    (0, []), (1, ["r0"]), (2, ["r0", "r3"]), (3, ["r0", "r2", "r4"]), (6, ["r0", "r1", "r2", "r3", "r4", "r5"]),
    (9, ["r0", "r1", "r2", "r3", "r4", "r5"]),
])
def test_samples_are_spread_over_all_rows(count: int, chosen: list[str]) -> None:
    assert [row.id for row in choose_samples(make_rows(("Why?",) * 6), count)] == chosen


def test_no_rows_give_no_samples() -> None:
    assert choose_samples([], 5) == []
