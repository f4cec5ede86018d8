"""Rows as tokens: the prompt is the one that is served, loss stands on the answer and its end marker, nothing is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.records import TrainingExample
from distill.training.encode import BATCH, IGNORE, EncodedExample, encode_example, encode_examples
from tests.training.chat_templates import FAMILIES, GEMMA_2, make_tokenizer

ANSWER = "Because of the pump.\n\nIt checks a <table> first."


@pytest.fixture(scope="module")
def tokenizers(tiny_phi3: Path) -> dict[str, Any]:
    return {name: make_tokenizer(tiny_phi3, family) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def phi(tokenizers: dict[str, Any]) -> Any:
    return tokenizers["phi-4-mini"]


@pytest.fixture
def plain(tiny_phi3: Path) -> Any:
    """A tokenizer of its own, to give any template to."""
    return make_tokenizer(tiny_phi3, FAMILIES["phi-4-mini"])


def make_row(instruction: str = "Why?", output: str = "Because of the pump.", **fields: Any) -> TrainingExample:
    return TrainingExample(id="r1", instruction=instruction, output=output, **fields)


def decode_learnt(tokenizer: Any, row: EncodedExample) -> str:
    return tokenizer.decode([label for label in row.labels if label != IGNORE])


# -----------------------------------------------------------------------------
# Every family


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("system", ["", "Be exact."])
def test_loss_stands_on_answer_and_end_marker_alone(tokenizers: dict[str, Any], name: str, system: str) -> None:
    family, tokenizer = FAMILIES[name], tokenizers[name]
    row = encode_example(tokenizer, system, make_row(output=ANSWER))
    assert decode_learnt(tokenizer, row) == family.lead + ANSWER + family.end
    learnt = [label for label in row.labels if label != IGNORE]
    assert row.input_ids[-len(learnt) :] == learnt
    assert row.labels == [IGNORE] * (len(row.input_ids) - len(learnt)) + learnt
    assert row.answer_tokens == len(learnt)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("system", ["", "Be exact."])
def test_prompt_is_the_one_that_is_served(tokenizers: dict[str, Any], name: str, system: str) -> None:
    tokenizer = tokenizers[name]
    row = encode_example(tokenizer, system, make_row(output=ANSWER))
    messages = [{"role": "system", "content": system}] if system else []
    served = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": "Why?"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert row.input_ids[: len(row.input_ids) - row.answer_tokens] == served
    assert system in tokenizer.decode(served)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_that_holds_the_end_marker_is_refused(tokenizers: dict[str, Any], name: str) -> None:
    with pytest.raises(PipelineError, match=r"row r1: the answer holds .+, which the base model reads as markup"):
        encode_example(tokenizers[name], "", make_row(output=f"Put {FAMILIES[name].end} behind it."))


def test_thoughts_in_an_answer_are_refused_where_the_template_would_drop_them(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=r"the answer holds </?think>, which"):
        encode_example(tokenizers["qwen3"], "", make_row(output="<think>Hm.</think>Because of the pump."))


def test_a_template_that_refuses_the_system_role_names_the_mend(plain: Any) -> None:
    plain.chat_template = GEMMA_2
    with pytest.raises(PipelineError, match=r'refuses these messages \(no system role\): set prompt.system to ""'):
        encode_example(plain, "Be exact.", make_row())


def test_a_template_that_leaves_the_system_prompt_out_is_refused(plain: Any) -> None:
    plain.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}<|end|>{% endfor %}"
    with pytest.raises(PipelineError, match="leaves out or changes the system message"):
        encode_example(plain, "Be exact.", make_row())


@pytest.mark.parametrize("lead", [" ", ""])
def test_a_tokenizer_that_opens_a_text_with_a_blank_puts_none_before_the_answer(lead: str) -> None:
    """As SentencePiece models do: tokenised by itself, the answer would get one that it has not behind its prompt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    special = list(FAMILIES["mistral-v0.3"].special)
    made.train_from_iterator(["Why? Because of a pump."], trainers.BpeTrainer(special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = FAMILIES["mistral-v0.3"].template.replace("' ' + ", f"'{lead}' + ")
    row = encode_example(tokenizer, "", make_row("Why?", "Because of a pump."))
    whole = tokenizer(f"<s>[INST] Why?[/INST]{lead}Because of a pump.</s>", add_special_tokens=False)["input_ids"]
    assert row.input_ids == whole
    assert decode_learnt(tokenizer, row) == "Because of a pump.</s>"


# -----------------------------------------------------------------------------
# Steps of reasoning


@pytest.mark.parametrize(("include", "learnt"), [
    (True, "It says so.\n\nBecause of the pump."), (False, "Because of the pump."),
])
def test_steps_are_learnt_before_the_answer_only_where_wanted(phi: Any, include: bool, learnt: str) -> None:
    encoded, = encode_examples(phi, "", [make_row(reasoning="It says so.")], include)
    assert decode_learnt(phi, encoded) == learnt + "<|end|>"


def test_a_row_without_steps_is_learnt_as_it_is(phi: Any) -> None:
    assert encode_example(phi, "", make_row(), True) == encode_example(phi, "", make_row(), False)


def test_markup_in_learnt_steps_is_refused(phi: Any) -> None:
    row = make_row(reasoning="Then <|end|> comes.")
    assert encode_example(phi, "", row).answer_tokens
    with pytest.raises(PipelineError, match=r"row r1: the answer holds <\|end\|>"):
        encode_example(phi, "", row, True)


# -----------------------------------------------------------------------------
# Any text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(answer=st.text(min_size=1, max_size=40).filter(lambda text: "<|" not in text))
def test_any_answer_comes_back_whole(phi: Any, answer: str) -> None:
    assert decode_learnt(phi, encode_example(phi, "", make_row(output=answer))) == answer + "<|end|>"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(answer=st.text(alphabet="ab \n\t<>/think", min_size=1, max_size=30))
def test_any_answer_comes_back_but_for_white_space_around_it(tokenizers: dict[str, Any], answer: str) -> None:
    """Also from a template that strips it, and that puts thoughts before it."""
    if "<think>" in answer or "</think>" in answer:
        return
    for name in ("llama-3", "gemma-3", "qwen3"):
        learnt = decode_learnt(tokenizers[name], encode_example(tokenizers[name], "", make_row(output=answer)))
        assert learnt.removesuffix(FAMILIES[name].end).strip() == answer.strip()


@pytest.mark.parametrize("answer", ["It puts <|user|> before the question.", "Ends with <|end|>", "<|endoftext|>"])
def test_answer_that_holds_markup_is_refused_and_not_cut(phi: Any, answer: str) -> None:
    with pytest.raises(PipelineError, match=r"row r1: the answer holds <\|\w+\|>, which the base model reads as markup"):
        encode_example(phi, "", make_row(output=answer))


def test_rows_keep_their_order_over_several_batches(phi: Any) -> None:
    rows = [make_row(output=f"Number {number}.").model_copy(update={"id": str(number)}) for number in range(BATCH + 2)]
    encoded = encode_examples(phi, "", rows)
    assert [row.example_id for row in encoded] == [row.id for row in rows]
    assert decode_learnt(phi, encoded[BATCH]) == f"Number {BATCH}.<|end|>"
    assert encode_examples(phi, "", []) == []


# -----------------------------------------------------------------------------
# Templates that cannot be learnt


def test_template_without_end_marker_is_refused(plain: Any) -> None:
    plain.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(PipelineError, match="no end marker after an answer"):
        encode_example(plain, "", make_row())


def test_template_that_changes_the_prompt_is_refused(plain: Any) -> None:
    plain.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    for system in ("", "Be exact."):
        with pytest.raises(PipelineError, match="row r1: the base model's chat template renders the prompt differently"):
            encode_example(plain, system, make_row())


def test_template_that_writes_more_before_an_answer_is_refused(plain: Any) -> None:
    plain.chat_template = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}<|tool|>final:{% endif %}{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    with pytest.raises(PipelineError, match=r"writes '<\|tool\|>final:Because.*' where the answer should begin"):
        encode_example(plain, "", make_row())


def test_prompt_keeps_its_tokens_where_the_answer_would_melt_into_it(plain: Any) -> None:
    plain.chat_template = (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}<|end|>{% endfor %}the pu"
        "{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|end|>{% endfor %}"
    )
    row = encode_example(plain, "", make_row(output="mp checks"))
    served = plain("Why?<|end|>the pu", add_special_tokens=False)["input_ids"]
    melted = plain("Why?<|end|>the pump checks<|end|>", add_special_tokens=False)["input_ids"]
    assert melted[: len(served)] != served, "this tokenizer shows nothing"
    assert row.input_ids[: len(row.input_ids) - row.answer_tokens] == served
    assert decode_learnt(plain, row) == "mp checks<|end|>"
