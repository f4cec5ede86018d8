"""
What llama.cpp must be told about a Phi3 model (Phi-4-mini), from its config.json.

Knows the architecture: metadata, rotary factors, and which tensors there are under which names. Neither reads nor writes
weights. Understands config.json as Microsoft publishes it (rope_scaling, rope_theta) and as transformers 5 saves it
(rope_parameters).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES

from distill.errors import PipelineError
from distill.files import read_json

ARCHITECTURE = MODEL_ARCH_NAMES[MODEL_ARCH.PHI3]
LONGROPE = ("longrope", "su")
# A loader of llama.cpp takes a model of such a name for a Phi-3 with a SentencePiece vocabulary, and fails.
RESERVED_NAME = re.compile(r"phi-?3", re.IGNORECASE)


@dataclass(frozen=True)
class Phi3:
    """The numbers of one model, checked; `short_factors` and `long_factors` are empty without longrope."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    original_context: int
    norm_epsilon: float
    tied: bool
    sliding_window: int
    rope_theta: float
    rope_dimensions: int
    attention_factor: float
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]


# -----------------------------------------------------------------------------
# Reading config.json


def read_phi3(folder: Path) -> Phi3:
    """Read config.json. Raises PipelineError for another architecture, 4-bit weights, or what llama.cpp's Phi3 lacks."""
    path = folder / "config.json"
    config = read_json(path)
    require_supported(config, path)
    heads = config["num_attention_heads"]
    rope = read_rope(config, path)
    return Phi3(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        norm_epsilon=config["rms_norm_eps"],
        tied=config.get("tie_word_embeddings", False),
        sliding_window=config.get("sliding_window") or 0,
        **rope,
    )


def require_supported(config: dict[str, Any], path: Path) -> None:
    """Raises PipelineError, one line, for the first thing that could not be converted faithfully."""
    architecture = ", ".join(config.get("architectures") or ["none"])
    if architecture != "Phi3ForCausalLM":
        raise PipelineError(f"{path}: architecture {architecture} is not supported, only Phi3ForCausalLM (Phi-4-mini)")
    if config.get("quantization_config"):
        raise PipelineError(
            f"{path}: this base model is already quantised: export from the 16-bit one, e.g. unsloth/Phi-4-mini-instruct"
        )
    for key, wanted in (("attention_bias", False), ("mlp_bias", False), ("lm_head_bias", False), ("hidden_act", "silu")):
        if config.get(key, wanted) != wanted:
            raise PipelineError(f"{path}: {key} {config[key]!r} is not supported by llama.cpp's Phi3, only {wanted!r}")
    if config.get("head_dim") not in (None, config["hidden_size"] // config["num_attention_heads"]):
        raise PipelineError(f"{path}: head_dim {config['head_dim']} is not hidden_size / num_attention_heads")


def read_rope(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The rotary part of Phi3's fields, from either spelling of config.json."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    setting = {**config, **rope}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", *LONGROPE):
        raise PipelineError(f"{path}: rotary embedding {kind!r} is not supported, only longrope and the default")
    longrope = kind in LONGROPE
    dimensions = int(config["hidden_size"] // config["num_attention_heads"] * setting.get("partial_rotary_factor", 1.0))
    short, long = ((tuple(rope[key]) if longrope else ()) for key in ("short_factor", "long_factor"))
    if longrope and not len(short) == len(long) == dimensions // 2:
        raise PipelineError(f"{path}: longrope needs {dimensions // 2} factors, not {len(short)} short and {len(long)} long")
    original = setting.get("original_max_position_embeddings", config["max_position_embeddings"])
    return {
        "original_context": original,
        "rope_theta": setting.get("rope_theta", 10_000.0),
        "rope_dimensions": dimensions,
        "attention_factor": find_attention_factor(rope, config["max_position_embeddings"], original) if longrope else 1.0,
        "short_factors": short,
        "long_factors": long,
    }


def find_attention_factor(rope: dict[str, Any], context: int, original: int) -> float:
    """The factor on cosines and sines that makes up for a longer context (longrope's paper, as transformers computes it)."""
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    factor = rope.get("factor") or context / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


# -----------------------------------------------------------------------------
# Writing metadata


def add_metadata(writer: GGUFWriter, model: Phi3, name: str) -> None:
    """Add Phi3's keys to a GGUF that has not been opened yet."""
    writer.add_type("model")
    writer.add_name(make_safe_name(name))
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.hidden)
    writer.add_feed_forward_length(model.feed_forward)
    writer.add_block_count(model.layers)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_layer_norm_rms_eps(model.norm_epsilon)
    writer.add_vocab_size(model.vocabulary)
    writer.add_rope_dimension_count(model.rope_dimensions)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_rope_scaling_orig_ctx_len(model.original_context)
    if model.long_factors:
        writer.add_rope_scaling_attn_factors(model.attention_factor)
    # Present even when 0: its presence tells llama.cpp that this is no early Phi-3 file.
    writer.add_sliding_window(model.sliding_window)


def make_safe_name(name: str) -> str:
    """`name` without what llama.cpp would mistake for a Phi-3."""
    return RESERVED_NAME.sub("phi", name)


# -----------------------------------------------------------------------------
# Tensors


LAYER_TENSORS = {
    "input_layernorm": MODEL_TENSOR.ATTN_NORM,
    "self_attn.qkv_proj": MODEL_TENSOR.ATTN_QKV,
    "self_attn.o_proj": MODEL_TENSOR.ATTN_OUT,
    "post_attention_layernorm": MODEL_TENSOR.FFN_NORM,
    "mlp.gate_up_proj": MODEL_TENSOR.FFN_UP,
    "mlp.down_proj": MODEL_TENSOR.FFN_DOWN,
}


def list_tensors(model: Phi3) -> dict[str, str]:
    """Hugging Face name to GGUF name of every weight, in the order of the file."""
    names = {"model.embed_tokens": MODEL_TENSOR.TOKEN_EMBD, "model.norm": MODEL_TENSOR.OUTPUT_NORM}
    if not model.tied:
        names["lm_head"] = MODEL_TENSOR.OUTPUT
    tensors = {f"{name}.weight": f"{TENSOR_NAMES[tensor]}.weight" for name, tensor in names.items()}
    for layer in range(model.layers):
        for name, tensor in LAYER_TENSORS.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = f"{TENSOR_NAMES[tensor].format(bid=layer)}.weight"
    return tensors


def expected_shape(model: Phi3, name: str) -> tuple[int, ...]:
    """The PyTorch shape of a weight by its GGUF name."""
    head = model.hidden // model.heads
    shapes = {
        "token_embd": (model.vocabulary, model.hidden),
        "output": (model.vocabulary, model.hidden),
        "attn_qkv": (model.hidden + 2 * model.kv_heads * head, model.hidden),
        "attn_output": (model.hidden, model.hidden),
        "ffn_up": (2 * model.feed_forward, model.hidden),
        "ffn_down": (model.hidden, model.feed_forward),
    }
    return shapes.get(name.removesuffix(".weight").split(".")[-1], (model.hidden,))


def list_rope_factors(model: Phi3) -> dict[str, np.ndarray]:
    """The float32 factor tensors [rope dimensions / 2] by GGUF name; none without longrope."""
    if not model.long_factors:
        return {}
    pairs = ((MODEL_TENSOR.ROPE_FACTORS_LONG, model.long_factors), (MODEL_TENSOR.ROPE_FACTORS_SHORT, model.short_factors))
    return {f"{TENSOR_NAMES[tensor]}.weight": np.array(factors, dtype=np.float32) for tensor, factors in pairs}
