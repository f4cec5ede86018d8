"""Every module that should learn is adapted and moves; anything less stops the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.batches import lay_end_to_end
from distill.training.lora import (
    copy_adapters,
    count_parameters,
    iterate_adapters,
    list_left_out,
    list_linear_layers,
    require_adapted,
    require_moved,
    resolve_targets,
)
from distill.training.students import load_student
from tests.training.families import SEPARATE, make_rows, make_wrapped_model

TUTORIAL_LIST = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]


def make_settings(**changes: object) -> FinetuneSection:
    return FinetuneSection.model_validate({"backend": "peft", "lora_r": 4, **changes})


def make_model(family: str):
    """A random two-layer model of a family, in memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape = {**sizes, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape))


@pytest.mark.parametrize(
    ("family", "kinds"),
    [("phi3", FUSED), ("llama", sorted(TUTORIAL_LIST)), ("mistral", sorted(TUTORIAL_LIST)), ("qwen3", sorted(TUTORIAL_LIST))],
)
def test_all_linear_is_every_projection_of_every_layer(family: str, kinds: list[str]) -> None:
    found, names = resolve_targets(make_model(family), "all-linear")
    assert found == kinds
    assert len(names) == 2 * len(kinds)
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "o_proj"], ["gate_proj"]])
def test_beside_a_vision_tower_the_decoder_alone_is_adapted(targets: object) -> None:
    """Published Gemma 3 has q_proj, k_proj and v_proj in both; PEFT would take all of them."""
    from peft import LoraConfig, get_peft_model

    model = make_wrapped_model()
    given, names = resolve_targets(model, targets)
    assert len(names) == 2 * len(SEPARATE if targets == "all-linear" else targets)
    assert all(name.startswith("model.language_model.layers.") for name in names)
    assert given == (["gate_proj"] if targets == ["gate_proj"] else names)  # kinds where they are the decoder's alone
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=given))
    assert require_adapted(adapted, names) == names  # and no other
    assert len(list_left_out(adapted, names)) == 2 * len(SEPARATE) - len(names)


def test_every_adapter_beside_a_vision_tower_moves_in_the_first_step(tmp_path: Path) -> None:
    """Published Gemma 3 from disk to its first update, with and without recomputation."""
    import torch

    make_wrapped_model().save_pretrained(tmp_path / "base")
    batch = lay_end_to_end(make_rows(4))
    for recompute in (False, True):
        model, adapted = load_student("peft", tmp_path / "base", make_settings(), recompute=recompute)
        assert len(adapted) == 2 * len(SEPARATE) and all("language_model" in name for name in adapted)
        before = copy_adapters(model)
        model.train()(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets).backward()
        torch.optim.AdamW(parameter for parameter in model.parameters() if parameter.requires_grad).step()
        require_moved(model, before)


def test_a_module_of_the_vision_tower_is_refused() -> None:
    with pytest.raises(PipelineError, match="fc1 not in this model, which has down_proj, gate_proj"):
        resolve_targets(make_wrapped_model(), ["q_proj", "fc1"])


def test_the_usual_list_is_refused_on_a_fused_model() -> None:
    with pytest.raises(PipelineError) as problem:
        resolve_targets(make_model("phi3"), TUTORIAL_LIST)
    message = str(problem.value)
    assert "q_proj, k_proj, v_proj, gate_proj, up_proj not in this model" in message
    assert "down_proj, gate_up_proj, o_proj, qkv_proj" in message


def test_a_list_adapts_what_it_names(tiny_phi3: Path) -> None:
    _, adapted = load_student("peft", tiny_phi3, make_settings(target_modules=["qkv_proj"]))
    assert adapted and all(name.endswith("qkv_proj") for name in adapted)


def test_student_is_adapted_in_every_layer(tiny_phi3: Path) -> None:
    model, adapted = load_student("peft", tiny_phi3, make_settings())
    layers = model.config.num_hidden_layers
    assert len(adapted) == 4 * layers
    trainable, total = count_parameters(model)
    assert trainable == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n) and trainable < total


@pytest.mark.parametrize(("targets", "left_out"), [("all-linear", 0), (["o_proj", "down_proj"], 4)])
def test_modules_that_a_list_leaves_out_are_known(tiny_phi3: Path, targets: object, left_out: int) -> None:
    model, adapted = load_student("peft", tiny_phi3, make_settings(target_modules=targets))
    found = list_left_out(model, adapted)
    assert len(found) == left_out and not set(found) & set(adapted)


def test_partial_adaptation_is_refused(tiny_phi3: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_phi3)
    expected = list_linear_layers(model)
    partial = get_peft_model(model, LoraConfig(r=4, target_modules=list(TUTORIAL_LIST)))
    with pytest.raises(PipelineError, match=rf"only {len(expected) // 2} of {len(expected)} modules were adapted"):
        require_adapted(partial, expected)


def test_adapter_that_did_not_move_is_named(tiny_phi3: Path) -> None:
    import torch

    model, adapted = load_student("peft", tiny_phi3, make_settings())
    before = copy_adapters(model)
    with pytest.raises(PipelineError, match=rf"{len(adapted)} adapters did not move"):
        require_moved(model, before)
    with torch.no_grad():
        for _, weight in iterate_adapters(model):
            weight.add_(1e-6)
    require_moved(model, before)
    last = list(iterate_adapters(model))[-1]
    torch.nn.init.zeros_(last[1])
    with pytest.raises(PipelineError, match=f"1 adapters did not move in the first step, the first is {last[0]}"):
        require_moved(model, before)


def test_adapter_of_an_earlier_round_must_move_too(tiny_phi3: Path) -> None:
    """Its values are not zero; that says nothing of this round."""
    import torch

    model, adapted = load_student("peft", tiny_phi3, make_settings())
    with torch.no_grad():
        for _, weight in iterate_adapters(model):
            weight.normal_()
    with pytest.raises(PipelineError, match=rf"{len(adapted)} adapters did not move"):
        require_moved(model, copy_adapters(model))
