from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from demo.tiny_phi3 import CHAT_TEMPLATE, SPECIAL_TOKENS
from distill.errors import PipelineError
from distill.gguf.vocabulary.tokenizer import read_vocabulary


@pytest.fixture()
def folder(tiny_phi3: Path, tmp_path: Path) -> Path:
    """A copy of the tokenizer that a test may change."""
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(tiny_phi3 / name, tmp_path / name)
    return tmp_path


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), encoding="utf-8")


def test_vocabulary_of_phi_4_mini_shape(folder: Path) -> None:
    vocabulary = read_vocabulary(folder, 1024)
    assert vocabulary.splitter == "gpt-4o"
    assert len(vocabulary.tokens) == len(vocabulary.kinds) == 1024
    assert vocabulary.tokens[993:1001] == [*SPECIAL_TOKENS, "[PAD1000]"]
    assert vocabulary.kinds[992:1001] == [TokenType.NORMAL, *[TokenType.CONTROL] * 7, TokenType.UNUSED]
    assert vocabulary.special_ids == {"bos": 993, "eos": 993, "unk": 993, "pad": 993}
    assert (vocabulary.add_bos, vocabulary.add_eos) == (False, False)
    assert vocabulary.chat_template == CHAT_TEMPLATE
    first, second = vocabulary.merges[0].split(" ")
    assert first + second in vocabulary.tokens


@pytest.mark.parametrize(("model", "named"), [
    ({"type": "Unigram"}, "this one is Unigram;"),
    ({"type": "BPE", "end_of_word_suffix": "</w>"}, "BPE with end_of_word_suffix;"),
    ({"type": "BPE", "dropout": 0.1}, "BPE with dropout;"),
])
def test_anything_but_plain_bpe_is_refused(folder: Path, model: dict[str, Any], named: str) -> None:
    own = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    change(folder / "tokenizer.json", model={**own, **model})
    with pytest.raises(PipelineError, match=rf"{named}.*--llama-cpp"):
        read_vocabulary(folder, 1024)


def test_more_tokens_than_rows_are_refused(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"token id 999 but .* 999 rows"):
        read_vocabulary(folder, 999)


def test_added_words_that_are_not_special_can_be_printed(folder: Path) -> None:
    added = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    plain = {**added[-1], "special": False, "content": "KN-100", "id": 1000}
    marker = {**added[-1], "special": False, "content": "<|tool_call|>", "id": 1001}
    change(folder / "tokenizer.json", added_tokens=[*added, plain, marker])
    assert read_vocabulary(folder, 1024).kinds[1000:1002] == [TokenType.USER_DEFINED, TokenType.CONTROL]


def test_one_text_for_two_ids_is_refused(folder: Path) -> None:
    added = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    again = [{**added[-1], "special": False, "content": text, "id": 1000 + at} for at, text in enumerate(("x▁", "x "))]
    change(folder / "tokenizer.json", added_tokens=[*added, *again])
    with pytest.raises(PipelineError, match=r"ids 1000 and 1001 are both 'x '"):
        read_vocabulary(folder, 1024)


def test_ids_of_a_text_model_inside_a_multimodal_one(folder: Path) -> None:
    change(folder / "tokenizer_config.json", bos_token=None, pad_token=None)
    change(folder / "config.json", bos_token_id=None, text_config={"bos_token_id": 995, "eos_token_id": 1}, pad_token_id=[3, 4])
    assert read_vocabulary(folder, 1024).special_ids == {"bos": 995, "eos": 993, "unk": 993}


def test_the_jinja_file_wins_over_tokenizer_config(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert read_vocabulary(folder, 1024).chat_template == "{{ messages }}"


def test_of_several_templates_the_default_is_taken(folder: Path) -> None:
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    change(folder / "tokenizer_config.json", chat_template=templates)
    assert read_vocabulary(folder, 1024).chat_template == "d"


@pytest.mark.parametrize(("first", "index", "added"), [("<|endoftext|>", 993, True), ("<|user|>", 997, False)])
@pytest.mark.parametrize("asked", [True, False])
def test_the_post_processor_decides_whether_bos_comes_first(
    folder: Path, first: str, index: int, added: bool, asked: bool
) -> None:
    single = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {first: {"id": first, "ids": [index], "tokens": [first]}}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    change(folder / "tokenizer.json", post_processor=template)
    change(folder / "tokenizer_config.json", add_bos_token=asked, add_eos_token=asked)
    vocabulary = read_vocabulary(folder, 1024)
    assert (vocabulary.add_bos, vocabulary.add_eos) == (added, False)


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_post_processor_tokenizer_config_decides(folder: Path, asked: bool) -> None:
    change(folder / "tokenizer.json", post_processor=None)
    change(folder / "tokenizer_config.json", add_bos_token=asked, add_eos_token=not asked)
    vocabulary = read_vocabulary(folder, 1024)
    assert (vocabulary.add_bos, vocabulary.add_eos) == (asked, not asked)


def test_a_post_processor_that_adds_nothing_wins_over_tokenizer_config(folder: Path) -> None:
    change(folder / "tokenizer_config.json", add_bos_token=True)
    assert not read_vocabulary(folder, 1024).add_bos
