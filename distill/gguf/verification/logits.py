"""
Does llama.cpp compute what transformers computes? Next-token distributions over the whole vocabulary, set side by side.

The reference is Hugging Face's own implementation of the architecture with given weights. With the GGUF's own, dequantised, any
difference beyond llama.cpp's rounding of activations is a fault of the conversion.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from tokenizers import Tokenizer

from distill.gguf.families.common import Model
from distill.gguf.verification.streamed import (
    Rounding,
    WeightSource,
    build_streamed_model,
    name_parameters,
    read_gguf_weights,
    read_merged_weights,
)
from distill.gguf.verification.structure import open_gguf, require
from distill.llamacpp import LlamaModel

__all__ = [
    "Agreement", "Distributions", "Probe", "ask_llama", "compute_both", "compute_reference", "make_probe", "measure_agreement",
    "read_gguf_weights", "read_merged_weights", "read_rounding", "require_agreement",
]

# llama.cpp multiplies with activations rounded to 8 bits (to 16-bit floats for 16-bit weights), Hugging Face does not. How far
# that alone moves the predictions depends on the model, so it is computed; a right conversion then lies at 1 times that figure
# (tests/gguf/test_verify_logits.py, and a full-size model), a lost rotary factor or a wrong norm at 15 times or more.
NOISE_FACTOR = 5
KL_FLOOR = 5e-4  # nats; below this nothing is worth a failure
# A 16-bit GGUF against the merged model: what a right conversion of a model without such noise reaches.
EXACT_KL_FLOOR = 1e-4
EXACT_TOP1 = 0.995

# Two tokens whose log-probabilities differ by less are equally likely; rounding decides between them.
TIE = 0.01

SAMPLES = (
    "<|system|>You answer from technical documents.<|end|><|user|>What torque do the flange bolts need, and how often is the "
    "relief valve tested?<|end|><|assistant|>The flange bolts are tightened to 45 Nm in a cross pattern; the relief valve "
    "is tested every 250 hours at 1.1 times the set pressure.",
    "<|user|>List three causes of pump cavitation.<|end|><|assistant|>1. Suction pressure that's too low\n2. A clogged "
    "strainer (see section 4.2)\n3. Liquid when it's above 80 degrees, or entrained air.",
    "<|user|>Summarise: The inverter's DC link holds 600 V for 5 minutes after shutdown. Don't open the cover before the "
    "indicator goes dark.<|end|><|assistant|>Wait until the indicator is dark before opening the cover.",
)

Distributions = list[np.ndarray]  # log-probabilities, for each sequence an array [places, vocabulary]


@dataclass(frozen=True)
class Probe:
    """Token sequences, and for each the places whose next-token distribution is compared."""

    sequences: list[list[int]]
    places: list[list[int]]


@dataclass(frozen=True)
class Agreement:
    """
    Divergence of a candidate from the reference, in nats, and how often both hold the same token for the likeliest.

    A token counts as the same where the reference gives it a probability within 1% of the largest.
    """

    mean_kl: float
    max_kl: float
    top1: float
    positions: int


def make_probe(base_folder: Path, positions: int, longest: int = 96) -> Probe:
    """About `positions` places, spread over the built-in sample texts cut to `longest` tokens; first tokens are left out."""
    tokenizer = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    # With the beginning-of-text token, where a model has one: without it activations of such a model are far from usual.
    sequences = [tokenizer.encode(text).ids[:longest] for text in SAMPLES]
    share = max(1, positions // len(sequences))
    places = [sorted({int(place) for place in np.linspace(1, len(tokens) - 1, share)}) for tokens in sequences]
    return Probe(sequences, places)


# -----------------------------------------------------------------------------
# Distributions


def compute_reference(
    model: Model, weights: WeightSource, probe: Probe, rounding: Mapping[str, Rounding] | None = None
) -> Distributions:
    """
    What Hugging Face's model predicts with these weights, in float32.

    rounding: what happens to the input of each linear layer, by the layer's name; nothing, if it is left out.
    """
    return predict(model, weights, probe, rounding or {}, copies=1)[0]


def compute_both(
    model: Model, weights: WeightSource, probe: Probe, rounding: Mapping[str, Rounding]
) -> tuple[Distributions, Distributions]:
    """What Hugging Face's model predicts without and with rounded activations; the weights are read once."""
    exact, rounded = predict(model, weights, probe, rounding, copies=2)
    return exact, rounded


