"""Loading the student and attaching its adapters, with Unsloth or with plain PEFT. Nothing is fetched, no remote code runs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.lora import require_adapted, resolve_targets
from distill.training.precision import choose_dtype

Backend = Literal["unsloth", "peft"]


def choose_backend(settings: FinetuneSection, has_cuda: bool) -> Backend:
    """`auto` is unsloth on one CUDA GPU, peft elsewhere.

    Raises PipelineError for unsloth where it cannot run, and under launchers that cut the model into pieces.
    """
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise PipelineError(f"accelerate is set to {name}, but each GPU holds the whole base model here: docs/SCALING.md")
    installed = importlib.util.find_spec("unsloth") is not None
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    missing = (
        "there is no CUDA GPU" if not has_cuda
        else "unsloth is not installed: pip install -r requirements.txt" if not installed
        else "it trains on one GPU" if several else ""
    )
    if settings.backend == "unsloth" and missing:
        raise PipelineError(f"config.yaml finetune.backend is unsloth but {missing}; or set it to auto")
    if settings.backend != "auto":
        return settings.backend
    return "peft" if missing else "unsloth"


def load_student(
    backend: Backend, folder: Path, settings: FinetuneSection, *, in_4bit: bool = False, recompute: bool = False
) -> tuple[Any, list[str]]:
    """The base model with adapters and the answer loss, and the full names of the adapted modules.

    The adapters are fresh, or those of finetune.continue_from. `in_4bit` and `recompute` are the plan's.
    """
    load = load_with_unsloth if backend == "unsloth" else load_with_peft
    model, expected = load(folder, settings, in_4bit, recompute)
    adapted = require_adapted(model, expected)
    if settings.continue_from is not None:
        continue_adapters(model, settings.continue_from)
    return model, adapted


def prepare(model: Any, settings: FinetuneSection) -> tuple[list[str], list[str]]:
    """Teach a base model this trainer's loss and attention; the kinds and the full names of the modules to adapt."""
    # Imported here: Unsloth must come before anything that imports transformers.
    from distill.training.attention import use_row_attention
    from distill.training.losses import add_answer_loss

    add_answer_loss(model)
    use_row_attention(model)
    return resolve_targets(model, settings.target_modules)


def load_with_unsloth(folder: Path, settings: FinetuneSection, in_4bit: bool, recompute: bool) -> tuple[Any, list[str]]:
    """Unsloth's fast path. `use_exact_model_name`: it must not swap the folder for a 4-bit repository of its own."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(folder),
        max_seq_length=settings.max_length,
        load_in_4bit=in_4bit,
        dtype=None,
        use_exact_model_name=True,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )
    kinds, expected = prepare(model, settings)
    model = FastLanguageModel.get_peft_model(
        model,
        r=settings.lora_r,
        target_modules=kinds,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        bias="none",
        use_gradient_checkpointing="unsloth" if recompute else False,
        random_state=settings.seed,
    )
    return model, expected


def load_with_peft(folder: Path, settings: FinetuneSection, in_4bit: bool, recompute: bool) -> tuple[Any, list[str]]:
    """Plain transformers + PEFT: bfloat16 and compiled layers on CUDA, float32 on a CPU."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    has_cuda = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=choose_dtype(),
        quantization_config=describe_4bit() if in_4bit else None,
        device_map={"": torch.cuda.current_device()} if has_cuda else None,
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    model.requires_grad_(False)
    kinds, expected = prepare(model, settings)
    set_seed(settings.seed)  # the A matrices are drawn here, the same on every GPU
    lora = LoraConfig(
        r=settings.lora_r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout, target_modules=kinds,
        bias="none", task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
    if recompute:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if compiles_layers("peft"):
        for layer in model.get_decoder().layers:
            layer.compile(dynamic=True)  # measured 1.6 times as fast
    return adapted, expected


def continue_adapters(model: Any, folder: Path) -> None:
    """Start from the adapter in `folder` instead of from nothing.

    Raises PipelineError for an adapter of another rank, scale, set of modules or base: both must be one model afterwards.
    """
    from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise PipelineError(
                f"config.yaml finetune.continue_from: {folder.name}/ has no {name}: name the finished adapters/ of another run"
            )
    before, now = LoraConfig.from_pretrained(str(folder)), model.peft_config["default"]
    for key, ours in (("r", "lora_r"), ("lora_alpha", "lora_alpha")):
        if getattr(before, key) != getattr(now, key):
            raise PipelineError(
                f"config.yaml finetune.{ours} is {getattr(now, key)} but the adapter in {folder.name}/ has "
                f"{getattr(before, key)}: set it to that to go on from it"
            )
    if before.use_dora or before.use_rslora:
        raise PipelineError(f"the adapter in {folder.name}/ is no plain LoRA: this trainer cannot go on from it")
    weights = load_file(folder / "adapter_model.safetensors")
    ours = get_peft_model_state_dict(model, save_embedding_layers=False)  # "auto" would look for the base on the hub
    if ours.keys() != weights.keys():
        raise PipelineError(
            f"the adapter in {folder.name}/ adapts other modules than finetune.target_modules: make them the same"
        )
    if any(ours[name].shape != weight.shape for name, weight in weights.items()):
        raise PipelineError(f"the adapter in {folder.name}/ was made for another base model: set finetune.base_model to that")
    set_peft_model_state_dict(model, weights)


def compiles_layers(backend: Backend) -> bool:
    """Whether decoder layers are compiled: Unsloth does so, and PyTorch on CUDA where Triton is there."""
    import torch

    return backend == "unsloth" or (torch.cuda.is_available() and importlib.util.find_spec("triton") is not None)


def has_bitsandbytes() -> bool:
    """Whether 4-bit weights are there; requirements-cpu.txt leaves them out."""
    return importlib.util.find_spec("bitsandbytes") is not None


def describe_4bit() -> Any:
    """NF4 with double quantisation and 16-bit arithmetic, as in the QLoRA paper (Dettmers et al. 2023, section 3)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=choose_dtype()
    )
