from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from distill.errors import PipelineError
from distill.gguf.vocabulary.sentencepiece import AT_SPACES, MARK, PREPEND, find_space_prefix, score_tokens
from tests.gguf.tiny_tokenizers import list_splits

PATH = Path("tokenizer.json")
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}


def define(vocabulary: list[str], merges: list[Any], added: tuple[str, ...] = ()) -> dict[str, Any]:
    ids = {text: index for index, text in enumerate(vocabulary)}
    return {"model": {"vocab": ids, "merges": merges}, "added_tokens": [{"content": text} for text in added]}


@pytest.mark.parametrize(("normalizer", "splitter", "prefix"), [
    (PREPEND, None, True),
    (MARK, None, False),
    (MARK, AT_SPACES, False),
    (None, METASPACE, True),
    (None, {**METASPACE, "prepend_scheme": "first"}, False),
    (None, {**METASPACE, "prepend_scheme": "never"}, False),
    # As versions of `tokenizers` before 0.19 wrote it.
    (None, {**METASPACE, "add_prefix_space": True}, True),
])
def test_the_space_before_a_text(normalizer: Any, splitter: Any, prefix: bool) -> None:
    assert find_space_prefix({"normalizer": normalizer, "pre_tokenizer": splitter}, PATH) is prefix


@pytest.mark.parametrize(("normalizer", "splitter", "named"), [
    (None, None, "normalizer none with a pre-tokenizer none"),
    (PREPEND, METASPACE, "normalizer Sequence with a pre-tokenizer Metaspace"),
    ({"type": "NFKC"}, None, "normalizer NFKC"),
    ({**MARK, "content": "_"}, None, "normalizer Replace"),
    (None, {**METASPACE, "split": True}, "Metaspace"),
    (None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}, "Metaspace"),
    (None, {**METASPACE, "replacement": "_"}, "Metaspace"),
    (MARK, {**AT_SPACES, "behavior": "Isolated"}, "Split"),
])
def test_other_ways_to_mark_spaces_are_refused(normalizer: Any, splitter: Any, named: str) -> None:
    with pytest.raises(PipelineError, match=rf"{named}.* unknown to this exporter; .*--llama-cpp"):
        find_space_prefix({"normalizer": normalizer, "pre_tokenizer": splitter}, PATH)


def test_scores_fall_in_the_order_of_the_merges_then_of_the_ids() -> None:
    definition = define(["<s>", "<0x00>", "b", "a", "ba", "ab"], ["a b", "b a"], added=("<s>",))
    assert score_tokens(definition, PATH) == {"ab": 0.0, "ba": -1.0, "b": -2.0, "a": -3.0, "<0x00>": 0.0, "<s>": -1000.0}


def test_merges_as_pairs_and_as_text_are_the_same() -> None:
    vocabulary = ["a", "b", "ab"]
    assert score_tokens(define(vocabulary, [["a", "b"]]), PATH) == score_tokens(define(vocabulary, ["a b"]), PATH)


def test_a_token_that_can_be_made_in_a_way_that_is_no_merge_is_refused() -> None:
    definition = define(["a", "b", "c", "ab", "bc", "abc"], ["a b", "b c", "ab c"])
    with pytest.raises(PipelineError, match=r"'abc' is a token, but its parts 'a' and 'bc' are no merge.*--llama-cpp"):
        score_tokens(definition, PATH)


def test_added_tokens_need_no_merges() -> None:
    assert score_tokens(define(["a", "b", "ab"], [], added=("ab",)), PATH)["ab"] == -1000.0


@given(st.lists(st.text("abc", min_size=2, max_size=4), unique=True), st.lists(st.text("abc", max_size=12), max_size=20))
def test_joining_by_score_finds_what_the_merges_find(texts: list[str], documents: list[str]) -> None:
    """For tokens that can be made in one way only; of several, llama.cpp takes the first place and a BPE the first merge."""
    ids, merges = {"a": 0, "b": 1, "c": 2}, []
    for text in sorted(texts, key=len):
        pairs = list_splits(text, ids)
        if len(pairs) == 1:
            merges += pairs
            ids[text] = len(ids)
    scores = score_tokens({"model": {"vocab": ids, "merges": merges}}, PATH)
    tokenizer = Tokenizer(models.BPE(ids, merges))
    for document in documents:
        assert join_by_score(document, scores) == tokenizer.encode(document).tokens


def join_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """llama.cpp's rule: of all neighbours that make a token, the one with the highest score, the first from the left."""
    parts = list(text)
    while True:
        joined = [left + right for left, right in pairwise(parts)]
        found = [(-scores[text], at) for at, text in enumerate(joined) if text in scores]
        if not found:
            return parts
        at = min(found)[1]
        parts[at:at + 2] = [joined[at]]
