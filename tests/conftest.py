"""Fixtures that several folders of tests share; what is expensive is made once a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Nothing in a test may reach a model hub. Tests run on the CPU everywhere; CUDA_VISIBLE_DEVICES=0 runs those that use a GPU.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers side by side: one thread each, or they wait for one another at every matrix product.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_phi3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi-4-mini-shaped model of two layers; read it, do not write into it."""
    from tests.tiny_models import write_tiny_phi3

    return write_tiny_phi3(tmp_path_factory.mktemp("tiny_phi3"))
