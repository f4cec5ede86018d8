"""
A BPE with byte fallback (a SentencePiece model converted to tokenizer.json) as llama.cpp's vocabulary "llama".

llama.cpp knows no merges there: it joins any two neighbours that make a token, the token with the highest score first. A
conversion from SentencePiece lists every way to make a token, tokens in the order of their scores; so the order of the merges
gives the scores back, and merges that do not look so can not be told to llama.cpp and stop the export.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.gguf.families.common import OWN_LLAMA_CPP

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
# What llama.cpp's own converter gives to added tokens and to unused rows. No text ever gets to either by merging.
ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0

SPACE = "\u2581"  # what SentencePiece writes for a space
MARK = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, MARK]}
# Splits nothing: the normalizer has left no space.
AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def find_space_prefix(definition: dict[str, Any], path: Path) -> bool:
    """
    Whether llama.cpp must put a space before every text between special tokens (tokenizer.ggml.add_space_prefix).

    Raises PipelineError for white space that is marked in an unknown way.
    """
    normalizer, splitter = definition.get("normalizer"), definition.get("pre_tokenizer")
    if splitter is None and normalizer == PREPEND:  # Llama 2, Mistral v0.1
        return True
    if normalizer == MARK and splitter in (None, AT_SPACES):  # Gemma 3
        return False
    scheme = find_metaspace_scheme(splitter) if normalizer is None else None
    if scheme is None:
        kinds = [part["type"] if part else "none" for part in (normalizer, splitter)]
        raise PipelineError(
            f"{path}: a normalizer {kinds[0]} with a pre-tokenizer {kinds[1]} and these options is unknown to this exporter; "
            f"{OWN_LLAMA_CPP}"
        )
    # "first" (Mistral v0.3) marks the very start of a text only, where a chat has a special token: there, it never does. With
    # llama.cpp's own converter it happens behind every special token, which puts a second space behind each [INST].
    return scheme == "always"


def find_metaspace_scheme(splitter: dict[str, Any] | None) -> str | None:
    """"always", "first" or "never" of a Metaspace step that splits nothing; None for anything else."""
    if not splitter or splitter["type"] != "Metaspace" or splitter.get("replacement") != SPACE or splitter.get("split", True):
        return None
    return splitter.get("prepend_scheme")


def score_tokens(definition: dict[str, Any], path: Path) -> dict[str, float]:
    """
    The score of every entry of the vocabulary: 0 for bytes, then 0, -1, -2... in the order of the merges and, behind them, of
    the ids. Raises PipelineError for merges that llama.cpp would not follow.
    """
    vocabulary: dict[str, int] = definition["model"]["vocab"]
    added = {entry["content"] for entry in definition.get("added_tokens", [])}
    pairs = dict.fromkeys(split_merge(merge) for merge in definition["model"]["merges"])
    by_id = sorted(vocabulary, key=vocabulary.__getitem__)
    plain = [text for text in by_id if text not in added and not BYTE_TOKEN.fullmatch(text)]
    require_every_split(plain, vocabulary, pairs, path)
    merged = dict.fromkeys(left + right for left, right in pairs)
    ranked = dict.fromkeys([*(text for text in merged if text not in added), *plain])
    scores = {text: float(-rank) if rank else 0.0 for rank, text in enumerate(ranked)}
    return {text: ADDED_SCORE if text in added else scores.get(text, 0.0) for text in vocabulary}


def split_merge(merge: str | list[str]) -> tuple[str, str]:
    """Both halves of a merge, as older and newer versions of `tokenizers` write it."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def require_every_split(texts: list[str], vocabulary: dict[str, int], pairs: dict[tuple[str, str], None], path: Path) -> None:
    """Each way to make a token of two others is a merge. Raises PipelineError with the first that is not."""
    for text in texts:
        for at in range(1, len(text)):
            pair = text[:at], text[at:]
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in pairs:
                raise PipelineError(
                    f"{path}: {text!r} is a token, but its parts {pair[0]!r} and {pair[1]!r} are no merge: this is not a "
                    f"converted SentencePiece model, and llama.cpp would join them; {OWN_LLAMA_CPP}"
                )
