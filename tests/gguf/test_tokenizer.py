from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from demo.tiny_phi3 import CHAT_TEMPLATE, SPECIAL_TOKENS
from distill.errors import PipelineError
from distill.gguf.tokenizer import read_vocabulary


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


def test_plain_byte_level_is_gpt_2(folder: Path) -> None:
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    change(folder / "tokenizer.json", pre_tokenizer=plain)
    assert read_vocabulary(folder, 1024).splitter == "gpt-2"


def test_splitting_kept_or_removed_is_the_same(folder: Path) -> None:
    steps = json.loads((folder / "tokenizer.json").read_text("utf-8"))["pre_tokenizer"]
    steps["pretokenizers"][0] |= {"behavior": "Isolated", "invert": False}
    change(folder / "tokenizer.json", pre_tokenizer=steps)
    assert read_vocabulary(folder, 1024).splitter == "gpt-4o"


def test_an_unknown_expression_is_named(folder: Path) -> None:
    steps = json.loads((folder / "tokenizer.json").read_text("utf-8"))["pre_tokenizer"]
    steps["pretokenizers"][0]["pattern"] = {"Regex": r"\w+|\W+"}
    change(folder / "tokenizer.json", pre_tokenizer=steps)
    with pytest.raises(PipelineError, match=r"sha256 .* is unknown: add its llama.cpp name") as error:
        read_vocabulary(folder, 1024)
    assert "w+|" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("pre_tokenizer", "named"), [
    ({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": False}, "Metaspace"),
    ({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, "ByteLevel"),
    ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}, "ByteLevel"),
    (None, "none"),
])
def test_other_pre_tokenizers_are_refused(folder: Path, pre_tokenizer: dict[str, Any] | None, named: str) -> None:
    change(folder / "tokenizer.json", pre_tokenizer=pre_tokenizer)
    with pytest.raises(PipelineError, match=f"made of {named}"):
        read_vocabulary(folder, 1024)


def test_byte_fallback_is_refused(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    change(folder / "tokenizer.json", model={**model, "byte_fallback": True})
    with pytest.raises(PipelineError, match="this one is BPE with byte fallback"):
        read_vocabulary(folder, 1024)


def test_a_normalizer_is_refused(folder: Path) -> None:
    change(folder / "tokenizer.json", normalizer={"type": "NFKC"})
    with pytest.raises(PipelineError, match="normalizer NFKC"):
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


def test_the_jinja_file_wins_over_tokenizer_config(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert read_vocabulary(folder, 1024).chat_template == "{{ messages }}"


def test_of_several_templates_the_default_is_taken(folder: Path) -> None:
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    change(folder / "tokenizer_config.json", chat_template=templates)
    assert read_vocabulary(folder, 1024).chat_template == "d"


def test_a_token_that_the_tokenizer_itself_puts_first(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    del settings["add_bos_token"], settings["add_eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    start = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    single = [start, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [993], "tokens": ["<|endoftext|>"]}}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    change(folder / "tokenizer.json", post_processor=template)
    vocabulary = read_vocabulary(folder, 1024)
    assert (vocabulary.add_bos, vocabulary.add_eos) == (True, False)
