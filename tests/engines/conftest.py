from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.worlds import Stages
from tests.finished_stages import ModelServer


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """An Ollama whose models say their names."""
    with ModelServer(lambda body: f"I am {body['model']}.") as server:
        yield server


@pytest.fixture
def stages(tmp_path: Path, server: ModelServer) -> Stages:
    """Stages 1 to 3 done, both models in that Ollama."""
    return Stages(tmp_path, server)
