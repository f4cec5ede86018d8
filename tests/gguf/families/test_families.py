from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.gguf.convert import require_complete
from distill.gguf.families import FAMILIES, read_model
from distill.gguf.shards import BaseWeights
from tests.gguf.families.conftest import MODELS
from tests.gguf.families.published import write_config


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_saves_says_the_same_as_what_was_published(
    name: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoConfig

    folder = tiny_model(name)
    AutoConfig.from_pretrained(folder).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert "rope_parameters" in saved.get("text_config", saved)
    assert dataclasses.replace(read_model(tmp_path), folder=folder) == read_model(folder)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_a_saved_model_has_a_place(name: str, tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model(name)
    with BaseWeights(folder) as base:
        require_complete(read_model(folder), base)


@pytest.mark.parametrize(("architectures", "named"), [
    (["Qwen2ForCausalLM"], "architecture Qwen2ForCausalLM is unknown"), (None, "architecture none is unknown"),
    (["Mistral3ForConditionalGeneration"], "Mistral3ForConditionalGeneration is unknown"),
])
def test_an_unknown_architecture_is_refused_with_the_known_and_a_way_out(
    tmp_path: Path, architectures: list[str] | None, named: str
) -> None:
    with pytest.raises(PipelineError, match=r"export_gguf\.py --llama-cpp FOLDER") as error:
        read_model(write_config(tmp_path, "Llama-3.1-8B", architectures=architectures))
    assert named in str(error.value)
    assert all(name in str(error.value) for name in FAMILIES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("folder", "changes", "original"), [
    ("base", {}, "made from"),
    ("Phi-4-mini-instruct-bnb-4bit", {}, "made from, Phi-4-mini-instruct"),
    ("models--unsloth--gemma-3-4b-it-unsloth-bnb-4bit/snapshots/0123", {}, "made from, unsloth/gemma-3-4b-it"),
    ("base", {"_name_or_path": "unsloth/mistral-7b-bnb-4bit"}, "made from, unsloth/mistral-7b"),
])
def test_a_4_bit_base_is_refused_with_the_name_of_the_16_bit_one(
    tmp_path: Path, folder: str, changes: dict[str, str], original: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    write_config(tmp_path / folder, "Llama-3.1-8B", quantization_config={"quant_method": "bitsandbytes"}, **changes)
    with pytest.raises(PipelineError, match="already quantised, and merging into rounded weights") as error:
        read_model(tmp_path / folder)
    assert str(error.value).endswith(original)


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "rms_norm_eps", "vocab_size"])
def test_a_config_that_lacks_a_size_is_one_clear_line(tmp_path: Path, key: str) -> None:
    path = write_config(tmp_path, "Llama-3.1-8B") / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config[key]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(PipelineError, match=f"config.json: {key} is missing: download the base model again"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Phi-4-mini"])
@pytest.mark.parametrize("changes", [
    {"hidden_size": "4096"}, {"hidden_size": None}, {"num_attention_heads": 0}, {"num_attention_heads": [32]},
    {"vocab_size": "x"},
    {"num_hidden_layers": True}, {"max_position_embeddings": 4096.5}, {"head_dim": "128"}, {"rms_norm_eps": None},
    {"rms_norm_eps": "small"}, {"rope_theta": [1]}, {"rope_scaling": "longrope"}, {"rope_scaling": ["a"]},
    {"text_config": None},
    {"rope_scaling": {"type": "longrope", "short_factor": ["1"] * 48, "long_factor": ["1"] * 48}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 0, "high_freq_factor": "4", "low_freq_factor": 1}},
    {"architectures": [1]}, {"architectures": 5}, {"quantization_config": {"a": 1}, "_name_or_path": 7},
], ids=str)
def test_an_odd_value_is_one_line_that_names_the_file(tmp_path: Path, name: str, changes: dict[str, object]) -> None:
    with pytest.raises(PipelineError, match=r"config\.json") as caught:
        read_model(write_config(tmp_path, name, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", "7", '"text"'])
def test_a_config_that_is_no_table_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"config\.json is no table"):
        read_model(tmp_path)
