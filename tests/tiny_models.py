"""
A random student small enough for tests, with everything that makes Phi-4-mini awkward.

Fused qkv_proj and gate_up_proj, grouped-query attention, partial rotary embeddings, longrope factors, tied embeddings, more
embedding rows than tokens, several safetensors shards, and a byte-level BPE with Phi-4-mini's splitter, chat markers and chat
template. The weights are noise, but large enough that the next-token distributions are far from uniform.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from demo.tiny_phi3 import END_OF_TEXT, describe_shape, write_tokenizer
from distill.files import write_json_atomic

SUBJECTS = ("the pump", "a valve", "the operator", "our inspector", "the cooling loop", "this gauge", "a spare filter")
VERBS = ("checks", "replaces", "records", "opens", "isolates", "measures", "reports", "tightens", "cleans", "shuts down")
OBJECTS = ("the relief line", "every flange bolt", "two seals", "the oil level", "a torque of 45 Nm", "the log book")
ENDINGS = ("before start-up", "every 250 hours", "when it's above 80 degrees", "as section 4.2 says", "twice a year")


def invent_sentences(count: int, seed: int = 0) -> list[str]:
    """Plain English sentences about a plant that does not exist; the same seed gives the same sentences."""
    rng = random.Random(seed)
    parts = [[rng.choice(choices) for choices in (SUBJECTS, VERBS, OBJECTS, ENDINGS)] for _ in range(count)]
    return [" ".join(part).capitalize() + "." for part in parts]


def invent_text() -> list[str]:
    """What the tests' tokenizer is trained on: the sentences above, and words that mean nothing."""
    rng = random.Random(1)
    words = ["".join(rng.choice("aeioubcdfglmnprst") for _ in range(rng.randint(2, 7))) for _ in range(3_000)]
    return invent_sentences(1_000) + [" ".join(rng.choices(words, k=12)) for _ in range(500)]


def write_tiny_phi3(
    folder: Path, *, layers: int = 2, hidden: int = 256, vocab_size: int = 1_000, tied: bool = True, seed: int = 0,
    hub_style: bool = True, max_shard_size: str = "1MB",
) -> Path:
    """
    Write a random Phi-4-mini-shaped model (bfloat16, heads of 64, `hidden` a multiple of 128) with its tokenizer.

    `hub_style` keeps config.json as Microsoft publishes it; False leaves what transformers 5 saved (rope_parameters).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(folder)
    tokenizer = write_tokenizer(folder, invent_text(), vocab_size)
    shape = describe_shape(
        tokenizer.get_vocab_size(), tokenizer.token_to_id(END_OF_TEXT), layers=layers, hidden=hidden,
        feed_forward=2 * hidden, tied=tied, initializer_range=0.05,
    )
    write_json_atomic(folder / "config.json", shape)
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        randomise_norms(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if hub_style:
        write_json_atomic(folder / "config.json", shape)
    return folder


def randomise_norms(model: Any) -> None:
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
