"""
A 16-bit base model and a LoRA adapter, read as one set of merged weights.

Tensors come as row slices in float32, so that the largest tensor never stands in memory as a whole, and the merged weights are
never rounded to bfloat16 on the way to the GGUF. Reads safetensors only, never a pickle. What PEFT's own merge computes is what
comes out; an adapter for which that is more than LoRA matrices and whole tensors (`modules_to_save`) is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from distill.errors import PipelineError
from distill.files import read_json
from distill.gguf.families.common import TEXT_MODEL
from distill.gguf.shards import BaseWeights

LORA_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.default)?(?:\.weight)?"
)
# PEFT leaves these words out of, or puts them into, the names of tensors that it saves whole.
WHOLE_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)(?:\.modules_to_save(?:\.default)?|\.base_layer)?\.(?P<leaf>weight|bias)"
)
# These start by changing the base weights themselves, so that adapter and base do not add up.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
UNSUPPORTED = ("use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias", "layer_replication",
               "trainable_token_indices", "target_parameters", "alora_invocation_tokens", "kasa_config", "arrow_config")
EMBEDDING, OUTPUT = "embed_tokens.weight", "lm_head.weight"
HALF_MAX = 65_504.0
COMPARED_VALUES = 1 << 24  # at a time


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


@dataclass(frozen=True)
class WholeTensor:
    """A tensor that the adapter's file holds in place of the base's (`modules_to_save`), read slice by slice."""

    file: Any
    key: str

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """float32 rows (or, of a vector, values) start..stop."""
        return self.file.get_slice(self.key)[start:stop].float()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that it replaces."""
        return tuple(self.file.get_slice(self.key).get_shape())


@dataclass(frozen=True)
class Change:
    """What an adapter does to one tensor: first another in its place, then a low-rank update, or one of the two."""

    whole: WholeTensor | None = None
    pair: LoraPair | None = None

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """The shape of the weight that it is for; more than one if the adapter contradicts itself."""
        return {part.shape for part in (self.whole, self.pair) if part is not None}

    def apply(self, rows: torch.Tensor, start: int) -> torch.Tensor:
        """The base's float32 rows, the first of which is row `start`, changed; they themselves stay."""
        stop = start + len(rows)
        if self.whole is not None:
            rows = self.whole.rows(start, stop).to(rows.device)
        return rows if self.pair is None else rows + self.pair.rows(start, stop)

    def to(self, device: str) -> Change:
        """With the LoRA matrices on a device."""
        pair = self.pair
        return self if pair is None else replace(self, pair=LoraPair(pair.down.to(device), pair.up.to(device), pair.scale))


def load_adapter(folder: Path) -> dict[str, Change]:
    """
    Read adapter_config.json and adapter_model.safetensors; the keys are names of weights as PEFT knows them.

    Raises PipelineError for anything but LoRA and whole tensors (DoRA, biases, base-changing initialisations), for NaN or
    infinite values, and for an adapter without tensors.
    """
    settings = read_json(folder / "adapter_config.json")
    require_plain_lora(settings, folder)
    require_scale(settings, folder)
    path = folder / "adapter_model.safetensors"
    file = open_safetensors(path)
    keys = [key for key in sorted(file.keys()) if ".original_module." not in key]
    if not keys:
        raise PipelineError(f"{path} holds no tensors: run  python finetune.py  again")
    changes = dict(read_whole_tensors(file, keys, path))
    for module, pair in read_lora_matrices(file, keys, path).items():
        changed = changes.get(f"{module}.weight", Change())
        changes[f"{module}.weight"] = replace(changed, pair=pair_up(module, pair, settings, path))
    return dict(sorted(changes.items()))


