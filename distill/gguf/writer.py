"""
A GGUF file that grows tensor by tensor and piece by piece, so that several can be written from one read of the base.

The `gguf` package writes the header and the list of tensors; it would want whole tensors afterwards, so the pieces are appended
here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from distill.files import create_private
from distill.gguf.families.common import Weight


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file to be; shape in PyTorch's order. `weight` says where it comes from, or `values` is given."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    weight: Weight | None = None
    values: tuple[float, ...] = ()

    @property
    def bytes(self) -> int:
        """Size in the file, without padding."""
        block_values, block_bytes = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block_values * block_bytes


class GrowingGguf:
    """
    A context manager: the tensors must come in the planned order, each in pieces, each ended by `end_tensor`.

    describe: adds the metadata. Like its training data, the file is private. It is on the disk (fsync) when the context ends
    well, and gone when it ends in an error.
    """

    def __init__(
        self, path: Path, architecture: str, planned: Sequence[PlannedTensor], describe: Callable[[GGUFWriter], None]
    ) -> None:
        self.path = path
        self._writer = GGUFWriter(None, architecture)
        describe(self._writer)
        for tensor in planned:
            self._writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, tensor.kind)

    def __enter__(self) -> GrowingGguf:
        create_private(self.path)
        self._writer.write_header_to_file(self.path)
        self._writer.write_kv_data_to_file()
        self._writer.write_ti_data_to_file()
        self._file = self._writer.fout[0]
        self.end_tensor()
        return self

    def append(self, data: np.ndarray) -> None:
        """A piece of the current tensor, as it stands in the file."""
        self._file.write(np.ascontiguousarray(data).data)

    def end_tensor(self) -> None:
        """Fill up to where the next tensor may begin."""
        self._writer.write_padding(self._file, self._file.tell())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._writer.flush()
                os.fsync(self._file.fileno())
        except OSError:
            kind = OSError
            raise
        finally:
            self._writer.close()
            if kind is not None:
                self.path.unlink(missing_ok=True)
