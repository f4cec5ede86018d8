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
