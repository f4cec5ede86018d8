"""Whether this machine can train this student: what is there, what is missing, and what to type about it.

Measuring stands apart, in machine.py: so every machine can be judged on any other.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.base_model import describe_download
from distill.config import Config, FinetuneSection
from distill.errors import PipelineError
from distill.training.machine import BaseSize, Measured, measure_base, measure_flops, measure_machine, read_requirements

Level = Literal["OK", "WARN", "FAIL"]

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12")
INSTALL = "python -m pip install -r requirements.txt"
TORCH_CUDA = "python -m pip install torch==2.13.0 torchvision==0.28.0 --index-url https://download.pytorch.org/whl/cu130"
# What each CUDA runtime asks of the driver, by the toolkits' release notes; Linux and Windows differ by minor versions.
DRIVERS = {"13": 580, "12": 525}
FAST_UNSLOTH = "2026.10.9"
FAST_UNSLOTH_COMMAND = "python -m pip install --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9"
LARGE = 1_000_000_000  # parameters above which a CPU takes days, not minutes

# An adapter's value on disk: 4 bytes in the adapter; 4 and at most 8 of the optimizer in each checkpoint. Two checkpoints stay,
# the best one may be a third, and the next is written before one goes.
BYTES_PER_TRAINABLE = 4 + 4 * 12
SPARE_DISK = 1_000_000_000
SPARE_RAM = 3_000_000_000  # Python, PyTorch, CUDA's context and the rows
USED_BY_OTHERS = 1_500_000_000  # GPU memory that a desktop takes; more is another program


@dataclass(frozen=True)
class Finding:
    """One line for the user; `advice` is what to do, and "" where all is well."""

    level: Level
    text: str
    advice: str = ""


def check_readiness(
    config: Config, base: Path | None, backend: str, measured: Measured | None = None, tokens: int | None = None
) -> list[Finding]:
    """
    Every finding, in the order in which a user would look.

    `base` is from find_base_model, None where it found nothing; `backend` from choose_backend; `tokens` are those of all
    epochs together, where they are known, for the time that a CPU would take.
    """
    settings = config.finetune
    measured = measured or measure_machine(config.adapters_dir)
    findings = [*check_python(measured), *check_packages(measured, backend, settings.backend == "auto")]
    findings += check_tensorboard(settings)
    found, size = check_base(config, base)
    findings += found
    if measured.machine["gpus"]:
        findings += [*check_gpu(measured, settings), *check_4bit(measured, settings), *check_kernels(measured, backend)]
    elif size:
        findings += check_cpu(measured, size, tokens)
    return [*findings, *check_ram(measured, size), *check_disk(measured, config, size)] if size else findings


def print_findings(findings: Iterable[Finding]) -> None:
    """Print what is well and what is a warning; then raise one PipelineError with every finding that stops the training."""
    failures = []
    for finding in findings:
        line = f"{finding.text}: {finding.advice}" if finding.advice else finding.text
        if finding.level == "FAIL":
            failures.append(line)
        else:
            print(f"[{finding.level}] {line}")
    if failures:
        raise PipelineError("\n       ".join(failures))


# -----------------------------------------------------------------------------
# Python, packages, base model


def check_python(measured: Measured) -> list[Finding]:
    """The versions that the tests run on."""
    version = measured.machine["python"]
    if version.rsplit(".", 1)[0] in PYTHONS:
        return []
    return [Finding("WARN", f"Python {version} is untested", f"use {' or '.join(PYTHONS)}")]


def check_packages(measured: Measured, backend: str, wanted_unsloth: bool) -> list[Finding]:
    """Packages that are not the tested ones, and an Unsloth that is slower than it need be."""
    from packaging.version import Version

    findings = [
        Finding("WARN", f"{name} is {measured.versions[name]}, tested is {wanted}", f'python -m pip install "{name}{wanted}"')
        for name, wanted in read_requirements(ROOT).items()
        if name in measured.versions and not wanted.contains(measured.versions[name], prereleases=True)
    ]
    unsloth = measured.versions.get("unsloth")
    if backend == "unsloth" and unsloth and Version(unsloth) < Version(FAST_UNSLOTH):
        text = f"unsloth {unsloth} works, but {FAST_UNSLOTH} trained 2.2 times as fast, with the same losses"
        findings.append(Finding("WARN", text, FAST_UNSLOTH_COMMAND))
    if wanted_unsloth and backend == "peft" and measured.machine["gpus"] and not unsloth:
        findings.append(Finding("WARN", "unsloth is not installed, and PEFT alone is slower", INSTALL))
    return findings


def check_tensorboard(settings: FinetuneSection) -> list[Finding]:
    """The events need its package."""
    if not settings.tensorboard or importlib.util.find_spec("tensorboard") is not None:
        return []
    return [Finding("FAIL", "finetune.tensorboard is true but tensorboard is not installed", "pip install tensorboard")]


def check_base(config: Config, base: Path | None) -> tuple[list[Finding], BaseSize | None]:
    """The base model, and its sizes where it is there and whole."""
    from safetensors import SafetensorError

    if base is None:
        text = f"base model {config.value_of('finetune.base_model')} is not on this machine"
        return [Finding("FAIL", text, describe_download(config.finetune.base_model))], None
    try:
        size = measure_base(base, config.finetune)
    except (SafetensorError, OSError) as error:
        text = f"the weights in {base} cannot be read ({' '.join(str(error).split())})"
        return [Finding("FAIL", text, "they were copied in part: copy or download them again")], None
    text = f"base model: {size.parameters / 1e6:,.0f} million parameters, {size.bytes / 1e6:,.0f} MB"
    return [Finding("OK", text)], size


# -----------------------------------------------------------------------------
# With a GPU


def check_gpu(measured: Measured, settings: FinetuneSection) -> list[Finding]:
    """The first GPU: whether PyTorch has kernels for it, and what it can do."""
    machine, gpu = measured.machine, measured.machine["gpus"][0]
    name = f"{gpu['name']} ({gpu['bytes'] / 2**30:.0f} GB, compute capability {gpu['capability']})"
    driver = machine["driver"] or "unknown"
    runtime = f"driver {driver}, CUDA {machine['cuda']}, cuDNN {machine['cudnn']}, torch {machine['torch']}"
    if not has_kernels(gpu["capability"], machine["torch_archs"]):
        text = f"torch {machine['torch']} has no kernels for {name}, only for {', '.join(machine['torch_archs'])}"
        return [Finding("FAIL", text, TORCH_CUDA)]
    findings = [Finding("OK", f"{name}, {runtime}")]
    if float(gpu["capability"]) < 8:
        advice = "training uses float16, which may overflow: watch the loss"
        findings.append(Finding("WARN", f"{gpu['name']} has no bfloat16", advice))
    if settings.vram_gb and settings.vram_gb * 2**30 > gpu["bytes"] * 1.02:
        text = f"finetune.vram_gb {settings.vram_gb:g} is more than this card has"
        findings.append(Finding("WARN", text, "set it to null, for all of the card"))
    used = gpu["bytes"] - (measured.gpu_free or 0)
    if used > USED_BY_OTHERS:
        text = f"other programs hold {used / 2**30:.1f} GB of the GPU's memory"
        findings.append(Finding("WARN", text, "close them; ollama stop MODEL frees what Ollama holds"))
    return findings


def has_kernels(capability: str, archs: Sequence[str]) -> bool:
    """
    Whether a PyTorch build runs on a GPU of this compute capability.

    sm_86 runs on 8.6 and later minor versions of 8; compute_90 is compiled by the driver for 9.0 and all later ones; the letter
    of sm_90a ties it to 9.0 (CUDA programming guide, compute capabilities). An unknown list is taken for a yes.
    """
    major, minor = (int(part) for part in capability.split("."))
    for arch in archs:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", arch)
        if not found:
            continue
        of = int(found[2]), int(found[3])
        if of == (major, minor) or (found[4] != "a" and of[0] == major and of[1] <= minor):
            return True
        if found[1] == "compute" and not found[4] and of <= (major, minor):
            return True
    return not archs


def check_4bit(measured: Measured, settings: FinetuneSection) -> list[Finding]:
    """bitsandbytes holds weights in 4 bits."""
    if "bitsandbytes" in measured.versions or settings.load_in_4bit is False:
        return []
    advice = f"{INSTALL}, or set finetune.load_in_4bit to false"
    if settings.load_in_4bit is True:
        return [Finding("FAIL", "finetune.load_in_4bit is true, but bitsandbytes is not installed", advice)]
    return [Finding("WARN", "bitsandbytes is not installed: the base model takes 16 bits a weight", advice)]


def check_kernels(measured: Measured, backend: str) -> list[Finding]:
    """Triton compiles Unsloth's kernels; Windows has its own package of it."""
    name = "triton-windows" if measured.machine["platform"].startswith("Windows") else "triton"
    if backend != "unsloth" or name in measured.versions:
        return []
    return [Finding("FAIL", f"unsloth needs {name}, which is not installed", INSTALL)]


