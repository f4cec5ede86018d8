"""Which modules LoRA adapts, and the proof that it adapts them all.

The usual list of seven names (q_proj, k_proj, ...) matches two of the four kinds of projection in a Phi3 model, and PEFT says
nothing: the run trains a third of what it should. Here a name that matches nothing, or a module left out, stops the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from distill.errors import PipelineError


def list_linear_layers(model: Any) -> list[str]:
    """The full names of the decoder's linear layers: no output layer, no vision tower. 4-bit layers are linear layers too."""
    from torch import nn

    inside = set(model.get_decoder().modules())
    return [name for name, module in model.named_modules() if module in inside and isinstance(module, nn.Linear)]


def resolve_targets(model: Any, target_modules: Literal["all-linear"] | Sequence[str]) -> tuple[list[str], list[str]]:
    """What to give PEFT as target_modules, and the full names that must end up adapted.

    PEFT takes kinds of module (such as qkv_proj) and matches them anywhere. Where a kind occurs outside of the decoder too, as
    in the vision tower of Gemma 3, it is given the full names. Raises PipelineError for a kind that the decoder does not have.
    """
    layers = list_linear_layers(model)
    kinds = sorted({last_part(name) for name in layers})
    wanted = kinds if target_modules == "all-linear" else list(target_modules)
    unknown = [kind for kind in wanted if kind not in kinds]
    if unknown:
        raise PipelineError(
            f"config.yaml finetune.target_modules: {', '.join(unknown)} not in this model, which has "
            f"{', '.join(kinds)}: use all-linear or these names"
        )
    names = [name for name in layers if last_part(name) in wanted]
    matched = [name for name, _ in model.named_modules() if last_part(name) in wanted]
    return wanted if matched == names else names, names


def last_part(name: str) -> str:
    """qkv_proj of model.layers.0.self_attn.qkv_proj."""
    return name.rsplit(".", 1)[-1]


def require_adapted(model: Any, expected: Iterable[str]) -> list[str]:
    """The full names of the adapted modules. Raises PipelineError when an expected one carries no adapter."""
    adapted = [name for name, _ in iterate_adapters(model)]
    missing = sorted(set(expected) - set(adapted))
    if missing:
        raise PipelineError(
            f"only {len(adapted)} of {len(adapted) + len(missing)} modules were adapted, missing {missing[0]} and "
            f"{len(missing) - 1} more: set finetune.backend to peft, or update peft and unsloth"
        )
    return adapted


def list_left_out(model: Any, adapted: Iterable[str]) -> list[str]:
    """The full names of the decoder's linear layers that carry no adapter."""
    base = {name.removeprefix("base_model.model.").removesuffix(".base_layer") for name in list_linear_layers(model)}
    return sorted(name for name in base - set(adapted) if ".lora_" not in name)


def iterate_adapters(model: Any) -> Iterable[tuple[str, Any]]:
    """(name in the base model, B matrix) of every adapted module."""
    for name, module in model.named_modules():
        if getattr(module, "lora_B", None):
            yield name.removeprefix("base_model.model."), module.lora_B["default"].weight


def copy_adapters(model: Any) -> dict[str, Any]:
    """The B matrices as they stand, in main memory."""
    return {name: weight.detach().cpu().clone() for name, weight in iterate_adapters(model)}


def require_moved(model: Any, before: Mapping[str, Any]) -> None:
    """Raises PipelineError when a B matrix is as copy_adapters found it `before`: its module does not learn."""
    still = [name for name, weight in iterate_adapters(model) if weight.detach().cpu().equal(before[name])]
    if still:
        raise PipelineError(
            f"{len(still)} adapters did not move in the first step, the first is {still[0]}: "
            "no gradient reaches them; set finetune.backend to peft and tell us"
        )


def count_parameters(model: Any) -> tuple[int, int]:
    """Trainable and total parameters; a 4-bit weight counts as the two values that each of its bytes holds."""
    sizes = [(parameter, packed_size(parameter)) for parameter in model.parameters()]
    return sum(size for parameter, size in sizes if parameter.requires_grad), sum(size for _, size in sizes)


def packed_size(parameter: Any) -> int:
    """Values in a parameter, unpacking bitsandbytes' two 4-bit values a byte."""
    return parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)
