from __future__ import annotations

import os

import pytest
from gguf.constants import GGMLQuantizationType as Kind

from distill.errors import PipelineError
from distill.gguf.quantisation.recipe import RECIPES, choose_type, get_recipe
from tests.gguf.llama_cpp_choice import RECORDED, Case, ask_llama_cpp, ask_recipe, list_cases

# What llama-quantize --dry-run chose for a file with all 196 tensors of Phi-4-mini at their real shapes (llama.cpp as vendored
# in llama-cpp-python 0.3.36, October 2026). Older builds gave every attn_qkv Q5_K in q4_k_m: the same size within 0.1%.
HEAVY_LAYERS = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
VECTORS = {"output_norm", "rope_factors_long", "rope_factors_short"}
LAYER_VECTORS = {"attn_norm", "ffn_norm"}
# quantisation: (token_embd, attn_output and ffn_up, attn_qkv and ffn_down in heavy layers, the same in the others)
LLAMA_CPP = {
    "q8_0": (Kind.Q8_0, Kind.Q8_0, Kind.Q8_0, Kind.Q8_0),
    "q6_k": (Kind.Q6_K, Kind.Q6_K, Kind.Q6_K, Kind.Q6_K),
    "q5_k_m": (Kind.Q6_K, Kind.Q5_K, Kind.Q6_K, Kind.Q5_K),
    "q4_k_m": (Kind.Q6_K, Kind.Q4_K, Kind.Q6_K, Kind.Q4_K),
}
SHAPES = {
    "attn_qkv": (5120, 3072), "attn_output": (3072, 3072), "ffn_up": (16384, 3072), "ffn_down": (3072, 8192),
}


def expected_types(quantization: str) -> dict[tuple[str, tuple[int, ...]], Kind]:
    embedding, usual, heavy, light = LLAMA_CPP[quantization]
    types = {("token_embd.weight", (200064, 3072)): embedding}
    types |= {(f"{name}.weight", (48,) if "rope" in name else (3072,)): Kind.F32 for name in VECTORS}
    for layer in range(32):
        types |= {(f"blk.{layer}.{name}.weight", (3072,)): Kind.F32 for name in LAYER_VECTORS}
        for name, shape in SHAPES.items():
            sensitive = heavy if layer in HEAVY_LAYERS else light
            types[f"blk.{layer}.{name}.weight", shape] = sensitive if name in ("attn_qkv", "ffn_down") else usual
    return types


@pytest.mark.parametrize("quantization", LLAMA_CPP)
def test_every_tensor_of_phi_4_mini_gets_llama_cpps_type(quantization: str) -> None:
    expected = expected_types(quantization)
    assert len(expected) == 196
    recipe = RECIPES[quantization]
    assert {key: choose_type(recipe, *key, layers=32, tied=True) for key in expected} == expected


def read_recorded(case: Case) -> list[str]:
    """What llama-quantize chose for a case, one line a quantisation."""
    lines = RECORDED.read_text(encoding="utf-8").splitlines()
    return [line for name in case.quantizations for line in lines if line.startswith(f"{case} {name}: ")]


@pytest.mark.parametrize("case", list_cases(), ids=lambda case: f"{case} {case.quantizations[0]}")
def test_every_family_gets_llama_cpps_types(case: Case) -> None:
    assert list(ask_recipe(case)) == read_recorded(case)


@pytest.mark.skipif("LLAMA_QUANTIZE" not in os.environ, reason="LLAMA_QUANTIZE names no llama-quantize")
@pytest.mark.parametrize("case", list_cases(), ids=lambda case: f"{case} {case.quantizations[0]}")
def test_llama_quantize_itself_chooses_the_recorded_types(case: Case) -> None:
    assert list(ask_llama_cpp(os.environ["LLAMA_QUANTIZE"], case)) == read_recorded(case)


def test_the_record_covers_the_rules() -> None:
    """70B's values, a tied embedding, layers with more bits, and every fallback."""
    letters = {letter for case in list_cases() for line in read_recorded(case) for letter in line.split(": ")[1]}
    assert set("fhb8654oi") <= letters
    assert any("attn_v=66666666665565" in line for line in read_recorded(Case("llama", 80, False, 256, 512, 8, 1)))


@pytest.mark.parametrize(("name", "columns", "kind"), [
    ("blk.5.ffn_up.weight", 320, Kind.Q5_0),  # wanted Q4_K
    ("blk.0.ffn_down.weight", 320, Kind.Q8_0),  # wanted Q6_K
    ("token_embd.weight", 320, Kind.Q8_0),
    ("blk.5.ffn_up.weight", 40, Kind.F16),
])
def test_rows_that_do_not_fill_blocks_fall_back(name: str, columns: int, kind: Kind) -> None:
    assert choose_type(RECIPES["q4_k_m"], name, (64, columns), layers=32, tied=True) == kind


def test_five_bit_rows_fall_back_too() -> None:
    assert choose_type(RECIPES["q5_k_m"], "blk.5.ffn_up.weight", (64, 320), layers=32, tied=True) == Kind.Q5_1


def test_without_tying_the_output_matrix_is_the_sensitive_one() -> None:
    recipe = RECIPES["q4_k_m"]
    assert choose_type(recipe, "output.weight", (512, 256), layers=2, tied=False) == Kind.Q6_K
    assert choose_type(recipe, "token_embd.weight", (512, 256), layers=2, tied=False) == Kind.Q4_K


@pytest.mark.parametrize(("quantization", "kind"), [("f16", Kind.F16), ("bf16", Kind.BF16)])
def test_16_bits_keep_vectors_in_f32(quantization: str, kind: Kind) -> None:
    recipe = RECIPES[quantization]
    assert choose_type(recipe, "blk.0.attn_norm.weight", (256,), layers=2, tied=True) == Kind.F32
    assert choose_type(recipe, "blk.0.attn_q.bias", (256,), layers=2, tied=True) == Kind.F32
    assert choose_type(recipe, "blk.0.ffn_up.weight", (512, 256), layers=2, tied=True) == kind


def test_unknown_quantisation_names_the_known_ones() -> None:
    with pytest.raises(PipelineError, match=r"q3_k_s.*q4_k_m"):
        get_recipe("q3_k_s")
