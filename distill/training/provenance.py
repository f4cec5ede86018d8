"""What a run leaves for whoever asks later how an adapter came about: the machine, and what the log says of the training.

Only what may leave the machine: no host name, no user, no path.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.files import read_jsonl

LOSS_POINTS = 200  # of the loss history in the manifest; training_log.jsonl, whose hash stands beside them, has every one
WINDOW = 5  # logged steps whose mean is the first and the last loss: one step alone is noise
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


# -----------------------------------------------------------------------------
# The machine


def describe_machine() -> dict[str, Any]:
    """
    The machine as plain values; keys of what is not there hold None, and "gpus" is empty without CUDA.

    gpus: for each visible one "name", "bytes" of memory, "capability" such as "8.6"; driver: of NVIDIA, also where PyTorch
    cannot use it; cuda, cudnn: the runtimes that PyTorch was built with; torch_archs: the GPU architectures that it was built
    for; cpu_cores: those this process may use; ram_bytes; platform.
    """
    import psutil
    import torch

    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    return {
        "gpus": describe_gpus(),
        "driver": find_driver(),
        "cuda": torch.version.cuda,
        "cudnn": ".".join(str(part) for part in split_cudnn(cudnn)) if cudnn else None,
        "torch": torch.__version__,
        "torch_archs": torch.cuda.get_arch_list(),
        "cpu_cores": count_cores(),
        "ram_bytes": psutil.virtual_memory().total,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def describe_gpus() -> list[dict[str, Any]]:
    """The GPUs that this process sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "bytes": gpu.total_memory, "capability": f"{gpu.major}.{gpu.minor}"} for gpu in found]


def find_driver() -> str | None:
    """The version of NVIDIA's driver; None without one. PyTorch does not tell it, and cannot where the driver is too old."""
    try:
        done = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines and lines[0][:1].isdigit() else None


def split_cudnn(version: int) -> tuple[int, int, int]:
    """Major, minor and patch of cuDNN's number: 91002 is 9.10.2; before 9, 8902 was 8.9.2."""
    size = 10_000 if version >= 90_000 else 1_000
    return version // size, version % size // 100, version % 100


def count_cores() -> int:
    """The cores that this process may use: fewer than the machine's in a container. Windows does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -----------------------------------------------------------------------------
# The log


def summarise_log(path: Path) -> dict[str, Any]:
    """
    What training_log.jsonl says of a run, over all its resumptions.

    first_loss, last_loss: means of the first and the last five logged steps (transformers' own figure is wrong after a resume);
    losses, eval_losses: [step, loss] pairs, the former thinned to 200; best_eval: {"step", "loss"} of the lowest, or None;
    logged_steps; seconds of training; tokens_per_second: the median; peak_gb: GiB. What was not logged is None, [] or 0.
    """
    rows = [row for _, row in read_jsonl(path, torn_end=True)]
    losses = [[row["step"], row["loss"]] for row in rows if row.get("loss") is not None]
    evals = [[row["step"], row["eval_loss"]] for row in rows if row.get("eval_loss") is not None]
    window = max(1, min(WINDOW, len(losses) // 2))  # the two must not be the same rows
    rates = [row["tokens_per_second"] for row in rows if row.get("tokens_per_second")]
    best = min(evals, key=lambda point: point[1], default=None)
    return {
        "first_loss": average(losses[:window]), "last_loss": average(losses[-window:]),
        "losses": thin_out(losses, LOSS_POINTS), "eval_losses": evals,
        "best_eval": {"step": best[0], "loss": best[1]} if best else None,
        "logged_steps": len(losses),
        "seconds": max((row.get("seconds", 0.0) for row in rows), default=0.0),
        "tokens_per_second": statistics.median(rates) if rates else None,
        "peak_gb": max((row["peak_gb"] for row in rows if row.get("peak_gb")), default=None),
    }


def average(points: Sequence[Sequence[float]]) -> float | None:
    """The mean loss of [step, loss] pairs; None of none."""
    return statistics.fmean(loss for _, loss in points) if points else None


def thin_out(points: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the points, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]
