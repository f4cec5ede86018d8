"""The proof of each family: llama.cpp, given our GGUF of a tuned model, predicts what Hugging Face and PEFT predict."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from distill.gguf import convert as convert_module
from distill.gguf.convert import Output, convert
from distill.gguf.families import read_model
from distill.gguf.families.common import Model, Weight
from distill.llamacpp import LlamaModel
from tests.gguf.families.conftest import MODELS
from tests.tiny_models import write_random_lora

FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
SEPARATE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LENGTH, EVERY = 96, 3  # tokens of a text, and how many lie between two places that are compared
SAME = 0.01  # two probabilities closer than this share of each other are one

Distributions = np.ndarray  # natural logarithms, float64 [places, vocabulary]


def invent_tokens(rows: int, count: int = 3) -> list[list[int]]:
    """Texts of random tokens: a model of noise has no use for sense. The first ids are special or bytes, the last unused."""
    rng = random.Random(0)
    return [[rng.randrange(rows // 4, rows - 64) for _ in range(LENGTH)] for _ in range(count)]


def ask_hugging_face(model: Any, texts: Sequence[list[int]]) -> Distributions:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor(texts)).logits[:, EVERY - 1 :: EVERY]
    return logits.double().log_softmax(dim=-1).flatten(0, 1).numpy()


def ask_llama(path: Path, texts: Sequence[list[int]]) -> Distributions:
    with LlamaModel(path, n_ctx=256, n_threads=1) as llama:
        return np.stack([llama.log_probabilities(text[:end]) for text in texts for end in range(EVERY, LENGTH + 1, EVERY)])


def measure_kl(expected: Distributions, found: Distributions) -> float:
    return float(np.sum(np.exp(expected) * (expected - found), axis=1).mean())


def measure_top1(expected: Distributions, found: Distributions) -> float:
    chosen = np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((expected.max(axis=1) - chosen <= -np.log1p(-SAME)).mean())


def list_targets(name: str, model: Model) -> tuple[str, ...]:
    """All linear layers of the text model, as PEFT names them."""
    if not model.prefix:
        return FUSED if name.startswith("phi") else SEPARATE
    # The vision tower has modules of the same names.
    names = (weight.source.removesuffix(".weight") for weight in model.weights)
    return tuple(name.replace("language_model.model.", "model.language_model.") for name in names if name.endswith("_proj"))


def load_tuned(base: Path, adapter: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


def load_restored(base: Path, gguf: Path) -> Any:
    """Hugging Face's text model with the GGUF's own numbers in every parameter."""
    config = AutoConfig.from_pretrained(base).get_text_config()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    described, tensors = read_model(base), {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    restored = {weight.source: restore(weight, tensors[weight.name]) for weight in described.weights}
    state = {name.removeprefix(described.prefix): tensor for name, tensor in restored.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if described.tied else [], [])
    return model


def restore(weight: Weight, tensor: Any) -> torch.Tensor:
    numbers = dequantize(np.asarray(tensor.data), tensor.tensor_type).astype(np.float32)
    return weight.restore(torch.from_numpy(numbers.reshape(weight.shape)))


@pytest.mark.parametrize("name", MODELS)
def test_a_tuned_model_predicts_the_same_in_both(name: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model(name)
    adapter = write_random_lora(base, tmp_path / "adapter", target_modules=list_targets(name, read_model(base)))
    exact, quantised = (Output(tmp_path / f"{kind}.gguf", kind, "tiny", True) for kind in ("f16", "q4_k_m"))
    convert(base, adapter, [exact, quantised])
    texts = invent_tokens(read_model(base).vocabulary)
    expected, found = ask_hugging_face(load_tuned(base, adapter), texts), ask_llama(exact.path, texts)
    kl, top1 = measure_kl(expected, found), measure_top1(expected, found)
    rounded = measure_kl(ask_hugging_face(load_restored(base, quantised.path), texts), ask_llama(quantised.path, texts))
    print(f"{name}: f16 KL {kl:.1e}, top-1 {top1:.1%}; q4_k_m KL {rounded:.1e}")
    assert kl < 1e-4
    assert top1 >= 0.995
    assert rounded < 2e-3


# -----------------------------------------------------------------------------
# What the comparison sees


def change_weights(**changes: Any) -> Callable[[Model], Model]:
    return lambda model: dataclasses.replace(
        model, weights=tuple(dataclasses.replace(weight, **changes) for weight in model.weights)
    )


def change_key(key: str, value: Any) -> Callable[[Model], Model]:
    return lambda model: dataclasses.replace(model, metadata={**model.metadata, f"{model.architecture}.{key}": value})


WRONG: dict[str, tuple[str, Callable[[Model], Model]]] = {
    "no permutation": ("mistral_v3", change_weights(heads=0)),
    "all heads permuted as one": ("nemo", change_weights(heads=1)),
    "no frequency factors": ("llama3_tied", lambda model: dataclasses.replace(model, constants={})),
    "no linear scaling": ("llama_linear", change_key("rope.scaling.factor", 1.0)),
    "norms without the 1": ("gemma3", change_weights(offset=0.0)),
    "another window": ("gemma3", change_key("attention.sliding_window", 64)),
    "one rotary base for all layers": ("gemma3", change_key("rope.freq_base_swa", 1_000_000.0)),
    "no scaling in the full layers": ("gemma3_wrapped", change_key("rope.scaling.factor", 1.0)),
    "another rotary base": ("qwen3_tied", change_key("rope.freq_base", 10_000.0)),
    "no attention factor": ("phi4mini", change_key("rope.scaling.attn_factor", 1.0)),
    "all dimensions rotary": ("phi4", change_key("rope.dimension_count", 32)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_conversion_predicts_otherwise(
    wrong: str, tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, change = WRONG[wrong]
    base = tiny_model(name)
    monkeypatch.setattr(convert_module, "read_model", lambda folder: change(read_model(folder)))
    convert(base, None, [Output(tmp_path / "wrong.gguf", "f16", "tiny", False)])
    texts = invent_tokens(read_model(base).vocabulary, count=1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    kl = measure_kl(ask_hugging_face(model, texts), ask_llama(tmp_path / "wrong.gguf", texts))
    print(f"{wrong}: KL {kl:.1e}")
    assert kl > 1e-3
