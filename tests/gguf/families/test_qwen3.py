from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.gguf.families import read_model
from tests.gguf.families.published import write_config


@pytest.mark.parametrize(("name", "parameters", "tied"), [
    ("Qwen3-0.6B", 596_049_920, True), ("Qwen3-8B", 8_190_735_360, False),
])
def test_published_models(tmp_path: Path, name: str, parameters: int, tied: bool) -> None:
    model = read_model(write_config(tmp_path, name))
    assert (model.family, model.architecture, model.tied, model.trained_context) == ("qwen3", "qwen3", tied, 40960)
    assert sum(math.prod(weight.shape) for weight in model.weights) == parameters
    shapes = {weight.name: weight.shape for weight in model.weights}
    assert shapes["blk.3.attn_q_norm.weight"] == shapes["blk.3.attn_k_norm.weight"] == (128,)
    assert ("output.weight" in shapes) != tied


@pytest.mark.parametrize(("changes", "context"), [
    ({}, 40960),
    ({"sliding_window": 4096}, 40960),  # as base models have it, not in use
    ({"sliding_window": 4096, "use_sliding_window": True}, 4096),
])
def test_the_trained_context(tmp_path: Path, changes: dict[str, Any], context: int) -> None:
    assert read_model(write_config(tmp_path, "Qwen3-0.6B", **changes)).trained_context == context


@pytest.mark.parametrize(("changes", "named"), [
    ({"attention_bias": True}, "attention_bias True"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, "'yarn'"),
])
def test_what_llama_cpp_computes_otherwise_is_refused_in_one_line(tmp_path: Path, changes: dict, named: str) -> None:
    with pytest.raises(PipelineError, match="--llama-cpp FOLDER") as error:
        read_model(write_config(tmp_path, "Qwen3-0.6B", **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)
