"""
Phi3: Phi-4-mini (longrope, tied, partly rotary) and Phi-4 14B (neither), with fused qkv_proj and gate_up_proj.

Understands config.json as Microsoft publishes it (rope_scaling, rope_theta) and as transformers 5 saves it (rope_parameters).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES

from distill.gguf.families.common import Model, Weight, limit_context, make_refusal, name_weight

ARCHITECTURE = MODEL_ARCH_NAMES[MODEL_ARCH.PHI3]
LONGROPE = ("longrope", "su")


def describe_phi3(config: dict[str, Any], path: Path) -> Model:
    """Raises PipelineError for what llama.cpp's Phi3 lacks."""
    require_supported(config, path)
    rope, longrope = read_rope(config, path)
    tied = bool(config.get("tie_word_embeddings", False))
    context, reason = find_context(config, rope, longrope)
    return Model(
        folder=path.parent,
        family="phi3",
        architecture=ARCHITECTURE,
        vocabulary=config["vocab_size"],
        layers=config["num_hidden_layers"],
        tied=tied,
        trained_context=context,
        context_reason=reason,
        metadata=describe_metadata(config, rope),
        constants=list_rope_factors(rope) if longrope else {},
        weights=tuple(list_weights(config)),
        ignored=r"lm_head\.weight" if tied else "",
    )


def require_supported(config: dict[str, Any], path: Path) -> None:
    """Raises PipelineError, one line, for the first thing that could not be converted faithfully."""
    for key, wanted in (("attention_bias", False), ("mlp_bias", False), ("lm_head_bias", False), ("hidden_act", "silu")):
        if config.get(key, wanted) != wanted:
            raise make_refusal(path, f"{key} {config[key]!r} is not supported by llama.cpp's Phi3, only {wanted!r}")
    if config.get("head_dim") not in (None, config["hidden_size"] // config["num_attention_heads"]):
        raise make_refusal(path, f"head_dim {config['head_dim']} is not hidden_size / num_attention_heads")


def find_context(config: dict[str, Any], rope: dict[str, Any], longrope: bool) -> tuple[int, str]:
    """The longest context in tokens, and the reason."""
    original, window = rope["original_context"], config.get("sliding_window")
    if longrope and (window is None or original <= window):
        return original, (
            f"beyond {original} tokens of context llama.cpp takes longrope's long factors for every text, which training on "
            "shorter texts never used"
        )
    return limit_context(original, window)


# -----------------------------------------------------------------------------
# Rotary embedding


def read_rope(config: dict[str, Any], path: Path) -> tuple[dict[str, Any], bool]:
    """The rotary settings from either spelling of config.json, and whether they are longrope's."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    setting = {key: value for key, value in {**config, **rope}.items() if value is not None}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", *LONGROPE):
        raise make_refusal(path, f"rotary embedding {kind!r} is not supported, only longrope and the default")
    longrope = kind in LONGROPE
    dimensions = int(config["hidden_size"] // config["num_attention_heads"] * setting.get("partial_rotary_factor", 1.0))
    short, long = ((tuple(rope[key]) if longrope else ()) for key in ("short_factor", "long_factor"))
    if longrope and not len(short) == len(long) == dimensions // 2:
        raise make_refusal(path, f"longrope needs {dimensions // 2} factors, not {len(short)} short and {len(long)} long")
    original = setting.get("original_max_position_embeddings", config["max_position_embeddings"])
    return {
        "original_context": original,
        "theta": float(setting.get("rope_theta", 10_000.0)),
        "dimensions": dimensions,
        "attention_factor": find_attention_factor(rope, config["max_position_embeddings"], original) if longrope else None,
        "short": short,
        "long": long,
    }, longrope


def find_attention_factor(rope: dict[str, Any], context: int, original: int) -> float:
    """The factor on cosines and sines that makes up for a longer context (longrope's paper, as transformers computes it)."""
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    factor = rope.get("factor") or context / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def list_rope_factors(rope: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """The factors [rope dimensions / 2] by GGUF name."""
    pairs = ((MODEL_TENSOR.ROPE_FACTORS_LONG, rope["long"]), (MODEL_TENSOR.ROPE_FACTORS_SHORT, rope["short"]))
    return {f"{TENSOR_NAMES[tensor]}.weight": factors for tensor, factors in pairs}


# -----------------------------------------------------------------------------
# What the GGUF holds


def describe_metadata(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """The architecture's keys."""
    heads = config["num_attention_heads"]
    keys: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads") or heads,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": rope["dimensions"],
        "rope.freq_base": rope["theta"],
        "rope.scaling.original_context_length": rope["original_context"],
        # Present even when 0: its presence tells llama.cpp that this is no early Phi-3 file.
        "attention.sliding_window": config.get("sliding_window") or 0,
    }
    if rope["attention_factor"] is not None:
        keys["rope.scaling.attn_factor"] = float(rope["attention_factor"])
    return {f"{ARCHITECTURE}.{key}": value for key, value in keys.items()}


def list_weights(config: dict[str, Any]) -> list[Weight]:
    """Every weight in the order of the file."""
    hidden, feed_forward, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv_width = (config.get("num_key_value_heads") or heads) * (hidden // heads)
    table = (config["vocab_size"], hidden)
    weights = [name_weight("model.embed_tokens", MODEL_TENSOR.TOKEN_EMBD, table)]
    weights.append(name_weight("model.norm", MODEL_TENSOR.OUTPUT_NORM, (hidden,)))
    if not config.get("tie_word_embeddings"):
        weights.append(name_weight("lm_head", MODEL_TENSOR.OUTPUT, table))
    layer_tensors = (
        ("input_layernorm", MODEL_TENSOR.ATTN_NORM, (hidden,)),
        ("self_attn.qkv_proj", MODEL_TENSOR.ATTN_QKV, (hidden + 2 * kv_width, hidden)),
        ("self_attn.o_proj", MODEL_TENSOR.ATTN_OUT, (hidden, hidden)),
        ("post_attention_layernorm", MODEL_TENSOR.FFN_NORM, (hidden,)),
        ("mlp.gate_up_proj", MODEL_TENSOR.FFN_UP, (2 * feed_forward, hidden)),
        ("mlp.down_proj", MODEL_TENSOR.FFN_DOWN, (hidden, feed_forward)),
    )
    for layer in range(config["num_hidden_layers"]):
        weights += [name_weight(f"model.layers.{layer}.{name}", kind, shape, layer) for name, kind, shape in layer_tensors]
    return weights

