"""Every family's vocabulary, asked in llama.cpp itself: the ids of odd documents are those of the base's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from tokenizers import Tokenizer

from distill.errors import PipelineError
from distill.gguf.vocabulary.tokenizer import Vocabulary, read_vocabulary
from tests.gguf.odd_documents import invent_documents
from tests.gguf.tiny_tokenizers import FAMILIES, write_tokenizer_files
from tests.gguf.vocabulary_only import tokenize_all, write_vocabulary_gguf

DOCUMENTS = 2000
ROWS = 1024


# A chat of Mistral v0.3 starts with a special token, and only then llama.cpp can follow its tokenizer.
LEAD = {"mistral_v3": "<s>"}
# Of the odd documents that a difference of llama.cpp touches, at least one in ten really becomes other tokens.
SHARE = 0.1


@dataclass(frozen=True)
class Case:
    family: str
    folder: Path
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    gguf: Path


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = write_tokenizer_files(folder, request.param)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    vocabulary = read_vocabulary(folder, ROWS)
    return Case(request.param, folder, tokenizer, vocabulary, write_vocabulary_gguf(folder / "vocabulary.gguf", vocabulary))


def find_different(case: Case, texts: list[str]) -> list[str]:
    """The texts that become other tokens in llama.cpp."""
    expected = [encoding.ids for encoding in case.tokenizer.encode_batch(texts, add_special_tokens=False)]
    found = tokenize_all(case.gguf, texts)
    return [text for text, ours, theirs in zip(texts, found, expected, strict=True) if ours != theirs]


def test_two_thousand_odd_documents_and_every_special_token(case: Case) -> None:
    markers, lead = case.vocabulary.markers, LEAD.get(case.family, "")
    texts = [lead + text for text in invent_documents(
        DOCUMENTS, seed=5, special=markers, keep=lambda text: not case.vocabulary.explains(lead + text)
    )]
    texts += [lead + text for marker in markers for text in (marker, f"{marker}a{marker}", f"a {marker} b{marker}{marker}\n")]
    assert find_different(case, texts) == []


def test_documents_that_a_difference_touches_are_no_false_alarm(case: Case) -> None:
    if case.vocabulary.differences:
        texts = invent_documents(200, seed=7, keep=case.vocabulary.explains)
        assert len(find_different(case, texts)) >= SHARE * len(texts)


def test_every_special_token_is_one_id(case: Case) -> None:
    added = [text for text in (*FAMILIES[case.family].special, *FAMILIES[case.family].plain) if "▁" not in text]
    assert tokenize_all(case.gguf, added) == [[case.tokenizer.token_to_id(text)] for text in added]


def test_transformers_reads_the_same_tokenizer(case: Case) -> None:
    """Training takes transformers' own class for a family, which need not follow tokenizer.json."""
    from transformers import AutoTokenizer

    types = {"phi4mini": "phi3", "phi4": "phi3", "llama3": "llama", "llama2": "mistral", "nemo": "mistral",
             "mistral_v3": "mistral", "gemma3": "gemma3_text", "qwen3": "qwen3"}
    (case.folder / "config.json").write_text(json.dumps({"model_type": types[case.family]}), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    texts = invent_documents(200, seed=6, special=case.vocabulary.markers)
    assert [tokenizer.encode(text) for text in texts] == [encoding.ids for encoding in case.tokenizer.encode_batch(texts)]


EXPECTED: dict[str, tuple[str, str, bool | None, bool]] = {
    "phi4mini": ("gpt2", "gpt-4o", None, False), "phi4": ("gpt2", "dbrx", None, False),
    "llama3": ("gpt2", "llama-bpe", None, True),
    "nemo": ("gpt2", "tekken", None, True), "qwen3": ("gpt2", "qwen2", None, False), "llama2": ("llama", "default", True, True),
    "mistral_v3": ("llama", "default", False, True), "gemma3": ("llama", "default", False, True),
}


def test_model_splitter_space_and_bos(case: Case) -> None:
    found = case.vocabulary
    assert (found.model, found.splitter, found.add_space_prefix, found.add_bos) == EXPECTED[case.family]
    assert not found.add_eos
    assert bool(found.merges) == (found.model == "gpt2")
    assert len(found.scores) == (ROWS if found.model == "llama" else 0)


def test_chat_template_and_special_ids(case: Case) -> None:
    shape = FAMILIES[case.family]
    assert case.vocabulary.chat_template == shape.template
    for role, index in case.vocabulary.special_ids.items():
        assert case.vocabulary.tokens[index] == shape.settings[f"{role}_token"]


def test_differences_are_named_where_there_are_any(case: Case) -> None:
    words = {"phi4mini": "combining marks", "nemo": "combining marks", "qwen3": "NFC", "mistral_v3": "space before a text"}
    assert [words.get(case.family, "nothing") in found.sentence for found in case.vocabulary.differences] == (
        [True] if case.family in words else []
    )


def strip_beside(definition: dict[str, Any]) -> None:
    for entry in definition["added_tokens"]:
        entry |= {"lstrip": entry["id"] % 2 == 0, "rstrip": True}


def mark_spaces(scheme: str) -> Callable[[dict[str, Any]], None]:
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    return lambda definition: definition.update(normalizer=None, pre_tokenizer=metaspace)


@pytest.mark.parametrize(("family", "change"), [
    ("phi4", strip_beside), ("llama2", mark_spaces("always")), ("mistral_v3", mark_spaces("never")),
], ids=["white space stripped", "space always", "space never"])
def test_options_of_other_publishers(family: str, change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    write_tokenizer_files(tmp_path, family)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    definition = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    change(definition)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(tmp_path, ROWS)
    gguf = write_vocabulary_gguf(tmp_path / "vocabulary.gguf", vocabulary)
    case = Case(family, tmp_path, tokenizer, vocabulary, gguf)
    texts = invent_documents(500, seed=8, special=vocabulary.markers)
    different = find_different(case, texts)
    assert [text for text in different if not vocabulary.explains(text)] == []
    assert bool(different) == bool(vocabulary.differences)
    assert sum(map(vocabulary.explains, texts)) < 0.8 * len(texts)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    write_tokenizer_files(folder, "gemma3")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def test_kinds_of_gemmas_tokens(gemma: Path) -> None:
    vocabulary = read_vocabulary(gemma, ROWS)
    kinds = dict(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    assert [kinds[text] for text in ("<bos>", "<mask>", "<unused0>", "<start_of_turn>")] == [TokenType.CONTROL] * 4
    assert [kinds[text] for text in ("\n\n", "   ", "\t", "</table>", "[multimodal]")] == [TokenType.USER_DEFINED] * 5
    assert [kinds[text] for text in ("<0x0A>", "▁", "[PAD1020]")] == [TokenType.BYTE, TokenType.NORMAL, TokenType.UNUSED]
    assert {vocabulary.scores[vocabulary.tokens.index(text)] for text in ("<bos>", "   ", "</table>")} == {-1000.0}
    assert vocabulary.scores[1020] == -10000.0


def test_a_token_that_gemmas_smallest_has_no_row_for_is_left_out(gemma: Path) -> None:
    definition: dict[str, Any] = json.loads((gemma / "tokenizer.json").read_text("utf-8"))
    entry = {**definition["added_tokens"][0], "id": ROWS, "content": "<image_soft_token>"}
    definition["added_tokens"].append(entry)
    (gemma / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    assert len(read_vocabulary(gemma, ROWS).tokens) == ROWS
    assert read_vocabulary(gemma, ROWS + 1).tokens[ROWS] == "<image_soft_token>"
    definition["added_tokens"][-1] = {**entry, "content": "<my_token>"}
    (gemma / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    with pytest.raises(PipelineError, match=rf"token id {ROWS} but the model's embedding only {ROWS} rows"):
        read_vocabulary(gemma, ROWS)
