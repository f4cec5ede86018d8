from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.gguf.families import read_model
from tests.gguf.families.published import write_config


@pytest.mark.parametrize(("name", "parameters", "prefix", "window", "scaling", "context"), [
    ("gemma-3-1b", 999_885_952, "", 512, None, 32768),
    ("gemma-3-4b", 3_880_263_168, "language_model.", 1024, 8.0, 131072),
    ("gemma-3-27b", 27_009_346_304, "language_model.", 1024, 8.0, 131072),
])
def test_published_models(
    tmp_path: Path, name: str, parameters: int, prefix: str, window: int, scaling: float | None, context: int
) -> None:
    model = read_model(write_config(tmp_path, name))
    assert (model.family, model.architecture, model.tied, model.prefix) == ("gemma3", "gemma3", True, prefix)
    assert model.trained_context == context
    keys = {key.removeprefix("gemma3."): value for key, value in model.metadata.items()}
    assert (keys["rope.freq_base"], keys["rope.freq_base_swa"]) == (1_000_000.0, 10_000.0)
    assert (keys["attention.sliding_window"], keys.get("rope.scaling.factor")) == (window, scaling)
    assert sum(math.prod(weight.shape) for weight in model.weights) == parameters
    assert all(weight.source.startswith(f"{prefix}model.") for weight in model.weights)


def test_every_norm_and_nothing_else_is_raised_by_one(tmp_path: Path) -> None:
    weights = read_model(write_config(tmp_path, "gemma-3-1b")).weights
    assert all((weight.offset == 1.0) == ("norm" in weight.name) for weight in weights)
    assert sum(weight.offset == 1.0 for weight in weights) == 26 * 6 + 1


def test_the_vision_tower_is_left_out(tmp_path: Path) -> None:
    ignored = read_model(write_config(tmp_path, "gemma-3-4b")).ignored
    for name in ("vision_tower.vision_model.post_layernorm.weight", "multi_modal_projector.mm_input_projection_weight",
                 "language_model.lm_head.weight"):
        assert re.fullmatch(ignored, name)
    assert not re.fullmatch(ignored, "language_model.model.layers.0.self_attn.q_proj.bias")
    assert not re.fullmatch(read_model(write_config(tmp_path, "gemma-3-1b")).ignored, "vision_tower.weight")


def test_final_softcapping_is_passed_on(tmp_path: Path) -> None:
    assert read_model(write_config(tmp_path, "gemma-3-1b", final_logit_softcapping=30)).metadata[
        "gemma3.final_logit_softcapping"
    ] == 30.0


def test_an_untied_gemma_has_an_output_matrix(tmp_path: Path) -> None:
    model = read_model(write_config(tmp_path, "gemma-3-4b", tie_word_embeddings=False))
    assert [weight.source for weight in model.weights if weight.name == "output.weight"] == ["language_model.lm_head.weight"]


@pytest.mark.parametrize("spelling", [
    {"layer_types": ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 2, "num_hidden_layers": 8},
    {"sliding_window_pattern": 6}, {"sliding_window_pattern": None},
])
def test_a_window_in_five_of_six_layers_is_llama_cpps(tmp_path: Path, spelling: dict[str, Any]) -> None:
    assert read_model(write_config(tmp_path, "gemma-3-1b", **spelling)).family == "gemma3"


@pytest.mark.parametrize(("changes", "named"), [
    ({"query_pre_attn_scalar": 128}, "query_pre_attn_scalar 128 is not supported, only 256"),
    ({"num_hidden_layers": 62}, "query_pre_attn_scalar 256 is not supported, only 288"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
    ({"attention_bias": True}, "attention_bias True"),
    ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ({"sliding_window": None}, "without a sliding window"),
    ({"sliding_window_pattern": 4}, "in other layers than 5 of 6"),
    ({"layer_types": ["full_attention"] * 26}, "in other layers than 5 of 6"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
    ({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "'linear' is not supported"),
])
def test_what_llama_cpp_computes_otherwise_is_refused_in_one_line(tmp_path: Path, changes: dict, named: str) -> None:
    with pytest.raises(PipelineError, match="--llama-cpp FOLDER") as error:
        read_model(write_config(tmp_path, "gemma-3-1b", **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)
