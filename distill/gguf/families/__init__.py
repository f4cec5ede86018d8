"""One module for each family of models that the exporter knows; `read_model` finds the right one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.files import read_json
from distill.gguf.families.common import OWN_LLAMA_CPP, Model
from distill.gguf.families.gemma3 import describe_gemma3
from distill.gguf.families.llama import describe_llama, describe_mistral
from distill.gguf.families.phi3 import describe_phi3
from distill.gguf.families.qwen3 import describe_qwen3

# What the names of 4-bit copies end with.
QUANTISED = re.compile(r"[-_](unsloth-)?(bnb|nf4|awq|gptq|fp8|int4|int8|mlx)(-?\d*-?bit)?$", re.IGNORECASE)
# config.json's architecture to the function that describes it.
FAMILIES: dict[str, Callable[[dict[str, Any], Path], Model]] = {
    "Phi3ForCausalLM": describe_phi3,
    "LlamaForCausalLM": describe_llama,
    "MistralForCausalLM": describe_mistral,
    "Gemma3ForCausalLM": describe_gemma3,
    "Gemma3ForConditionalGeneration": describe_gemma3,
    "Qwen3ForCausalLM": describe_qwen3,
}
# Sizes that every config.json gives, and those that may be null.
SIZES = (
    "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "vocab_size",
)
OPTIONAL_SIZES = ("head_dim", "num_key_value_heads", "original_max_position_embeddings", "sliding_window")


def read_model(folder: Path) -> Model:
    """
    Read config.json.

    Raises PipelineError for an architecture that this exporter does not know, for 4-bit weights, for a key that is missing or
    odd, and for whatever llama.cpp's implementation of the architecture lacks.
    """
    path = folder / "config.json"
    config = read_json(path)
    try:
        return describe_config(config, path)
    except KeyError as error:
        raise PipelineError(f"{path}: {error.args[0]} is missing: download the base model again") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise PipelineError(f"{path}: a value is of the wrong kind ({error}): download the base model again") from None


def describe_config(config: dict[str, Any], path: Path) -> Model:
    """As `read_model`, but other exceptions too for what no config.json should hold."""
    require_sizes(config, path)
    architecture = ", ".join(config.get("architectures") or ["none"])
    if architecture not in FAMILIES:
        raise PipelineError(
            f"{path}: architecture {architecture} is unknown to this exporter, which knows {', '.join(FAMILIES)}: "
            f"{OWN_LLAMA_CPP}"
        )
    if config.get("quantization_config"):
        raise PipelineError(
            f"{path}: this base model is already quantised, and merging into rounded weights would round the adapter away: "
            f"export from the 16-bit model that it was made from{name_original(config, path.parent)}"
        )
    model = FAMILIES[architecture](config, path)
    for name, values in model.constants.items():
        if not all(isinstance(value, int | float) for value in values):
            raise PipelineError(f"{path}: the rotary factors for {name} are not all numbers: download the base model again")
    return model


def require_sizes(config: dict[str, Any], path: Path) -> None:
    """Raises PipelineError for a size that is there but is no whole number, or 0 where there must be some."""
    if not isinstance(config, dict):
        raise PipelineError(f"{path} is no table of settings: download the base model again")
    for table in (config, config.get("text_config", {})):
        for key in (*SIZES, *OPTIONAL_SIZES):
            value, needed = table.get(key, 1), key in SIZES
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= needed
            if not whole and (needed or value is not None):
                raise PipelineError(f"{path}: {key} is {value!r}, not a size: download the base model again")


def name_original(config: dict[str, Any], folder: Path) -> str:
    """", NAME" of the 16-bit model if a name of the 4-bit one (its own, the hub cache's, its folder's) ends as such do."""
    cached = folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    names = (config.get("_name_or_path") or "", cached, folder.name)
    return next((f", {QUANTISED.sub('', name)}" for name in names if QUANTISED.search(name)), "")
