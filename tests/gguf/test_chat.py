"""Each format as Go renders its TEMPLATE, as Python renders it, and as transformers renders the tokenizer's own Jinja."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.gguf.chat import (
    CONVERSATIONS,
    DATE,
    FORMATS,
    load_tokenizer,
    make_conversation,
    pin_date,
    recognise_format,
    render_jinja,
)
from distill.records import TrainingExample
from distill.training.encode import encode_example
from tests.gguf.chat_jinja import CURRENT_DATE, LLAMA_31, MODELS, write_chat_tokenizer
from tests.gguf.go_template import render_with_go
from tests.gguf.llama_source import find_llama_cpp
from tests.training.chat_templates import FAMILIES, GEMMA_2

BY_NAME = {known.name: known for known in FORMATS}
MULTI_TURN = make_conversation("Q1", "A1", "Q2", system="S")
DATES = f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n"
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
SYSTEM, USER, ASSISTANT = (HEADER.format(role) for role in ("system", "user", "assistant"))


@pytest.fixture(scope="module")
def folders(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer's files for each model."""
    place = tmp_path_factory.mktemp("chat")
    return {name: write_chat_tokenizer(tiny_phi3, family, place / name.replace(" ", "-")) for name, family in MODELS.items()}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> dict[str, Any]:
    """A tokenizer for each model."""
    return {name: load_tokenizer(folder) for name, folder in folders.items()}


# -----------------------------------------------------------------------------
# One text, three ways


@pytest.mark.parametrize(("name", "single", "several"), [
    (
        "phi-4-mini", "<|user|>Q<|end|><|assistant|>",
        "<|system|>S<|end|><|user|>Q1<|end|><|assistant|>A1<|end|><|user|>Q2<|end|><|assistant|>",
    ),
    (
        "phi-4", "<|im_start|>user<|im_sep|>Q<|im_end|><|im_start|>assistant<|im_sep|>",
        "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>Q1<|im_end|><|im_start|>assistant<|im_sep|>A1<|im_end|>"
        "<|im_start|>user<|im_sep|>Q2<|im_end|><|im_start|>assistant<|im_sep|>",
    ),
    ("mistral-v0.3", "[INST] Q[/INST]", "[INST] Q1[/INST] A1</s>[INST] S\n\nQ2[/INST]"),
    ("mistral-nemo", "[INST]Q[/INST]", "[INST]Q1[/INST]A1</s>[INST]S\n\nQ2[/INST]"),
    (
        "gemma-3", "<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\n",
        "<start_of_turn>user\nS\n\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
        "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n",
    ),
    (
        "llama-3", f"{USER}Q<|eot_id|>{ASSISTANT}",
        f"{SYSTEM}S<|eot_id|>{USER}Q1<|eot_id|>{ASSISTANT}A1<|eot_id|>{USER}Q2<|eot_id|>{ASSISTANT}",
    ),
    (
        "llama-3.1", f"{SYSTEM}{DATES}<|eot_id|>{USER}Q<|eot_id|>{ASSISTANT}",
        f"{SYSTEM}{DATES}S<|eot_id|>{USER}Q1<|eot_id|>{ASSISTANT}A1<|eot_id|>{USER}Q2<|eot_id|>{ASSISTANT}",
    ),
    (
        "qwen3", "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n",
    ),
])
def test_the_text_of_each_format(name: str, single: str, several: str) -> None:
    assert BY_NAME[name].render(make_conversation("Q")) == single
    assert BY_NAME[name].render(MULTI_TURN) == several


@pytest.mark.parametrize("name", MODELS)
def test_transformers_renders_the_same(name: str, tokenizers: dict[str, Any]) -> None:
    known = BY_NAME[name.partition(" ")[0]]
    bos = tokenizers[name].bos_token if known.bos else ""
    for messages in CONVERSATIONS:
        assert render_jinja(tokenizers[name], messages) == bos + known.render(known.tidy(messages))


