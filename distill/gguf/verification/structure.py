"""The file alone: does a GGUF hold the tensors, types, keys and vocabulary that were planned, and numbers throughout?"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter, ReaderTensor
from gguf.constants import GGML_QUANT_SIZES, GGUFValueType
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize

from distill.errors import PipelineError
from distill.gguf.convert import plan_tensors
from distill.gguf.families.common import RESERVED_NAME, Model, Value
from distill.gguf.quantisation.recipe import get_recipe
from distill.gguf.vocabulary.tokenizer import add_vocabulary, read_vocabulary

# The half floats in every block that scale its values: first byte, bytes.
SCALE_BYTES = {
    Kind.Q4_K: (0, 4), Kind.Q5_K: (0, 4), Kind.Q6_K: (208, 2), Kind.Q8_0: (0, 2), Kind.Q5_0: (0, 2), Kind.Q5_1: (0, 4),
}
CHUNK_ROWS = 4_096


def check_structure(path: Path, model: Model, quantization: str) -> dict[str, int]:
    """
    Check tensors, metadata, vocabulary and name of a GGUF against the plan made from the base's own files; returns counts.

    Raises PipelineError for the first thing that is not as planned.
    """
    reader = open_gguf(path)
    tensors = check_tensors(path, reader, model, quantization)
    keys = check_metadata(path, reader, model, quantization)
    return {"tensors": tensors, "keys": keys, "tokens": model.vocabulary, "bytes": path.stat().st_size}


def require(path: Path, condition: bool, problem: str) -> None:
    """Raises PipelineError unless `condition` holds."""
    if not condition:
        raise PipelineError(f"{path.name} failed verification: {problem}")


# -----------------------------------------------------------------------------
# Tensors


def check_tensors(path: Path, reader: GGUFReader, model: Model, quantization: str) -> int:
    """Names, shapes, types, constant values, and no NaN; returns the count."""
    planned = {tensor.name: tensor for tensor in plan_tensors(model, get_recipe(quantization))}
    found = {tensor.name: tensor for tensor in reader.tensors}
    require(path, planned.keys() == found.keys(), f"tensors differ: {sorted(planned.keys() ^ found.keys())[:3]}")
    for name, tensor in found.items():
        plan = planned[name]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        require(path, shape == plan.shape, f"{name} has shape {shape}, not {plan.shape}")
        require(path, tensor.tensor_type == plan.kind, f"{name} is {tensor.tensor_type.name}, not {plan.kind.name}")
        require(path, is_finite(tensor), f"{name} holds NaN or infinite values")
        if plan.weight is None:
            wanted = np.array(plan.values, dtype=np.float32)
            require(path, np.array_equal(tensor.data, wanted), f"{name} holds other values than config.json")
    return len(found)


def is_finite(tensor: ReaderTensor) -> bool:
    """No NaN and no infinity; of quantised blocks only the scales can hold one."""
    rows = np.atleast_2d(np.asarray(tensor.data))
    parts = (rows[start : start + CHUNK_ROWS] for start in range(0, len(rows), CHUNK_ROWS))
    return all(bool(np.isfinite(pick_floats(part, tensor.tensor_type)).all()) for part in parts)


def pick_floats(data: np.ndarray, kind: Kind) -> np.ndarray:
    """What of raw rows could be no number."""
    if kind not in SCALE_BYTES:
        return dequantize(data, kind)
    start, count = SCALE_BYTES[kind]
    blocks = data.reshape(-1, GGML_QUANT_SIZES[kind][1])
    return np.ascontiguousarray(blocks[:, start : start + count]).view(np.float16)


# -----------------------------------------------------------------------------
# Keys


def check_metadata(path: Path, reader: GGUFReader, model: Model, quantization: str) -> int:
    """Every key of the architecture and of the tokenizer with value and type, and the general ones; returns the count."""
    found = {key: (field.types, field.contents()) for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    expected = {key: describe_value(value) for key, value in model.metadata.items()} | describe_vocabulary(model)
    expected["general.architecture"] = describe_value(model.architecture)
    expected["general.file_type"] = describe_value(int(get_recipe(quantization).file_type))
    for key, (types, value) in expected.items():
        require(path, key in found, f"the key {key} is missing")
        kinds = "/".join(kind.name for kind in types)
        require(path, found[key][0][: len(types)] == types, f"{key} is not of type {kinds}")
        require(path, found[key][1] == value, f"{key} is {shorten(found[key][1])}, not {shorten(value)}")
    surplus = sorted(key for key in found.keys() - expected.keys() if key.startswith((f"{model.architecture}.", "tokenizer.")))
    require(path, not surplus, f"the key {surplus[:1]} belongs to no {model.family} model")
    name = found["general.name"][1] if "general.name" in found else None
    require(path, isinstance(name, str), "the key general.name is missing")
    require(path, not RESERVED_NAME.search(str(name)), f"general.name {name!r} makes llama.cpp take it for a Phi-3")
    return len(found)


def describe_value(value: Value) -> tuple[list[GGUFValueType], Any]:
    """Types and contents of a key as a reader sees them: whole numbers are uint32, others float32."""
    if isinstance(value, list):
        kind = {bool: GGUFValueType.BOOL, int: GGUFValueType.INT32, float: GGUFValueType.FLOAT32}[type(value[0])]
        return [GGUFValueType.ARRAY, kind], [describe_value(item)[1] for item in value]
    for python, kind in ((bool, GGUFValueType.BOOL), (int, GGUFValueType.UINT32), (str, GGUFValueType.STRING)):
        if isinstance(value, python):
            return [kind], value
    return [GGUFValueType.FLOAT32], float(np.float32(value))


def describe_vocabulary(model: Model) -> dict[str, tuple[list[GGUFValueType], Any]]:
    """The tokenizer's keys as the base's own files demand them."""
    writer = GGUFWriter(None, model.architecture)
    add_vocabulary(writer, read_vocabulary(model.folder, model.vocabulary))
    keys = {key: value for key, value in writer.kv_data[0].items() if key.startswith("tokenizer.")}
    return {
        key: (
            [entry.type],
            [decode(item) for item in entry.value] if entry.type == GGUFValueType.ARRAY else decode(entry.value),
        )
        for key, entry in keys.items()
    }


def decode(value: Any) -> Any:
    """A value as a reader gives it back: text as str, other numbers than whole ones as float32 holds them."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return float(np.float32(value)) if isinstance(value, float) else value


def shorten(value: Any) -> str:
    """A value for a message of one line."""
    text = f"a list of {len(value)}" if isinstance(value, list) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


# -----------------------------------------------------------------------------
# Mapped files


def open_gguf(path: Path) -> GGUFReader:
    """Raises PipelineError for a file that is no whole GGUF."""
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise PipelineError(f"{path} is no complete GGUF file ({error}): export it again") from None


@contextmanager
def leave_nothing_mapped() -> Iterator[None]:
    """No file stays mapped into memory once the function that this decorates has ended, whatever happens in it."""
    try:
        yield
    except BaseException as error:
        release_mappings(error)
        raise
    finally:
        gc.collect()


def release_mappings(error: BaseException) -> None:
    """
    Unmap the files that an error still holds: Windows deletes no file that is mapped into memory.

    A GGUFReader maps its file for as long as a variable refers to it or to one of its tensors, and the frames in an error's
    traceback keep their variables.
    """
    raised: BaseException | None = error
    while raised is not None:
        traceback.clear_frames(raised.__traceback__)
        raised = raised.__context__
    gc.collect()
