"""
What llama.cpp chooses: small GGUFs of every family, llama-quantize's choice for them, and how it is written down.

With the environment variable LLAMA_QUANTIZE naming a built llama-quantize, `python -m tests.gguf.llama_cpp_choice` writes
llama_cpp_types.txt anew. It was written with llama.cpp as vendored in llama-cpp-python 0.3.36 (October 2026).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from distill.gguf.quantisation.recipe import choose_type, get_recipe

RECORDED = Path(__file__).with_name("llama_cpp_types.txt")
QUANTIZATIONS = ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")
LINE = re.compile(r"\]\s+(\S+)\s+- \[.*?type =\s*(\w+), size =[^(\n]*(?:\((\w+)\))?")
HEAD = "# architecture layers tied/untied hidden feed_forward heads/key_value_heads quantisation: types, a letter a layer"
LETTERS = {"F32": "f", "F16": "h", "BF16": "b", "Q8_0": "8", "Q6_K": "6", "Q5_K": "5", "Q5_0": "o", "Q5_1": "i", "Q4_K": "4"}


@dataclass(frozen=True)
class Case:
    """A model without weights worth the name."""

    architecture: str
    layers: int
    tied: bool = True
    hidden: int = 256
    feed_forward: int = 512
    heads: int = 4
    key_value_heads: int = 2
    quantizations: tuple[str, ...] = QUANTIZATIONS

    def __str__(self) -> str:
        tied = "tied" if self.tied else "untied"
        heads = f"{self.heads}/{self.key_value_heads}"
        return f"{self.architecture} {self.layers} {tied} {self.hidden} {self.feed_forward} {heads}"


def list_cases() -> list[Case]:
    """Every number of layers for one family, a few for each, rows that fill no blocks, and models of 80 layers."""
    families = ("phi3", "llama", "gemma3", "qwen3")
    cases = [Case("llama", layers, quantizations=("q4_k_m",)) for layers in range(1, 41) if layers != 9]
    cases += [Case(family, layers, quantizations=("q5_k_m",)) for family in families for layers in (2, 26, 34)]
    cases += [Case(family, 9, tied) for family in families for tied in (True, False)]
    cases += [
        Case(family, 9, tied, hidden, feed_forward)
        for family in ("phi3", "llama") for tied in (True, False) for hidden, feed_forward in ((320, 864), (48, 80))
    ]
    eighty = ("q5_k_m", "q4_k_m")
    cases += [Case(family, 80, False, 256, 512, 8, few, eighty) for family in families for few in (1, 8)]
    return [*cases, Case("llama", 80, True, 320, 864, 8, 1, eighty)]


def list_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """GGUF names and PyTorch shapes of all tensors."""
    size, wide = case.hidden // case.heads, case.hidden
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (64, wide), "output_norm.weight": (wide,)}
    if not case.tied:
        shapes["output.weight"] = (64, wide)
    if case.architecture == "llama":
        shapes["rope_freqs.weight"] = (size // 2,)
    for layer in range(case.layers):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in list_layer_shapes(case, size).items()}
    return shapes


def list_layer_shapes(case: Case, size: int) -> dict[str, tuple[int, ...]]:
    wide, inner, few = case.hidden, case.feed_forward, case.key_value_heads * size
    shapes = {
        "attn_norm": (wide,), "ffn_norm": (wide,), "attn_output": (wide, wide), "ffn_down": (wide, inner),
    }
    if case.architecture == "phi3":
        return shapes | {"attn_qkv": (wide + 2 * few, wide), "ffn_up": (2 * inner, wide)}
    shapes |= {
        "attn_q": (wide, wide), "attn_k": (few, wide), "attn_v": (few, wide),
        "ffn_gate": (inner, wide), "ffn_up": (inner, wide),
    }
    if case.architecture in ("gemma3", "qwen3"):
        shapes |= {"attn_q_norm": (size,), "attn_k_norm": (size,)}
    if case.architecture == "gemma3":
        shapes |= {"post_attention_norm": (wide,), "post_ffw_norm": (wide,)}
    return shapes


def write_gguf(path: Path, case: Case) -> None:
    """Zeros in the source types of a converted model: matrices in F16, vectors in F32."""
    writer = GGUFWriter(path, case.architecture)
    writer.add_block_count(case.layers)
    writer.add_context_length(64)
    writer.add_embedding_length(case.hidden)
    writer.add_feed_forward_length(case.feed_forward)
    writer.add_head_count(case.heads)
    writer.add_head_count_kv(case.key_value_heads)
    writer.add_rope_dimension_count(case.hidden // case.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(32)
    for name, shape in list_shapes(case).items():
        writer.add_tensor(name, np.zeros(shape, np.float16 if len(shape) > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# -----------------------------------------------------------------------------
# Two choices in one notation


def ask_llama_cpp(program: str, case: Case) -> Iterator[str]:
    """The lines of a case, one for each quantisation, as llama-quantize would write the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.gguf"
        write_gguf(path, case)
        for quantization in case.quantizations:
            run = subprocess.run(
                [program, "--dry-run", str(path), quantization], capture_output=True, encoding="utf-8", check=True
            )
            chosen = {name: (new or old).upper() for name, old, new in LINE.findall(run.stdout + run.stderr)}
            assert chosen.keys() == list_shapes(case).keys(), run.stdout + run.stderr
            yield describe(case, quantization, chosen)


def ask_recipe(case: Case) -> Iterator[str]:
    """The lines of a case as this project chooses."""
    for quantization in case.quantizations:
        chosen = {
            name: choose_type(
                get_recipe(quantization), name, shape, case.layers, case.tied, case.architecture,
                grouped_query=case.heads != case.key_value_heads,
            ).name
            for name, shape in list_shapes(case).items()
        }
        yield describe(case, quantization, chosen)


def describe(case: Case, quantization: str, chosen: dict[str, str]) -> str:
    """One line: for each kind of tensor the letters of its layers, or one letter where they are all the same."""
    letters: dict[str, str] = {}
    for name in list_shapes(case):
        role = re.sub(r"blk\.\d+\.|\.weight", "", name)
        letters[role] = letters.get(role, "") + LETTERS[chosen[name]]
    short = [f"{role}={text[0] if len(set(text)) == 1 else text}" for role, text in letters.items()]
    return f"{case} {quantization}: {' '.join(short)}"


def main() -> int:
    program = os.environ["LLAMA_QUANTIZE"]
    lines = [line for case in list_cases() for line in ask_llama_cpp(program, case)]
    RECORDED.write_text("\n".join([HEAD, *lines, ""]), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
