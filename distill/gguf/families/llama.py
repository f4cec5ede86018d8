"""
Llama (3, 3.1, 3.2 and older) and Mistral (7B of all versions, Nemo), which are one architecture to llama.cpp.

The rows of q_proj and k_proj are reordered: llama.cpp rotates neighbouring rows of a head, Hugging Face its two halves.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES

from distill.gguf.families.common import Model, Weight, limit_context
from distill.gguf.families.decoder import (
    COMPUTED,
    Rope,
    Shape,
    describe_keys,
    list_layer_tensors,
    list_weights,
    read_rope,
    read_shape,
    require_values,
)

ARCHITECTURE = MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA]
# What Hugging Face takes for a key that config.json leaves out.
MISTRAL_DEFAULTS = {"sliding_window": 4096}


def describe_llama(config: dict[str, Any], path: Path) -> Model:
    """Raises PipelineError for what llama.cpp's Llama lacks."""
    return describe(config, path, "llama", window=None)


def describe_mistral(config: dict[str, Any], path: Path) -> Model:
    """Raises PipelineError for what llama.cpp's Llama lacks; that is no sliding window: it limits the context."""
    config = MISTRAL_DEFAULTS | config
    return describe(config, path, "mistral", window=config["sliding_window"])


def describe(config: dict[str, Any], path: Path, family: str, window: int | None) -> Model:
    """One description for both."""
    require_values(config, path, {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"})
    shape, rope = read_shape(config), read_rope(config, path, ("default", "linear", "llama3"))
    context, reason = limit_context(shape.context, window)
    keys = {**describe_keys(shape, rope), "vocab_size": shape.vocabulary, "rope.dimension_count": shape.head}
    return Model(
        folder=path.parent,
        family=family,
        architecture=ARCHITECTURE,
        vocabulary=shape.vocabulary,
        layers=shape.layers,
        tied=shape.tied,
        trained_context=context,
        context_reason=reason,
        metadata={f"{ARCHITECTURE}.{key}": value for key, value in keys.items()},
        constants=list_constants(shape, rope),
        weights=tuple(pair_rows(weight, shape) for weight in list_weights(shape, list_layer_tensors(shape))),
        ignored=rf"{COMPUTED}|lm_head\.weight" if shape.tied else COMPUTED,
    )


def pair_rows(weight: Weight, shape: Shape) -> Weight:
    """Queries and keys with their number of heads, others as they are."""
    heads = {"q_proj": shape.heads, "k_proj": shape.kv_heads}
    return dataclasses.replace(weight, heads=heads.get(weight.source.split(".")[-2], 0))


def list_constants(shape: Shape, rope: Rope) -> dict[str, tuple[float, ...]]:
    """Llama 3.1's frequency factors [head / 2] by GGUF name; none for other kinds."""
    if rope.kind != "llama3":
        return {}
    return {f"{TENSOR_NAMES[MODEL_TENSOR.ROPE_FREQS]}.weight": compute_llama3_factors(shape.head, rope)}


def compute_llama3_factors(head: int, rope: Rope) -> tuple[float, ...]:
    """
    What each rotary frequency is divided by: nothing for short waves, `factor` for long ones, a passage between.

    After _compute_llama3_parameters in transformers' modeling_rope_utils.py.
    """
    low, high, factor, original = (
        rope.settings[key]
        for key in ("low_freq_factor", "high_freq_factor", "factor", "original_max_position_embeddings")
    )
    factors = []
    for index in range(0, head, 2):
        waves = original / (2 * math.pi * rope.theta ** (index / head))
        kept = min(max((waves - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - kept) / factor + kept))
    return tuple(factors)
