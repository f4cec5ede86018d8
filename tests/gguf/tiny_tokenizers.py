"""
Tokenizer files of every family, small, and trained when they are asked for.

Vocabulary and merges come from invented text; everything around them (normalizer, splitter, decoder, post-processor, special
tokens, the settings beside tokenizer.json) has the shape that the family is published with.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from demo.tiny_phi3 import CHAT_TEMPLATE, GPT4O_SPLIT
from distill.files import write_json_atomic
from tests.gguf.odd_documents import invent_documents
from tests.tiny_models import invent_text
from tests.training.chat_templates import GEMMA_3, LLAMA_3, MISTRAL_3, QWEN_3

CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WHITE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K_SPLIT = rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{WHITE}"
QWEN_SPLIT = CL100K_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_SPLIT = GPT4O_SPLIT.replace(CONTRACTION + "?", "").replace(r"\p{N}{1,3}", r"\p{N}")

PHI_4 = """{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

# Nemo writes what Mistral v0.3 writes, without the space behind [INST] and before an answer.
NEMO = MISTRAL_3.replace("'[INST] '", "'[INST]'").replace("' ' + message['content'] | trim", "message['content']")

MISTRAL_MARKERS = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
                   "[/TOOL_RESULTS]")
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_pad|>", "<|image_pad|>")
QWEN_PLAIN = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_pad|>", "<tool_response>", "<think>", "</think>")
HTML = ("<table>", "<tr>", "<td>", "</table>", "</tr>", "</td>", "<h1>", "</h1>", "<strong>", "</strong>", "<s>", "</s>",
        "<code>", "</code>", "<a>", "<img>", "<ul>", "<li>", "<div>", "</div>")
RUNS = 8  # the published Gemma has runs of up to 31


@dataclass(frozen=True)
class Bytes:
    """A byte-level family: its expression, and special tokens behind the vocabulary (or before it)."""

    split: str
    special: tuple[str, ...]
    template: str
    settings: dict[str, Any]
    plain: tuple[str, ...] = ()
    special_first: bool = False
    inverted: bool = False
    ignore_merges: bool = False
    normalizer: Any = None
    bos: str | None = None


@dataclass(frozen=True)
class Pieces:
    """A SentencePiece family: how white space is marked, and the tokens before the bytes."""

    special: tuple[str, ...]
    template: str
    settings: dict[str, Any]
    plain: tuple[str, ...] = ()
    prefix: str | None = None
    bos: str = "<s>"
    unknown: str = "<unk>"


FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 131072}
LLAMA_SETTINGS = {
    "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    "pad_token": None, "sp_model_kwargs": {}, "spaces_between_special_tokens": False, "tokenizer_class": "LlamaTokenizer",
    "use_default_system_prompt": False, "model_max_length": 1000000000000000019884624838656,
}
FAMILIES: dict[str, Bytes | Pieces] = {
    "phi4mini": Bytes(
        GPT4O_SPLIT,
        ("<|endoftext|>", "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>"),
        CHAT_TEMPLATE, {
            "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
            "model_max_length": 131072, "tokenizer_class": "GPT2Tokenizer",
        }, plain=("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>"), inverted=True),
    "phi4": Bytes(
        CL100K_SPLIT, ("<|endoftext|>", "<|fim_prefix|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|dummy_85|>"), PHI_4, {
            "add_prefix_space": False, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|dummy_85|>",
            "unk_token": "<|endoftext|>", "model_max_length": 16384, "tokenizer_class": "GPT2Tokenizer",
        }, inverted=True),
    "llama3": Bytes(
        CL100K_SPLIT, ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>",
                       "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"), LLAMA_3,
        {**FAST, "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "clean_up_tokenization_spaces": True},
        ignore_merges=True, bos="<|begin_of_text|>"),
    "nemo": Bytes(
        TEKKEN_SPLIT, ("<unk>", "<s>", "</s>", *MISTRAL_MARKERS, "<pad>", "<SPECIAL_11>", "<SPECIAL_12>"), NEMO, {
            **FAST, "add_bos_token": True, "add_eos_token": False, "add_prefix_space": False, "bos_token": "<s>",
            "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
        }, special_first=True, ignore_merges=True, bos="<s>"),
    "qwen3": Bytes(
        QWEN_SPLIT, QWEN_SPECIAL, QWEN_3, {
            "add_bos_token": False, "add_prefix_space": False, "additional_special_tokens": list(QWEN_SPECIAL[1:]),
            "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
            "errors": "replace", "clean_up_tokenization_spaces": False, "model_max_length": 131072,
            "tokenizer_class": "Qwen2Tokenizer",
        }, plain=QWEN_PLAIN, normalizer=normalizers.NFC()),
    "llama2": Pieces(("<unk>", "<s>", "</s>"), MISTRAL_3, {**LLAMA_SETTINGS, "legacy": True}, prefix="always"),
    "mistral_v3": Pieces(
        ("<unk>", "<s>", "</s>", *MISTRAL_MARKERS, "[control_8]", "[control_9]"), MISTRAL_3,
        {**LLAMA_SETTINGS, "add_prefix_space": True, "legacy": False}, prefix="first"),
    "gemma3": Pieces(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"), GEMMA_3, {
            "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>", "eos_token": "<end_of_turn>",
            "pad_token": "<pad>", "unk_token": "<unk>", "boi_token": "<start_of_image>", "clean_up_tokenization_spaces": False,
            "sp_model_kwargs": None, "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer",
            "use_default_system_prompt": False, "model_max_length": 1000000000000000019884624838656,
        }, plain=("<mask>", "[multimodal]", "<unused0>", "<unused1>", *("\n" * count for count in range(1, RUNS + 1)),
                  *("▁" * count for count in range(2, RUNS + 1)), *("\t" * count for count in range(1, RUNS + 1)), *HTML),
        bos="<bos>"),
}


