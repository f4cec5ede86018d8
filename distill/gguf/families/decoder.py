"""
What Llama, Mistral, Qwen3 and Gemma 3 share: separate projections, RMS norms, a gated feed-forward layer, rotary embeddings.

A family's module fills in what its config.json may leave out, adds its own keys and tensors, and refuses what llama.cpp
computes otherwise. config.json is understood as published (rope_scaling, rope_theta) and as transformers 5 saves it
(rope_parameters).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import MODEL_TENSOR

from distill.gguf.families.common import Value, Weight, make_refusal, name_weight

# Frequencies that very old checkpoints carry; they follow from config.json.
COMPUTED = r".+\.rotary_emb\.inv_freq"

# Hugging Face's module to llama.cpp's kind of tensor and PyTorch's shape.
LayerTensors = dict[str, tuple[MODEL_TENSOR, tuple[int, ...]]]


@dataclass(frozen=True)
class Shape:
    """The sizes of one model; `head` is one head's width, `context` max_position_embeddings."""

    vocabulary: int
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    context: int
    epsilon: float
    tied: bool


@dataclass(frozen=True)
class Rope:
    """The rotary embedding: "default", "linear" or "llama3", the base of the frequencies, and all settings of its kind."""

    kind: str
    theta: float
    settings: dict[str, Any]


def read_shape(config: dict[str, Any]) -> Shape:
    """Raises KeyError for a size that config.json lacks."""
    heads = config["num_attention_heads"]
    return Shape(
        vocabulary=config["vocab_size"],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head=config.get("head_dim") or config["hidden_size"] // heads,
        context=config["max_position_embeddings"],
        epsilon=float(config["rms_norm_eps"]),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def read_rope(config: dict[str, Any], path: Path, kinds: tuple[str, ...]) -> Rope:
    """Raises PipelineError for another kind than `kinds`, and for what differs between layers or dimensions."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in settings.values()):
        raise make_refusal(path, "a rotary embedding for each kind of layer is not supported for this architecture")
    settings = {"rope_theta": config.get("rope_theta") or 10_000.0, **settings}
    kind = settings.get("rope_type") or settings.get("type") or "default"
    if kind not in kinds:
        raise make_refusal(path, f"rotary embedding {kind!r} is not supported, only {', '.join(kinds)}")
    if settings.get("partial_rotary_factor", config.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise make_refusal(path, "partial_rotary_factor is not supported for this architecture")
    return Rope(kind, float(settings["rope_theta"]), settings)


def require_values(config: dict[str, Any], path: Path, wanted: dict[str, Any]) -> None:
    """Raises PipelineError for the first key whose value is neither the wanted one nor absent."""
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise make_refusal(path, f"{key} {config[key]!r} is not supported for this architecture, only {value!r}")


# -----------------------------------------------------------------------------
# What the GGUF holds


def describe_keys(shape: Shape, rope: Rope) -> dict[str, Value]:
    """The keys that all four have, without the architecture in front."""
    keys: dict[str, Value] = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head,
        "attention.value_length": shape.head,
        "attention.layer_norm_rms_epsilon": shape.epsilon,
        "rope.freq_base": rope.theta,
    }
    if rope.kind == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope.settings["factor"])}
    return keys


def list_layer_tensors(shape: Shape) -> LayerTensors:
    """The tensors of a layer that all four have."""
    hidden, feed_forward = shape.hidden, shape.feed_forward
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    return {
        "input_layernorm": (MODEL_TENSOR.ATTN_NORM, (hidden,)),
        "self_attn.q_proj": (MODEL_TENSOR.ATTN_Q, (queries, hidden)),
        "self_attn.k_proj": (MODEL_TENSOR.ATTN_K, (keys, hidden)),
        "self_attn.v_proj": (MODEL_TENSOR.ATTN_V, (keys, hidden)),
        "self_attn.o_proj": (MODEL_TENSOR.ATTN_OUT, (hidden, queries)),
        "post_attention_layernorm": (MODEL_TENSOR.FFN_NORM, (hidden,)),
        "mlp.gate_proj": (MODEL_TENSOR.FFN_GATE, (feed_forward, hidden)),
        "mlp.up_proj": (MODEL_TENSOR.FFN_UP, (feed_forward, hidden)),
        "mlp.down_proj": (MODEL_TENSOR.FFN_DOWN, (hidden, feed_forward)),
    }


def list_head_norms(shape: Shape) -> LayerTensors:
    """The norms of a head's queries and keys that Qwen3 and Gemma 3 have."""
    return {
        "self_attn.q_norm": (MODEL_TENSOR.ATTN_Q_NORM, (shape.head,)),
        "self_attn.k_norm": (MODEL_TENSOR.ATTN_K_NORM, (shape.head,)),
    }


def list_weights(shape: Shape, layer_tensors: LayerTensors, prefix: str = "") -> list[Weight]:
    """Every weight in the order of the file."""
    table = (shape.vocabulary, shape.hidden)
    weights = [name_weight(f"{prefix}model.embed_tokens", MODEL_TENSOR.TOKEN_EMBD, table)]
    weights.append(name_weight(f"{prefix}model.norm", MODEL_TENSOR.OUTPUT_NORM, (shape.hidden,)))
    if not shape.tied:
        weights.append(name_weight(f"{prefix}lm_head", MODEL_TENSOR.OUTPUT, table))
    for layer in range(shape.layers):
        place = f"{prefix}model.layers.{layer}"
        weights += [name_weight(f"{place}.{name}", kind, size, layer) for name, (kind, size) in layer_tensors.items()]
    return weights
