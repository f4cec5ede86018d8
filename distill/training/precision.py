"""In which floating-point type this machine trains."""

from __future__ import annotations

from typing import Any


def choose_dtype() -> Any:
    """bfloat16 where the GPU has it (Ampere and later), float16 on older ones, float32 without a GPU.

    PyTorch also calls bfloat16 supported where it is only emulated, which is slower than float16 by far.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
