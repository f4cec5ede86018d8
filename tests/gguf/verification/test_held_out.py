from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.errors import PipelineError
from distill.gguf.convert import Output, convert
from distill.gguf.families import read_model
from distill.gguf.families.common import Model
from distill.gguf.verification import held_out
from distill.gguf.verification.held_out import ask_states, compare_states, list_targets, measure_loss, pick_rows
from distill.gguf.verification.logits import Agreement, measure_agreement, read_gguf_weights
from distill.llamacpp import LlamaModel
from tests.tiny_models import write_tiny_phi3


@dataclass
class Row:
    input_ids: list[int]
    labels: list[int]


def make_row(length: int, answer: int, seed: int = 0) -> Row:
    tokens = random.Random(seed).choices(range(900), k=length)
    return Row(tokens, [-100] * (length - answer) + tokens[length - answer :])


@pytest.fixture(scope="module")
def model(tiny_phi3: Path) -> Model:
    return read_model(tiny_phi3)


def ask(path: Path, rows: Sequence[Row]) -> held_out.States:
    with LlamaModel(path, n_ctx=256, n_threads=1, longest_text=256) as llama:
        return ask_states(llama, rows)


# -----------------------------------------------------------------------------
# Rows


def test_rows_are_whole_and_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_TOKENS", 100)
    monkeypatch.setattr(held_out, "LONGEST_ROW", 60)
    rows = [make_row(length, 5, length) for length in (30, 30, 30, 30, 61, 500)]
    assert [len(row.input_ids) for row in pick_rows(rows)] == [30, 30, 30]
    assert pick_rows(rows) == pick_rows(rows)


def test_one_row_is_taken_however_long_and_none_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_TOKENS", 10)
    assert len(pick_rows([make_row(30, 5)])) == 1
    assert pick_rows([make_row(30, 0), Row([5], [5])]) == []
    assert pick_rows([]) == []


# -----------------------------------------------------------------------------
# States and distributions


@pytest.mark.parametrize("tied", [True, False])
def test_states_times_the_output_matrix_are_llama_cpps_own_probabilities(tmp_path: Path, tied: bool) -> None:
    base = write_tiny_phi3(tmp_path / "base", tied=tied)
    path = tmp_path / "a.gguf"
    convert(base, None, [Output(path, "f16", "tiny", False)])
    model, row = read_model(base), make_row(40, 6)
    weight = read_gguf_weights(path, model)("model.embed_tokens.weight" if tied else "lm_head.weight")
    with LlamaModel(path, n_ctx=256, n_threads=1, longest_text=64) as llama:
        states = ask_states(llama, [row])
        own = np.stack([llama.log_probabilities(row.input_ids[:end]) for end in range(34, 40)])
    found = (states.values @ weight.T).double().log_softmax(dim=1).numpy()
    assert measure_agreement([own], [found]).max_kl < 1e-5
    agreement, loss = compare_states(states, states, list_targets([row]), model)
    assert agreement == Agreement(pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12), 1.0, 6)
    expected = math.exp(-np.mean([line[token] for line, token in zip(own, row.input_ids[34:])]))
    assert loss.perplexity == loss.reference_perplexity == pytest.approx(expected, rel=1e-3)
    assert (loss.change, loss.change_error) == (0, 0)


def test_pieces_of_the_vocabulary_give_the_whole(
    model: Model, tuned_gguf: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [make_row(60, 20, 1), make_row(90, 30, 2)]
    states = [ask(tuned_gguf[kind], rows) for kind in ("f16", "q4_k_m")]
    full = [
        (each.values @ read_gguf_weights(each.path, model)("model.embed_tokens.weight").T).double().log_softmax(dim=1)
        for each in states
    ]
    targets = list_targets(rows)
    assert targets.tolist() == rows[0].input_ids[40:] + rows[1].input_ids[60:]
    monkeypatch.setattr(held_out, "VOCABULARY_PIECE", 300)
    agreement, loss = compare_states(*states, targets, model)
    expected = measure_agreement(*([part.numpy()] for part in full))
    assert agreement.mean_kl == pytest.approx(expected.mean_kl, rel=1e-4)
    assert agreement.max_kl == pytest.approx(expected.max_kl, rel=1e-4)
    assert (agreement.top1, agreement.positions) == (expected.top1, 50)
    losses = [-part[torch.arange(50), targets] for part in full]
    assert loss.reference_perplexity == pytest.approx(float(losses[0].mean().exp()), rel=1e-5)
    assert loss.perplexity == pytest.approx(float(losses[1].mean().exp()), rel=1e-5)
    assert 1e-4 < agreement.mean_kl < 0.2


def test_change_and_its_error_by_hand() -> None:
    loss = measure_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.1, 2.3]))
    assert loss.perplexity == pytest.approx(math.exp(1.7))
    assert loss.reference_perplexity == pytest.approx(math.exp(1.5))
    assert loss.change == pytest.approx(math.exp(0.2) - 1)
    assert loss.change_error == pytest.approx(math.exp(0.2) * 0.1 / math.sqrt(2))


@pytest.mark.parametrize("kl", [1.1, 7.0, float("nan")])
def test_another_model_is_no_quantisation(tmp_path: Path, kl: float) -> None:
    with pytest.raises(PipelineError, match=r"a\.gguf failed verification: quantisation: .* nats .* \(limit 1\.0\)"):
        held_out.require_likeness(tmp_path / "a.gguf", Agreement(kl, kl, 0.0, 10))
