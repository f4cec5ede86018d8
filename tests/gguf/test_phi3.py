from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from demo.tiny_phi3 import describe_rope, describe_shape
from distill.errors import PipelineError
from distill.gguf.phi3 import expected_shape, list_rope_factors, list_tensors, make_safe_name, read_phi3

# Phi-4-mini's own numbers, as Microsoft publishes them; the factors are shortened to their count.
PHI_4_MINI = {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "hidden_act": "silu", "hidden_size": 3072,
    "intermediate_size": 8192, "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "phi3", "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-05,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}, "rope_theta": 10000.0,
    "sliding_window": 262144, "tie_word_embeddings": True, "vocab_size": 200064,
}


def write_config(folder: Path, **changes: Any) -> Path:
    config = {**describe_shape(1000, 993), **changes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_phi_4_mini(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PHI_4_MINI), encoding="utf-8")
    model = read_phi3(tmp_path)
    assert (model.rope_dimensions, model.original_context, model.context) == (96, 4096, 131072)
    assert model.attention_factor == pytest.approx(1.1902380714)
    assert model.tied
    assert math.prod(expected_shape(model, "blk.0.attn_qkv.weight")) == 5120 * 3072
    names = list_tensors(model)
    assert len(names) == 2 + 32 * 6
    assert sum(math.prod(expected_shape(model, name)) for name in names.values()) == 3_836_021_760


def test_both_spellings_of_config_json_say_the_same(tmp_path: Path) -> None:
    hub = read_phi3(write_config(tmp_path))
    short, long = (describe_rope(24)[f"{name}_factor"] for name in ("short", "long"))
    parameters = {
        "rope_type": "longrope", "type": "longrope", "short_factor": short, "long_factor": long, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75, "original_max_position_embeddings": 4096,
    }
    saved = write_config(tmp_path, rope_parameters=parameters, rope_scaling=None, rope_theta=None, partial_rotary_factor=None)
    assert read_phi3(saved) == hub


def test_what_transformers_saves_is_understood(tiny_phi3: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    AutoConfig.from_pretrained(tiny_phi3).save_pretrained(tmp_path)
    assert "rope_scaling" not in json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert read_phi3(tmp_path) == read_phi3(tiny_phi3)


def test_factor_tensors(tmp_path: Path) -> None:
    factors = list_rope_factors(read_phi3(write_config(tmp_path)))
    assert set(factors) == {"rope_factors_long.weight", "rope_factors_short.weight"}
    assert factors["rope_factors_short.weight"].tolist() == pytest.approx(describe_rope(24)["short_factor"])


def test_without_longrope_there_are_no_factors(tmp_path: Path) -> None:
    model = read_phi3(write_config(tmp_path, rope_scaling=None))
    assert list_rope_factors(model) == {}
    assert model.attention_factor == 1.0


def test_untied_models_have_an_output_matrix(tmp_path: Path) -> None:
    names = list_tensors(read_phi3(write_config(tmp_path, tie_word_embeddings=False)))
    assert names["lm_head.weight"] == "output.weight"


@pytest.mark.parametrize(("changes", "named"), [
    ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM is not supported"),
    ({"architectures": None}, "none is not supported"),
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "already quantised: export from the 16-bit one"),
    ({"attention_bias": True}, "attention_bias True"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"head_dim": 128}, "head_dim 128"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn' is not supported"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "needs 24 factors, not 1 short"),
])
def test_what_llama_cpp_could_not_compute_is_refused_in_one_line(tmp_path: Path, changes: dict, named: str) -> None:
    with pytest.raises(PipelineError) as error:
        read_phi3(write_config(tmp_path, **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "safe"), [
    ("hybridrag-phi4mini", "hybridrag-phi4mini"), ("my-Phi3-student", "my-phi-student"), ("phi-3-phi3", "phi-phi"),
])
def test_a_name_never_looks_like_phi_3(name: str, safe: str) -> None:
    assert make_safe_name(name) == safe
