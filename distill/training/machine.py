"""What a judgement of a machine rests on: its free memory, its packages, its speed, and the sizes of the base model."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import FinetuneSection
from distill.manifest import list_versions
from distill.training.provenance import describe_machine

REQUIREMENTS = ("requirements-cpu.txt", "requirements.txt")
PACKAGES = (  # whose tested versions matter to training
    "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "bitsandbytes", "unsloth", "unsloth_zoo",
    "triton", "triton-windows",
)


@dataclass(frozen=True)
class Measured:
    """What a judgement needs to know. `machine` as in describe_machine; `versions` of the installed packages by name; free
    bytes of RAM, of the disk that adapters/ is on, and of the first GPU (None without one)."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    ram_free: int
    disk_free: int
    gpu_free: int | None


@dataclass(frozen=True)
class BaseSize:
    """Of a base model: its parameters, its bytes on disk, those of its largest file, and the values that rank 1 adds to it."""

    parameters: int
    bytes: int
    largest_file: int
    lora_width: int


def measure_machine(folder: Path) -> Measured:
    """This machine; `folder` is where the adapters go, and need not exist."""
    import psutil
    import torch

    machine = describe_machine()
    place = next(each for each in (folder, *folder.parents) if each.exists())
    return Measured(
        machine=machine, versions=list_versions(), ram_free=psutil.virtual_memory().available,
        disk_free=shutil.disk_usage(place).free, gpu_free=torch.cuda.mem_get_info()[0] if machine["gpus"] else None,
    )


def measure_base(folder: Path, settings: FinetuneSection) -> BaseSize:
    """Sizes from the headers of the safetensors files, without their weights. Raises SafetensorError for a torn file."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with safe_open(path, framework="numpy") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no mapping
    sizes = [path.stat().st_size for path in files]
    adapted = [shape for name, shape in shapes.items() if is_adapted(name, shape, settings.target_modules)]
    return BaseSize(sum(map(math.prod, shapes.values())), sum(sizes), max(sizes), sum(map(sum, adapted)))


def is_adapted(name: str, shape: Sequence[int], targets: str | Sequence[str]) -> bool:
    """Whether a weight belongs to a linear layer that LoRA adapts: a matrix, but not of the embedding or the output."""
    kind = name.split(".")[-2] if "." in name else name
    if len(shape) != 2 or "embed" in kind or kind == "lm_head":
        return False
    return targets == "all-linear" or kind in targets


def measure_flops() -> float:
    """Float32 operations a second of a matrix product on this CPU, the best of three."""
    import torch

    size, best = 1024, math.inf
    left = torch.ones(size, size)
    for _ in range(3):
        started = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def read_requirements(root: Path) -> dict[str, Any]:
    """The version specifiers of PACKAGES in the requirements files; empty where those were not copied along."""
    from packaging.requirements import Requirement

    lines = [line for name in REQUIREMENTS if (root / name).is_file() for line in read_lines(root / name)]
    wanted = [Requirement(line) for line in lines]
    return {each.name: each.specifier for each in wanted if each.name in PACKAGES}


def read_lines(path: Path) -> list[str]:
    """The requirements themselves: no comments, no options."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-")]
