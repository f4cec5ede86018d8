"""
A byte-level BPE tokenizer.json as the vocabulary of a GGUF.

llama.cpp does not run a tokenizer's regular expressions; it knows splitters by name. The name is found from the sha256 of the
expressions, and an unknown one stops the export: a wrong splitter gives a model that answers slightly wrong for ever.
Reads the base model's own files; never a tokenizer that another library saved again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from distill.errors import PipelineError
from distill.files import read_json, read_text

# sha256 of the Split expressions, joined by line feeds, to llama.cpp's name.
SPLITTERS = {
    "2d1b8dc11e89af71459b36004f698ab3693f59fd84f63e8ec2b49564ab857420": "gpt-4o",  # Phi-4-mini (OpenAI's o200k_base)
    "": "gpt-2",  # none: ByteLevel's own expression
}
SPECIAL_ROLES = ("bos", "eos", "unk", "pad")


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF says about a tokenizer; `tokens` and `kinds` have one entry for each row of the embedding."""

    tokens: list[str]
    kinds: list[TokenType]
    merges: list[str]
    splitter: str
    special_ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """
    Read tokenizer.json, tokenizer_config.json and, if present, chat_template.jinja.

    rows: of the embedding; ids without a token become unused entries. Raises PipelineError for a missing file, a model
    other than byte-level BPE, an unknown splitter, and more tokens than rows.
    """
    path = folder / "tokenizer.json"
    definition = read_json(path)
    settings = read_json(folder / "tokenizer_config.json")
    require_byte_level_bpe(definition, path)
    tokens, kinds = list_tokens(definition, rows, path)
    special_ids = find_special_ids(settings, definition, folder)
    first, last = added_around(path)
    return Vocabulary(
        tokens=tokens,
        kinds=kinds,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in definition["model"]["merges"]],
        splitter=recognise_splitter(definition, path),
        special_ids=special_ids,
        add_bos=settings.get("add_bos_token", first is not None and first == special_ids.get("bos")),
        add_eos=settings.get("add_eos_token", last is not None and last == special_ids.get("eos")),
        chat_template=read_chat_template(folder, settings),
    )


def require_byte_level_bpe(definition: dict[str, Any], path: Path) -> None:
    """Raises PipelineError for anything that llama.cpp's "gpt2" vocabulary would read differently."""
    model = definition["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        kind = model["type"] + (" with byte fallback" if model.get("byte_fallback") else "")
        raise PipelineError(f"{path}: only byte-level BPE tokenizers are supported, this one is {kind}")
    if definition.get("normalizer"):
        raise PipelineError(f"{path}: the normalizer {definition['normalizer']['type']} is unknown to this exporter")


# -----------------------------------------------------------------------------
# Splitter


def recognise_splitter(definition: dict[str, Any], path: Path) -> str:
    """llama.cpp's name of the pre-tokenizer. Raises PipelineError that says what is unknown."""
    *splits, byte_level = flatten_splitters(definition.get("pre_tokenizer")) or [{"type": "none"}]
    known_kinds = byte_level["type"] == "ByteLevel" and all("Regex" in split.get("pattern", {}) for split in splits)
    own_expression = byte_level.get("use_regex", True)
    if not known_kinds or byte_level.get("add_prefix_space") or own_expression == bool(splits):
        kinds = ", ".join(part["type"] for part in (*splits, byte_level))
        raise PipelineError(f"{path}: a pre-tokenizer made of {kinds} with these options is unknown to this exporter")
    expressions = "\n".join(split["pattern"]["Regex"] for split in splits)
    digest = hashlib.sha256(expressions.encode("utf-8")).hexdigest() if splits else ""
    if digest not in SPLITTERS:
        raise PipelineError(
            f"{path}: the splitter with sha256 {digest[:16]}... ({expressions[:60]!r}...) is unknown: "
            "add its llama.cpp name to SPLITTERS in distill/gguf/tokenizer.py, or use Phi-4-mini"
        )
    return SPLITTERS[digest]


def flatten_splitters(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer, sequences opened."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for inner in part["pretokenizers"] for step in flatten_splitters(inner)]


# -----------------------------------------------------------------------------
# Tokens


def list_tokens(definition: dict[str, Any], rows: int, path: Path) -> tuple[list[str], list[TokenType]]:
    """Text and kind of every id below `rows`."""
    added = {entry["id"]: entry for entry in definition.get("added_tokens", [])}
    texts = {index: text for text, index in definition["model"]["vocab"].items()}
    texts.update({index: entry["content"] for index, entry in added.items()})
    if max(texts) >= rows:
        raise PipelineError(f"{path} has token id {max(texts)} but the model's embedding only {rows} rows")
    tokens = [texts.get(index, f"[PAD{index}]") for index in range(rows)]
    kinds = [kind_of(index, texts, added) for index in range(rows)]
    return tokens, kinds


def kind_of(index: int, texts: dict[int, str], added: dict[int, dict[str, Any]]) -> TokenType:
    """Control tokens are never printed; llama.cpp takes whatever looks like <|this|> for one, special or not."""
    if index not in texts:
        return TokenType.UNUSED
    if index not in added:
        return TokenType.NORMAL
    looks_special = texts[index].startswith("<|") and texts[index].endswith("|>")
    return TokenType.CONTROL if added[index].get("special") or looks_special else TokenType.USER_DEFINED


def find_special_ids(settings: dict[str, Any], definition: dict[str, Any], folder: Path) -> dict[str, int]:
    """The ids of bos, eos, unk and pad: tokenizer_config.json names them, config.json fills what it leaves out."""
    ids = {entry["content"]: entry["id"] for entry in definition.get("added_tokens", [])}
    config = read_json(folder / "config.json")
    found = {}
    for role in SPECIAL_ROLES:
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        index = ids.get(text, config.get(f"{role}_token_id"))
        if isinstance(index, int):
            found[role] = index
    return found


def added_around(path: Path) -> tuple[int | None, int | None]:
    """First and last id that the tokenizer itself puts around a text, None where it puts nothing."""
    tokenizer = Tokenizer.from_file(str(path))
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    return (full[0] if full[0] != bare[0] else None, full[-1] if full[-1] != bare[-1] else None)


def read_chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The default Jinja template; transformers prefers chat_template.jinja, and so does this."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template


# -----------------------------------------------------------------------------
# Writing


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Add the tokenizer's keys to a GGUF that has not been opened yet."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.splitter)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([int(kind) for kind in vocabulary.kinds])
    writer.add_token_merges(vocabulary.merges)
    for role, index in vocabulary.special_ids.items():
        getattr(writer, f"add_{role}_token_id")(index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
