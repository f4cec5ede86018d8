"""What a tokenizer's own files say about special tokens: their ids, what stands around every text, and the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from distill.files import read_json, read_text

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
# Texts that stand for no characters of an answer although tokenizer.json does not call them special: llama.cpp's converter
# goes by these looks.
LOOKS_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
LOOKS_SPECIAL_BETWEEN = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))


def is_control(entry: dict[str, Any]) -> bool:
    """An added token that is never printed."""
    text = entry["content"]
    looks = text in LOOKS_SPECIAL or any(text.startswith(start) and text.endswith(end) for start, end in LOOKS_SPECIAL_BETWEEN)
    return bool(entry.get("special")) or looks


def find_special_ids(settings: dict[str, Any], definition: dict[str, Any], folder: Path) -> dict[str, int]:
    """The id of each role that is filled: tokenizer_config.json names the tokens, config.json fills what it leaves out."""
    ids = {entry["content"]: entry["id"] for entry in definition.get("added_tokens", [])}
    config = read_json(folder / "config.json")
    found = {}
    for role in ROLES:
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        index = ids.get(text, read_config_id(config, f"{role}_token_id"))
        if isinstance(index, int):
            found[role] = index
    return found


def read_config_id(config: dict[str, Any], key: str) -> Any:
    """A key of config.json, or of the text model inside a multimodal one."""
    value = config.get(key)
    return (config.get("text_config") or {}).get(key) if value is None else value


def find_added_around(path: Path, settings: dict[str, Any], special_ids: dict[str, int]) -> tuple[bool, bool]:
    """Whether bos comes first and eos last: the post-processor decides; without one, tokenizer_config.json."""
    tokenizer = Tokenizer.from_file(str(path))
    if tokenizer.post_processor is None:
        return bool(settings.get("add_bos_token")), bool(settings.get("add_eos_token"))
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    first, last = full[0] != bare[0] and full[0], full[-1] != bare[-1] and full[-1]
    return (first is not False and first == special_ids.get("bos"), last is not False and last == special_ids.get("eos"))


def read_chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The default Jinja template; transformers prefers chat_template.jinja, and so does this."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template
