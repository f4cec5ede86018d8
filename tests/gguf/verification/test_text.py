from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.gguf.chat import CONVERSATIONS, ChatFormat, recognise_format
from distill.gguf.convert import Output, convert
from distill.gguf.families import read_model
from distill.gguf.families.common import Model
from distill.gguf.verification import text
from distill.gguf.verification.text import check_templates, check_tokenization, find_difference
from distill.gguf.vocabulary.tokenizer import read_vocabulary
from distill.llamacpp import LlamaModel
from tests.gguf.edited_gguf import edit_key
from tests.gguf.tiny_families import write_tiny_model
from tests.tiny_models import invent_sentences

# With a branch for tools, as Microsoft publishes it.
PHI_4_MINI_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
# Other tokens where <|user|> swallows the space behind it, which llama.cpp never lets it do.
SPACED = "secret <|user|> words"


@pytest.fixture(scope="module")
def model(tiny_phi3: Path) -> Model:
    return read_model(tiny_phi3)


@pytest.fixture(scope="module")
def stripping(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The same model whose <|user|> drops the white space behind it."""
    base = Path(shutil.copytree(tiny_phi3, tmp_path_factory.mktemp("stripping") / "base"))
    definition = json.loads((base / "tokenizer.json").read_text("utf-8"))
    for token in definition["added_tokens"]:
        token["rstrip"] = token["content"] == "<|user|>"
    (base / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    return read_model(base)


@pytest.fixture(scope="module")
def chat_format(tiny_phi3: Path) -> ChatFormat:
    return recognise_format(tiny_phi3)


@pytest.fixture(scope="module")
def llama(base_gguf: dict[str, Path]) -> Iterator[LlamaModel]:
    with LlamaModel(base_gguf["q4_k_m"], n_ctx=256, n_threads=1) as loaded:
        yield loaded


# -----------------------------------------------------------------------------
# Tokens


def test_training_texts_and_special_tokens_become_the_same_tokens(llama: LlamaModel, model: Model) -> None:
    odd = ("", " ", "\n\n", "<|user|>hidden<|end|>", "45\u00a0Nm \U0001f527")
    found = check_tokenization(llama, model, (*invent_sentences(300), *odd))
    assert (found["texts"], found["special_tokens"], found["explained"]) == (305, 7, {})


def test_an_iterator_is_read_no_further_than_the_bound(
    llama: LlamaModel, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MOST_TEXTS", 10)
    texts = iter(invent_sentences(12))
    assert check_tokenization(llama, model, texts)["texts"] == 10
    assert len(list(texts)) == 2


def test_a_text_that_differs_is_named_by_its_number_alone(
    llama: LlamaModel, stripping: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = dataclasses.replace(read_vocabulary(stripping.folder, stripping.vocabulary), differences=())
    monkeypatch.setattr(text, "read_vocabulary", lambda *_: vocabulary)
    with pytest.raises(PipelineError, match=r"tokenization of training text 2: \d+ tokens in llama\.cpp, \d+ by") as raised:
        check_tokenization(llama, stripping, ["the pump", SPACED, "a valve"])
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_llama_cpp_is_known_not_to_follow_is_counted(llama: LlamaModel, stripping: Model) -> None:
    found = check_tokenization(llama, stripping, ["the pump", SPACED, "a valve", SPACED])
    assert (found["texts"], found["different"]) == (4, 2)
    assert found["explained"] == {"drops white space beside some of its special tokens; llama.cpp keeps it": 2}


def test_a_wrong_splitter_is_noticed(model: Model, base_gguf: dict[str, Path], tmp_path: Path) -> None:
    path = edit_key(base_gguf["q4_k_m"], tmp_path, "tokenizer.ggml.pre", "tekken")
    with (
        LlamaModel(path, n_ctx=256, n_threads=1) as wrong,
        pytest.raises(PipelineError, match=r"edited\.gguf failed verification: tokenization of the built-in text 1: "),
    ):
        check_tokenization(wrong, model, [])


def test_a_renamed_special_token_is_noticed(model: Model, base_gguf: dict[str, Path], tmp_path: Path) -> None:
    path = edit_key(base_gguf["q4_k_m"], tmp_path, "tokenizer.ggml.tokens", "<|toll|>", 999)
    with (
        LlamaModel(path, n_ctx=256, n_threads=1) as wrong,
        pytest.raises(PipelineError, match=r"tokenization of the special token '<\|tool\|>': \d+ tokens"),
    ):
        check_tokenization(wrong, model, [])


# -----------------------------------------------------------------------------
# Chat template


def test_three_ways_to_write_a_conversation_agree(llama: LlamaModel, model: Model, chat_format: ChatFormat) -> None:
    found = check_templates(llama, model, chat_format)
    assert (found["format"], found["conversations"], found["ways"]) == ("phi-4-mini", len(CONVERSATIONS), 3)


@pytest.mark.parametrize("family", ["llama3", "mistral_v3", "nemo", "gemma3"])
def test_families_whose_text_begins_with_a_token(tmp_path: Path, family: str) -> None:
    base = write_tiny_model(tmp_path / "base", family)
    model = read_model(base)
    convert(base, None, [Output(tmp_path / "a.gguf", "q8_0", "tiny", False)])
    with LlamaModel(tmp_path / "a.gguf", n_ctx=256, n_threads=1) as llama:
        check_templates(llama, model, recognise_format(base))
        assert check_tokenization(llama, model, invent_sentences(100))["explained"] == {}


def test_phi_4_minis_own_template_renders_the_same(tiny_phi3: Path, chat_format: ChatFormat, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    (base / "chat_template.jinja").write_text(PHI_4_MINI_TEMPLATE, encoding="utf-8", newline="")
    convert(base, None, [Output(tmp_path / "a.gguf", "q8_0", "tiny", False)])
    with LlamaModel(tmp_path / "a.gguf", n_ctx=256, n_threads=1) as llama:
        check_templates(llama, read_model(base), chat_format)


def test_a_gguf_whose_template_writes_one_space_more_is_noticed(
    llama: LlamaModel, tiny_phi3: Path, chat_format: ChatFormat, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    spaced = PHI_4_MINI_TEMPLATE.replace("+ '|>' +", "+ '|> ' +")
    (base / "chat_template.jinja").write_text(spaced, encoding="utf-8", newline="")
    wrong = r"chat template: the GGUF's in llama\.cpp writes 'W.*' where the .* ' W.*', in conversation 1 from character 9 on"
    with pytest.raises(PipelineError, match=wrong):
        check_templates(llama, read_model(base), chat_format)


def test_a_format_of_one_space_more_is_noticed(llama: LlamaModel, model: Model, chat_format: ChatFormat) -> None:
    turns = {role: (before, f" {after}") for role, (before, after) in chat_format.turns.items()}
    with pytest.raises(PipelineError, match=r"chat template: the TEMPLATE phi-4-mini writes ' <\|end\|><\|assistant\|>' where"):
        check_templates(llama, model, dataclasses.replace(chat_format, turns=turns))


@pytest.mark.parametrize(("one", "other", "place"), [("", "", 0), ("ab", "ab", 2), ("ab", "abc", 2), ("abc", "axc", 1)])
def test_the_first_difference(one: str, other: str, place: int) -> None:
    assert find_difference(one, other) == place
