"""
From a 16-bit base model and its adapter to GGUF files, all of them in one read of the base.

The plan (which tensor, which type, where it comes from, how many bytes) is made from headers alone. Then each tensor is read
slice by slice; the adapter is added in float32, and every slice is quantised and appended to every file that wants it. No
merged copy and no f16 file come into being. Slices are read ahead and written behind while the numbers are worked on.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGMLQuantizationType

from distill.errors import PipelineError
from distill.gguf.families import read_model
from distill.gguf.families.common import Model, Weight, add_metadata
from distill.gguf.merge import MergedWeights, load_adapter
from distill.gguf.merged import MergedFolder
from distill.gguf.quantisation.kquants import quantise, slice_rows
from distill.gguf.quantisation.recipe import Recipe, choose_type, get_recipe
from distill.gguf.shards import BaseWeights, read_ahead
from distill.gguf.vocabulary.tokenizer import Vocabulary, add_vocabulary, read_vocabulary
from distill.gguf.writer import GrowingGguf, PlannedTensor

# Values read and merged at a time: 64 MB in float32, and a few times that while they are quantised.
READ_VALUES = 1 << 24

Advance = Callable[[], object]


@dataclass(frozen=True)
class Output:
    """A GGUF to write. name: general.name. tuned: with the adapter, or the base as it is."""

    path: Path
    quantization: str
    name: str
    tuned: bool


@dataclass(frozen=True)
class Conversion:
    """What was written: the size in bytes, the tensors that the adapter changed, the count of each type."""

    path: Path
    bytes: int
    merged: tuple[str, ...]
    types: dict[str, int]


# -----------------------------------------------------------------------------
# Plan


def plan_tensors(model: Model, recipe: Recipe) -> list[PlannedTensor]:
    """Every tensor of the GGUF in the order of the file."""
    planned = [
        PlannedTensor(name, (len(values),), GGMLQuantizationType.F32, values=values) for name, values in model.constants.items()
    ]
    heads, kv_heads = (model.metadata[f"{model.architecture}.attention.{key}"] for key in ("head_count", "head_count_kv"))
    for weight in model.weights:
        kind = choose_type(
            recipe, weight.name, weight.shape, model.layers, model.tied, model.architecture, grouped_query=heads != kv_heads
        )
        planned.append(PlannedTensor(weight.name, weight.shape, kind, weight))
    return planned


def estimate_bytes(base_folder: Path, quantization: str) -> int:
    """The size of the GGUF's tensors, from config.json alone. Raises PipelineError as `read_model` does."""
    return sum(tensor.bytes for tensor in plan_tensors(read_model(base_folder), get_recipe(quantization)))


def count_tensors(base_folder: Path) -> int:
    """How many tensors a GGUF of this model has."""
    return len(plan_tensors(read_model(base_folder), get_recipe("f16")))


def require_complete(model: Model, base: BaseWeights) -> None:
    """Raises PipelineError for a missing tensor, one too many, or one of another shape than config.json says."""
    wanted = {weight.source: weight.shape for weight in model.weights}
    for name in sorted(base.names - wanted.keys()):
        if not re.fullmatch(model.ignored, name):
            raise PipelineError(
                f"{model.folder}: tensor {name} has no place in a {model.family} GGUF: this exporter does not know this model"
            )
    for name, shape in wanted.items():
        if name not in base.names:
            raise PipelineError(f"{model.folder}: tensor {name} is missing: download the base model again")
        if base.shape(name) != shape:
            raise PipelineError(f"{model.folder}: tensor {name} is {base.shape(name)}, config.json says {shape}")


# -----------------------------------------------------------------------------
# Conversion