def predict(
    model: Model, weights: WeightSource, probe: Probe, rounding: Mapping[str, Rounding], copies: int
) -> list[Distributions]:
    """The distributions of every copy of the probe, the last of which has rounded activations."""
    # Padding behind a sequence changes nothing before it, so one pass over the layers serves all sequences.
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(sequence) for sequence in probe.sequences], batch_first=True)
    wanted = sorted({place for places in probe.places for place in places})
    with torch.inference_mode():
        network = build_streamed_model(model, weights, rounding, exact_rows=(copies - 1) * len(tokens))
        logits = network(tokens.repeat(copies, 1), use_cache=False, logits_to_keep=torch.tensor(wanted)).logits
    return [
        [
            rows[[wanted.index(place) for place in places]].double().log_softmax(dim=-1).numpy()
            for rows, places in zip(part, probe.places)
        ]
        for part in logits.split(len(tokens))
    ]


def ask_llama(llama: LlamaModel, probe: Probe) -> Distributions:
    """What llama.cpp predicts."""
    return [
        np.stack([llama.log_probabilities(tokens[: place + 1]) for place in places])
        for tokens, places in zip(probe.sequences, probe.places)
    ]


# -----------------------------------------------------------------------------
# llama.cpp's rounding of activations


def read_rounding(path: Path, model: Model) -> dict[str, Rounding]:
    """For every linear layer, what llama.cpp's CPU code does to its input: it depends on the type of the weights."""
    kinds = {tensor.name: tensor.tensor_type for tensor in open_gguf(path).tensors}
    matrices = {name: kinds[weight.name] for name, weight in name_parameters(model).items() if len(weight.shape) == 2}
    embedding = matrices.pop("model.embed_tokens.weight")
    matrices.setdefault("lm_head.weight", embedding)
    return {name.removesuffix(".weight"): functools.partial(round_input, kind=kind) for name, kind in matrices.items()}


def round_input(values: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Activations as they are multiplied with weights of a kind: 16-bit floats, or 8-bit multiples of a block's scale."""
    if kind in (Kind.F32, Kind.F16, Kind.BF16):
        return values.to({Kind.F32: torch.float32, Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}[kind]).float()
    blocks = values.reshape(-1, GGML_QUANT_SIZES[kind][0])
    scale = blocks.abs().amax(dim=1, keepdim=True).div_(127).clamp_(min=1e-30)
    return (blocks / scale).round_().mul_(scale).reshape(values.shape)


# -----------------------------------------------------------------------------
# Comparison


def measure_agreement(reference: Distributions, candidate: Distributions) -> Agreement:
    """KL(reference || candidate) at every place, and how often both hold the same token for the likeliest."""
    expected, found = np.concatenate(reference), np.concatenate(candidate)
    divergence = np.sum(np.exp(expected) * (expected - found), axis=1)
    chosen = np.take_along_axis(expected, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    same = expected.max(axis=1) - chosen <= TIE
    return Agreement(float(divergence.mean()), float(divergence.max()), float(same.mean()), len(same))


def require_agreement(path: Path, conversion: Agreement, noise: Agreement) -> float:
    """
    The limit, in nats, for a conversion compared with Hugging Face holding the same weights.

    noise: how far rounded activations alone take Hugging Face from itself. Raises PipelineError above the limit.
    """
    limit = max(KL_FLOOR, NOISE_FACTOR * noise.mean_kl)
    # Written so that NaN fails as well.
    require(
        path, conversion.mean_kl <= limit,
        f"logits: llama.cpp and Hugging Face with the same weights differ by {conversion.mean_kl:.4f} nats (limit {limit:.4f}),"
        " so the conversion is wrong: report this with adapters/manifest.json",
    )
    return limit


def require_exactness(path: Path, found: Agreement, noise: Agreement) -> tuple[float, float]:
    """
    The limits, in nats and of the share of same tokens, for a 16-bit GGUF compared with the merged model in float32.

    noise: how far activations rounded to 16 bits alone take Hugging Face from itself. Raises PipelineError beyond a limit.
    """
    limit = max(EXACT_KL_FLOOR, NOISE_FACTOR * noise.mean_kl)
    share = min(EXACT_TOP1, 1 - NOISE_FACTOR * (1 - noise.top1))
    problem = (
        f"conversion: llama.cpp and the merged model differ by {found.mean_kl:.1e} nats (limit {limit:.1e}) and agree on the "
        f"top token at {found.top1:.1%} of the places (limit {share:.1%}): report this with adapters/manifest.json"
    )
    require(path, found.mean_kl <= limit and found.top1 >= share, problem)
    return limit, share
