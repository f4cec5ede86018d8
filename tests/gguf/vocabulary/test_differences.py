from __future__ import annotations

from typing import Any

import pytest

from distill.gguf.vocabulary.differences import list_differences

METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}
MARKER = {"content": "<|end|>", "lstrip": False, "rstrip": False}
NFC = {"normalizer": {"type": "NFC"}}


def touches(definition: dict[str, Any], text: str, splitter: str = "qwen2") -> bool:
    (difference,) = list_differences(definition, splitter)
    return difference.touches(text)


def test_a_plain_tokenizer_has_none() -> None:
    assert list_differences({"normalizer": None, "pre_tokenizer": None, "added_tokens": [MARKER]}, "llama-bpe") == []


@pytest.mark.parametrize(("text", "touched"), [("café", False), ("cafe\u0301", True), ("5 \u212b", True), ("", False)])
def test_nfc_touches_text_that_is_not_composed(text: str, touched: bool) -> None:
    assert touches(NFC, text) is touched


@pytest.mark.parametrize(("text", "touched"), [("café", False), ("cafe\u0301", True), ("हिन्दी", True), ("水泵", False)])
@pytest.mark.parametrize("splitter", ["gpt-4o", "tekken"])
def test_marks(splitter: str, text: str, touched: bool) -> None:
    assert touches({}, text, splitter) is touched


@pytest.mark.parametrize(("sides", "text", "touched"), [
    ({"rstrip": True}, "a <|end|>b", False), ({"rstrip": True}, "a<|end|>\nb", True),
    ({"lstrip": True}, "a <|end|>b", True), ({"lstrip": True}, "a<|end|> b", False),
])
def test_white_space_that_a_special_token_swallows(sides: dict[str, bool], text: str, touched: bool) -> None:
    assert touches({"added_tokens": [{**MARKER, **sides}]}, text) is touched


@pytest.mark.parametrize(("scheme", "text", "touched"), [
    ("first", "<|end|> a", False), ("first", "a<|end|>", True),
    ("always", "<|end|>a", False), ("always", " a", True),
    ("always", "a b", False), ("always", "a<|end|> b", True),
])
def test_the_space_before_a_text(scheme: str, text: str, touched: bool) -> None:
    assert touches({"pre_tokenizer": {**METASPACE, "prepend_scheme": scheme}, "added_tokens": [MARKER]}, text) is touched
