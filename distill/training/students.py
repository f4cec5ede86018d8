"""Loading the student and attaching its adapters, with Unsloth or with plain PEFT. Nothing is fetched, no remote code runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.training.lora import require_adapted, resolve_targets

Backend = Literal["unsloth", "trl"]


def choose_backend(settings: FinetuneSection, has_cuda: bool) -> Backend:
    """`auto` is unsloth where CUDA and unsloth are, trl elsewhere. Raises PipelineError for unsloth where it cannot run."""
    installed = importlib.util.find_spec("unsloth") is not None
    if settings.backend == "unsloth" and not (has_cuda and installed):
        missing = "unsloth is not installed: pip install -r requirements.txt" if has_cuda else "there is no CUDA GPU"
        raise PipelineError(f"config.yaml finetune.backend is unsloth but {missing}; or set it to auto")
    if settings.backend != "auto":
        return settings.backend
    return "unsloth" if has_cuda and installed else "trl"


def load_student(backend: Backend, folder: Path, settings: FinetuneSection) -> tuple[Any, list[str]]:
    """The base model with fresh adapters, and the full names of the adapted modules."""
    load = load_with_unsloth if backend == "unsloth" else load_with_peft
    model, expected = load(folder, settings)
    return model, require_adapted(model, expected)


def load_with_unsloth(folder: Path, settings: FinetuneSection) -> tuple[Any, list[str]]:
    """Unsloth's fast path. `use_exact_model_name`: it must not swap the folder for a 4-bit repository of its own."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        model_name=str(folder),
        max_seq_length=settings.max_length,
        load_in_4bit=settings.load_in_4bit,
        dtype=None,
        use_exact_model_name=True,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )
    kinds, expected = resolve_targets(model, settings.target_modules)
    model = FastLanguageModel.get_peft_model(
        model,
        r=settings.lora_r,
        target_modules=kinds,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        bias="none",
        use_gradient_checkpointing="unsloth" if settings.gradient_checkpointing else False,
        random_state=settings.seed,
    )
    return model, expected


def load_with_peft(folder: Path, settings: FinetuneSection) -> tuple[Any, list[str]]:
    """Plain transformers + PEFT: 4-bit on CUDA when asked for, bfloat16 there otherwise, float32 on a CPU."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, set_seed

    has_cuda = torch.cuda.is_available()
    in_4bit = has_cuda and settings.load_in_4bit
    if in_4bit and not has_bitsandbytes():
        raise PipelineError(
            "config.yaml finetune.load_in_4bit needs bitsandbytes: run  pip install -r requirements.txt  or set it to false"
        )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16 if has_cuda else torch.float32,
        quantization_config=describe_4bit() if in_4bit else None,
        device_map={"": 0} if has_cuda else None,
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    if in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=settings.gradient_checkpointing)
    kinds, expected = resolve_targets(model, settings.target_modules)
    set_seed(settings.seed)  # the A matrices are drawn here
    lora = LoraConfig(
        r=settings.lora_r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout, target_modules=kinds,
        bias="none", task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora), expected


def has_bitsandbytes() -> bool:
    """Whether 4-bit weights and the 8-bit optimizer are there; requirements-cpu.txt leaves them out."""
    return importlib.util.find_spec("bitsandbytes") is not None


def describe_4bit() -> Any:
    """NF4 with double quantisation and bfloat16 arithmetic, as in the QLoRA paper (Dettmers et al. 2023, section 3)."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
