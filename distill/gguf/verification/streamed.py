"""
Any Hugging Face decoder whose layers hold weights only while they compute, so that a model larger than memory can be asked.

Where the weights come from is the caller's matter: a GGUF, dequantised, or base and adapter, merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from gguf.quants import dequantize

from distill.gguf.families.common import Model, Weight
from distill.gguf.merge import MergedWeights
from distill.gguf.verification.structure import open_gguf

# A parameter of Hugging Face's text model, by its name there, in float32.
WeightSource = Callable[[str], torch.Tensor]
# The input of a linear layer to what is multiplied.
Rounding = Callable[[torch.Tensor], torch.Tensor]


# -----------------------------------------------------------------------------
# Weights


def name_parameters(model: Model) -> dict[str, Weight]:
    """Every weight by the name of the parameter in Hugging Face's text model, which knows nothing of `model.prefix`."""
    named = {}
    for weight in model.weights:
        name = weight.source.removeprefix(model.prefix)
        named[name if name.startswith(("model.", "lm_head.")) else f"model.{name}"] = weight
    return named


def read_gguf_weights(path: Path, model: Model) -> WeightSource:
    """The GGUF's own numbers, dequantised, in Hugging Face's layout."""
    tensors = {tensor.name: tensor for tensor in open_gguf(path).tensors}
    parameters = name_parameters(model)

    def load(name: str) -> torch.Tensor:
        weight = parameters[name]
        tensor = tensors[weight.name]
        numbers = dequantize(np.asarray(tensor.data), tensor.tensor_type).astype(np.float32, copy=False)
        numbers = numbers if numbers.flags.writeable else numbers.copy()
        return weight.restore(torch.from_numpy(numbers.reshape(weight.shape)))

    return load


def read_merged_weights(weights: MergedWeights, model: Model) -> WeightSource:
    """Base and adapter, merged in float32."""
    parameters = name_parameters(model)
    return lambda name: weights.rows(parameters[name].source, 0, parameters[name].shape[0]).cpu()


# -----------------------------------------------------------------------------
# The model


def build_streamed_model(
    model: Model, weights: WeightSource, rounding: Mapping[str, Rounding] | None = None, exact_rows: int = 0
) -> torch.nn.Module:
    """
    Hugging Face's model of `model.folder`, text only, in float32; call it with token ids [batch, length] and `use_cache=False`.

    rounding: what happens to the input of each linear layer, by the layer's name, but for the first `exact_rows` of a batch.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.folder, local_files_only=True).get_text_config()
    # Buffers are computed, not loaded: rotary frequencies, Gemma's scale of its embeddings.
    with init_empty_weights(include_buffers=False):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    fill_module(network.model.embed_tokens, "model.embed_tokens", weights)
    fill_module(network.model.norm, "model.norm", weights)
    if model.tied:
        network.lm_head.weight = network.model.embed_tokens.weight
    else:
        fill_module(network.lm_head, "lm_head", weights)
    for number, layer in enumerate(network.model.layers):
        name = f"model.layers.{number}"
        layer.register_forward_pre_hook(lambda module, _, name=name: fill_module(module, name, weights))
        layer.register_forward_hook(lambda module, *_: module.to("meta") and None)
    modules = dict(network.named_modules())
    # Experts may be single modules in the safetensors and one tensor in Hugging Face's model.
    for name, change in ((name, change) for name, change in (rounding or {}).items() if name in modules):
        modules[name].register_forward_pre_hook(
            lambda _, inputs, change=change: (torch.cat([inputs[0][:exact_rows], change(inputs[0][exact_rows:])]),)
        )
    return network


def fill_module(module: torch.nn.Module, name: str, weights: WeightSource) -> None:
    """Give a module its weights, in place of those on the meta device."""
    module.load_state_dict({key: weights(f"{name}.{key}") for key in module.state_dict()}, assign=True)
