"""
llama.cpp's name of a byte-level tokenizer's splitter.

llama.cpp does not run a tokenizer's regular expressions; it knows splitters by name. The name is found from the sha256 of the
expressions, and anything unknown stops the export: a wrong splitter gives a model that answers slightly wrong for ever.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.gguf.families.common import OWN_LLAMA_CPP

# sha256 of the Split expressions, joined by line feeds, and whether a whole word is looked up before merges are tried
# (ignore_merges): llama.cpp's name decides both. Llama 3 and Phi-4 14B differ in the second only.
SPLITTERS = {
    ("2d1b8dc11e89af71459b36004f698ab3693f59fd84f63e8ec2b49564ab857420", False): "gpt-4o",  # Phi-4-mini (OpenAI's o200k_base)
    ("d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f", False): "dbrx",  # Phi-4 14B (OpenAI's cl100k_base)
    ("d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f", True): "llama-bpe",  # Llama 3
    ("1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e", False): "qwen2",  # Qwen 2, 2.5 and 3
    ("1d64a9a8eaf9f1bd80331984d81fdd514e7feafe8df83a525dd31472f275699a", True): "tekken",  # Mistral Nemo
    ("1d64a9a8eaf9f1bd80331984d81fdd514e7feafe8df83a525dd31472f275699a", False): "tekken",
    ("", False): "gpt-2",  # none: ByteLevel's own expression
}


def recognise_splitter(definition: dict[str, Any], path: Path) -> str:
    """
    llama.cpp's name of the pre-tokenizer in a byte-level tokenizer.json.

    Raises PipelineError that says what is unknown: the steps and their options, the expression, or the normalizer.
    """
    require_known_normalizer(definition, path)
    *splits, byte_level = flatten_splitters(definition.get("pre_tokenizer")) or [{"type": "none"}]
    known_kinds = byte_level["type"] == "ByteLevel" and all(is_plain_split(split) for split in splits)
    own_expression = byte_level.get("use_regex", True)
    if not known_kinds or byte_level.get("add_prefix_space") or own_expression == bool(splits):
        kinds = ", ".join(part["type"] for part in (*splits, byte_level))
        raise PipelineError(
            f"{path}: a pre-tokenizer made of {kinds} with these options is unknown to this exporter; {OWN_LLAMA_CPP}"
        )
    expressions = "\n".join(split["pattern"]["Regex"] for split in splits)
    return find_name(expressions, definition["model"].get("ignore_merges", False), path)


def find_name(expressions: str, ignore_merges: bool, path: Path) -> str:
    """The entry of SPLITTERS."""
    digest = hashlib.sha256(expressions.encode("utf-8")).hexdigest() if expressions else ""
    if (digest, ignore_merges) not in SPLITTERS:
        raise PipelineError(
            f"{path}: the splitter with sha256 {digest[:16]}... ({expressions[:60]!r}..., ignore_merges {ignore_merges}) is "
            f"unknown to this exporter; {OWN_LLAMA_CPP}"
        )
    return SPLITTERS[digest, ignore_merges]


def require_known_normalizer(definition: dict[str, Any], path: Path) -> None:
    """NFC passes, although llama.cpp normalises nothing: nearly all text is NFC, and the export compares the user's own."""
    normalizer = definition.get("normalizer")
    if normalizer and normalizer["type"] != "NFC":
        raise PipelineError(f"{path}: the normalizer {normalizer['type']} is unknown to this exporter; {OWN_LLAMA_CPP}")


def is_plain_split(split: dict[str, Any]) -> bool:
    """A Split that gives the expression's matches: kept in between the rest, or with the rest (which is empty) thrown away."""
    if split["type"] != "Split" or "Regex" not in split["pattern"]:
        return False
    return (split["behavior"], split.get("invert", False)) in (("Isolated", False), ("Removed", True))


def flatten_splitters(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer, sequences opened."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for inner in part["pretokenizers"] for step in flatten_splitters(inner)]
