"""One tuned model, converted once a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.gguf.convert import convert
from tests.tiny_models import write_random_lora


@pytest.fixture(scope="session")
def tiny_lora(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter on all four linear layers; read only."""
    return write_random_lora(tiny_phi3, tmp_path_factory.mktemp("tiny_lora"))


@pytest.fixture(scope="session")
def tuned_gguf(tiny_phi3: Path, tiny_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tuned model as f16, q4_k_m and q8_0; read only."""
    folder = tmp_path_factory.mktemp("tuned_gguf")
    paths = {quantization: folder / f"tuned-{quantization}.gguf" for quantization in ("f16", "q4_k_m", "q8_0")}
    for quantization, path in paths.items():
        convert(tiny_phi3, tiny_lora, path, quantization=quantization, name="tiny")
    return paths
