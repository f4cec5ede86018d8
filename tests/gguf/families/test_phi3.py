from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from demo.tiny_phi3 import describe_rope, describe_shape
from distill.errors import PipelineError
from distill.gguf.families import read_model
from tests.gguf.families import published

SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"


def write_config(folder: Path, **changes: Any) -> Path:
    config = {**describe_shape(1000, 993), **changes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_phi_4_mini(tmp_path: Path) -> None:
    model = read_model(published.write_config(tmp_path, "Phi-4-mini"))
    assert (model.family, model.architecture, model.tied, model.vocabulary, model.layers) == ("phi3", "phi3", True, 200064, 32)
    assert model.metadata["phi3.rope.dimension_count"] == 96
    assert (model.metadata["phi3.context_length"], model.metadata["phi3.attention.sliding_window"]) == (131072, 262144)
    assert model.metadata["phi3.rope.scaling.original_context_length"] == model.trained_context == 4096
    assert model.metadata["phi3.rope.scaling.attn_factor"] == pytest.approx(1.1902380714)
    shapes = {weight.name: weight.shape for weight in model.weights}
    assert math.prod(shapes["blk.0.attn_qkv.weight"]) == 5120 * 3072
    assert len(shapes) == 2 + 32 * 6
    assert sum(math.prod(shape) for shape in shapes.values()) == 3_836_021_760


def test_phi_4_14b(tmp_path: Path) -> None:
    model = read_model(published.write_config(tmp_path, "Phi-4"))
    assert (model.tied, model.trained_context, model.constants) == (False, 16384, {})
    assert model.metadata["phi3.rope.dimension_count"] == 128
    assert model.metadata["phi3.attention.sliding_window"] == 0
    assert "phi3.rope.scaling.attn_factor" not in model.metadata
    assert sum(math.prod(weight.shape) for weight in model.weights) == 14_659_507_200


def test_both_spellings_of_config_json_say_the_same(tmp_path: Path) -> None:
    hub = read_model(write_config(tmp_path))
    short, long = (describe_rope(24)[f"{name}_factor"] for name in ("short", "long"))
    parameters = {
        "rope_type": "longrope", "type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75, "original_max_position_embeddings": 4096,
    }
    saved = write_config(tmp_path, rope_parameters=parameters, rope_scaling=None, rope_theta=None, partial_rotary_factor=None)
    assert read_model(saved) == hub


def test_factor_tensors(tmp_path: Path) -> None:
    factors = read_model(write_config(tmp_path)).constants
    assert factors == {SHORT: tuple(describe_rope(24)["short_factor"]), LONG: tuple(describe_rope(24)["long_factor"])}


def test_without_longrope_there_are_no_factors(tmp_path: Path) -> None:
    model = read_model(write_config(tmp_path, rope_scaling=None))
    assert model.constants == {}
    assert "phi3.rope.scaling.attn_factor" not in model.metadata


@pytest.mark.parametrize(("rope", "factor"), [
    ({}, math.sqrt(1 + math.log(32) / math.log(4096))), ({"factor": 4.0}, math.sqrt(1 + math.log(4) / math.log(4096))),
    ({"attention_factor": 1.5}, 1.5), ({"factor": 1.0}, 1.0),
])
def test_the_attention_factor_is_hugging_faces(tmp_path: Path, rope: dict[str, float], factor: float) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    folder = write_config(tmp_path, rope_scaling={**describe_rope(24), **rope})
    assert read_model(folder).metadata["phi3.rope.scaling.attn_factor"] == pytest.approx(factor)
    assert ROPE_INIT_FUNCTIONS["longrope"](AutoConfig.from_pretrained(folder), "cpu")[1] == pytest.approx(factor)


@pytest.mark.parametrize(("changes", "context", "reason"), [
    ({}, 4096, "long factors"),
    ({"sliding_window": 2047}, 2047, "attends to 2047 tokens"),  # Phi-3-mini
    ({"sliding_window": None}, 4096, "long factors"),
    ({"rope_scaling": None, "original_max_position_embeddings": None}, 131072, "max_position_embeddings"),
])
def test_the_trained_context(tmp_path: Path, changes: dict[str, Any], context: int, reason: str) -> None:
    model = read_model(write_config(tmp_path, **changes))
    assert model.trained_context == context
    assert reason in model.context_reason


def test_untied_models_have_an_output_matrix(tmp_path: Path) -> None:
    tied, untied = (read_model(write_config(tmp_path, tie_word_embeddings=value)) for value in (True, False))
    assert {weight.source for weight in untied.weights} - {weight.source for weight in tied.weights} == {"lm_head.weight"}
    assert next(weight.name for weight in untied.weights if weight.source == "lm_head.weight") == "output.weight"
    assert (tied.tied, untied.tied) == (True, False)


@pytest.mark.parametrize(("changes", "named"), [
    ({"attention_bias": True}, "attention_bias True"),
    ({"mlp_bias": True}, "mlp_bias True"),
    ({"lm_head_bias": True}, "lm_head_bias True"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"head_dim": 128}, "head_dim 128"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn' is not supported"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "needs 24 factors, not 1 short"),
])
def test_what_llama_cpp_could_not_compute_is_refused_in_one_line(tmp_path: Path, changes: dict, named: str) -> None:
    with pytest.raises(PipelineError, match="--llama-cpp FOLDER") as error:
        read_model(write_config(tmp_path, **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)
