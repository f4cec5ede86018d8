"""
Which tensor gets which type: llama.cpp's own choice for each quantisation, as a table and a few rules.

The rules are those of src/llama-quant.cpp without an importance matrix, for models without experts; tests/gguf/quantisation
checks them against what llama-quantize chose for every family. Knows tensor names in GGUF spelling and shapes; neither data nor
files.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from distill.errors import PipelineError

Kind = GGMLQuantizationType


@dataclass(frozen=True)
class Recipe:
    """One quantisation: the usual type, the type for tensors that suffer most, and the number GGUF files carry for it."""

    usual: Kind
    sensitive: Kind
    output: Kind
    file_type: LlamaFileType


RECIPES: dict[str, Recipe] = {
    "f16": Recipe(Kind.F16, Kind.F16, Kind.F16, LlamaFileType.MOSTLY_F16),
    "bf16": Recipe(Kind.BF16, Kind.BF16, Kind.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": Recipe(Kind.Q8_0, Kind.Q8_0, Kind.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q6_k": Recipe(Kind.Q6_K, Kind.Q6_K, Kind.Q6_K, LlamaFileType.MOSTLY_Q6_K),
    "q5_k_m": Recipe(Kind.Q5_K, Kind.Q6_K, Kind.Q6_K, LlamaFileType.MOSTLY_Q5_K_M),
    "q4_k_m": Recipe(Kind.Q4_K, Kind.Q6_K, Kind.Q6_K, LlamaFileType.MOSTLY_Q4_K_M),
}
# A K-quant needs rows of a multiple of 256; these need 32 and take a little more room.
FALLBACKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
SENSITIVE = ("attn_v.weight", "attn_qkv.weight", "ffn_down.weight")


def get_recipe(quantization: str) -> Recipe:
    """Raises PipelineError for a quantisation that this exporter does not write."""
    if quantization not in RECIPES:
        raise PipelineError(f"export.quantization: {quantization!r} is unknown: use one of {', '.join(RECIPES)}")
    return RECIPES[quantization]


def choose_type(
    recipe: Recipe, name: str, shape: tuple[int, ...], layers: int, tied: bool, architecture: str = "",
    grouped_query: bool = False,
) -> Kind:
    """
    The type for one tensor.

    name: as in the GGUF. shape: as in PyTorch, the row length last. layers: of the whole model. tied: no output.weight exists,
    so that token_embd.weight serves as the output too. architecture: general.architecture. grouped_query: several query heads
    share a key and a value.
    """
    if len(shape) < 2 or not name.endswith(".weight") or "_norm." in name:
        return Kind.F32
    wanted = choose_wanted_type(recipe, name, layers, tied)
    # llama.cpp takes this for the 70B model, whose values are an eighth of its queries: more bits for them cost little.
    if wanted == Kind.Q4_K and name.endswith("attn_v.weight") and architecture == "llama" and layers == 80 and grouped_query:
        wanted = Kind.Q5_K
    return fit_rows(wanted, shape[-1])


def choose_wanted_type(recipe: Recipe, name: str, layers: int, tied: bool) -> Kind:
    """The type for a matrix before its row length is looked at."""
    if name == ("token_embd.weight" if tied else "output.weight"):
        return recipe.output
    if name.endswith(SENSITIVE) and needs_more_bits(layer_of(name), layers):
        return recipe.sensitive
    return recipe.usual


def layer_of(name: str) -> int:
    """3 for blk.3.attn_qkv.weight."""
    return int(name.split(".")[1])


def needs_more_bits(layer: int, layers: int) -> bool:
    """True in the first and the last eighth of the layers and in every third one between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def fit_rows(kind: Kind, columns: int) -> Kind:
    """`kind`, or what llama.cpp falls back to when rows of `columns` values do not fill its blocks."""
    if columns % GGML_QUANT_SIZES[kind][0]:
        kind = FALLBACKS.get(kind, kind)
    return kind if columns % GGML_QUANT_SIZES[kind][0] == 0 else Kind.F16
