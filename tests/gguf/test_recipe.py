from __future__ import annotations

import pytest
from gguf.constants import GGMLQuantizationType as Kind

from distill.errors import PipelineError
from distill.gguf.recipe import RECIPES, choose_type, get_recipe

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


def test_f16_keeps_vectors_in_f32() -> None:
    assert choose_type(RECIPES["f16"], "blk.0.attn_norm.weight", (256,), layers=2, tied=True) == Kind.F32
    assert choose_type(RECIPES["f16"], "blk.0.ffn_up.weight", (512, 256), layers=2, tied=True) == Kind.F16


def test_unknown_quantisation_names_the_known_ones() -> None:
    with pytest.raises(PipelineError, match=r"q3_k_s.*q4_k_m"):
        get_recipe("q3_k_s")
