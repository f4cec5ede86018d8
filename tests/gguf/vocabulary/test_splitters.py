from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.gguf.vocabulary.splitters import SPLITTERS, recognise_splitter
from tests.gguf.tiny_tokenizers import CL100K_SPLIT

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": CL100K_SPLIT}, "behavior": "Isolated", "invert": False}


def recognise(*steps: dict[str, Any], ignore_merges: bool = False, **others: Any) -> str:
    steps_in_order = {"type": "Sequence", "pretokenizers": list(steps)}
    definition = {"pre_tokenizer": steps_in_order, "model": {"ignore_merges": ignore_merges}, **others}
    return recognise_splitter(definition, Path("tokenizer.json"))


def test_expressions_that_transformers_itself_carries_are_known() -> None:
    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tiktoken = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    openai, qwen = [hashlib.sha256(expression.encode()).hexdigest() for expression in (tiktoken, PRETOKENIZE_REGEX)]
    assert [SPLITTERS[openai, False], SPLITTERS[openai, True], SPLITTERS[qwen, False]] == ["dbrx", "llama-bpe", "qwen2"]


def test_phi_4_and_llama_3_differ_in_whole_words_only() -> None:
    assert (recognise(SPLIT, BYTE_LEVEL), recognise(SPLIT, BYTE_LEVEL, ignore_merges=True)) == ("dbrx", "llama-bpe")


def test_matches_kept_or_the_rest_removed_is_the_same() -> None:
    assert recognise({**SPLIT, "behavior": "Removed", "invert": True}, BYTE_LEVEL) == "dbrx"


def test_plain_byte_level_is_gpt_2() -> None:
    assert recognise({**BYTE_LEVEL, "use_regex": True}) == "gpt-2"


@pytest.mark.parametrize("change", [
    {"behavior": "Removed"}, {"behavior": "MergedWithNext"}, {"invert": True}, {"pattern": {"String": " "}},
    {"type": "Punctuation"},
], ids=str)
def test_a_step_with_other_options_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=r"made of (Split|Punctuation), ByteLevel with .* unknown .*--llama-cpp"):
        recognise({**SPLIT, **change}, BYTE_LEVEL)


@pytest.mark.parametrize("change", [{"add_prefix_space": True}, {"use_regex": True}])
def test_byte_level_with_other_options_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=r"made of Split, ByteLevel with these options"):
        recognise(SPLIT, {**BYTE_LEVEL, **change})


@pytest.mark.parametrize("normalizer", [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "Sequence", "normalizers": []}])
def test_a_normalizer_that_changes_common_text_is_refused(normalizer: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=rf"normalizer {normalizer['type']} is unknown"):
        recognise(SPLIT, BYTE_LEVEL, normalizer=normalizer)


def test_nfc_passes() -> None:
    assert recognise(SPLIT, BYTE_LEVEL, normalizer={"type": "NFC"}) == "dbrx"


@pytest.mark.parametrize(("expression", "ignore_merges"), [(r"\w+|\W+", False), (CL100K_SPLIT + "|x", True)])
def test_an_unknown_expression_is_named_with_what_to_do(expression: str, ignore_merges: bool) -> None:
    with pytest.raises(PipelineError, match=r"sha256 [0-9a-f]{16}\.\.\. .* is unknown .*--llama-cpp FOLDER") as error:
        recognise({**SPLIT, "pattern": {"Regex": expression}}, BYTE_LEVEL, ignore_merges=ignore_merges)
    assert expression[:5].encode("unicode_escape").decode() in str(error.value)
    assert "\n" not in str(error.value)
