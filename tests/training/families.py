"""Random two-layer models of the families that people fine-tune, fused and separate projections, and rows for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from distill.training.encode import IGNORE, EncodedExample
from distill.training.lora import resolve_targets
from tests.tiny_models import randomise_norms

VOCABULARY = 96
WINDOW = 8  # tokens of sliding attention, where a family has it; rows below are longer
FUSED = ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")
SEPARATE = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
FAMILIES = {"phi3": FUSED, "llama": SEPARATE, "mistral": SEPARATE, "gemma3_text": SEPARATE, "qwen3": SEPARATE}

SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
    "max_position_embeddings": 512,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    # Gemma 3 takes turns: most layers see a window, some see everything; its scores have a scale of their own.
    "gemma3_text": {
        "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16,
        "tie_word_embeddings": True,
    },
    "qwen3": {"tie_word_embeddings": True},
}


def make_model(family: str, **changes: Any) -> Any:
    """A frozen random model in float32 with transformers' own attention; the same family and changes give the same weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**SHAPE, **SPECIAL.get(family, {}), **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        randomise_norms(model)
    return model.eval().requires_grad_(False)


def make_wrapped_model() -> Any:
    """Gemma 3 as it is published, a decoder and a vision tower side by side; text alone is as in make_model."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma3Config

    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config={**SHAPE, **SPECIAL["gemma3_text"]}, vision_config=vision, mm_tokens_per_image=4,
        boi_token_index=VOCABULARY - 1, eoi_token_index=VOCABULARY - 2, image_token_index=VOCABULARY,
        eos_token_id=2, pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        randomise_norms(model)
    return model.eval().requires_grad_(False)


def add_random_lora(model: Any) -> Any:
    """The model with adapters in every linear layer of its decoder whose B matrices are not zero; each time the same ones."""
    import torch
    from peft import LoraConfig, get_peft_model

    targets, _ = resolve_targets(model, "all-linear")
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        adapted = get_peft_model(model, lora)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return adapted


def write_model(family: str, folder: Path, **changes: Any) -> Path:
    """The model of `make_model` on disk, without a tokenizer."""
    make_model(family, **changes).save_pretrained(folder)
    return folder


def make_row(name: str, prompt: int, answer: int, seed: int = 0) -> EncodedExample:
    """Random tokens, of which the last `answer` carry loss."""
    rng = random.Random(f"{name} {seed}")
    tokens = [rng.randrange(3, VOCABULARY) for _ in range(prompt + answer)]
    return EncodedExample(name, tokens, [IGNORE] * prompt + tokens[prompt:])


def make_rows(count: int, seed: int = 0, longest: int = 40) -> list[EncodedExample]:
    """Rows of mixed lengths, about a quarter of each carrying loss."""
    rng = random.Random(seed)
    lengths = [rng.randint(longest // 3, longest) for _ in range(count)]
    return [make_row(f"r{number}", length - length // 4, length // 4, seed) for number, length in enumerate(lengths)]
