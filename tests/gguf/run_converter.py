"""
A program for a process of its own: llama.cpp's converter on several models, f16.

    python run_converter.py SOURCES JOBS        SOURCES: llama.cpp's folder. JOBS: a JSON list of [model, GGUF, pre-tokenizer].

The converter recognises a BPE by a hash of what it makes of one text, and no small tokenizer gives the hash of the real one. So
it is told the name; all else is its own.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def convert_all(sources: str, jobs: list[list[str]]) -> None:
    """Write the GGUF of each job."""
    sys.path[:0] = [f"{sources}/gguf-py", sources]
    gguf, conversion = importlib.import_module("gguf"), importlib.import_module("conversion")
    for folder, path, splitter in jobs:
        hparams = conversion.ModelBase.load_hparams(Path(folder), False)
        architecture = conversion.get_model_architecture(hparams, conversion.ModelType.TEXT)
        model = conversion.get_model_class(architecture)(Path(folder), gguf.LlamaFileType.MOSTLY_F16, Path(path))
        model.get_vocab_base_pre = lambda _, name=splitter: name
        model.write()


if __name__ == "__main__":
    convert_all(sys.argv[1], json.loads(sys.argv[2]))
