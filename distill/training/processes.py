"""Several GPUs: torchrun starts one process for each, and tells them apart by environment variables.

The first process prints and writes the files; all of them train.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from distill.errors import PipelineError


def count_processes() -> int:
    """How many processes train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def quieten_others() -> None:
    """Only the first process prints; errors of all of them reach stderr."""
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends


def choose_device() -> None:
    """One GPU a process; without torchrun the first alone, for transformers would spread a batch over all it sees.

    Several processes meet here. Raises PipelineError where they cannot.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if count_processes() > 1:
        meet("nccl" if torch.cuda.is_available() else "gloo")


def meet(backend: str) -> None:
    """Join the other processes; each waits up to half an hour for the others, here and later (one may load more slowly)."""
    from torch import distributed

    if not distributed.is_backend_available(backend):
        raise PipelineError(
            f"several GPUs need {backend.upper()}, which this PyTorch has not (on Windows none has): run on one GPU, or "
            "under Linux or WSL 2; see docs/SCALING.md"
        )
    if not distributed.is_initialized():
        distributed.init_process_group(backend, timeout=timedelta(minutes=30))


def wait_for_others() -> None:
    """Go on when every process has come here. Raises PipelineError when one of them ended instead."""
    if count_processes() > 1:
        from torch import distributed

        try:
            distributed.barrier()
        except RuntimeError:  # the connection to it is closed
            raise PipelineError("another process of this run ended: its own message says why") from None


def part() -> None:
    """Leave the other processes when all have come here: one that ended before would have torchrun end the one that writes."""
    if count_processes() > 1:
        from torch import distributed

        wait_for_others()
        distributed.destroy_process_group()


def take_lowest(*figures: float) -> list[float]:
    """The lowest of each figure over all processes, so that all decide alike."""
    if count_processes() == 1:
        return list(figures)
    import torch
    from torch import distributed

    device = "cuda" if torch.cuda.is_available() else "cpu"
    lowest = torch.tensor(figures, dtype=torch.float64, device=device)
    distributed.all_reduce(lowest, op=distributed.ReduceOp.MIN)
    return lowest.tolist()
