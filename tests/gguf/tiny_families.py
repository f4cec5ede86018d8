"""
Random models of every family that the exporter knows, small enough for tests.

Each config.json has the keys and the spelling of the published one it is named after, with small sizes, and settings that
would not show in a short text (windows, frequency factors) scaled down with them. Weights are noise, but large enough that
attention is far from uniform and next-token distributions are too; norms are noise around their neutral value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from distill.files import read_json, write_json_atomic
from tests.gguf.tiny_tokenizers import write_tokenizer_files

COMMON = {
    "attention_dropout": 0.0, "hidden_size": 256, "initializer_range": 0.06,
    "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 1024,
}
# Phi-4-mini's published files: longrope; and Phi-4 14B's: none.
PHI = {
    **COMMON, "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "embd_pdrop": 0.0, "hidden_act": "silu",
    "model_type": "phi3", "resid_pdrop": 0.0,
}
PHI_4_MINI = {
    **PHI, "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False, "num_hidden_layers": 2,
    "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
    "rope_scaling": {
        "long_factor": [1.0 + 1.5 * index for index in range(24)], "short_factor": [1.0 + 0.01 * index for index in range(24)],
        "type": "longrope",
    },
    "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True,
}
PHI_4 = {
    **PHI, "max_position_embeddings": 16384, "original_max_position_embeddings": 16384, "rope_scaling": None,
    "rope_theta": 250000, "sliding_window": None, "tie_word_embeddings": False,
}
LLAMA_3 = {
    **COMMON, "architectures": ["LlamaForCausalLM"], "attention_bias": False, "head_dim": 64, "hidden_act": "silu",
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama", "pretraining_tp": 1,
    "rope_scaling": {
        "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
        "rope_type": "llama3",
    },
    "rope_theta": 10000.0, "tie_word_embeddings": True,
}
MISTRAL_V3 = {
    **COMMON, "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "max_position_embeddings": 32768,
    "model_type": "mistral", "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
}
NEMO = {**MISTRAL_V3, "head_dim": 32, "max_position_embeddings": 131072}
GEMMA_3 = {
    **COMMON, "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attn_logit_softcapping": None,
    "cache_implementation": "hybrid", "final_logit_softcapping": None, "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768, "model_type": "gemma3_text",
    "num_hidden_layers": 7, "query_pre_attn_scalar": 64, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 2000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 16,
    "sliding_window_pattern": 6,
}
QWEN_3 = {
    **COMMON, "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
    "max_position_embeddings": 40960, "max_window_layers": 2, "model_type": "qwen3", "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "use_sliding_window": False,
}
VISION = {
    "hidden_size": 32, "image_size": 28, "intermediate_size": 32, "model_type": "siglip_vision_model", "num_attention_heads": 2,
    "num_hidden_layers": 1, "patch_size": 14, "vision_use_head": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "phi4mini": PHI_4_MINI, "phi4": PHI_4, "llama3": LLAMA_3, "mistral_v3": MISTRAL_V3, "nemo": NEMO, "gemma3": GEMMA_3,
    "gemma3_wrapped": GEMMA_3, "qwen3": QWEN_3,
}


def describe_model(family: str, **changes: Any) -> dict[str, Any]:
    """config.json of a family, in the spelling of its publisher; `changes` to the keys of the text model."""
    config = {**FAMILIES[family], **changes}
    if family != "gemma3_wrapped":
        return config
    # Google's larger models name little beside sizes, and linear scaling for the layers that see everything.
    text = {key: config[key] for key in config if key not in ("architectures", "rope_theta", "rope_local_base_freq")}
    return {
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 5, "eoi_token_index": 6,
        "image_token_index": 7, "initializer_range": 0.02, "mm_tokens_per_image": 4, "model_type": "gemma3",
        "text_config": {**text, "model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
        "torch_dtype": "bfloat16", "vision_config": VISION,
    }


def write_tiny_model(
    folder: Path, family: str, *, seed: int = 0, hub_style: bool = True, max_shard_size: str = "1MB", **changes: Any
) -> Path:
    """
    Write a random model (bfloat16, several shards) with its tokenizer; `changes` to config.json's keys.

    hub_style: config.json as its publisher wrote it; False leaves what transformers 5 saved (rope_parameters, layer_types).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    described = describe_model(family, **changes)
    text = described.get("text_config", described)
    # Like the published ones, the embedding has more rows than there are tokens.
    tokenizer = write_tokenizer_files(folder, family.removesuffix("_wrapped"), text["vocab_size"] - 24)
    set_special_ids(text, tokenizer, read_json(folder / "tokenizer_config.json"))
    write_json_atomic(folder / "config.json", described)
    config = AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        randomise_norms(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if hub_style:
        write_json_atomic(folder / "config.json", described)
    return folder


def set_special_ids(config: dict[str, Any], tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    """The ids that config.json repeats from the tokenizer."""
    for role in ("bos", "eos", "pad"):
        text = settings.get(f"{role}_token")
        config[f"{role}_token_id"] = None if text is None else tokenizer.token_to_id(text)


def randomise_norms(model: Any) -> None:
    """Norms that are all alike would hide one that went to the wrong place."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
