from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.errors import PipelineError
from distill.gguf.merge import BaseWeights, MergedWeights, load_adapter
from tests.tiny_models import write_random_lora

DOWN = "base_model.model.model.layers.0.mlp.down_proj"


@pytest.fixture()
def adapter(tiny_lora: Path, tmp_path: Path) -> Path:
    """A copy of the adapter that a test may change."""
    return Path(shutil.copytree(tiny_lora, tmp_path / "adapter"))


def change_settings(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), encoding="utf-8")


def change_tensors(folder: Path, **values: torch.Tensor | None) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = {**load_file(path), **values}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def merge_with_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()


def require_same_weights(base: Path, adapter: Path, modules: int) -> None:
    expected = merge_with_peft(base, adapter)
    with BaseWeights(base) as weights:
        merged = MergedWeights(weights, load_adapter(adapter))
        assert len(merged.pairs) == modules
        for name in weights.names:
            rows = weights.shape(name)[0]
            found = torch.cat((merged.rows(name, 0, rows // 3), merged.rows(name, rows // 3, rows)))
            torch.testing.assert_close(found, expected[name], atol=1e-6, rtol=1e-5)


def test_merged_weights_are_those_of_peft(tiny_phi3: Path, tiny_lora: Path) -> None:
    require_same_weights(tiny_phi3, tiny_lora, modules=8)


def test_rslora_and_alpha_pattern(tiny_phi3: Path, tmp_path: Path) -> None:
    targets = ("o_proj", "down_proj")
    folder = write_random_lora(tiny_phi3, tmp_path, rank=4, alpha=32, use_rslora=True, target_modules=targets)
    change_settings(folder, alpha_pattern={"layers.1.mlp.down_proj": 3})
    require_same_weights(tiny_phi3, folder, modules=4)


def test_names_of_an_unmerged_save_are_understood(tiny_phi3: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name.replace(".weight", ".default.weight"): tensor for name, tensor in load_file(path).items()}, path)
    assert len(load_adapter(adapter)) == 8


@pytest.mark.parametrize("settings", [
    {"use_dora": True}, {"peft_type": "IA3"}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"fan_in_fan_out": True},
    {"init_lora_weights": "pissa_niter_4"}, {"init_lora_weights": "olora"}, {"layer_replication": [[0, 1]]},
])
def test_other_kinds_of_adapter_are_refused(adapter: Path, settings: dict[str, Any]) -> None:
    change_settings(adapter, **settings)
    with pytest.raises(PipelineError, match=r"adapter_config\.json: "):
        load_adapter(adapter)


def test_a_tensor_that_is_no_lora_matrix_is_named(adapter: Path) -> None:
    change_tensors(adapter, **{f"{DOWN}.lora_magnitude_vector": torch.ones(256)})
    with pytest.raises(PipelineError, match=r"down_proj\.lora_magnitude_vector is no plain LoRA matrix"):
        load_adapter(adapter)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(adapter: Path, value: float) -> None:
    change_tensors(adapter, **{f"{DOWN}.lora_B.weight": torch.full((256, 8), value)})
    with pytest.raises(PipelineError, match=r"down_proj\.lora_B\.weight holds NaN or infinite"):
        load_adapter(adapter)


def test_half_a_pair_is_refused(adapter: Path) -> None:
    change_tensors(adapter, **{f"{DOWN}.lora_B.weight": None})
    with pytest.raises(PipelineError, match=r"layers\.0\.mlp\.down_proj are incomplete"):
        load_adapter(adapter)


def test_an_empty_adapter_is_refused(adapter: Path) -> None:
    save_file({}, adapter / "adapter_model.safetensors")
    with pytest.raises(PipelineError, match="holds no tensors"):
        load_adapter(adapter)


def test_a_damaged_adapter_is_one_line(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(PipelineError, match="damaged or incomplete"):
        load_adapter(adapter)


def test_a_module_that_the_base_lacks_is_named(tiny_phi3: Path, adapter: Path) -> None:
    other = DOWN.replace("layers.0", "layers.7")
    change_tensors(adapter, **{f"{other}.lora_A.weight": torch.ones(8, 512), f"{other}.lora_B.weight": torch.ones(256, 8)})
    with BaseWeights(tiny_phi3) as base, pytest.raises(PipelineError, match=r"layers\.7\.mlp\.down_proj.*lacks"):
        MergedWeights(base, load_adapter(adapter))


def test_an_adapter_of_another_size_is_refused(tiny_phi3: Path, adapter: Path) -> None:
    change_tensors(adapter, **{f"{DOWN}.lora_B.weight": torch.ones(128, 8)})
    with BaseWeights(tiny_phi3) as base, pytest.raises(PipelineError, match=r"\(128, 512\) but the base model's \(256, 512\)"):
        MergedWeights(base, load_adapter(adapter))


def test_untrained_modules_are_told(tiny_phi3: Path, adapter: Path) -> None:
    change_tensors(adapter, **{f"{DOWN}.lora_B.weight": torch.zeros(256, 8)})
    with BaseWeights(tiny_phi3) as base:
        assert MergedWeights(base, load_adapter(adapter)).list_unchanged() == ["model.layers.0.mlp.down_proj.weight"]


def test_a_missing_shard_is_named(tiny_phi3: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    (copy / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"model-00002-of-00004\.safetensors is missing"):
        BaseWeights(copy)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e6])
def test_weights_that_no_half_float_holds_are_refused(tiny_phi3: Path, tmp_path: Path, value: float) -> None:
    copy = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    shard = next(path for path in sorted(copy.glob("*.safetensors")) if "model.norm.weight" in load_file(path))
    tensors = load_file(shard)
    tensors["model.norm.weight"][5] = value
    save_file(tensors, shard)
    with BaseWeights(copy) as base, pytest.raises(PipelineError, match=r"model\.norm\.weight holds NaN or values beyond"):
        MergedWeights(base).rows("model.norm.weight", 0, 256)
