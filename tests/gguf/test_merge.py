from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.errors import PipelineError
from distill.gguf.merge import MergedWeights, load_adapter
from distill.gguf.shards import BaseWeights
from tests.tiny_models import write_random_lora, write_tiny_phi3

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
        assert len(merged.list_merged()) == modules
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


def test_rank_pattern(tiny_phi3: Path, tmp_path: Path) -> None:
    folder = train_at_random(tiny_phi3, tmp_path, target_modules=["o_proj", "down_proj"], rank_pattern={"down_proj": 3})
    assert {change.pair.down.shape[0] for change in load_adapter(folder).values()} == {3, 4}
    require_same_weights(tiny_phi3, folder, modules=4)


def test_the_bases_own_rows_stay_within_reach(tiny_phi3: Path, tiny_lora: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    with BaseWeights(tiny_phi3) as base:
        merged = MergedWeights(base, load_adapter(tiny_lora))
        rows = merged.base_rows(name, 3, 9)
        assert torch.equal(rows, base.rows(name, 3, 9))
        assert torch.equal(merged.merge_rows(name, 3, rows), merged.rows(name, 3, 9))
        assert torch.equal(rows, base.rows(name, 3, 9)) and not torch.equal(rows, merged.rows(name, 3, 9))


# -----------------------------------------------------------------------------
# Tensors that PEFT saves whole


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_phi3(tmp_path_factory.mktemp("untied"), layers=1, vocab_size=400, tied=False)


def train_at_random(base: Path, folder: Path, save_embedding_layers: bool | str = "auto", **settings: Any) -> Path:
    """An adapter as PEFT itself saves one, after a random step of all that it would train."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["o_proj"], **settings}))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    tuned.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    return folder


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
@pytest.mark.parametrize(("module", "count"), [("norm", 7), ("down_proj", 4), ("input_layernorm", 4)])
def test_modules_to_save_replace_the_bases_tensors(tiny_phi3: Path, tmp_path: Path, module: str, count: int) -> None:
    """PEFT takes "norm" for the end of a name: it saves the norms of the layers too. LoRA changes two more."""
    require_same_weights(tiny_phi3, train_at_random(tiny_phi3, tmp_path, modules_to_save=[module]), modules=count)


@pytest.mark.parametrize("modules", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]], ids=" ".join)
def test_embedding_and_output_of_an_untied_model(untied: Path, tmp_path: Path, modules: list[str]) -> None:
    folder = train_at_random(untied, tmp_path, modules_to_save=modules)
    require_same_weights(untied, folder, modules=1 + len(modules))


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_lora_on_the_embedding_or_the_output(untied: Path, tmp_path: Path, target: str) -> None:
    """PEFT then saves the base's matrix too, under another name."""
    folder = train_at_random(untied, tmp_path, target_modules=["o_proj", target])
    change = load_adapter(folder)[f"{'model.' if target == 'embed_tokens' else ''}{target}.weight"]
    assert change.whole is not None and change.pair is not None
    require_same_weights(untied, folder, modules=2)


def test_embeddings_that_were_saved_but_not_trained(tiny_phi3: Path, tmp_path: Path) -> None:
    require_same_weights(tiny_phi3, train_at_random(tiny_phi3, tmp_path, save_embedding_layers=True), modules=3)


def test_a_tied_embedding_that_stays_tied(tiny_phi3: Path, tmp_path: Path) -> None:
    folder = train_at_random(tiny_phi3, tmp_path, modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=True)
    require_same_weights(tiny_phi3, folder, modules=3)


@pytest.mark.filterwarnings("ignore:.*tie")
@pytest.mark.parametrize("settings", [
    {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]}, {"modules_to_save": ["embed_tokens", "lm_head"]},
    {"target_modules": ["o_proj", "lm_head"]}, {"target_modules": ["o_proj", "embed_tokens"]},
], ids=str)
def test_an_adapter_that_parts_tied_matrices_is_refused(tiny_phi3: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """What PEFT computes with such an adapter needs two matrices, and the GGUF of a tied model has one."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = train_at_random(tiny_phi3, tmp_path, **settings)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32), folder)
    hidden = tuned.get_base_model().model(torch.arange(9)[None]).last_hidden_state
    embedded = tuned.get_base_model().model.embed_tokens(torch.arange(400))
    assert not torch.allclose(tuned.get_base_model().lm_head(hidden)[..., :400], hidden @ embedded.T, atol=1e-3)
    with BaseWeights(tiny_phi3) as base, pytest.raises(PipelineError, match=r"embed_tokens\.weight and lm_head.*\(tied\)"):
        MergedWeights(base, load_adapter(folder))


def test_a_tied_model_may_hold_its_output_twice(untied: Path, tmp_path: Path) -> None:
    folder = train_at_random(untied, tmp_path, modules_to_save=["lm_head"])
    with BaseWeights(untied) as base, pytest.raises(PipelineError, match=r"\(tied\)"):
        MergedWeights(base, load_adapter(folder), tied=True)


def test_a_saved_tensor_that_is_not_finite_is_named(tiny_phi3: Path, tmp_path: Path) -> None:
    folder = train_at_random(tiny_phi3, tmp_path, modules_to_save=["norm"])
    change_tensors(folder, **{"base_model.model.model.norm.weight": torch.full((256,), float("nan"))})
    with BaseWeights(tiny_phi3) as base, pytest.raises(PipelineError, match=r"norm\.weight, merged with the adapter, holds"):
        MergedWeights(base, load_adapter(folder)).rows("model.norm.weight", 0, 256)


def test_a_saved_tensor_of_another_size_is_refused(tiny_phi3: Path, tmp_path: Path) -> None:
    folder = train_at_random(tiny_phi3, tmp_path, modules_to_save=["norm"])
    change_tensors(folder, **{"base_model.model.model.norm.weight": torch.ones(128)})
    with BaseWeights(tiny_phi3) as base, pytest.raises(PipelineError, match=r"model\.norm\.weight is \(128,\)"):
        MergedWeights(base, load_adapter(folder))


# -----------------------------------------------------------------------------
# Names


@pytest.mark.parametrize("shards", ["language_model.model.", "model.language_model."])
def test_a_multimodal_base_and_an_adapter_name_the_same_module_differently(
    tiny_phi3: Path, tiny_lora: Path, tmp_path: Path, shards: str
) -> None:
    tensors = {name: tensor for path in tiny_phi3.glob("*.safetensors") for name, tensor in load_file(path).items()}
    wrapped = {name.replace("model.", shards, 1): tensor for name, tensor in tensors.items()}
    save_file({**wrapped, "vision_tower.layers.0.mlp.fc1.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    with BaseWeights(tiny_phi3) as plain, BaseWeights(tmp_path) as base:
        expected, found = (MergedWeights(weights, load_adapter(tiny_lora)) for weights in (plain, base))
        assert found.list_merged() == [name.replace("model.", shards, 1) for name in expected.list_merged()]
        name = "model.layers.1.mlp.down_proj.weight"
        assert torch.equal(found.rows(name.replace("model.", shards, 1), 0, 9), expected.rows(name, 0, 9))


def test_a_change_without_a_place_in_the_gguf_is_refused(tiny_phi3: Path, tiny_lora: Path) -> None:
    with BaseWeights(tiny_phi3) as base:
        merged = MergedWeights(base, load_adapter(tiny_lora))
        merged.require_used(base.names)
        with pytest.raises(PipelineError, match=r"changes model\.layers\.1\.mlp\.down_proj\.weight.*no place"):
            merged.require_used(base.names - {"model.layers.1.mlp.down_proj.weight"})


def test_names_of_an_unmerged_save_are_understood(tiny_phi3: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({name.replace(".weight", ".default.weight"): tensor for name, tensor in load_file(path).items()}, path)
    assert len(load_adapter(adapter)) == 8


def test_both_names_of_a_saved_module_are_understood(tiny_phi3: Path, adapter: Path) -> None:
    name = "base_model.model.model.norm"
    change_tensors(adapter, **{
        f"{name}.modules_to_save.default.weight": torch.full((256,), 0.5), f"{name}.original_module.weight": torch.ones(256),
    })
    with BaseWeights(tiny_phi3) as base:
        merged = MergedWeights(base, load_adapter(adapter))
        assert (merged.rows("model.norm.weight", 0, 256) == 0.5).all() and len(merged.list_merged()) == 9


@pytest.mark.parametrize("settings", [
    {"use_dora": True}, {"peft_type": "IA3"}, {"bias": "all"}, {"arrow_config": {"top_k": 1}}, {"fan_in_fan_out": True},
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
    with BaseWeights(copy) as base, pytest.raises(PipelineError, match=rf"{shard.name}: tensor model\.norm\.weight holds NaN"):
        MergedWeights(base).rows("model.norm.weight", 0, 256)


@pytest.mark.parametrize(("settings", "named"), [
    ({"lora_alpha": None}, "lora_alpha is None"), ({"lora_alpha": "16"}, "lora_alpha is '16'"),
    ({"lora_alpha": float("nan")}, "lora_alpha is nan"), ({"alpha_pattern": {"down_proj": None}}, "down_proj is None"),
    ({"alpha_pattern": {"layers.(1": 3}}, "alpha_pattern 'layers.(1' is no regular expression"),
    ({"alpha_pattern": ["down_proj"]}, "alpha_pattern is no table"),
])
def test_an_alpha_that_is_none_is_one_line(adapter: Path, settings: dict[str, Any], named: str) -> None:
    change_settings(adapter, **settings)
    with pytest.raises(PipelineError) as caught:
        load_adapter(adapter)
    assert f"adapter_config.json: {named}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "null", '"LORA"', '{"peft_type": "LORA"}'])
def test_an_adapter_config_without_settings_is_one_line(adapter: Path, text: str) -> None:
    (adapter / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"adapter_config\.json(: lora_alpha is None| is no table)"):
        load_adapter(adapter)


def test_matrices_of_rank_0_are_refused(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    up, down = tensors[f"{DOWN}.lora_B.weight"], tensors[f"{DOWN}.lora_A.weight"]
    change_tensors(adapter, **{f"{DOWN}.lora_B.weight": up[:, :0].clone(), f"{DOWN}.lora_A.weight": down[:0].clone()})
    with pytest.raises(PipelineError, match="down_proj are incomplete"):
        load_adapter(adapter)
