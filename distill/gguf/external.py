"""
Export by the user's own llama.cpp (`--llama-cpp FOLDER`), for models that this exporter does not know.

The merged model is written as 16-bit safetensors; llama.cpp's converter makes an f16 GGUF of it and llama-quantize the rest.
Both are the user's programs: this module finds and runs them and passes on what they say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.errors import PipelineError
from distill.files import create_private
from distill.gguf.convert import READ_VALUES
from distill.gguf.merge import MergedWeights, load_adapter
from distill.gguf.merged import MergedFolder, is_tied
from distill.gguf.quantisation.kquants import slice_rows
from distill.gguf.shards import BaseWeights
from distill.gguf.verification.structure import open_gguf

CONVERTER = "convert_hf_to_gguf.py"
QUANTISER = "llama-quantize.exe" if sys.platform == "win32" else "llama-quantize"
# Where CMake, the release archives and older builds leave it.
QUANTISER_PLACES = ("build/bin", "build/bin/Release", "bin", ".")
LAST_LINES = 3  # of a failed program's output, in the error


@dataclass(frozen=True)
class LlamaCpp:
    """The two programs of one llama.cpp; `quantiser` is None where nothing but the sources is there."""

    converter: Path
    quantiser: Path | None


def find_llama_cpp(folder: Path, quantizations: Sequence[str]) -> LlamaCpp:
    """Raises PipelineError when a program that these quantisations need is missing."""
    converter = folder / CONVERTER
    if not converter.is_file():
        raise PipelineError(f"--llama-cpp {folder}: {CONVERTER} is not there: name the folder of llama.cpp's sources")
    found = (folder / place / QUANTISER for place in QUANTISER_PLACES)
    quantiser = next((path for path in found if path.is_file()), None)
    if quantiser is None and any(quantization != "f16" for quantization in quantizations):
        raise PipelineError(
            f"--llama-cpp {folder}: {QUANTISER} is in none of {', '.join(QUANTISER_PLACES)}: build llama.cpp, unpack one of "
            "its releases there, or set export.quantization to [f16]"
        )
    return LlamaCpp(converter, quantiser)


def write_merged(base_folder: Path, adapter_folder: Path | None, target: Path) -> list[str]:
    """Base and adapter, or the base alone, as a folder of 16-bit safetensors; returns the tensors that were merged."""
    with BaseWeights(base_folder) as base:
        adapter = load_adapter(adapter_folder) if adapter_folder else None
        weights = MergedWeights(base, adapter, tied=is_tied(base_folder))
        with MergedFolder(target, base_folder, base) as folder:
            for name in weights.list_merged():
                shape = base.shape(name)
                for start, stop in slice_rows(shape[0], shape[-1], READ_VALUES):
                    folder.write(name, start, weights.rows(name, start, stop))
        return weights.list_merged()


def make_16_bit(
    llama_cpp: LlamaCpp, base_folder: Path, adapter_folder: Path | None, target: Path, keep: Path | None = None
) -> tuple[Path, list[str]]:
    """
    An f16 GGUF; returns the folder of the weights that it was made from and the tensors that were merged.

    The base alone is converted where it is. keep: where the merged folder shall stay; without it, it lies beside `target` as
    merged.part, for the caller to remove.
    """
    if adapter_folder is None:
        convert_to_f16(llama_cpp, base_folder, target)
        return base_folder, []
    folder = keep or target.with_name("merged.part")
    changed = write_merged(base_folder, adapter_folder, folder)
    convert_to_f16(llama_cpp, folder, target)
    return folder, changed


def convert_to_f16(llama_cpp: LlamaCpp, merged: Path, target: Path) -> None:
    """One f16 GGUF of a merged folder. Raises PipelineError with the converter's last words."""
    create_private(target)
    own_gguf = llama_cpp.converter.parent / "gguf-py"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(own_gguf)}
    command = [sys.executable, str(llama_cpp.converter), str(merged), "--outfile", str(target), "--outtype", "f16"]
    run_program(command, environment)


def quantise_f16(llama_cpp: LlamaCpp, f16: Path, target: Path, quantization: str) -> None:
    """Quantise with llama-quantize. Raises PipelineError with its last words."""
    create_private(target)
    if quantization == "f16":
        shutil.copyfile(f16, target)
    else:
        run_program([str(llama_cpp.quantiser), str(f16), str(target), quantization.upper()], dict(os.environ))


def count_types(path: Path) -> dict[str, int]:
    """How many tensors of each type a GGUF holds."""
    return dict(Counter(tensor.tensor_type.name for tensor in open_gguf(path).tensors))


def run_program(command: Sequence[str], environment: dict[str, str]) -> None:
    """Raises PipelineError when a program cannot be started or fails."""
    name = Path(command[1] if command[0] == sys.executable else command[0]).name
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise PipelineError(f"{command[0]} cannot be started: {error.strerror}") from None
    if done.returncode:
        words = " / ".join(line.strip() for line in done.stdout.strip().splitlines()[-LAST_LINES:])
        raise PipelineError(f"{name} failed with exit code {done.returncode}: {words}")
