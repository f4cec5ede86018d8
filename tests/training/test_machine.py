from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from distill.config import FinetuneSection
from distill.manifest import list_versions
from distill.training.lora import count_parameters
from distill.training.machine import is_adapted, measure_base, measure_flops, measure_machine, read_requirements

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("targets", ["all-linear", ("o_proj", "down_proj")])
def test_sizes_are_those_of_the_loaded_model(tiny_phi3: Path, targets: str | tuple[str, ...]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    size = measure_base(tiny_phi3, FinetuneSection(target_modules=targets))
    model = AutoModelForCausalLM.from_pretrained(tiny_phi3)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    wanted = targets if isinstance(targets, str) else list(targets)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=wanted, task_type="CAUSAL_LM"))
    assert 4 * size.lora_width == count_parameters(tuned)[0]
    files = [path.stat().st_size for path in tiny_phi3.glob("*.safetensors")]
    assert (size.bytes, size.largest_file) == (sum(files), max(files))


def test_a_torn_file_is_noticed(tiny_phi3: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    shard = max(base.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(SafetensorError):
        measure_base(base, FinetuneSection())


@pytest.mark.parametrize(("name", "shape", "expected"), [
    ("model.layers.0.mlp.down_proj.weight", (4, 8), True),
    ("model.layers.0.input_layernorm.weight", (4,), False),
    ("model.embed_tokens.weight", (9, 4), False),
    ("lm_head.weight", (9, 4), False),
])
def test_embeddings_norms_and_the_output_layer_are_not_adapted(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert is_adapted(name, shape, "all-linear") is expected


def test_this_machine_is_measured(tmp_path: Path) -> None:
    found = measure_machine(tmp_path / "not" / "there")
    assert found.ram_free > 0 and found.disk_free > 0 and found.versions == list_versions() and "torch" in found.versions
    assert (found.gpu_free is None) == (not found.machine["gpus"])
    assert measure_flops() > 1e8


def test_both_requirements_files_are_read() -> None:
    wanted = read_requirements(ROOT)
    assert wanted["torch"].contains("2.13.0+cu130") and "unsloth" in wanted and "transformers" in wanted


def test_without_requirements_files_nothing_is_required(tmp_path: Path) -> None:
    assert read_requirements(tmp_path) == {}
