"""Every tensor and every key of our f16 GGUF, beside what llama.cpp's own converter makes of the same folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, ReaderTensor

from distill.gguf.convert import Output, convert
from tests.gguf import run_converter
from tests.gguf.families.conftest import MODELS
from tests.gguf.llama_source import find_llama_cpp

# What llama.cpp calls the splitter of each family's BPE; the others have a SentencePiece vocabulary.
SPLITTERS = {"phi4mini": "gpt-4o", "phi4": "dbrx", "llama3": "llama-bpe", "nemo": "tekken", "qwen3": "qwen2"}
# Keys that may differ or stand in one of the two alone, and why.
ALLOWED = {
    "GGUF.kv_count": "follows from the others",
    "general.name": "ours is the user's, theirs the folder's",
    "general.size_label": "for lists of models; nothing reads it to compute",
    "tokenizer.ggml.add_sep_token": "theirs says that there is none, which is what its absence says",
    "tokenizer.ggml.add_eos_token": "ours says that there is none, which is what its absence says",
    "tokenizer.ggml.add_space_prefix": "ours makes llama.cpp split as tokenizer.json does, theirs is tokenizer_config.json's",
}
NONE = {"tokenizer.ggml.add_sep_token", "tokenizer.ggml.add_eos_token"}


@pytest.fixture(scope="module")
def theirs(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """llama.cpp's GGUF of every model, made in one process."""
    pytest.importorskip("sentencepiece", reason="llama.cpp's converter reads tokenizer.model by sentencepiece")
    folder = tmp_path_factory.mktemp("theirs")
    paths = {name: folder / f"{name}.gguf" for name in MODELS}
    jobs = [[str(tiny_model(name)), str(path), SPLITTERS.get(MODELS[name][0], "")] for name, path in paths.items()]
    command = [sys.executable, run_converter.__file__, str(find_llama_cpp()), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    assert done.returncode == 0, done.stderr
    return paths


@pytest.fixture
def both(request: pytest.FixtureRequest, theirs: dict[str, Path], tiny_model: Callable[[str], Path], tmp_path: Path) -> Any:
    """Two readers: of our file and of llama.cpp's."""
    path = tmp_path / "ours.gguf"
    convert(tiny_model(request.param), None, [Output(path, "f16", "tiny", False)])
    return GGUFReader(path), GGUFReader(theirs[request.param])


def describe_keys(reader: GGUFReader) -> dict[str, tuple[Any, Any]]:
    """Type and value of each key."""
    return {key: (field.types, field.contents()) for key, field in reader.fields.items()}


def measure_difference(ours: ReaderTensor, theirs: ReaderTensor) -> float:
    """The largest, relative to the value; a shape or type that differs counts as infinite."""
    if (ours.tensor_type, list(ours.shape)) != (theirs.tensor_type, list(theirs.shape)):
        return float("inf")
    found, wanted = (np.asarray(tensor.data, dtype=np.float64) for tensor in (ours, theirs))
    return float((np.abs(found - wanted) / np.maximum(np.abs(wanted), 1e-30)).max())


@pytest.mark.parametrize("both", MODELS, indirect=True)
def test_every_tensor_is_llama_cpps(both: tuple[GGUFReader, GGUFReader]) -> None:
    ours, theirs = ({tensor.name: tensor for tensor in reader.tensors} for reader in both)
    assert ours.keys() == theirs.keys()
    found = {name: difference for name in ours if (difference := measure_difference(ours[name], theirs[name]))}
    # Llama 3's factors are computed in other orders of float32; all weights are the same bits.
    assert found.keys() <= {"rope_freqs.weight"}
    assert all(difference < 3e-7 for difference in found.values())


@pytest.mark.parametrize("both", MODELS, indirect=True)
def test_every_key_is_llama_cpps(both: tuple[GGUFReader, GGUFReader]) -> None:
    ours, theirs = map(describe_keys, both)
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert {key: (ours.get(key), theirs.get(key)) for key in differing - ALLOWED.keys()} == {}
    assert not any(kinds[key][1] for kinds in (ours, theirs) for key in differing & NONE & kinds.keys())