def write_tokenizer_files(folder: Path, family: str, vocab_size: int = 1000, *, template_file: bool | None = None) -> Tokenizer:
    """
    Write tokenizer.json and tokenizer_config.json (and tokenizer.model, where the family has one) of about `vocab_size` tokens.

    family: a key of FAMILIES. template_file: the chat template stands in chat_template.jinja instead of tokenizer_config.json;
    by default for Gemma 3 and Llama 3.
    """
    shape = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_bytes(shape, vocab_size) if isinstance(shape, Bytes) else build_pieces(shape, vocab_size, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {**shape.settings, "added_tokens_decoder": describe_added(tokenizer)}
    if template_file if template_file is not None else family in ("gemma3", "llama3"):
        (folder / "chat_template.jinja").write_text(shape.template, encoding="utf-8", newline="\n")
    else:
        settings["chat_template"] = shape.template
    write_json_atomic(folder / "tokenizer_config.json", settings)
    return tokenizer


def describe_added(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """tokenizer_config.json's own list of the added tokens."""
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = tokenizer.get_added_tokens_decoder()
    return {str(index): {name: getattr(token, name) for name in names} for index, token in added.items()}


@cache
def training_texts() -> tuple[str, ...]:
    """Plain sentences, and documents with every kind of character."""
    return (*invent_text(), *invent_documents(400, seed=9))


# -----------------------------------------------------------------------------
# Byte-level


def build_bytes(shape: Bytes, vocab_size: int) -> Tokenizer:
    """A byte-level BPE; vocabulary and added tokens together have `vocab_size` entries."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=shape.ignore_merges))
    tokenizer.normalizer = shape.normalizer
    behaviour = {"behavior": "removed", "invert": True} if shape.inverted else {"behavior": "isolated", "invert": False}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(shape.split), **behaviour)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    behind = 0 if shape.special_first else len(shape.special)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - behind - len(shape.plain), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(shape.special) if shape.special_first else [], show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(), trainer)
    tokenizer.add_special_tokens([mark(text, True) for text in shape.special])
    tokenizer.add_tokens([mark(text, False) for text in shape.plain])
    tokenizer.post_processor = begin_with(tokenizer, shape.bos) if shape.bos else processors.ByteLevel(trim_offsets=False)
    return tokenizer


def mark(text: str, special: bool) -> AddedToken:
    return AddedToken(text, special=special, normalized=False)


def begin_with(tokenizer: Tokenizer, text: str) -> Any:
    """A post-processor that puts one token before every text."""
    return processors.TemplateProcessing(f"{text} $A", f"{text} $A {text}:1 $B:1", [(text, tokenizer.token_to_id(text))])


# -----------------------------------------------------------------------------
# SentencePiece


def build_pieces(shape: Pieces, vocab_size: int, folder: Path) -> Tokenizer:
    """A BPE with byte fallback, as converted from the tokenizer.model that is written beside it."""
    fixed = [*shape.special, *shape.plain]
    first = len(fixed) + 256
    merged, letters = ([text for text in texts if text not in fixed] for texts in train_pieces(vocab_size - first))
    ordered = [*fixed, *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *letters]
    vocabulary = {text: index for index, text in enumerate(ordered)}
    runs = sorted((text for text in shape.plain if is_run(text)), key=len, reverse=True)
    merges = [pair for text in (*runs, *merged) for pair in list_splits(text, vocabulary)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=shape.unknown, fuse_unk=True, byte_fallback=True))
    surround(tokenizer, shape)
    tokenizer.add_special_tokens([mark(text, True) for text in shape.special])
    tokenizer.add_tokens([mark(text, False) for text in shape.plain])
    tokenizer.post_processor = begin_with(tokenizer, shape.bos)
    write_sentencepiece(folder / "tokenizer.model", ordered, shape, len(fixed))
    return tokenizer


def surround(tokenizer: Tokenizer, shape: Pieces) -> None:
    """Normalizer, pre-tokenizer and decoder of the three ways to mark white space."""
    decoder = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if shape.prefix == "first":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    elif shape.prefix == "always":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence([*decoder, decoders.Strip(" ", 1, 0)] if shape.prefix else decoder)


def is_run(text: str) -> bool:
    return len(text) > 1 and len(set(text)) == 1


@cache
def train_pieces(count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What merges make, best first, and the single characters; `count` together."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=count, limit_alphabet=count // 4, show_progress=False)
    tokenizer.train_from_iterator(training_texts(), trainer)
    texts = [text for text, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    return tuple(text for text in texts if len(text) > 1), tuple(text for text in texts if len(text) == 1)


def list_splits(text: str, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a token of two others, the older left half first: what a conversion from SentencePiece lists."""
    pairs = [(text[:at], text[at:]) for at in range(1, len(text)) if {text[:at], text[at:]} <= vocabulary.keys()]
    return sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


# Numbers of sentencepiece_model.proto.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def write_sentencepiece(path: Path, pieces: Sequence[str], shape: Pieces, fixed: int) -> None:
    """The tokenizer.model that llama.cpp's own converter asks for; real ones score the n-th piece behind the bytes with -n."""
    kinds = {text: USER_DEFINED for text in shape.plain} | {text: CONTROL for text in shape.special} | {shape.unknown: UNKNOWN}
    first = fixed + 256
    body = b""
    for index, text in enumerate(pieces):
        kind = BYTE if fixed <= index < first else kinds.get(text, NORMAL)
        body += field(1, field(1, text.encode("utf-8")) + single(2, float(min(0, first - index))) + number(3, kind))
    ids = {text: index for index, text in enumerate(pieces)}
    trainer = number(3, 2) + number(4, len(pieces)) + number(35, 1)
    trainer += number(40, ids[shape.unknown]) + number(41, ids[shape.bos])
    normalizer = field(1, b"identity") + number(3, int(shape.prefix is not None)) + number(4, 0) + number(5, 1)
    path.write_bytes(body + field(2, trainer) + field(3, normalizer))


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(tag: int, value: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(value)) + value


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def single(tag: int, value: float) -> bytes:
    return varint(tag << 3 | 5) + struct.pack("<f", value)