def read_lora_matrices(file: Any, keys: list[str], path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The matrices A [rank, in] and B [out, rank] of each module, in float32."""
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key in keys:
        if match := LORA_KEY.fullmatch(key):
            matrix, side = require_finite(file.get_tensor(key).float(), key, path), match["side"]
            if match["embedding"]:  # its update is (B @ A) transposed
                matrix, side = matrix.t().contiguous(), "AB"[side == "A"]
            sides.setdefault(match["module"], {})[side] = matrix
    return sides


def read_whole_tensors(file: Any, keys: list[str], path: Path) -> Iterator[tuple[str, Change]]:
    """Name and change of every tensor that is no LoRA matrix. Raises PipelineError for one of another kind of adapter."""
    for key in keys:
        if LORA_KEY.fullmatch(key):
            continue
        match = WHOLE_KEY.fullmatch(key)
        if match is None or ".lora_" in key:
            raise PipelineError(f"{path}: tensor {key} is no plain LoRA matrix: only plain LoRA adapters can be merged")
        yield f"{match['module']}.{match['leaf']}", Change(whole=WholeTensor(file, key))


def require_plain_lora(settings: dict[str, Any], folder: Path) -> None:
    """Raises PipelineError for a kind of adapter whose merge is not base + scale * B @ A."""
    path = folder / "adapter_config.json"
    if not isinstance(settings, dict):
        raise PipelineError(f"{path} is no table of settings: run  python finetune.py  again")
    if settings.get("peft_type") != "LORA":
        raise PipelineError(f"{path}: peft_type {settings.get('peft_type')} is not supported, only LORA")
    for key in UNSUPPORTED:
        if settings.get(key):
            raise PipelineError(
                f"{path}: {key} is not supported, only LoRA, rslora and modules_to_save: train without it, or export what "
                "PEFT's merge_and_unload makes of it as a base model"
            )
    if settings.get("bias", "none") != "none" or str(settings.get("init_lora_weights")).startswith(CHANGED_BASE):
        raise PipelineError(f"{path}: bias or init_lora_weights changes the base model itself: only plain LoRA can be merged")


def require_scale(settings: dict[str, Any], folder: Path) -> None:
    """Raises PipelineError unless lora_alpha and alpha_pattern say by how much every update counts."""
    path, pattern = folder / "adapter_config.json", settings.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise PipelineError(f"{path}: alpha_pattern is no table: run  python finetune.py  again")
    for key, value in {"lora_alpha": settings.get("lora_alpha"), **pattern}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise PipelineError(f"{path}: {key} is {value!r}, not a number: run  python finetune.py  again")
    for key in pattern:
        try:
            re.compile(key)
        except re.error as error:
            raise PipelineError(f"{path}: alpha_pattern {key!r} is no regular expression: {error}") from None


def require_finite(tensor: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    """Raises PipelineError for NaN or infinite values."""
    if not torch.isfinite(tensor).all():
        raise PipelineError(f"{path}: {name} holds NaN or infinite values: the training diverged or the file is damaged")
    return tensor


def pair_up(module: str, pair: dict[str, torch.Tensor], settings: dict[str, Any], path: Path) -> LoraPair:
    """The update of one module. Raises PipelineError when one of the two matrices is missing or they do not fit."""
    fits = len(pair) == 2 and pair["A"].dim() == pair["B"].dim() == 2 and pair["A"].shape[0] == pair["B"].shape[1] > 0
    if not fits:
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
    """
    Base and adapter as one set of weights; without an adapter, the base alone.

    tied: the embedding serves as the output too; so it does where the base has no output matrix. Raises PipelineError for an
    adapter that changes what the base lacks, or that would part the two ends of a tied model.
    """

    def __init__(
        self, base: BaseWeights, adapter: dict[str, Change] | None = None, device: str = "cpu", tied: bool = False
    ) -> None:
        self.base, self.device = base, device
        names = {name_within_text_model(name): name for name in base.names}
        tied = tied or OUTPUT not in names
        if tied and EMBEDDING in names:
            names[OUTPUT] = names[EMBEDDING]
        self.changes: dict[str, Change] = {}
        for name, change in (adapter or {}).items():
            self._add(name, names.get(name_within_text_model(name)), change.to(device), tied)
        if tied and EMBEDDING in names:
            self._require_one_matrix(names[EMBEDDING])

    def _add(self, name: str, found: str | None, change: Change, tied: bool) -> None:
        if found is None:
            raise PipelineError(f"the adapter changes {name}, which the base model lacks: was it trained on another model?")
        if change.shapes != {self.base.shape(found)}:
            shapes = " and ".join(map(str, sorted(change.shapes)))
            raise PipelineError(f"the adapter's {name} is {shapes} but the base model's {self.base.shape(found)}")
        self.changes[OUTPUT if tied and name_within_text_model(name) == OUTPUT else found] = change

    def _require_one_matrix(self, embedding: str) -> None:
        """PEFT gives each end of a tied model its own matrix once an adapter changes one of them; a tied GGUF has but one."""
        if not self.changes.keys() & {OUTPUT, embedding}:
            return
        output, table = self.changes.pop(OUTPUT, Change()), self.changes.get(embedding, Change())
        rows, columns = self.base.shape(embedding)
        step = max(1, COMPARED_VALUES // columns)
        for start in range(0, rows, step):
            stored = self.base_rows(embedding, start, min(start + step, rows))
            if not torch.allclose(table.apply(stored, start), output.apply(stored, start), rtol=1e-4, atol=1e-6):
                raise PipelineError(
                    f"the adapter changes {embedding} and lm_head in different ways, but they are one matrix in this base "
                    "model (tied): train both with ensure_weight_tying, or neither"
                )

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """float32 rows start..stop on `device`, merged. Raises PipelineError as `base_rows` does."""
        return self.merge_rows(name, start, self.base_rows(name, start, stop))

    def base_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """
        float32 rows start..stop on `device`, without the adapter.

        Raises PipelineError for NaN, infinite values, or values that no 16-bit float of llama.cpp can hold.
        """
        return self.check_rows(name, self.base.read(name, start, stop))

    def check_rows(self, name: str, stored: torch.Tensor) -> torch.Tensor:
        """Rows as the base stores them, in float32 on `device`. Raises PipelineError as `base_rows` does."""
        rows = stored.to(self.device, non_blocking=True).float()
        return require_range(rows, f"{self.base.path(name)}: tensor {name}", "download the base model again")

    def merge_rows(self, name: str, start: int, rows: torch.Tensor) -> torch.Tensor:
        """`rows` as `base_rows` gave them, the first of which is row `start`, with the adapter; they are not changed."""
        if name not in self.changes:
            return rows
        merged = self.changes[name].apply(rows, start)
        return require_range(merged, f"tensor {name}, merged with the adapter,", "run  python finetune.py  again")

    def list_merged(self) -> list[str]:
        """The base's tensors that the adapter changes."""
        return list(self.changes)

    def list_unchanged(self) -> list[str]:
        """Of those, the ones that stay as they are because a LoRA matrix is still zero."""
        pairs = {name: change.pair for name, change in self.changes.items() if change.whole is None}
        return [name for name, pair in pairs.items() if pair and not (pair.up.any() and pair.down.any())]

    def require_used(self, names: Collection[str]) -> None:
        """Raises PipelineError for a change to a tensor that is not among `names`, those with a place in the GGUF."""
        for name in self.changes.keys() - set(names):
            raise PipelineError(f"the adapter changes {name}, which has no place in the GGUF: that would be lost silently")


def name_within_text_model(name: str) -> str:
    """layers.0.mlp.down_proj.weight, whatever PEFT, the shards or a multimodal wrapper put before it."""
    match = TEXT_MODEL.match(name)
    return name[match.end():] if match else name


def require_range(rows: torch.Tensor, subject: str, advice: str) -> torch.Tensor:
    """Raises PipelineError for NaN, infinite values, or values that no 16-bit float of llama.cpp can hold."""
    low, high = rows.aminmax()
    # With a NaN among the values both are NaN, and NaN fails every comparison.
    if not (low >= -HALF_MAX and high <= HALF_MAX):
        raise PipelineError(f"{subject} holds NaN or values beyond 65504: {advice}")
    return rows
