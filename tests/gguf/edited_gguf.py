"""GGUF files with one thing changed in place, as a broken conversion would leave it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from gguf import GGUFReader


def edit_tensor(source: Path, folder: Path, name: str, data: bytes, place: int = 0) -> Path:
    """A copy with `data` at byte `place` of a tensor."""
    path = Path(shutil.copyfile(source, folder / "edited.gguf"))
    offset = next(int(tensor.data_offset) for tensor in GGUFReader(path).tensors if tensor.name == name)
    with open(path, "r+b") as file:
        file.seek(offset + place)
        file.write(data)
    return path


def edit_key(source: Path, folder: Path, key: str, value: str | int | float, entry: int = -1) -> Path:
    """A copy whose key, or entry of a list, has another value of the same length."""
    path = Path(shutil.copyfile(source, folder / "edited.gguf"))
    reader = GGUFReader(path, "r+")
    part = reader.fields[key].parts[reader.fields[key].data[entry]]
    part[:] = np.frombuffer(value.encode("utf-8"), np.uint8) if isinstance(value, str) else value
    reader.data.flush()
    return path