def test_go_renders_the_same() -> None:
    neighbours = [*MULTI_TURN, {"role": "user", "content": "and Q3"}, {"role": "tool", "content": "42"}]
    cases = [(known, messages) for known in FORMATS for messages in (*CONVERSATIONS, neighbours)]
    rendered = render_with_go([(known.template, messages) for known, messages in cases])
    assert rendered == [known.render(messages) for known, messages in cases]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=5), st.text(max_size=10))
def test_no_text_changes_how_it_is_written(texts: list[str], system: str) -> None:
    messages = make_conversation(*texts, system=system.encode("utf-8", "replace").decode())
    rendered = render_with_go([(known.template, messages) for known in FORMATS])
    assert rendered == [known.render(messages) for known in FORMATS]


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_ollama_takes_the_messages_and_no_bos(known: Any) -> None:
    assert ".Messages" in known.template and ".Prompt" not in known.template and ".Response" not in known.template
    assert not any(bos in known.template for bos in ("<s>", "<bos>", "<|begin_of_text|>"))
    assert ".Think" not in known.template  # else Ollama would ask the model to think
    assert known.template.isascii() and '"""' not in known.template


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_an_answer_stops_where_its_turn_ends(known: Any) -> None:
    end = known.turns["assistant"][1].strip()
    assert end == known.stops[0]
    assert all(stop.strip() == stop and '"' not in stop for stop in known.stops)


def test_white_space_that_the_jinja_drops_is_known() -> None:
    around = make_conversation(" q ", " a ", " q ", system=" s ")
    kept = {known.name: [message["content"] for message in known.tidy(around)] for known in FORMATS}
    assert kept["qwen3"] == kept["phi-4-mini"] == [" s ", " q ", " a ", " q "]
    assert kept["llama-3"] == ["s", "q", "a", "q"] and kept["gemma-3"] == [" s ", "q", "a", "q"]


# -----------------------------------------------------------------------------
# Training and serving


@pytest.mark.parametrize("name", [name for name in MODELS if name != "llama-3.1 of the day"])
@pytest.mark.parametrize("system", ["", "Answer from the sources."])
def test_a_served_prompt_is_the_one_that_was_learnt(name: str, system: str, tokenizers: dict[str, Any]) -> None:
    tokenizer, known = tokenizers[name], BY_NAME[name]
    row = TrainingExample(id="r1", instruction="Which pump?", output="P-101.")
    encoded = encode_example(tokenizer, system, row)
    prompt = [token for token, label in zip(encoded.input_ids, encoded.labels) if label == -100]
    served = (tokenizer.bos_token if known.bos else "") + known.render(make_conversation("Which pump?", system=system))
    assert tokenizer.decode(prompt) == tokenizer.decode(tokenizer(served, add_special_tokens=False)["input_ids"])


# -----------------------------------------------------------------------------
# Recognition


@pytest.mark.parametrize("name", MODELS)
def test_a_base_model_is_recognised_by_its_own_template(name: str, folders: dict[str, Path]) -> None:
    assert recognise_format(folders[name]).name == name.partition(" ")[0]


@pytest.mark.parametrize(("file", "model", "name"), [
    ("meta-llama-Llama-3.1-8B-Instruct", "llama-3.1", "llama-3.1"),
    ("meta-llama-Llama-3.2-3B-Instruct", "llama-3.1", "llama-3.1"),
    ("meta-llama-Llama-3.3-70B-Instruct", "llama-3.1", "llama-3.1"),
    ("mistralai-Mistral-Nemo-Instruct-2407", "mistral-nemo", "mistral-nemo"),
    ("Qwen-Qwen3-0.6B", "qwen3", "qwen3"),
])
def test_published_templates_are_recognised(file: str, model: str, name: str, tiny_phi3: Path, tmp_path: Path) -> None:
    published = (find_llama_cpp() / "models" / "templates" / f"{file}.jinja").read_text(encoding="utf-8")
    folder = write_chat_tokenizer(tiny_phi3, replace(MODELS[model], template=published), tmp_path / "base")
    assert recognise_format(folder).name == name


