"""One tuned model and its base, converted once a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.gguf.convert import Output, convert
from tests.tiny_models import write_random_lora

QUANTIZATIONS = ("f16", "q4_k_m", "q8_0")


@pytest.fixture(scope="session")
def tiny_lora(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter on all four linear layers; read only."""
    return write_random_lora(tiny_phi3, tmp_path_factory.mktemp("tiny_lora"))


@pytest.fixture(scope="session")
def outputs(tiny_phi3: Path, tiny_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Output]:
    """The tuned model and the base, each as f16, q4_k_m and q8_0, all of one read; read only."""
    folder = tmp_path_factory.mktemp("outputs")
    wanted = [
        Output(folder / f"{side}-{quantization}.gguf", quantization, "tiny", side == "tuned")
        for side in ("tuned", "base") for quantization in QUANTIZATIONS
    ]
    convert(tiny_phi3, tiny_lora, wanted)
    return wanted


@pytest.fixture(scope="session")
def tuned_gguf(outputs: list[Output]) -> dict[str, Path]:
    """The tuned model as f16, q4_k_m and q8_0; read only."""
    return {output.quantization: output.path for output in outputs if output.tuned}


@pytest.fixture(scope="session")
def base_gguf(outputs: list[Output]) -> dict[str, Path]:
    """The base as f16, q4_k_m and q8_0; read only."""
    return {output.quantization: output.path for output in outputs if not output.tuned}
