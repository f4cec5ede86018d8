"""
The safetensors of a model folder, read slice by slice with plain file reads.

Not mapped into memory: a disk error or a file that another program shortens is then an exception and not the end of the
process, and what is read is gone from memory when it has been used. The format: github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from distill.errors import PipelineError
from distill.files import read_json

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
MOST_HEADER = 100_000_000  # bytes; the format's own limit
READ_AHEAD = 3  # slices


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes stand."""

    file: BinaryIO
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    bytes: int


class BaseWeights:
    """The tensors of one folder, opened but not read; a context manager. May be read from several threads."""

    def __init__(self, folder: Path) -> None:
        self.shards = list_shards(folder)
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._tensors: dict[str, StoredTensor] = {}
        with self._stack as stack:
            for path in self.shards:
                file = stack.enter_context(open(path, "rb", buffering=0))  # noqa: SIM115 - the stack closes it
                self._tensors |= dict(list_tensors(path, file))
            self._stack = stack.pop_all()

    def __enter__(self) -> BaseWeights:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> set[str]:
        """All tensor names."""
        return set(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the file's header alone."""
        return self._tensors[name].shape

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._tensors[name].path

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """float32 rows (or, of a vector, values) start..stop."""
        return self.read(name, start, stop).float()

    def read(self, name: str, start: int, stop: int, pinned: bool = False) -> torch.Tensor:
        """
        Rows start..stop as they are stored. pinned: in memory that a GPU can fetch by itself.

        Raises PipelineError for a type that holds no weights, and for a file that cannot be read or ends too soon.
        """
        tensor = self._tensors[name]
        if tensor.dtype not in DTYPES:
            raise PipelineError(f"{tensor.path}: tensor {name} is {tensor.dtype}: the base model must be in 16 or 32 bits")
        stride = tensor.bytes // max(1, tensor.shape[0])
        buffer = torch.empty((stop - start) * stride, dtype=torch.uint8, pin_memory=pinned)
        with self._lock:
            self._fill(memoryview(buffer.numpy()), tensor, tensor.start + start * stride, name)
        return buffer.view(DTYPES[tensor.dtype]).reshape(stop - start, *tensor.shape[1:])

    def _fill(self, view: memoryview, tensor: StoredTensor, offset: int, name: str) -> None:
        try:
            tensor.file.seek(offset)
            while view:
                count = tensor.file.readinto(view)
                if not count:
                    raise PipelineError(f"{tensor.path} ends within tensor {name}: download it again")
                view = view[count:]
        except OSError as error:
            raise PipelineError(f"{tensor.path}: tensor {name} cannot be read ({error}): check the disk") from None


def list_shards(folder: Path) -> list[Path]:
    """The weight files of a model folder. Raises PipelineError for none, or for one that the index names and is missing."""
    index = folder / "model.safetensors.index.json"
    names = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    shards = [folder / name for name in sorted(names)]
    for shard in shards:
        if not shard.is_file():
            raise PipelineError(f"{shard} is missing: the base model must be complete and in safetensors format")
    return shards


def list_tensors(path: Path, file: BinaryIO) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor of an open file. Raises PipelineError for a header that is damaged or does not fit the file."""
    size = path.stat().st_size
    header, start = read_header(path, file)
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            first, last = entry["data_offsets"]
            tensor = StoredTensor(file, path, entry["dtype"], tuple(entry["shape"]), start + first, last - first)
            whole = math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize if tensor.dtype in DTYPES else tensor.bytes
        except (KeyError, TypeError, ValueError):
            raise PipelineError(f"{path} is damaged: its header does not describe {name}: download it again") from None
        if tensor.bytes != whole:
            raise PipelineError(f"{path} is damaged: {name} has {tensor.bytes} bytes, not {whole}: download it again")
        if start + last > size:
            raise PipelineError(f"{path} is incomplete: {size} bytes, {name} ends at {start + last}: download it again")
        yield name, tensor


def read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and where the tensors' bytes begin. Raises PipelineError for a damaged one."""
    length = int.from_bytes(file.read(8), "little")
    try:
        if not 2 <= length <= MOST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("a header that is no table")
    except ValueError as error:
        raise PipelineError(f"{path} is damaged or no safetensors file ({error}): download it again") from None
    return header, 8 + length


def read_ahead(
    base: BaseWeights, requests: Sequence[tuple[str, int, int]], pinned: bool = False
) -> Iterator[torch.Tensor]:
    """`BaseWeights.read` of every request in turn, a few of them ahead in a thread of its own."""
    with ThreadPoolExecutor(1) as thread:
        pending = []
        try:
            for request in requests:
                pending.append(thread.submit(base.read, *request, pinned))
                if len(pending) > READ_AHEAD:
                    yield pending.pop(0).result()
            while pending:
                yield pending.pop(0).result()
        finally:
            thread.shutdown(wait=True, cancel_futures=True)