@pytest.mark.parametrize(("template", "why"), [
    (GEMMA_2, "it refuses a system prompt"),
    (MODELS["phi-4-mini"].template.replace("'<|end|>'", "'<|end|>\\n'"), "Phi-3's line feeds"),
    (MODELS["llama-3"].template.replace("{{ bos_token }}", ""), "no BOS, which the GGUF would add"),
    (MODELS["qwen3"].template.replace("{%- if enable_thinking is defined and not", "{%- if not"), "no thoughts by default"),
    (MODELS["mistral-v0.3"].template.replace("loop.last and ", "loop.first and "), "system prompt elsewhere"),
    ("{{ 'You help.' }}" + MODELS["phi-4-mini"].template, "a system prompt of its own"),
])
def test_a_template_that_nobody_knows_is_one_clear_line(template: str, why: str, tiny_phi3: Path, tmp_path: Path) -> None:
    family = replace(MODELS["gemma-3" if template == GEMMA_2 else "llama-3"], template=template)
    folder = write_chat_tokenizer(tiny_phi3, family, tmp_path / "base")
    with pytest.raises(PipelineError, match=r"chat template is none of phi-4-mini, .*another instruct model") as caught:
        recognise_format(folder)
    assert "\n" not in str(caught.value), why


def test_a_base_model_without_a_template_is_refused(tiny_phi3: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_phi3)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PipelineError, match="no chat template: use an instruct model"):
        recognise_format(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="tokenizer can not be read") as caught:
        recognise_format(tmp_path / "empty")
    assert "\n" not in str(caught.value)


def test_the_date_stands_still_in_the_gguf(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["llama-3.1 of the day"]
    today = tokenizer.apply_chat_template(MULTI_TURN, tokenize=False, add_generation_prompt=True)
    assert DATE not in today
    pinned = pin_date(LLAMA_31.replace("DATE_LINE", CURRENT_DATE))
    tokenizer.chat_template, kept = pinned, tokenizer.chat_template
    assert tokenizer.apply_chat_template(MULTI_TURN, tokenize=False, add_generation_prompt=True) == render_jinja(
        tokenizers["llama-3.1"], MULTI_TURN
    )
    tokenizer.chat_template = kept


@pytest.mark.parametrize("name", ["3.1-8B", "3.2-3B", "3.3-70B"])
def test_llama_cpp_s_own_date_is_not_written_by_a_published_template(name: str, tokenizers: dict[str, Any]) -> None:
    place = find_llama_cpp() / "models" / "templates" / f"meta-llama-Llama-{name}-Instruct.jinja"
    pinned = pin_date(place.read_text(encoding="utf-8"))
    # llama.cpp defines date_string as today for every template.
    rendered = tokenizers["llama-3.1"].apply_chat_template(
        MULTI_TURN, chat_template=pinned, tokenize=False, add_generation_prompt=True, date_string="01 Jan 2031"
    )
    assert rendered == render_jinja(tokenizers["llama-3.1"], MULTI_TURN)


def test_a_template_without_date_stays_as_it_is() -> None:
    assert pin_date(FAMILIES["gemma-3"].template) == FAMILIES["gemma-3"].template


@pytest.mark.parametrize(("file", "text"), [
    ("tokenizer.json", '{"version": "1.0", "mod'), ("tokenizer.json", '{"version": "1.0"}'), ("tokenizer.json", "[]"),
    ("tokenizer_config.json", "[]"), ("tokenizer_config.json", '"text"'), ("tokenizer_config.json", "{"),
])
def test_a_damaged_tokenizer_is_one_line(folders: dict[str, Path], tmp_path: Path, file: str, text: str) -> None:
    folder = Path(shutil.copytree(folders["llama-3"], tmp_path / "base"))
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match="tokenizer can not be read") as caught:
        recognise_format(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", ["{{ 1 + 'a' }}", "{{ 1 / 0 }}", {"rag": "{{ 1 }}", "tool_use": "{{ 2 }}"}], ids=str)
def test_a_template_that_breaks_is_one_line(template: Any, folders: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(folders["llama-3"])
    tokenizer.chat_template = template
    with pytest.raises(PipelineError, match="llama-3: its chat template can not be used: ") as caught:
        render_jinja(tokenizer, MULTI_TURN)
    assert "\n" not in str(caught.value)
