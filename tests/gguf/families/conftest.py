"""One random model of each family, written once a run; read only."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.gguf.tiny_families import write_tiny_model

# What the tests compare: a name, the family in tiny_families, and changes to its config.json.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi4mini": ("phi4mini", {}),
    "phi4": ("phi4", {}),
    "llama3_tied": ("llama3", {}),
    "llama3_untied": ("llama3", {"tie_word_embeddings": False}),
    "llama_linear": ("llama3", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "mistral_v3": ("mistral_v3", {}),
    "nemo": ("nemo", {}),
    "gemma3": ("gemma3", {}),
    "gemma3_wrapped": ("gemma3_wrapped", {}),
    "qwen3_tied": ("qwen3", {}),
    "qwen3_untied": ("qwen3", {"tie_word_embeddings": False}),
    # Rows that no K-quant fits, as Gemma 3 1B's.
    "gemma3_odd": ("gemma3", {"hidden_size": 288, "intermediate_size": 544, "num_hidden_layers": 6}),
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one of MODELS."""

    @cache
    def write(name: str) -> Path:
        family, changes = MODELS[name]
        return write_tiny_model(tmp_path_factory.mktemp(name), family, **changes)

    return write
