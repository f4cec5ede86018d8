"""
A tokenizer.json as the vocabulary of a GGUF: byte-level BPE ("gpt2") or a converted SentencePiece model ("llama").

Reads the base model's own files; never a tokenizer that another library saved again. Tokens, kinds and ids are what llama.cpp's
converter writes for the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf import GGUFWriter, TokenType

from distill.errors import PipelineError
from distill.files import read_json
from distill.gguf.chat import pin_date
from distill.gguf.families.common import OWN_LLAMA_CPP
from distill.gguf.vocabulary.differences import Difference, list_differences
from distill.gguf.vocabulary.sentencepiece import (
    ADDED_SCORE,
    BYTE_TOKEN,
    SPACE,
    UNUSED_SCORE,
    find_space_prefix,
    score_tokens,
)
from distill.gguf.vocabulary.special_tokens import find_added_around, find_special_ids, is_control, read_chat_template
from distill.gguf.vocabulary.splitters import recognise_splitter

# Gemma 3 1B lists a token of its larger sisters for which it has no row.
ROWLESS = ("<image_soft_token>",)


@dataclass(frozen=True)
class Vocabulary:
    """
    What a GGUF says about a tokenizer; `tokens` and `kinds` have one entry for each row of the embedding.

    model "gpt2" has merges and the name of a splitter; model "llama" has scores and add_space_prefix.
    differences: where llama.cpp can not follow this tokenizer.
    """

    tokens: list[str]
    kinds: list[TokenType]
    model: Literal["gpt2", "llama"]
    splitter: str
    merges: list[str]
    scores: list[float]
    special_ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool | None
    chat_template: str | None
    differences: tuple[Difference, ...] = ()

    @property
    def markers(self) -> list[str]:
        """The tokens that are found in a text before anything else, as they stand in one."""
        found = (TokenType.CONTROL, TokenType.USER_DEFINED)
        return [text for text, kind in zip(self.tokens, self.kinds, strict=True) if kind in found]

    def explains(self, text: str) -> bool:
        """Whether one of the differences can touch a text, so that other tokens in llama.cpp are no fault of the file."""
        return any(difference.touches(text) for difference in self.differences)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """
    Read tokenizer.json, tokenizer_config.json and, if present, chat_template.jinja.

    rows: of the embedding; ids without a token become unused entries. Raises PipelineError for a missing file, a tokenizer
    that llama.cpp would read differently, more tokens than rows, and two ids with one text.
    """
    path = folder / "tokenizer.json"
    definition = read_json(path)
    settings = read_json(folder / "tokenizer_config.json")
    require_bpe(definition, path)
    tokens, kinds = list_tokens(definition, rows, path)
    special_ids = find_special_ids(settings, definition, folder)
    add_bos, add_eos = find_added_around(path, settings, special_ids)
    own = (read_pieces if has_byte_fallback(definition) else read_byte_level)(definition, rows, path)
    return Vocabulary(
        tokens=tokens, kinds=kinds, special_ids=special_ids, add_bos=add_bos, add_eos=add_eos, **own,
        chat_template=read_chat_template(folder, settings), differences=tuple(list_differences(definition, own["splitter"])),
    )


def require_bpe(definition: dict[str, Any], path: Path) -> None:
    """Raises PipelineError for anything but BPE, and for its rare options, which llama.cpp does not know."""
    model = definition["model"]
    odd = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
    if model["type"] != "BPE" or odd:
        kind = " ".join([model["type"], *(f"with {name}" for name in odd)])
        raise PipelineError(f"{path}: only BPE tokenizers are supported, this one is {kind}; {OWN_LLAMA_CPP}")


def has_byte_fallback(definition: dict[str, Any]) -> bool:
    return bool(definition["model"].get("byte_fallback"))


def read_byte_level(definition: dict[str, Any], rows: int, path: Path) -> dict[str, Any]:
    """The fields of Vocabulary that only model "gpt2" fills."""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in definition["model"]["merges"]]
    splitter = recognise_splitter(definition, path)
    return {"model": "gpt2", "splitter": splitter, "merges": merges, "scores": [], "add_space_prefix": None}


def read_pieces(definition: dict[str, Any], rows: int, path: Path) -> dict[str, Any]:
    """The fields of Vocabulary that only model "llama" fills."""
    prefix = find_space_prefix(definition, path)
    known = score_tokens(definition, path)
    scores = [UNUSED_SCORE] * rows
    for text, index in definition["model"]["vocab"].items():
        scores[index] = known[text]
    for entry in list_added(definition, rows):
        scores[entry["id"]] = known.get(entry["content"], ADDED_SCORE)
    return {"model": "llama", "splitter": "default", "merges": [], "scores": scores, "add_space_prefix": prefix}


# -----------------------------------------------------------------------------
# Tokens


def list_added(definition: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """The entries of added_tokens that have a row, or should have one."""
    return [entry for entry in definition.get("added_tokens", []) if entry["id"] < rows or entry["content"] not in ROWLESS]


def list_tokens(definition: dict[str, Any], rows: int, path: Path) -> tuple[list[str], list[TokenType]]:
    """Text and kind of every id below `rows`."""
    added = {entry["id"]: entry for entry in list_added(definition, rows)}
    texts = {index: text for text, index in definition["model"]["vocab"].items()}
    texts.update({index: entry["content"] for index, entry in added.items()})
    if max(texts) >= rows:
        raise PipelineError(f"{path} has token id {max(texts)} but the model's embedding only {rows} rows")
    kinds = [kind_of(index, texts, added, has_byte_fallback(definition)) for index in range(rows)]
    tokens = [texts.get(index, f"[PAD{index}]") for index in range(rows)]
    # llama.cpp looks for a user-defined token in the text itself, before spaces are marked.
    printed = {index for index, kind in enumerate(kinds) if kind == TokenType.USER_DEFINED}
    tokens = [text.replace(SPACE, " ") if index in printed else text for index, text in enumerate(tokens)]
    require_unique(tokens, path)
    return tokens, kinds


def kind_of(index: int, texts: dict[int, str], added: dict[int, dict[str, Any]], byte_fallback: bool) -> TokenType:
    """Control tokens are never printed; user-defined ones are, and are found in a text before anything else."""
    if index not in texts:
        return TokenType.UNUSED
    if index in added:
        return TokenType.CONTROL if is_control(added[index]) else TokenType.USER_DEFINED
    return TokenType.BYTE if byte_fallback and BYTE_TOKEN.fullmatch(texts[index]) else TokenType.NORMAL


def require_unique(tokens: list[str], path: Path) -> None:
    """llama.cpp ends the whole process over a text that two ids share."""
    first: dict[str, int] = {}
    for index, text in enumerate(tokens):
        if first.setdefault(text, index) != index:
            raise PipelineError(f"{path}: ids {first[text]} and {index} are both {text!r}, which llama.cpp can not load")


# -----------------------------------------------------------------------------
# Writing


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add the tokenizer's keys to a GGUF that has not been opened yet."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.splitter)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    if vocabulary.model == "llama":
        writer.add_token_scores(vocabulary.scores)
    else:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.add_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    for role, index in vocabulary.special_ids.items():
        getattr(writer, f"add_{role}_token_id")(index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(pin_date(vocabulary.chat_template))
