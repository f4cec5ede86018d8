"""Rows as tokens: the prompt is the one that is served, loss stands on the answer and its end marker, nothing is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.records import TrainingExample
from distill.training.encode import IGNORE, describe_lengths, encode_example, encode_examples, require_lengths

# Chat templates in the styles of the families that people fine-tune; none is copied from a model.
TEMPLATES = {
    "phi": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}<|endoftext|>{% endif %}",
    "llama": "{% for m in messages %}<|user|>{{ m.role }}\n\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n\n{% endif %}",
    "mistral": "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}<|end|>{% else %}[INST] {{ m.content }}"
    " [/INST]{% endif %}{% endfor %}",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_phi3: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_phi3)


def make_row(instruction: str = "Why?", output: str = "Because of the pump.") -> TrainingExample:
    return TrainingExample(id="r1", instruction=instruction, output=output)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", ["", "Be exact."])
def test_loss_stands_on_answer_and_end_marker_alone(tokenizer, name: str, system: str) -> None:
    tokenizer.chat_template = TEMPLATES[name]
    row = encode_example(tokenizer, system, make_row())
    supervised = [label for label in row.labels if label != IGNORE]
    assert tokenizer.decode(supervised).strip() == "Because of the pump.<|end|>"
    assert row.labels == [IGNORE] * (len(row.labels) - len(supervised)) + supervised
    assert row.answer_tokens == len(supervised)


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_is_the_one_that_is_served(tokenizer, name: str) -> None:
    tokenizer.chat_template = TEMPLATES[name]
    row = encode_example(tokenizer, "Be exact.", make_row())
    served = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Why?"}],
        add_generation_prompt=True, return_dict=True,
    )["input_ids"]
    assert row.input_ids[: len(row.input_ids) - row.answer_tokens] == served


@pytest.mark.parametrize(("include", "learnt"), [
    (True, "It says so.\n\nBecause of the pump."), (False, "Because of the pump."),
])
def test_steps_are_learnt_before_the_answer_only_where_wanted(tokenizer, include: bool, learnt: str) -> None:
    tokenizer.chat_template = TEMPLATES["phi"]
    row = make_row().model_copy(update={"reasoning": "It says so."})
    encoded, = encode_examples(tokenizer, "", [row], include)
    assert tokenizer.decode([label for label in encoded.labels if label != IGNORE]) == learnt + "<|end|>"


def test_a_row_without_steps_is_learnt_as_it_is(tokenizer) -> None:
    tokenizer.chat_template = TEMPLATES["phi"]
    assert encode_example(tokenizer, "", make_row(), True) == encode_example(tokenizer, "", make_row(), False)


def test_markup_in_learnt_steps_is_refused(tokenizer) -> None:
    tokenizer.chat_template = TEMPLATES["phi"]
    row = make_row().model_copy(update={"reasoning": "Then <|end|> comes."})
    assert encode_example(tokenizer, "", row).answer_tokens
    with pytest.raises(PipelineError, match=r"row r1: the answer holds <\|end\|>"):
        encode_example(tokenizer, "", row, True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(answer=st.text(min_size=1, max_size=40).filter(lambda text: "<|" not in text))
def test_any_answer_comes_back_whole(tokenizer, answer: str) -> None:
    tokenizer.chat_template = TEMPLATES["phi"]
    row = encode_example(tokenizer, "", make_row(output=answer))
    assert tokenizer.decode([label for label in row.labels if label != IGNORE]) == answer + "<|end|>"


@pytest.mark.parametrize("answer", ["It puts <|user|> before the question.", "Ends with <|end|>", "<|endoftext|>"])
def test_answer_that_holds_markup_is_refused_and_not_cut(tokenizer, answer: str) -> None:
    tokenizer.chat_template = TEMPLATES["phi"]
    with pytest.raises(PipelineError, match=r"row r1: the answer holds <\|\w+\|>, which the base model reads as markup"):
        encode_example(tokenizer, "", make_row(output=answer))


def test_template_without_end_marker_is_refused(tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(PipelineError, match="no end marker after an answer"):
        encode_example(tokenizer, "", make_row())


def test_template_that_changes_the_prompt_is_refused(tokenizer) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    with pytest.raises(PipelineError, match="row r1: the base model's chat template renders the prompt differently"):
        encode_example(tokenizer, "", make_row())


def test_long_row_stops_the_run_and_is_named(tokenizer) -> None:
    tokenizer.chat_template = TEMPLATES["phi"]
    rows = encode_examples(tokenizer, "", [make_row(), make_row("the pump " * 50)])
    longest = describe_lengths(rows)["longest_tokens"]
    require_lengths(rows, longest)
    with pytest.raises(PipelineError, match=rf"1 of 2 rows are longer than finetune.max_length {longest - 1}, the longest r1"):
        require_lengths(rows, longest - 1)


def test_lengths_are_counted(tokenizer) -> None:
    tokenizer.chat_template = TEMPLATES["phi"]
    row = encode_example(tokenizer, "", make_row())
    found = describe_lengths([row, row])
    assert found["rows"] == 2 and found["tokens"] == 2 * len(row.input_ids)
    assert found["answer_tokens"] == 2 * row.answer_tokens
