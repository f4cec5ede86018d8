"""
What every family of models shares: the description of a GGUF that is made from config.json alone.

A `Model` lists the metadata, the tensors, where each comes from, and the little that changes on the way (Llama's rotary layout,
Gemma's norms). Neither reads nor writes weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gguf import GGUFWriter
from gguf.constants import MODEL_TENSOR, TENSOR_NAMES

from distill.errors import PipelineError

Value = int | float | bool | str | list[int] | list[float] | list[bool]

# A loader of llama.cpp takes a model of such a name for a Phi-3 with a SentencePiece vocabulary, and fails.
RESERVED_NAME = re.compile(r"phi-?3", re.IGNORECASE)
# What a larger model, in several versions of transformers, or the text model alone puts before its own modules' names.
TEXT_MODEL = re.compile(
    r"(model\.language_model\.|language_model\.model\.|model\.)(?=embed_tokens\.|layers\.|norm\.)|(language_model\.)?(?=lm_head\.)"
)
OWN_LLAMA_CPP = "convert it with your own llama.cpp:  python export_gguf.py --llama-cpp FOLDER"


@dataclass(frozen=True)
class Weight:
    """
    One tensor of the GGUF that holds weights.

    name: in the GGUF. source: in the safetensors. shape: PyTorch's. heads: above 0, the rows of each head are reordered from
    Hugging Face's rotary layout (halves) to llama.cpp's (pairs). offset: is added to every value.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    heads: int = 0
    offset: float = 0.0

    @property
    def row_step(self) -> int:
        """How many rows must be prepared together: those of one head, or one."""
        return self.shape[0] // self.heads if self.heads else 1

    def prepare(self, rows: torch.Tensor) -> torch.Tensor:
        """Hugging Face's rows, a multiple of `row_step`, as they stand in the GGUF."""
        return self._swap(rows, (2, self.row_step // 2)) + self.offset if self.heads or self.offset else rows

    def restore(self, rows: torch.Tensor) -> torch.Tensor:
        """The inverse of `prepare`."""
        return self._swap(rows - self.offset, (self.row_step // 2, 2)) if self.heads or self.offset else rows

    def _swap(self, rows: torch.Tensor, parts: tuple[int, int]) -> torch.Tensor:
        if not self.heads:
            return rows
        return rows.reshape(-1, *parts, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True)
class Model:
    """
    A base model as a GGUF will describe it.

    family: phi3, llama, mistral, gemma3 or qwen3. architecture: general.architecture. vocabulary: rows of the embedding.
    tied: the embedding serves as the output too. trained_context: tokens of the longest context that the model was trained for
    with the rotary factors which a GGUF serves, and the reason. metadata: the architecture's keys, full names; whole numbers
    become uint32, others float32. constants: float32 vectors that follow from config.json, by GGUF name. weights: in the order
    of the file.
    ignored: regular expression for tensors that may be in the safetensors and have no place in the GGUF. prefix: what the
    safetensors put before the text model's own names, "language_model." for example.
    """

    folder: Path
    family: str
    architecture: str
    vocabulary: int
    layers: int
    tied: bool
    trained_context: int
    context_reason: str
    metadata: dict[str, Value]
    weights: tuple[Weight, ...]
    constants: dict[str, tuple[float, ...]] = field(default_factory=dict)
    ignored: str = ""
    prefix: str = ""


# -----------------------------------------------------------------------------
# What the families' modules are made of


def make_refusal(path: Path, problem: str) -> PipelineError:
    """The error for what this exporter cannot convert faithfully: one line that names the way out."""
    return PipelineError(f"{path}: {problem}: {OWN_LLAMA_CPP}")


def name_weight(module: str, kind: MODEL_TENSOR, shape: tuple[int, ...], layer: int = 0) -> Weight:
    """A weight of a module as the GGUF calls it."""
    return Weight(f"{TENSOR_NAMES[kind].format(bid=layer)}.weight", f"{module}.weight", shape)


def limit_context(positions: int, window: int | None) -> tuple[int, str]:
    """
    The longest context in tokens, and the reason.

    window: of attention in the base, where llama.cpp has none: within it both compute the same, None without one.
    """
    if window is not None and window < positions:
        return window, f"the base attends to {window} tokens (sliding_window in config.json), llama.cpp to all of them"
    return positions, f"max_position_embeddings in config.json is {positions}"


# -----------------------------------------------------------------------------
# What stands in the GGUF


def add_metadata(writer: GGUFWriter, model: Model, name: str) -> None:
    """Add the architecture's keys and a name that llama.cpp does not misread to a GGUF that has not been opened yet."""
    writer.add_type("model")
    writer.add_name(make_safe_name(name))
    for key, value in model.metadata.items():
        add_value(writer, key, value)


def add_value(writer: GGUFWriter, key: str, value: Value) -> None:
    """One key in the type that llama.cpp reads it as."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def make_safe_name(name: str) -> str:
    """`name` without what llama.cpp would mistake for a Phi-3."""
    return RESERVED_NAME.sub("phi", name)
