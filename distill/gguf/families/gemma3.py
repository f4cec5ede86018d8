"""
Gemma 3: the text models (1B) and the text part of those that also see (4B and more), whose vision tower is left out.

Its norms multiply by 1 + weight, so 1 is added. Five of six layers see a window and turn their rotary embedding by another base
than the sixth. The embedding's scale is part of llama.cpp's Gemma 3.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR

from distill.gguf.families.common import Model, Value, Weight, limit_context, make_refusal
from distill.gguf.families.decoder import (
    COMPUTED,
    LayerTensors,
    Rope,
    Shape,
    describe_keys,
    list_head_norms,
    list_layer_tensors,
    list_weights,
    read_rope,
    read_shape,
    require_values,
)

ARCHITECTURE = MODEL_ARCH_NAMES[MODEL_ARCH.GEMMA3]
FULL, WINDOWED = "full_attention", "sliding_attention"
PERIOD = 6  # every sixth layer sees everything: fixed in llama.cpp's Gemma 3, and in Ollama's
# llama.cpp knows the 27B, whose scale differs from the others', by its number of layers.
LAYERS_OF_27B = 62
# What Hugging Face takes for a key that config.json leaves out; Google's own files name only what differs.
DEFAULTS = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072, "sliding_window": 4096, "query_pre_attn_scalar": 256, "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}
THETA, WINDOWED_THETA = 1_000_000.0, 10_000.0
PREFIX = "language_model."
VISION = r"(vision_tower|multi_modal_projector)\..+"


def describe_gemma3(config: dict[str, Any], path: Path) -> Model:
    """Raises PipelineError for what llama.cpp's Gemma 3 lacks."""
    prefix = PREFIX if "text_config" in config else ""
    config = {**DEFAULTS, **config, **config.get("text_config", {})}
    shape = read_shape(config)
    full, windowed = read_ropes(config, path)
    require_supported(config, shape, path)
    context, reason = limit_context(shape.context, None)
    keys = {**describe_keys(shape, full), **describe_own_keys(config, windowed)}
    ignored = [COMPUTED, *([re.escape(f"{prefix}lm_head.weight")] if shape.tied else []), *([VISION] if prefix else [])]
    return Model(
        folder=path.parent,
        family="gemma3",
        architecture=ARCHITECTURE,
        vocabulary=shape.vocabulary,
        layers=shape.layers,
        tied=shape.tied,
        trained_context=context,
        context_reason=reason,
        metadata={f"{ARCHITECTURE}.{key}": value for key, value in keys.items()},
        weights=tuple(raise_norm(weight) for weight in list_weights(shape, list_own_tensors(shape), prefix)),
        ignored="|".join(ignored),
        prefix=prefix,
    )


def require_supported(config: dict[str, Any], shape: Shape, path: Path) -> None:
    """Raises PipelineError, one line, for the first thing that llama.cpp would compute otherwise."""
    require_values(config, path, {
        "attention_bias": False, "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": None,
    })
    if config.get("use_bidirectional_attention"):
        raise make_refusal(path, "use_bidirectional_attention is not supported: this is an embedding model")
    if not config["sliding_window"]:
        raise make_refusal(path, "a Gemma 3 without a sliding window is not supported")
    scalar = shape.hidden // shape.heads if shape.layers == LAYERS_OF_27B else shape.head
    if config["query_pre_attn_scalar"] != scalar:
        raise make_refusal(path, f"query_pre_attn_scalar {config['query_pre_attn_scalar']} is not supported, only {scalar}")
    require_pattern(config, shape, path)


def require_pattern(config: dict[str, Any], shape: Shape, path: Path) -> None:
    """Raises PipelineError for windows in other layers than llama.cpp's."""
    period = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or PERIOD
    found, wanted = (
        [WINDOWED if (layer + 1) % every else FULL for layer in range(shape.layers)] for every in (period, PERIOD)
    )
    if (config.get("layer_types") or found) != wanted:
        raise make_refusal(path, f"sliding windows in other layers than {PERIOD - 1} of {PERIOD} are not supported")


def read_ropes(config: dict[str, Any], path: Path) -> tuple[Rope, Rope]:
    """The rotary embedding of the layers that see everything, and that of those with a window."""
    saved = config.get("rope_parameters") or {}
    published = {"rope_theta": config.get("rope_theta") or THETA, **(config.get("rope_scaling") or {})}
    local = {"rope_theta": config.get("rope_local_base_freq") or WINDOWED_THETA}
    full = read_rope({"rope_parameters": saved.get(FULL) or published}, path, ("default", "linear"))
    return full, read_rope({"rope_parameters": saved.get(WINDOWED) or local}, path, ("default",))


# -----------------------------------------------------------------------------
# What the GGUF holds


def describe_own_keys(config: dict[str, Any], windowed: Rope) -> dict[str, Value]:
    """The keys that only Gemma 3 has."""
    keys: dict[str, Value] = {"rope.freq_base_swa": windowed.theta, "attention.sliding_window": config["sliding_window"]}
    if config.get("final_logit_softcapping"):
        keys["final_logit_softcapping"] = float(config["final_logit_softcapping"])
    return keys


def list_own_tensors(shape: Shape) -> LayerTensors:
    """The tensors of a layer; there are norms before and behind both halves of it."""
    return list_layer_tensors(shape) | list_head_norms(shape) | {
        "post_attention_layernorm": (MODEL_TENSOR.ATTN_POST_NORM, (shape.hidden,)),
        "pre_feedforward_layernorm": (MODEL_TENSOR.FFN_PRE_NORM, (shape.hidden,)),
        "post_feedforward_layernorm": (MODEL_TENSOR.FFN_POST_NORM, (shape.hidden,)),
    }


def raise_norm(weight: Weight) -> Weight:
    """Norms with the 1 that Hugging Face adds when it computes."""
    return dataclasses.replace(weight, offset=1.0) if len(weight.shape) == 1 else weight
