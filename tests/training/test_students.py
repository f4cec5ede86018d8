"""Which backend trains, and students whose adapters sit everywhere, fresh or those of an earlier run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.batches import lay_end_to_end
from distill.training.students import choose_backend, load_student
from tests.training.families import FAMILIES, FUSED, make_rows, write_model


def make_settings(**changes: Any) -> FinetuneSection:
    return FinetuneSection.model_validate({"backend": "peft", "lora_r": 4, **changes})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi3 on disk."""
    return write_model("phi3", tmp_path_factory.mktemp("students") / "phi3")


def lose(model: Any) -> float:
    """The summed loss of a few rows."""
    batch = lay_end_to_end(make_rows(3))
    with torch.no_grad():
        return float(model.eval()(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets))


# -----------------------------------------------------------------------------
# The backend


@pytest.mark.parametrize(
    ("asked", "has_cuda", "installed", "processes", "expected"),
    [
        ("auto", True, True, None, "unsloth"),
        ("auto", True, True, "1", "unsloth"),
        ("auto", True, True, "2", "peft"),
        ("auto", True, False, None, "peft"),
        ("auto", False, True, None, "peft"),
        ("peft", True, True, None, "peft"),
        ("peft", False, False, "4", "peft"),
        ("unsloth", True, True, None, "unsloth"),
        ("unsloth", False, True, None, "there is no CUDA GPU"),
        ("unsloth", True, False, None, "unsloth is not installed"),
        ("unsloth", True, True, "2", "it trains on one GPU"),
    ],
)
def test_backend(
    asked: str, has_cuda: bool, installed: bool, processes: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    found = find("peft") if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: found if name == "unsloth" else find(name, *rest))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("WORLD_SIZE", processes)
    settings = make_settings(backend=asked)
    if expected in ("unsloth", "peft"):
        assert choose_backend(settings, has_cuda) == expected
    else:
        with pytest.raises(PipelineError, match=f"finetune.backend is unsloth but {expected}.*; or set it to auto"):
            choose_backend(settings, has_cuda)


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_cuts_the_model_up_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(PipelineError, match=rf"accelerate is set to {name}, .*: docs/SCALING.md"):
        choose_backend(make_settings(), has_cuda=True)


# -----------------------------------------------------------------------------
# Fresh adapters


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_is_adapted_fused_or_separate(family: str, tmp_path: Path) -> None:
    model, adapted = load_student("peft", write_model(family, tmp_path / "base"), make_settings())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    linear = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"}
    assert set(adapted) == linear and len(linear) == 2 * len(FAMILIES[family])
    learning = [name.split(".lora_")[0] for name, weight in model.named_parameters() if weight.requires_grad]
    assert {name.removeprefix("base_model.model.") for name in learning} == linear


def test_a_fresh_student_answers_like_its_base(base: Path) -> None:
    model, _ = load_student("peft", base, make_settings())
    tuned = lose(model)
    with model.disable_adapter():
        assert lose(model) == tuned


def test_first_values_follow_the_seed_alone(base: Path) -> None:
    def read(seed: int) -> list[Any]:
        torch.rand(seed)  # wherever the random numbers stand
        model, _ = load_student("peft", base, make_settings(seed=seed))
        return [p.detach() for name, p in model.named_parameters() if "lora_A" in name]

    first, second, other = read(1), read(1), read(2)
    assert all(torch.equal(left, right) for left, right in zip(first, second))
    assert not any(torch.equal(left, right) for left, right in zip(first, other))


@pytest.mark.parametrize("recompute", [False, True])
def test_recomputing_is_as_the_plan_says(base: Path, recompute: bool) -> None:
    model, _ = load_student("peft", base, make_settings(), recompute=recompute)
    assert model.get_base_model().is_gradient_checkpointing is recompute


# -----------------------------------------------------------------------------
# Going on from an adapter


def write_adapter(base: Path, folder: Path, **changes: Any) -> Path:
    """An earlier round's adapter with random values in every module of `target_modules`."""
    lora = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(**lora))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    tuned.save_pretrained(folder)
    return folder


def test_a_further_round_begins_where_the_last_ended(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    adapter = write_adapter(base, tmp_path / "adapters")
    fresh, _ = load_student("peft", base, make_settings())
    model, adapted = load_student("peft", base, make_settings(continue_from=adapter))
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    row = make_rows(1)[0]
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    batch = lay_end_to_end([row])
    with torch.no_grad():
        expected = reference(input_ids=ids, labels=labels).loss * row.answer_tokens
        found = model.eval()(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert len(adapted) == 8 and abs(lose(model) - lose(fresh)) > 0.1
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("earlier", "now", "expected"),
    [
        ({"r": 8}, {}, "finetune.lora_r is 4 but the adapter in adapters/ has 8: set it to that to go on from it"),
        ({"lora_alpha": 32}, {}, "finetune.lora_alpha is 16 but the adapter in adapters/ has 32"),
        ({"use_rslora": True}, {}, "is no plain LoRA"),
        ({"use_dora": True}, {}, "is no plain LoRA"),
        ({"target_modules": ["o_proj"]}, {}, "adapts other modules than finetune.target_modules"),
        ({}, {"target_modules": ["o_proj"]}, "adapts other modules than finetune.target_modules"),
        ({"target_modules": list(FUSED), "layers_to_transform": [0]}, {}, "adapts other modules than finetune.target_modules"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_in_one_line(
    base: Path, tmp_path: Path, earlier: dict, now: dict, expected: str
) -> None:
    adapter = write_adapter(base, tmp_path / "adapters", **earlier)
    with pytest.raises(PipelineError) as problem:
        load_student("peft", base, make_settings(continue_from=adapter, **now))
    assert expected in str(problem.value) and "\n" not in str(problem.value) and str(tmp_path) not in str(problem.value)


def test_an_adapter_of_another_student_is_refused(base: Path, tmp_path: Path) -> None:
    wider = write_model("phi3", tmp_path / "wider", intermediate_size=96)
    adapter = write_adapter(wider, tmp_path / "adapters")
    with pytest.raises(PipelineError, match="the adapter in adapters/ was made for another base model"):
        load_student("peft", base, make_settings(continue_from=adapter))


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_an_adapter_is_named(base: Path, tmp_path: Path, missing: str) -> None:
    adapter = write_adapter(base, tmp_path / "adapters")
    (adapter / missing).unlink()
    with pytest.raises(PipelineError, match=rf"finetune.continue_from: adapters/ has no {missing}"):
        load_student("peft", base, make_settings(continue_from=adapter))