# -----------------------------------------------------------------------------
# Without a GPU, memory and disk


def check_cpu(measured: Measured, size: BaseSize, tokens: int | None) -> list[Finding]:
    """
    Why there is no CUDA, and what a CPU means for this student.

    A small student trains on a CPU as well as anywhere. A large one on a machine whose NVIDIA card is merely out of reach is a
    faulty installation, and stops; with no such card, or with the card hidden on purpose, it is the user's choice, and is told
    how long it takes: 4 operations a parameter and token, 2 forward and 2 back through weights that do not learn.
    """
    machine = measured.machine
    reason, advice = explain_no_cuda(machine)
    large, hidden = size.parameters > LARGE, os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if large and machine["driver"] and not hidden:
        return [Finding("FAIL", f"{reason}, and on the CPU this student takes days", advice)]
    cpu = f"training on the CPU, {machine['cpu_cores']} cores, torch {machine['torch']}, the base model in float32"
    if not large:
        return [Finding("WARN" if advice and not hidden else "OK", f"{reason}: {cpu}", "" if hidden else advice)]
    seconds = 4 * size.parameters / measure_flops()
    total = f", {seconds * tokens / 3600:,.0f} hours for these rows" if tokens else ""
    text = f"{reason}: {cpu}. At least {1000 * seconds:,.0f} s for 1,000 tokens{total}"
    return [Finding("WARN", text, advice or "use a machine with an NVIDIA card of 12 GB or more")]


