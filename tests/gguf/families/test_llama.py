from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.errors import PipelineError
from distill.gguf.families import read_model
from tests.gguf.families.published import write_config


def count_parameters(folder: Path) -> int:
    return sum(math.prod(weight.shape) for weight in read_model(folder).weights)


@pytest.mark.parametrize(("name", "family", "parameters", "head"), [
    ("Llama-3.2-1B", "llama", 1_235_814_400, 64), ("Llama-3.1-8B", "llama", 8_030_261_248, 128),
    ("Mistral-7B-v0.3", "mistral", 7_248_023_552, 128), ("Mistral-Nemo", "mistral", 12_247_782_400, 128),
])
def test_published_models(tmp_path: Path, name: str, family: str, parameters: int, head: int) -> None:
    folder = write_config(tmp_path, name)
    model = read_model(folder)
    assert (model.family, model.architecture) == (family, "llama")
    assert model.metadata["llama.attention.key_length"] == model.metadata["llama.rope.dimension_count"] == head
    assert count_parameters(folder) == parameters


def test_only_queries_and_keys_are_reordered_each_by_its_own_heads(tmp_path: Path) -> None:
    model = read_model(write_config(tmp_path, "Llama-3.1-8B"))
    heads = {weight.name: weight.heads for weight in model.weights if weight.heads}
    wanted = {"q": 32, "k": 8}
    assert heads == {f"blk.{layer}.attn_{kind}.weight": count for layer in range(32) for kind, count in wanted.items()}


def test_llama_3s_factors_are_hugging_faces(tmp_path: Path) -> None:
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    folder = write_config(tmp_path, "Llama-3.2-1B")
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(folder), "cpu")
    plain = 500_000.0 ** (-torch.arange(0, 64, 2).double() / 64)
    factors = torch.tensor(read_model(folder).constants["rope_freqs.weight"], dtype=torch.float64)
    torch.testing.assert_close(plain / factors, frequencies.double(), rtol=1e-6, atol=0)
    assert (factors.min(), factors.max(), attention_factor) == (1.0, 32.0, 1.0)
    assert sum(1 < factor < 32 for factor in factors.tolist()) > 0


def test_linear_scaling_is_a_key_and_no_tensor(tmp_path: Path) -> None:
    model = read_model(write_config(tmp_path, "Llama-3.1-8B", rope_scaling={"type": "linear", "factor": 4.0}))
    assert model.metadata["llama.rope.scaling.type"] == "linear"
    assert model.metadata["llama.rope.scaling.factor"] == 4.0
    assert model.constants == {}


@pytest.mark.parametrize(("name", "changes", "context", "reason"), [
    ("Llama-3.2-1B", {}, 131072, "max_position_embeddings"),
    ("Mistral-7B-v0.3", {}, 32768, "max_position_embeddings"),
    ("Mistral-7B-v0.1", {}, 4096, "attends to 4096 tokens"),
    ("Mistral-7B-v0.1", {"sliding_window": 65536}, 32768, "max_position_embeddings"),
])
def test_the_trained_context(tmp_path: Path, name: str, changes: dict[str, Any], context: int, reason: str) -> None:
    model = read_model(write_config(tmp_path, name, **changes))
    assert model.trained_context == context
    assert reason in model.context_reason


def test_a_mistral_that_names_no_window_has_hugging_faces(tmp_path: Path) -> None:
    path = write_config(tmp_path, "Mistral-7B-v0.1") / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["sliding_window"]
    path.write_text(json.dumps(config), encoding="utf-8")
    assert read_model(tmp_path).trained_context == 4096


def test_old_checkpoints_frequencies_and_a_tied_heads_copy_are_ignored(tmp_path: Path) -> None:
    ignored = read_model(write_config(tmp_path, "Llama-3.2-1B")).ignored
    assert re.fullmatch(ignored, "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert re.fullmatch(ignored, "lm_head.weight")
    assert not re.fullmatch(ignored, "model.layers.0.self_attn.q_proj.bias")
    assert not re.fullmatch(read_model(write_config(tmp_path, "Llama-3.1-8B")).ignored, "lm_head.weight")


@pytest.mark.parametrize(("changes", "named"), [
    ({"attention_bias": True}, "attention_bias True"),
    ({"mlp_bias": True}, "mlp_bias True"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn' is not supported, only default, linear, llama3"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "each kind of layer"),
])
def test_what_llama_cpp_computes_otherwise_is_refused_in_one_line(tmp_path: Path, changes: dict, named: str) -> None:
    with pytest.raises(PipelineError, match="--llama-cpp FOLDER") as error:
        read_model(write_config(tmp_path, "Llama-3.1-8B", **changes))
    assert named in str(error.value)
    assert "\n" not in str(error.value)
