from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind

from distill.errors import PipelineError
from distill.gguf import convert as convert_module
from distill.gguf.convert import Output, convert
from distill.gguf.families import read_model
from distill.gguf.families.common import Model
from distill.gguf.merge import MergedWeights, load_adapter
from distill.gguf.shards import BaseWeights
from distill.gguf.verification import logits
from distill.gguf.verification.logits import (
    Agreement,
    Distributions,
    Probe,
    ask_llama,
    compute_both,
    compute_reference,
    make_probe,
    measure_agreement,
    read_gguf_weights,
    read_rounding,
    require_agreement,
    require_exactness,
)
from distill.llamacpp import LlamaModel

KINDS = ("f16", "q8_0", "q4_k_m")


@pytest.fixture(scope="module")
def model(tiny_phi3: Path) -> Model:
    return read_model(tiny_phi3)


@pytest.fixture(scope="module")
def probe(tiny_phi3: Path) -> Probe:
    return make_probe(tiny_phi3, 60)


@pytest.fixture(scope="module")
def answers(tuned_gguf: dict[str, Path], probe: Probe) -> dict[str, Distributions]:
    """What llama.cpp predicts with each file."""
    found = {}
    for quantization, path in tuned_gguf.items():
        with LlamaModel(path, n_ctx=256, n_threads=1) as llama:
            found[quantization] = ask_llama(llama, probe)
    return found


