"""
Where llama.cpp makes other tokens of a text than the base's own tokenizer, and no GGUF can change that.

Each is a limit of llama.cpp, in its own converter's files too. A difference says which texts it can touch; every other text
must become the same tokens, and the export compares the user's own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill.gguf.vocabulary.sentencepiece import find_metaspace_scheme

# Their expressions in llama.cpp cut a word before a combining mark; the tokenizers' own do not.
CUTTING_AT_MARKS = ("gpt-4o", "tekken")


@dataclass(frozen=True)
class Difference:
    """sentence: what this tokenizer does that llama.cpp does not. touches: whether that can matter to a text."""

    sentence: str
    touches: Callable[[str], bool]


def list_differences(definition: dict[str, Any], splitter: str) -> list[Difference]:
    """What a tokenizer.json asks for that llama.cpp, told to use `splitter`, does not do."""
    found = []
    if (definition.get("normalizer") or {}).get("type") == "NFC":
        sentence = "composes characters (NFC) before it looks at a text; llama.cpp takes it as it is"
        found.append(Difference(sentence, is_decomposed))
    if splitter in CUTTING_AT_MARKS:
        sentence = "keeps combining marks (Hindi, Thai, accents written apart) in their word; llama.cpp cuts there"
        found.append(Difference(sentence, has_marks))
    return found + list_white_space(definition)


def list_white_space(definition: dict[str, Any]) -> list[Difference]:
    """Differences over spaces at the start of a text and beside special tokens."""
    found = []
    if beside := find_stripped(definition):
        sentence = "drops white space beside some of its special tokens; llama.cpp keeps it"
        found.append(Difference(sentence, lambda text: beside.search(text) is not None))
    scheme = find_metaspace_scheme(definition.get("pre_tokenizer"))
    added = tuple(entry["content"] for entry in definition.get("added_tokens", []))
    if scheme == "first":
        sentence = "puts a space before a text that starts with no special token; llama.cpp does not, as chats start with one"
        found.append(Difference(sentence, lambda text: not text.startswith(added)))
    if scheme == "always":
        sentence = "puts no space where a text starts with one already; llama.cpp always does"
        starts = re.compile("|".join(rf"(?:{start})[ \u2581]" for start in ("^", *map(re.escape, added))))
        found.append(Difference(sentence, lambda text: starts.search(text) is not None))
    return found


def find_stripped(definition: dict[str, Any]) -> re.Pattern[str] | None:
    """White space that a special token swallows; None where none does."""
    added = definition.get("added_tokens", [])
    places = [rf"\s{re.escape(entry['content'])}" for entry in added if entry.get("lstrip")]
    places += [rf"{re.escape(entry['content'])}\s" for entry in added if entry.get("rstrip")]
    return re.compile("|".join(places)) if places else None


def has_marks(text: str) -> bool:
    return any(unicodedata.category(character).startswith("M") for character in text)


def is_decomposed(text: str) -> bool:
    return not unicodedata.is_normalized("NFC", text)
