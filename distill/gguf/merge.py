"""
A 16-bit base model and a LoRA adapter, read as one set of merged weights.

Tensors come as row slices in float32, so that the largest tensor never stands in memory as a whole, and the merged weights are
never rounded to bfloat16 on the way to the GGUF. Reads safetensors only, never a pickle.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from distill.errors import PipelineError
from distill.files import read_json

ADAPTER_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
# These start by changing the base weights themselves, so that adapter and base do not add up.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
UNSUPPORTED = ("use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias", "layer_replication", "modules_to_save",
               "trainable_token_indices", "target_parameters", "alora_invocation_tokens")
HALF_MAX = 65_504.0


# -----------------------------------------------------------------------------
# Base


class BaseWeights:
    """The safetensors of one folder, opened but not read; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self.shards = list_shards(folder)
        with self._stack as stack:
            for shard in self.shards:
                file = stack.enter_context(open_safetensors(shard))
                self._files.update(dict.fromkeys(file.keys(), file))
            self._stack = stack.pop_all()

    def __enter__(self) -> BaseWeights:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._stack.close()

    @property
    def names(self) -> set[str]:
        """All tensor names."""
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the file's header alone."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """float32 rows (or, of a vector, values) start..stop."""
        return self._files[name].get_slice(name)[start:stop].float()


def list_shards(folder: Path) -> list[Path]:
    """The weight files of a model folder. Raises PipelineError for none, or for one that the index names and is missing."""
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    shards = [folder / name for name in sorted(names)]
    for shard in shards:
        if not shard.is_file():
            raise PipelineError(f"{shard} is missing: the base model must be complete and in safetensors format")
    return shards


def open_safetensors(path: Path) -> Any:
    """Raises PipelineError for a damaged file."""
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise PipelineError(f"{path} is damaged or incomplete ({error}): download it again") from None


# -----------------------------------------------------------------------------
# Adapter


@dataclass(frozen=True)
class LoraPair:
    """One module's update: scale * up @ down, with down [rank, in] and up [out, rank] in float32."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """float32 rows start..stop of the update."""
        return (self.up[start:stop] @ self.down).mul_(self.scale)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight that it updates."""
        return self.up.shape[0], self.down.shape[1]


def load_adapter(folder: Path) -> dict[str, LoraPair]:
    """
    Read adapter_config.json and adapter_model.safetensors; the keys are the base's tensor names.

    Raises PipelineError for anything but plain LoRA (DoRA, biases, saved modules, base-changing initialisations), for NaN or
    infinite values, and for an adapter without tensors.
    """
    settings = read_json(folder / "adapter_config.json")
    require_plain_lora(settings, folder)
    sides: dict[str, dict[str, torch.Tensor]] = {}
    path = folder / "adapter_model.safetensors"
    with open_safetensors(path) as file:
        for key in sorted(file.keys()):
            match = ADAPTER_KEY.fullmatch(key)
            if match is None:
                raise PipelineError(f"{path}: tensor {key} is no plain LoRA matrix: only plain LoRA adapters can be merged")
            sides.setdefault(match["module"], {})[match["side"]] = require_finite(file.get_tensor(key).float(), key, path)
    if not sides:
        raise PipelineError(f"{path} holds no tensors: run  python finetune.py  again")
    return {f"{module}.weight": pair_up(module, pair, settings, path) for module, pair in sorted(sides.items())}


def require_plain_lora(settings: dict[str, Any], folder: Path) -> None:
    """Raises PipelineError for a kind of adapter whose merge is not base + scale * B @ A."""
    path = folder / "adapter_config.json"
    if settings.get("peft_type") != "LORA":
        raise PipelineError(f"{path}: peft_type {settings.get('peft_type')} is not supported, only LORA")
    for key in UNSUPPORTED:
        if settings.get(key):
            raise PipelineError(f"{path}: {key} is not supported: only plain LoRA adapters can be merged")
    if settings.get("bias", "none") != "none" or str(settings.get("init_lora_weights")).startswith(CHANGED_BASE):
        raise PipelineError(f"{path}: bias or init_lora_weights changes the base model itself: only plain LoRA can be merged")


def require_finite(tensor: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    """Raises PipelineError for NaN or infinite values."""
    if not torch.isfinite(tensor).all():
        raise PipelineError(f"{path}: {name} holds NaN or infinite values: the training diverged or the file is damaged")
    return tensor


def pair_up(module: str, pair: dict[str, torch.Tensor], settings: dict[str, Any], path: Path) -> LoraPair:
    """The update of one module. Raises PipelineError when one of the two matrices is missing or they do not fit."""
    if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
        raise PipelineError(f"{path}: the LoRA matrices of {module} are incomplete or do not fit each other")
    rank = pair["A"].shape[0]
    alpha = next(
        (value for key, value in (settings.get("alpha_pattern") or {}).items() if re.match(rf"(.*\.)?({key})$", module)),
        settings["lora_alpha"],
    )
    return LoraPair(pair["A"], pair["B"], alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


# -----------------------------------------------------------------------------
# Both


class MergedWeights:
    """Base and adapter as one set of weights; without an adapter, the base alone."""

    def __init__(self, base: BaseWeights, adapter: dict[str, LoraPair] | None = None, device: str = "cpu") -> None:
        adapter = adapter or {}
        for name, pair in adapter.items():
            if name not in base.names:
                raise PipelineError(f"the adapter changes {name}, which the base model lacks: was it trained on another model?")
            if base.shape(name) != pair.shape:
                raise PipelineError(f"the adapter's {name} is {pair.shape} but the base model's {base.shape(name)}")
        self.base, self.device = base, device
        self.pairs = {
            name: LoraPair(pair.down.to(device), pair.up.to(device), pair.scale) for name, pair in adapter.items()
        }

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """
        float32 rows start..stop on `device`.

        Raises PipelineError for NaN, infinite values, or values that no 16-bit float of llama.cpp can hold.
        """
        rows = self.base.rows(name, start, stop).to(self.device)
        if name in self.pairs:
            rows += self.pairs[name].rows(start, stop)
        low, high = rows.aminmax()
        # With a NaN among the values both are NaN, and NaN fails every comparison.
        if not (low >= -HALF_MAX and high <= HALF_MAX):
            raise PipelineError(f"tensor {name} holds NaN or values beyond 65504: the base model or the adapter is damaged")
        return rows

    def list_unchanged(self) -> list[str]:
        """Adapter modules that change nothing because their B matrix is still zero."""
        return [name for name, pair in self.pairs.items() if not pair.up.any()]