def convert(
    base_folder: Path,
    adapter_folder: Path | None,
    outputs: Sequence[Output],
    *,
    merged: Path | None = None,
    device: str | None = None,
    advance: Advance = lambda: None,
) -> list[Conversion]:
    """
    Merge, quantise and write every output; nothing stands under a path that is not whole and on the disk.

    adapter_folder: a PEFT LoRA adapter, or None for the base alone. merged: a folder for the merged weights as safetensors, if
    they are wanted too. device: where the numbers are worked on, by default the GPU if there is one. advance: called after each
    tensor. Raises PipelineError for everything that is wrong with the inputs; then none of the outputs exists.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = read_model(base_folder)
    vocabulary = read_vocabulary(base_folder, model.vocabulary)
    plans = [plan_tensors(model, get_recipe(output.quantization)) for output in outputs]
    with ExitStack() as stack:
        base = stack.enter_context(BaseWeights(base_folder))
        adapter = load_adapter(adapter_folder) if adapter_folder else None
        weights = MergedWeights(base, adapter, device, tied=model.tied)
        require_complete(model, base)
        weights.require_used({weight.source for weight in model.weights})
        files = [
            stack.enter_context(GrowingGguf(output.path, model.architecture, plan, describe(model, vocabulary, output)))
            for output, plan in zip(outputs, plans)
        ]
        folder = stack.enter_context(MergedFolder(merged, base_folder, base)) if merged else None
        pump = stack.enter_context(Pump(files))
        stored = stack.enter_context(closing(read_ahead(base, list_slices(model), pinned=device.startswith("cuda"))))
        for tensors in zip(*plans):
            write_tensor(tensors, [output.tuned for output in outputs], weights, stored, pump, folder)
            advance()
    return [
        Conversion(
            output.path, output.path.stat().st_size, tuple(weights.list_merged()) if output.tuned else (),
            dict(Counter(tensor.kind.name for tensor in plan)),
        )
        for output, plan in zip(outputs, plans)
    ]


def describe(model: Model, vocabulary: Vocabulary, output: Output) -> Callable[[GGUFWriter], None]:
    """What adds all metadata of one output."""

    def add_all(writer: GGUFWriter) -> None:
        add_metadata(writer, model, output.name)
        writer.add_file_type(get_recipe(output.quantization).file_type)
        writer.add_quantization_version(2)
        add_vocabulary(writer, vocabulary)

    return add_all


def write_tensor(
    tensors: Sequence[PlannedTensor], tuned: Sequence[bool], weights: MergedWeights, stored: Iterator[torch.Tensor], pump: Pump,
    folder: MergedFolder | None,
) -> None:
    """One tensor into every file: the same weight, in each file's type, with or without the adapter."""
    weight = tensors[0].weight
    if weight is None:
        for number, tensor in enumerate(tensors):
            pump.append(number, np.array(tensor.values, dtype=np.float32))
    else:
        for start, _ in slice_weight(weight):
            rows = weights.check_rows(weight.source, next(stored))
            changed = weights.merge_rows(weight.source, start, rows)
            if folder is not None:
                folder.write(weight.source, start, changed)
            for number, tensor in enumerate(tensors):
                prepared = weight.prepare(changed if tuned[number] else rows)
                pump.append(number, quantise(prepared.reshape(-1, tensor.shape[-1]), tensor.kind))
    pump.end_tensor()


def list_slices(model: Model) -> list[tuple[str, int, int]]:
    """Name, first and last row of every slice in the order in which they are needed."""
    return [(weight.source, *part) for weight in model.weights for part in slice_weight(weight)]


def slice_weight(weight: Weight) -> Iterator[tuple[int, int]]:
    """(start, stop) of slices of about READ_VALUES values that split no head."""
    step = weight.row_step
    columns = math.prod(weight.shape[1:]) * step
    for start, stop in slice_rows(weight.shape[0] // step, columns, READ_VALUES):
        yield start * step, stop * step


class Pump:
    """Appends to the files in a thread of its own, one piece behind; a context manager."""

    def __init__(self, files: Sequence[GrowingGguf]) -> None:
        self._files = files
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> Pump:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:
            self._thread.shutdown(cancel_futures=True)

    def append(self, number: int, data: np.ndarray) -> None:
        """A piece for one file. Raises OSError when an earlier piece could not be written."""
        self._submit(self._files[number].append, data)

    def end_tensor(self) -> None:
        """The current tensor is whole, in every file."""
        for file in self._files:
            self._submit(file.end_tensor)

    def _submit(self, work: Callable[..., None], *arguments: np.ndarray) -> None:
        self._pending.append(self._thread.submit(work, *arguments))
        self._wait(2 * len(self._files))

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.pop(0).result()
