"""
The merged model as 16-bit safetensors, for programs that read no GGUF (`save_merged`).

Each shard begins as a copy of the base shard's header, so that names, types and offsets are the base's; the merged rows are
then written to their places: of a tied model those of the embedding also to its output, if the base holds it, since
transformers parts the two when they differ. Tensors that the GGUF does not hold are copied as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from distill.files import create_private, replace_file
from distill.gguf.merge import EMBEDDING, OUTPUT, name_within_text_model
from distill.gguf.shards import DTYPES, BaseWeights, read_header

COPY_BYTES = 1 << 26
# Beside the weights: whatever transformers needs to load the folder.
COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "LICENSE*", "NOTICE*")


class MergedFolder:
    """
    A context manager: `write` the rows of every weight of the GGUF, in any order.

    The folder appears under its name when the context ends well; a half-written one is removed.
    """

    def __init__(self, target: Path, base_folder: Path, base: BaseWeights) -> None:
        self.target, self._part = target, target.with_name(f"{target.name}.part")
        self._base_folder, self._base = base_folder, base
        self._files: dict[Path, Any] = {}  # by the base's shard
        self._places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        self._twins: dict[str, str] = {}  # the embedding to the output that is a copy of it
        self._written: set[str] = set()

    def __enter__(self) -> MergedFolder:
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        for shard in self._base.shards:
            self._begin(shard)
        names = {name_within_text_model(name): name for name in self._places}
        if names.keys() >= {EMBEDDING, OUTPUT} and is_tied(self._base_folder):
            self._twins = {names[EMBEDDING]: names[OUTPUT]}
        return self

    def _begin(self, shard: Path) -> None:
        path = self._part / shard.name
        create_private(path)
        file = self._files[shard] = open(path, "r+b")  # noqa: SIM115 - closed with all others in __exit__
        with open(shard, "rb") as source:
            header, start = read_header(shard, source)
            source.seek(0)
            file.write(source.read(start))
        self._places |= {name: (shard, start, entry) for name, entry in header.items() if name != "__metadata__"}

    def write(self, name: str, first: int, rows: torch.Tensor) -> None:
        """float32 rows of a weight, the first of which is row `first`, in the base's own type."""
        if name in self._twins:
            self._write_one(self._twins[name], first, rows)
        self._write_one(name, first, rows)

    def _write_one(self, name: str, first: int, rows: torch.Tensor) -> None:
        shard, start, entry = self._places[name]
        data = rows.to(DTYPES[entry["dtype"]]).cpu().contiguous().flatten().view(torch.uint8).numpy()
        file = self._files[shard]
        file.seek(start + entry["data_offsets"][0] + first * (data.size // rows.shape[0]))
        file.write(data.data)
        self._written.add(name)

    def _copy_rest(self) -> None:
        for name in self._places.keys() - self._written:
            shard, start, entry = self._places[name]
            first, last = (start + offset for offset in entry["data_offsets"])
            file = self._files[shard]
            file.seek(first)
            with open(shard, "rb") as source:
                source.seek(first)
                for place in range(first, last, COPY_BYTES):
                    file.write(source.read(min(COPY_BYTES, last - place)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._copy_rest()
                for file in self._files.values():
                    file.flush()
                    os.fsync(file.fileno())
        finally:
            for file in self._files.values():
                file.close()
        if kind is not None:
            shutil.rmtree(self._part, ignore_errors=True)
            return
        self._copy_companions()
        shutil.rmtree(self.target, ignore_errors=True)
        replace_file(self._part, self.target)

    def _copy_companions(self) -> None:
        for pattern in COMPANIONS:
            for path in sorted(self._base_folder.glob(pattern)):
                shutil.copyfile(path, self._part / path.name)


def is_tied(folder: Path) -> bool:
    """Whether the embedding serves as the output too, as transformers takes config.json; no for one that it can not read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return False
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
