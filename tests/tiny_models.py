"""
A random student small enough for tests, with everything that makes Phi-4-mini awkward.

Fused qkv_proj and gate_up_proj, grouped-query attention, partial rotary embeddings, longrope factors, tied embeddings, more
embedding rows than tokens, several safetensors shards, and a byte-level BPE with Phi-4-mini's splitter, chat markers and chat
template. The weights are noise, but large enough that the next-token distributions are far from uniform.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

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

SPECIAL_TOKENS = ("<|endoftext|>", "<|endofprompt|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)

SUBJECTS = ("the pump", "a valve", "the operator", "our inspector", "the cooling loop", "this gauge", "a spare filter")
VERBS = ("checks", "replaces", "records", "opens", "isolates", "measures", "reports", "tightens", "cleans", "shuts down")
OBJECTS = ("the relief line", "every flange bolt", "two seals", "the oil level", "a torque of 45 Nm", "the log book")
ENDINGS = ("before start-up", "every 250 hours", "when it's above 80 degrees", "as section 4.2 says", "twice a year")


def invent_sentences(count: int, seed: int = 0) -> list[str]:
    """Plain English sentences about a plant that does not exist; the same seed gives the same sentences."""
    rng = random.Random(seed)
    parts = [[rng.choice(choices) for choices in (SUBJECTS, VERBS, OBJECTS, ENDINGS)] for _ in range(count)]
    return [" ".join(part).capitalize() + "." for part in parts]


def train_tokenizer(vocab_size: int):
    """A `tokenizers.Tokenizer` of at most `vocab_size` entries, the special tokens last, as in Phi-4-mini."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(GPT4O_SPLIT), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    rng = random.Random(1)
    words = ["".join(rng.choice("aeioubcdfglmnprst") for _ in range(rng.randint(2, 7))) for _ in range(3_000)]
    text = invent_sentences(1_000) + [" ".join(rng.choices(words, k=12)) for _ in range(500)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tiny_tokenizer(folder: Path, vocab_size: int = 1_000) -> int:
    """Write tokenizer.json and tokenizer_config.json as Microsoft ships them; returns the number of tokens."""
    tokenizer = train_tokenizer(vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True
        }
        for token in SPECIAL_TOKENS
    }
    settings = {
        "add_bos_token": False, "add_eos_token": False, "add_prefix_space": False, "added_tokens_decoder": decoder,
        "bos_token": "<|endoftext|>", "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>", "model_max_length": 131072, "pad_token": "<|endoftext|>",
        "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>",
    }
    write_json(folder / "tokenizer_config.json", settings)
    return tokenizer.get_vocab_size()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8", newline="\n")


def tiny_rope_factors(count: int) -> tuple[list[float], list[float]]:
    """Short and long longrope factors. Phi-4-mini's short ones are all 1.0; these are not, so that a lost tensor shows."""
    short = [1.0 + 0.01 * index for index in range(count)]
    long = [1.0 + 1.5 * index for index in range(count)]
    return short, long


def tiny_config(vocab_size: int, token_id: int, *, layers: int, hidden: int, tied: bool) -> dict:
    """config.json in the style of the Hugging Face hub (rope_scaling and rope_theta)."""
    heads = hidden // 64
    short, long = tiny_rope_factors(24)
    return {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": token_id, "embd_pdrop": 0.0, "eos_token_id": token_id, "hidden_act": "silu", "hidden_size": hidden,
        "initializer_range": 0.05, "intermediate_size": 2 * hidden, "max_position_embeddings": 131072,
        "model_type": "phi3", "num_attention_heads": heads, "num_hidden_layers": layers,
        "num_key_value_heads": heads // 2, "original_max_position_embeddings": 4096, "pad_token_id": token_id,
        "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": long}, "rope_theta": 10000.0,
        "sliding_window": 262144, "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "use_cache": True,
        "vocab_size": vocab_size,
    }


def write_tiny_phi3(
    folder: Path, *, layers: int = 2, hidden: int = 256, vocab_size: int = 1_000, tied: bool = True, seed: int = 0,
    hub_style: bool = True, max_shard_size: str = "1MB",
) -> Path:
    """
    Write a random Phi-4-mini-shaped model (bfloat16, heads of 64, `hidden` a multiple of 128) with its tokenizer.

    `hub_style` keeps config.json as Microsoft publishes it; False leaves what transformers 5 saved (rope_parameters).
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    tokens = write_tiny_tokenizer(folder, vocab_size)
    end = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|endoftext|>")
    rows = (tokens + 64) // 64 * 64
    shape = tiny_config(rows, end, layers=layers, hidden=hidden, tied=tied)
    write_json(folder / "config.json", shape)
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        randomise_norms(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if hub_style:
        write_json(folder / "config.json", shape)
    return folder


def randomise_norms(model) -> None:
    """Norms of exactly one would hide a norm that went to the wrong place."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter))


def write_random_lora(
    base: Path, folder: Path, *, rank: int = 8, alpha: int = 16, use_rslora: bool = False, seed: int = 0,
    target_modules: tuple[str, ...] = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
) -> Path:
    """Write a PEFT LoRA adapter for the model in `base` whose B matrices are random, not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(target_modules), use_rslora=use_rslora, task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(model, settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.02)
    tuned.save_pretrained(folder)
    return Path(folder)
