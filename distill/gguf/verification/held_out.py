"""
What the quantisation costs: a GGUF against the 16-bit one of the same model, both in llama.cpp, on rows held out from training.

Each row is run once through each file, which gives the hidden state at every place; the distributions are then made from the
files' own output matrices, piece by piece of the vocabulary, so that no array [places, vocabulary] comes into being.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gguf.quants import dequantize

from distill.gguf.families.common import Model
from distill.gguf.verification.logits import TIE, Agreement
from distill.gguf.verification.structure import open_gguf, require
from distill.llamacpp import LlamaModel

# 8,192 tokens are some 9 RAG rows with 1,400 answer tokens: enough to know q4_k_m's change of perplexity to about 1%. Two busy
# cores read 14 tokens of Phi-4-mini a second as q4_k_m and 6 as f16, a laptop three or four times that: minutes for each file.
MOST_TOKENS = 8_192
# llama.cpp needs 8 bytes a token and entry of the vocabulary meanwhile: for Phi-4-mini 1.6 GB at 1,000 tokens, 6.6 GB at 4,096.
LONGEST_ROW = 4_096
VOCABULARY_PIECE = 8_192

# Mean KL divergence from f16 that llama.cpp publishes for Llama-3-8B (tools/quantize, tools/perplexity): a yardstick, no limit.
PUBLISHED_KL = {"q8_0": 0.0014, "q5_k_m": 0.011, "q4_k_m": 0.031}
# Nats; q4_k_m of random weights in 32 layers, which nothing made robust, comes to 0.3. Beyond this it is another model.
MOST_KL = 1.0


class Example(Protocol):
    """A row as it is trained on (distill.training.encode.EncodedExample): tokens, and labels below 0 where there is no loss."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class States:
    """Hidden states [places, width] before each answer token, and the file whose output matrix belongs to them."""

    path: Path
    values: torch.Tensor


@dataclass(frozen=True)
class Loss:
    """What a candidate loses against the reference: perplexities over the answers' tokens, and the error of their change."""

    perplexity: float
    reference_perplexity: float
    change: float
    change_error: float


# -----------------------------------------------------------------------------
# Rows


def pick_rows(examples: Sequence[Example]) -> list[Example]:
    """A random sample, always the same, of whole rows with an answer: MOST_TOKENS in all, LONGEST_ROW each."""
    usable = [row for row in examples if len(row.input_ids) <= LONGEST_ROW and any(label >= 0 for label in row.labels[1:])]
    picked, tokens = [], 0
    for row in random.Random(0).sample(usable, len(usable)):
        tokens += len(row.input_ids)
        if picked and tokens > MOST_TOKENS:
            break
        picked.append(row)
    return picked


def list_targets(rows: Sequence[Example]) -> torch.Tensor:
    """The answers' tokens, one row after the other."""
    return torch.tensor([label for row in rows for label in row.labels[1:] if label >= 0])


def ask_states(llama: LlamaModel, rows: Sequence[Example]) -> States:
    """The hidden states from which llama.cpp predicts the answers' tokens."""
    parts = [llama.hidden_states(row.input_ids)[:-1][np.array(row.labels[1:]) >= 0] for row in rows]
    return States(llama.path, torch.from_numpy(np.concatenate(parts)))


# -----------------------------------------------------------------------------
# Comparison


def compare_states(reference: States, candidate: States, targets: torch.Tensor, model: Model) -> tuple[Agreement, Loss]:
    """KL(reference || candidate), same likeliest tokens, and both perplexities, over all answers."""
    zero = torch.zeros(len(targets), dtype=torch.float64)
    # Sums over the vocabulary; no shift is needed, as float64 holds the exponential of logits up to 700.
    mass, other_mass, cross = zero.clone(), zero.clone(), zero.clone()
    hit, other_hit = zero.clone(), zero.clone()
    best, other_best, chosen = (torch.full_like(zero, -math.inf) for _ in range(3))
    for start, logits, other in multiply_outputs(reference, candidate, model):
        mass += logits.exp().sum(dim=1)
        other_mass += other.exp().sum(dim=1)
        cross += (logits.exp() * (logits - other)).sum(dim=1)
        best = torch.maximum(best, logits.amax(dim=1))
        top, place = other.max(dim=1)
        chosen = torch.where(top > other_best, logits.gather(1, place[:, None])[:, 0], chosen)
        other_best = torch.maximum(other_best, top)
        inside = ((targets >= start) & (targets < start + logits.shape[1])).nonzero()[:, 0]
        hit[inside] = logits[inside, targets[inside] - start]
        other_hit[inside] = other[inside, targets[inside] - start]
    divergence = cross / mass - mass.log() + other_mass.log()
    same = (best - chosen <= TIE).double()
    agreement = Agreement(float(divergence.mean()), float(divergence.max()), float(same.mean()), len(targets))
    return agreement, measure_loss(mass.log() - hit, other_mass.log() - other_hit)


def require_likeness(path: Path, found: Agreement) -> float:
    """The limit in nats. Raises PipelineError when a file is so far from the 16-bit one that it is no quantisation of it."""
    problem = f"quantisation: {found.mean_kl:.3f} nats from the 16-bit GGUF of the same model (limit {MOST_KL:.1f})"
    require(path, found.mean_kl <= MOST_KL, problem)
    return MOST_KL


def multiply_outputs(reference: States, candidate: States, model: Model) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """For each piece of the vocabulary its start and the logits [places, piece] of both, in float64."""
    matrices = [find_output(states.path, model) for states in (reference, candidate)]
    for start in range(0, model.vocabulary, VOCABULARY_PIECE):
        logits, other = (
            (states.values @ torch.from_numpy(dequantize(matrix.data[start : start + VOCABULARY_PIECE], matrix.tensor_type)).T)
            for states, matrix in zip((reference, candidate), matrices)
        )
        yield start, logits.double(), other.double()


def find_output(path: Path, model: Model) -> Any:
    """The ReaderTensor of the output matrix, which may be the embedding's."""
    name = "token_embd.weight" if model.tied else "output.weight"
    return next(tensor for tensor in open_gguf(path).tensors if tensor.name == name)


def measure_loss(reference: torch.Tensor, candidate: torch.Tensor) -> Loss:
    """
    Perplexities from the negative log-likelihoods [tokens] of both, their relative change and its standard error.

    The tokens are the same ones, so the error is that of the mean difference (delta method), far below that of either mean.
    """
    difference = candidate - reference
    ratio = math.exp(float(difference.mean()))
    error = ratio * float(difference.std(correction=0)) / math.sqrt(len(difference))
    return Loss(math.exp(float(candidate.mean())), math.exp(float(reference.mean())), ratio - 1, error)