def explain_no_cuda(machine: Mapping[str, Any]) -> tuple[str, str]:
    """Why PyTorch sees no GPU, and what to do about it; the advice is "" where there is no card to be used."""
    driver, cuda = machine["driver"], machine["cuda"]
    if not driver:
        return "no CUDA GPU", ""
    if not cuda:
        return f"torch {machine['torch']} has no CUDA, though NVIDIA's driver {driver} is there", TORCH_CUDA
    needed = DRIVERS.get(cuda.split(".")[0], 0)
    if int(driver.split(".")[0]) < needed:
        advice = f"update the driver to {needed} or newer, or see docs/TROUBLESHOOTING.md for an older torch"
        return f"NVIDIA's driver {driver} is too old for CUDA {cuda}", advice
    return f"torch sees no GPU, though NVIDIA's driver {driver} is there", "look at CUDA_VISIBLE_DEVICES and nvidia-smi"


def check_ram(measured: Measured, size: BaseSize) -> list[Finding]:
    """Room to load the base: on a CPU all of it in float32, with a GPU one file at a time on its way there."""
    total, on_gpu = measured.machine["ram_bytes"], bool(measured.machine["gpus"])
    needed = (size.largest_file if on_gpu else 4 * size.parameters) + SPARE_RAM * (on_gpu or size.parameters > LARGE)
    if not on_gpu and needed > total:
        text = f"the base model needs {needed / 1e9:.0f} GB of RAM in float32, this machine has {total / 1e9:.0f}"
        return [Finding("FAIL", text, "use a machine with an NVIDIA card, or a smaller finetune.base_model")]
    if needed > measured.ram_free:
        text = f"{measured.ram_free / 1e9:.1f} GB of RAM are free, loading the base model takes about {needed / 1e9:.1f}"
        return [Finding("WARN", text, "close other programs, or it will be slow or fail")]
    return [Finding("OK", f"RAM: {measured.ram_free / 1e9:.1f} of {total / 1e9:.1f} GB free")]


def check_disk(measured: Measured, config: Config, size: BaseSize) -> list[Finding]:
    """Room for checkpoints, adapter and the rows as tokens; what an unfinished run holds already is not needed again."""
    folder, rows = config.adapters_dir, config.training_dir / "train.jsonl"
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    tokens = rows.stat().st_size if rows.exists() else 0
    needed = max(0, BYTES_PER_TRAINABLE * config.finetune.lora_r * size.lora_width + tokens - there)
    if measured.disk_free < needed + SPARE_DISK:
        text = f"{measured.disk_free / 1e9:.1f} GB of disk are free, training needs {(needed + SPARE_DISK) / 1e9:.1f} at most"
        return [Finding("FAIL", text, "make room, or set work_dir in config.yaml to another disk")]
    return [Finding("OK", f"Disk: {measured.disk_free / 1e9:.1f} GB free, at most {needed / 1e9:.1f} needed")]
