"""Qwen3, dense: Llama's layers with norms on the queries and keys of each head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES

from distill.gguf.families.common import Model, limit_context
from distill.gguf.families.decoder import (
    COMPUTED,
    describe_keys,
    list_head_norms,
    list_layer_tensors,
    list_weights,
    read_rope,
    read_shape,
    require_values,
)

ARCHITECTURE = MODEL_ARCH_NAMES[MODEL_ARCH.QWEN3]
# What Hugging Face takes for a key that config.json leaves out.
DEFAULTS = {"head_dim": 128, "sliding_window": 4096}


def describe_qwen3(config: dict[str, Any], path: Path) -> Model:
    """Raises PipelineError for what llama.cpp's Qwen3 lacks; that is no sliding window: it limits the context."""
    config = DEFAULTS | config
    require_values(config, path, {"attention_bias": False, "hidden_act": "silu"})
    shape, rope = read_shape(config), read_rope(config, path, ("default", "linear"))
    context, reason = limit_context(shape.context, config["sliding_window"] if config.get("use_sliding_window") else None)
    return Model(
        folder=path.parent,
        family="qwen3",
        architecture=ARCHITECTURE,
        vocabulary=shape.vocabulary,
        layers=shape.layers,
        tied=shape.tied,
        trained_context=context,
        context_reason=reason,
        metadata={f"{ARCHITECTURE}.{key}": value for key, value in describe_keys(shape, rope).items()},
        weights=tuple(list_weights(shape, list_layer_tensors(shape) | list_head_norms(shape))),
        ignored=rf"{COMPUTED}|lm_head\.weight" if shape.tied else COMPUTED,
    )