@pytest.fixture(scope="module")
def expected(tiny_phi3: Path, tiny_lora: Path, probe: Probe) -> Distributions:
    """What the tuned model predicts as Hugging Face and PEFT see it, which none of our code has touched."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32, attn_implementation="eager")
    network = PeftModel.from_pretrained(base, tiny_lora).merge_and_unload().eval()
    with torch.inference_mode():
        return [
            network(torch.tensor([tokens])).logits[0, places].double().log_softmax(dim=-1).numpy()
            for tokens, places in zip(probe.sequences, probe.places)
        ]


def test_places_are_spread_and_leave_the_first_token_out(tiny_phi3: Path) -> None:
    probe = make_probe(tiny_phi3, 31)
    assert [len(places) for places in probe.places] == [10, 10, 10]
    for tokens, places in zip(probe.sequences, probe.places):
        assert (places[0], places[-1]) == (1, len(tokens) - 1)
        assert len(tokens) <= 96


def test_f16_in_llama_cpp_is_the_model_of_peft(expected: Distributions, answers: dict[str, Distributions]) -> None:
    agreement = measure_agreement(expected, answers["f16"])
    assert agreement.positions == 60
    assert agreement.mean_kl < 1e-4
    assert agreement.top1 >= 0.995


def test_layers_brought_in_one_at_a_time_compute_the_same(
    expected: Distributions, model: Model, tiny_lora: Path, probe: Probe
) -> None:
    with BaseWeights(model.folder) as base:
        weights = logits.read_merged_weights(MergedWeights(base, load_adapter(tiny_lora)), model)
        assert measure_agreement(expected, compute_reference(model, weights, probe)).max_kl < 1e-9


@pytest.mark.parametrize("quantization", KINDS)
def test_rounded_activations_explain_the_difference(
    model: Model, tuned_gguf: dict[str, Path], answers: dict[str, Distributions], probe: Probe, quantization: str
) -> None:
    path = tuned_gguf[quantization]
    exact, rounded = compute_both(model, read_gguf_weights(path, model), probe, read_rounding(path, model))
    conversion, noise = (measure_agreement(exact, other).mean_kl for other in (answers[quantization], rounded))
    assert conversion < 2e-3
    assert conversion < max(2 * noise, 1e-5)
    assert noise < max(2 * conversion, 1e-5)


def test_both_passes_in_one_are_the_single_ones(model: Model, tuned_gguf: dict[str, Path], probe: Probe) -> None:
    path = tuned_gguf["q4_k_m"]
    weights, rounding = read_gguf_weights(path, model), read_rounding(path, model)
    exact, rounded = compute_both(model, weights, probe, rounding)
    assert measure_agreement(compute_reference(model, weights, probe), exact).max_kl < 1e-9
    assert measure_agreement(compute_reference(model, weights, probe, rounding), rounded).max_kl < 1e-9
    assert measure_agreement(exact, rounded).mean_kl > 1e-5


@pytest.mark.parametrize("quantization", ["f16", "q4_k_m"])
@pytest.mark.parametrize("wrong", [
    {"metadata": {"phi3.rope.scaling.attn_factor": 1.0}}, {"metadata": {"phi3.rope.freq_base": 20_000.0}},
    {"metadata": {"phi3.attention.layer_norm_rms_epsilon": 1e-3}},
    {"constants": {"rope_factors_short.weight": (1.0,) * 24}},
], ids=lambda wrong: next(iter(next(iter(wrong.values())))))
def test_a_wrong_conversion_is_noticed(
    model: Model, tmp_path: Path, wrong: dict[str, Any], quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(model, **{key: getattr(model, key) | change for key, change in wrong.items()})
    monkeypatch.setattr(convert_module, "read_model", lambda _: broken)
    path, probe = tmp_path / "wrong.gguf", make_probe(model.folder, 30)
    convert(model.folder, None, [Output(path, quantization, "tiny", False)])
    with LlamaModel(path, n_ctx=256, n_threads=1) as llama:
        found = ask_llama(llama, probe)
    exact, rounded = compute_both(model, read_gguf_weights(path, model), probe, read_rounding(path, model))
    with pytest.raises(PipelineError, match=r"wrong\.gguf failed verification: logits: .* differ by 0\.\d+ nats \(limit 0\."):
        require_agreement(path, measure_agreement(exact, found), measure_agreement(exact, rounded))


def test_rounding_by_hand() -> None:
    values = torch.linspace(-1, 1, 512).reshape(1, 512) * torch.tensor([1.0] * 256 + [100.0] * 256)
    eight_bits = logits.round_input(values, Kind.Q4_K)
    assert len(eight_bits[0, :256].unique()) <= 128
    assert (eight_bits - values)[0, :256].abs().max() <= 1 / 254 + 1e-6
    assert torch.equal(logits.round_input(values, Kind.F32), values)
    assert torch.equal(logits.round_input(values, Kind.F16), values.half().float())
    assert torch.equal(logits.round_input(values, Kind.BF16), values.bfloat16().float())


def test_agreement_by_hand() -> None:
    reference = [np.log([[0.5, 0.5], [0.9, 0.1]])]
    found = measure_agreement(reference, [np.log([[0.5, 0.5], [0.1, 0.9]])])
    distance = 0.9 * np.log(9) - 0.1 * np.log(9)
    assert found == Agreement(pytest.approx(distance / 2), pytest.approx(distance), 0.5, 2)


def test_equally_likely_tokens_count_as_the_same() -> None:
    found = measure_agreement([np.log([[0.501, 0.499]])], [np.log([[0.499, 0.501]])])
    assert found.top1 == 1.0


def agree(kl: float, top1: float = 1.0) -> Agreement:
    return Agreement(kl, kl, top1, 32)


@pytest.mark.parametrize(("kl", "noise", "limit"), [
    (4e-4, 0.0, 5e-4), (6e-4, 0.0, None), (0.04, 0.01, 0.05), (0.06, 0.01, None), (float("nan"), 0.0, None),
])
def test_the_limit_grows_with_the_noise(tmp_path: Path, kl: float, noise: float, limit: float | None) -> None:
    if limit is not None:
        assert require_agreement(tmp_path / "a.gguf", agree(kl), agree(noise)) == pytest.approx(limit)
    else:
        with pytest.raises(PipelineError, match=r"a\.gguf failed verification: logits"):
            require_agreement(tmp_path / "a.gguf", agree(kl), agree(noise))


@pytest.mark.parametrize(("found", "noise", "good"), [
    (agree(9e-5), agree(0.0), True), (agree(2e-4), agree(0.0), False), (agree(2e-4), agree(1e-4), True),
    (agree(1e-5, 31 / 32), agree(1e-6), False), (agree(1e-3, 29 / 32), agree(5e-4, 31 / 32), True),
    (agree(float("nan")), agree(0.0), False),
])
def test_the_limits_of_a_16_bit_file(tmp_path: Path, found: Agreement, noise: Agreement, good: bool) -> None:
    if good:
        require_exactness(tmp_path / "a.gguf", found, noise)
    else:
        with pytest.raises(PipelineError, match=r"a\.gguf failed verification: conversion: .* \(limit [\d.e-]+\)"):
            require_exactness(tmp_path / "a.gguf", found, noise)
