"""Attention over rows that lie end to end: each token sees the earlier tokens of its own row and nothing else.

Registered with transformers under a name of its own, for every model that uses its attention interface. On an NVIDIA GPU from
Ampere on, PyTorch's own variable-length flash attention does it in one kernel; elsewhere each row is one call of PyTorch's
scaled_dot_product_attention. Neither builds a mask over all pairs of tokens.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from distill.errors import PipelineError

try:
    from torch.nn.attention.varlen import varlen_attn

    OPTIONS = inspect.signature(varlen_attn).parameters
except ImportError:  # PyTorch before 2.10
    OPTIONS = {}
HAS_FLASH = "scale" in OPTIONS and "window_size" in OPTIONS
SHARES_HEADS = "enable_gqa" in OPTIONS  # from PyTorch 2.12 on

NAME = "rows_end_to_end"


def use_row_attention(model: Any) -> None:
    """Let `model` attend within rows from now on; every batch must then carry its boundaries (Batch.to_inputs).

    Raises PipelineError for a model in which tokens of one row would reach the next another way: by a state or a convolution.
    """
    from transformers import AttentionInterface

    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or model._is_stateful or not model._supports_attention_backend:
        name = type(model).__name__
        raise PipelineError(
            f"{name} mixes tokens by more than attention ({', '.join(sorted(kinds)) or 'its own way'}), so rows end to end "
            "would see one another: use another base model"
        )
    AttentionInterface.register(NAME, attend_within_rows)
    model.config.get_text_config()._attn_implementation = NAME


def is_unsloths_own(model: Any) -> bool:
    """Whether Unsloth has put attention of its own into the model, as into Llama's; Phi3's stays transformers'."""
    return any(type(module).forward.__module__.startswith("unsloth.models") for module in model.modules())


def find_rotary_limit(config: Any) -> float:
    """Tokens of a row above which the rotary factors are others (longrope, dynamic), for all rows of the same batch."""
    settings = getattr(config, "rope_parameters", None) or {}
    kinds = [kind for kind in (settings, *settings.values()) if isinstance(kind, dict)]  # some models have one a kind of layer
    limits = [
        kind.get("original_max_position_embeddings", 0) for kind in kinds if kind.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(limits, default=math.inf)


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """transformers' own attention and no compiled layers while the block runs: for batches without boundaries (generation)."""
    config = model.config.get_text_config()
    before, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        config._attn_implementation = before


def attend_within_rows(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *, cu_seq_lens_q: Any, max_length_q: int,
    scaling: float | None = None, sliding_window: int | None = None, **kwargs: Any,
) -> tuple[Any, None]:
    """query [1, heads, T, d], key and value [1, fewer heads, T, d], as transformers passes them; returns [1, T, heads, d]."""
    if kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        name = type(module).__name__
        raise PipelineError(f"{name} alters its attention scores, which this trainer cannot do: use another model")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = sliding_window if sliding_window and sliding_window < max_length_q else None
    if uses_flash(query):
        return attend_with_flash(query, key, value, cu_seq_lens_q, max_length_q, scale, window), None
    return attend_row_by_row(query, key, value, cu_seq_lens_q.tolist(), scale, window), None


def uses_flash(query: Any) -> bool:
    """Flash attention needs an NVIDIA GPU of capability 8 or higher, 16-bit values and heads of at most 256 values."""
    return (
        query.is_cuda
        and torch.version.hip is None
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device)[0] >= 8
        and HAS_FLASH
    )


def attend_with_flash(query: Any, key: Any, value: Any, boundaries: Any, longest: int, scale: float, window: int | None) -> Any:
    """One kernel for all rows. Where PyTorch cannot share key heads among query heads, they are repeated."""
    groups = query.shape[1] // key.shape[1]
    shared = {"enable_gqa": groups > 1} if SHARES_HEADS else {}
    if groups > 1 and not shared:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = varlen_attn(
        query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), boundaries, boundaries, longest, longest,
        scale=scale, window_size=(-1 if window is None else window - 1, 0), **shared,
    )
    return out[None]


def attend_row_by_row(query: Any, key: Any, value: Any, boundaries: list[int], scale: float, window: int | None) -> Any:
    """One call a row."""
    parts, shared = [], query.shape[1] != key.shape[1]
    for start, end in itertools.pairwise(boundaries):
        row = [tensor[:, :, start:end] for tensor in (query, key, value)]
        mask = near_past(end - start, window, query.device) if window is not None and window < end - start else None
        parts.append(scaled_dot_product_attention(*row, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=shared))
    return torch.cat(parts, dim=2).transpose(1, 2)


def near_past(length: int, window: int, device: Any) -> Any:
    """Bool [length, length]: the token itself and the `window` - 1 before it."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None]
    return (distance >= 0) & (distance < window)
