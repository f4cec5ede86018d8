"""A student of Phi-4-mini's shape and of toy size: its tokenizer files and config.json as Microsoft publishes them.

Fused qkv_proj and gate_up_proj, grouped-query attention, partial rotary embeddings, longrope factors, tied embeddings, and a
byte-level BPE with Phi-4-mini's splitter, chat markers and chat template.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.files import write_json_atomic

# The splitter of Phi-4-mini's tokenizer.json (OpenAI's o200k_base), which llama.cpp calls "gpt-4o".
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
UPPER, LOWER, LEAD = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[^\r\n\p{L}\p{N}]?"
GPT4O_SPLIT = "|".join((
    f"{LEAD}{UPPER}*{LOWER}+{CONTRACTION}",
    f"{LEAD}{UPPER}+{LOWER}*{CONTRACTION}",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
))

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)


def write_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int) -> Any:
    """Train a tokenizer of at most `vocab_size` entries on `texts`, the special tokens last, and write its files.

    Returns the `tokenizers.Tokenizer`.
    """
    tokenizer = train_tokenizer(texts, vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"content": "", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write_json_atomic(folder / "tokenizer_config.json", {
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {**settings, "content": token} for token in SPECIAL_TOKENS
        },
        "bos_token": END_OF_TEXT, "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT, "model_max_length": 131072, "pad_token": END_OF_TEXT,
        "tokenizer_class": "GPT2Tokenizer", "unk_token": END_OF_TEXT,
    })
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE with Phi-4-mini's splitter."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(GPT4O_SPLIT), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def describe_shape(
    tokens: int, end_of_text: int, *, layers: int = 2, hidden: int = 256, feed_forward: int = 512, tied: bool = True,
    initializer_range: float = 0.02,
) -> dict[str, Any]:
    """config.json in the style of the Hugging Face hub (rope_scaling and rope_theta); heads of 64, one key head for two.

    Embedding rows are rounded up beyond the tokens, as Phi-4-mini's are.
    """
    heads = hidden // 64
    return {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": end_of_text, "embd_pdrop": 0.0, "eos_token_id": end_of_text, "hidden_act": "silu",
        "hidden_size": hidden, "initializer_range": initializer_range, "intermediate_size": feed_forward,
        "max_position_embeddings": 131072, "model_type": "phi3", "num_attention_heads": heads,
        "num_hidden_layers": layers, "num_key_value_heads": heads // 2, "original_max_position_embeddings": 4096,
        "pad_token_id": end_of_text, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": describe_rope(24), "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": (tokens + 64) // 64 * 64,
    }


def describe_rope(count: int) -> dict[str, Any]:
    """Longrope factors. Phi-4-mini's short ones are all 1.0; these are not, so that a tensor lost on the way shows."""
    short = [1.0 + 0.01 * index for index in range(count)]
    long = [1.0 + 1.5 * index for index in range(count)]
    return {"type": "longrope", "short_factor": short, "long_factor": long}
