"""
One GGUF from a 16-bit Phi3 folder and, for the tuned model, its adapter.

The plan (which tensor, which type, where it comes from, how many bytes) is made from headers alone; then the tensors are read,
merged, quantised and written slice by slice. The file appears under its name only when it is whole and on the disk.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from distill.errors import PipelineError
from distill.files import create_private, replace_file
from distill.gguf.kquants import quantise, slice_rows
from distill.gguf.merge import BaseWeights, MergedWeights, load_adapter
from distill.gguf.phi3 import (
    ARCHITECTURE,
    Phi3,
    add_metadata,
    expected_shape,
    list_rope_factors,
    list_tensors,
    read_phi3,
)
from distill.gguf.recipe import Recipe, choose_type, get_recipe
from distill.gguf.tokenizer import add_vocabulary, read_vocabulary

# float32 values read and merged at a time: 64 MB, and a few times that while they are quantised.
READ_VALUES = 1 << 24

Advance = Callable[[], object]


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file to be; shape in PyTorch's order. `source` names a weight, `values` is given instead of one."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    source: str = ""
    values: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """Size in the file, without padding."""
        block_values, block_bytes = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block_values * block_bytes


@dataclass(frozen=True)
class Conversion:
    """What was written: the size in bytes, the tensors that the adapter changed, the count of each type."""

    path: Path
    bytes: int
    merged: tuple[str, ...]
    types: dict[str, int]


# -----------------------------------------------------------------------------
# Plan


def plan_tensors(model: Phi3, recipe: Recipe) -> list[PlannedTensor]:
    """Every tensor of the GGUF in the order of the file."""
    planned = [
        PlannedTensor(name, factors.shape, GGMLQuantizationType.F32, values=factors)
        for name, factors in list_rope_factors(model).items()
    ]
    for source, name in list_tensors(model).items():
        shape = expected_shape(model, name)
        planned.append(PlannedTensor(name, shape, choose_type(recipe, name, shape, model.layers, model.tied), source))
    return planned


def estimate_bytes(base_folder: Path, quantization: str) -> int:
    """The size of the GGUF's tensors, from config.json alone. Raises PipelineError as `read_phi3` does."""
    return sum(tensor.bytes for tensor in plan_tensors(read_phi3(base_folder), get_recipe(quantization)))


def count_tensors(base_folder: Path) -> int:
    """How many tensors a GGUF of this model has."""
    return len(plan_tensors(read_phi3(base_folder), get_recipe("f16")))


def require_complete(planned: list[PlannedTensor], weights: MergedWeights, tied: bool, folder: Path) -> None:
    """Raises PipelineError for a missing tensor, one too many, or one of another shape than config.json says."""
    wanted = {tensor.source: tensor.shape for tensor in planned if tensor.source}
    # A tied model's files may hold the output matrix a second time.
    extra = weights.base.names - wanted.keys() - ({"lm_head.weight"} if tied else set())
    for name in sorted(extra):
        raise PipelineError(f"{folder}: tensor {name} has no place in a Phi3 GGUF: this exporter does not know this model")
    for name, shape in wanted.items():
        if name not in weights.base.names:
            raise PipelineError(f"{folder}: tensor {name} is missing: download the base model again")
        if weights.base.shape(name) != shape:
            raise PipelineError(f"{folder}: tensor {name} is {weights.base.shape(name)}, config.json says {shape}")


# -----------------------------------------------------------------------------
# Conversion


def convert(
    base_folder: Path,
    adapter_folder: Path | None,
    target: Path,
    *,
    quantization: str,
    name: str,
    device: str | None = None,
    advance: Advance = lambda: None,
) -> Conversion:
    """
    Merge, quantise and write one GGUF.

    adapter_folder: a PEFT LoRA adapter, or None for the base as it is. name: general.name. device: where the numbers are
    worked on, by default the GPU if there is one. advance: called after each tensor.
    Raises PipelineError for everything that is wrong with the inputs; `target` then does not exist.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, recipe = read_phi3(base_folder), get_recipe(quantization)
    vocabulary = read_vocabulary(base_folder, model.vocabulary)
    planned = plan_tensors(model, recipe)
    with BaseWeights(base_folder) as base:
        weights = MergedWeights(base, load_adapter(adapter_folder) if adapter_folder else None, device)
        require_complete(planned, weights, model.tied, base_folder)
        writer = GGUFWriter(None, ARCHITECTURE)
        add_metadata(writer, model, name)
        writer.add_file_type(recipe.file_type)
        writer.add_quantization_version(2)
        add_vocabulary(writer, vocabulary)
        write_file(writer, planned, weights, target, advance)
        types = Counter(tensor.kind.name for tensor in planned)
        return Conversion(target, target.stat().st_size, tuple(weights.pairs), dict(types))


def write_file(
    writer: GGUFWriter, planned: list[PlannedTensor], weights: MergedWeights, target: Path, advance: Advance
) -> None:
    """Write everything to a temporary name beside `target`, fsync, and rename. Like its training data, the file is private."""
    for tensor in planned:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, tensor.kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        create_private(temporary)
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in planned:
            writer.write_tensor_data(TensorStream(tensor, weights))
            advance()
        writer.flush()
        os.fsync(writer.fout[0].fileno())
        writer.close()
        replace_file(temporary, target)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


class TensorStream:
    """Stands in for a numpy array where GGUFWriter wants one: it asks for `nbytes` and calls `tofile`."""

    def __init__(self, tensor: PlannedTensor, weights: MergedWeights) -> None:
        self.nbytes = tensor.bytes
        self._tensor, self._weights = tensor, weights

    def tofile(self, file: BinaryIO) -> None:
        """Append the tensor's bytes."""
        for data in self._slices():
            file.write(data.data)

    def _slices(self) -> Iterator[np.ndarray]:
        tensor = self._tensor
        if tensor.values is not None:
            yield tensor.values
            return
        columns = math.prod(tensor.shape[1:])
        for start, stop in slice_rows(tensor.shape[0], columns, READ_VALUES):
            rows = self._weights.rows(tensor.source, start, stop)
            yield quantise(rows.reshape(-1, tensor.shape[-1]), tensor.kind)
