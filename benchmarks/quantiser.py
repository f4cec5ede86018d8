"""
The quantiser's speed and error beside llama.cpp's own: python benchmarks/quantiser.py --llama-quantize FILE --threads 2

Both quantise the same random 16-bit matrices, in Phi-4-mini's proportions, from file to file with the same number of threads on
this CPU, in turn: other work on the machine then slows both down. Prints medians, and the ratio run by run.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill.gguf.quantisation.kquants import quantise  # noqa: E402
from distill.gguf.quantisation.recipe import choose_type, get_recipe  # noqa: E402

LAYERS, HEADS = 8, 6
BAR = 4.0  # q4_k_m may take this many times as long as llama.cpp
QUANTISE_TIME = re.compile(r"quantize time\s*=\s*([\d.]+) ms")
# Bits of a value decide its block's error more than the shape of the whole matrix does: trained weights have heavy tails.
TAIL = 8.0


@dataclass(frozen=True)
class Race:
    """One quantisation: seconds of each run, ours and llama.cpp's in pairs; the ratio of the mean squared errors."""

    quantization: str
    values: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    error_ratio: float

    @property
    def ratio(self) -> float:
        """How many times as long as llama.cpp this quantiser takes: the median of the pairs."""
        return statistics.median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))


def list_shapes(hidden: int) -> dict[str, tuple[int, int]]:
    """GGUF names and shapes: Phi-4-mini's proportions, with a quarter of its layers and the embedding to match."""
    shapes = {"token_embd.weight": (200_064 * hidden // 3072 // 4, hidden)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_qkv.weight": (hidden // 3 * 5, hidden),
            f"blk.{layer}.attn_output.weight": (hidden, hidden),
            f"blk.{layer}.ffn_up.weight": (hidden // 3 * 16, hidden),
            f"blk.{layer}.ffn_down.weight": (hidden, hidden // 3 * 8),
        }
    return shapes


def write_model(path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    """A GGUF of random float16 matrices that llama-quantize takes for a Phi3 model; it has no vocabulary."""
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path, "phi3")
    hidden = shapes["blk.0.attn_output.weight"][0]
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(hidden // 3 * 8)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 3)
    writer.add_rope_dimension_count(hidden // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, shape in shapes.items():
        writer.add_tensor(name, (rng.standard_t(TAIL, size=shape) * 0.02).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# -----------------------------------------------------------------------------
# The two quantisers


def run_llama_quantize(program: Path, source: Path, target: Path, quantization: str, threads: int) -> float:
    """Seconds of llama.cpp's quantiser by its own clock, without the start of the process."""
    command = [str(program), str(source), str(target), quantization.upper(), str(threads)]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    match = QUANTISE_TIME.search(run.stdout + run.stderr)
    if run.returncode or match is None:
        raise SystemExit(f"[FAIL] {program} ended with {run.returncode}: {run.stderr[-500:].strip()}")
    return float(match[1]) / 1000


def run_ours(source: Path, target: Path, quantization: str) -> float:
    """Seconds of this project's quantiser; it writes the tensors one after another, without a header."""
    started = time.perf_counter()
    recipe = get_recipe(quantization)
    with target.open("wb") as file:
        for tensor in GGUFReader(source).tensors:
            rows = torch.from_numpy(np.array(tensor.data))
            kind = choose_type(recipe, tensor.name, tuple(rows.shape), layers=LAYERS, tied=True)
            file.write(quantise(rows, kind).data)
    return time.perf_counter() - started


@contextmanager
def use_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def race(program: Path, source: Path, quantization: str, threads: int, runs: int) -> Race:
    """Let both quantise `source` in turn, after one run each that does not count."""
    ours, theirs = source.with_name("ours.bin"), source.with_name("theirs.gguf")
    times: list[tuple[float, float]] = []
    with use_threads(threads):
        for _ in range(runs + 1):
            their_seconds = run_llama_quantize(program, source, theirs, quantization, threads)
            times.append((run_ours(source, ours, quantization), their_seconds))
    values = sum(int(tensor.n_elements) for tensor in GGUFReader(source).tensors)
    counted = tuple(zip(*times[1:], strict=True))
    return Race(quantization, values, *counted, compare_errors(source, ours, theirs))


def compare_errors(source: Path, ours: Path, theirs: Path) -> float:
    """Our mean squared error over all tensors divided by llama.cpp's."""
    data, position = np.memmap(ours, dtype=np.uint8, mode="r"), 0
    originals = {tensor.name: tensor.data for tensor in GGUFReader(source).tensors}
    squares = np.zeros(2)
    reference = {tensor.name: tensor for tensor in GGUFReader(theirs).tensors}
    for name, original in originals.items():
        tensor = reference[name]
        mine = data[position:position + tensor.n_bytes].reshape(tensor.data.shape)
        position += int(tensor.n_bytes)
        for index, found in enumerate((mine, tensor.data)):
            squares[index] += np.square(dequantize(found, tensor.tensor_type) - original).sum(dtype=np.float64)
    return float(squares[0] / squares[1])


# -----------------------------------------------------------------------------
# Table


def format_race(result: Race) -> str:
    """One row of the table."""
    ours, theirs = (statistics.median(seconds) for seconds in (result.ours, result.theirs))
    rates = (f"{result.values / seconds / 1e6:,.1f}" for seconds in (ours, theirs))
    return "| " + " | ".join((result.quantization, *rates, f"{result.ratio:.2f}", f"{result.error_ratio:.4f}")) + " |"


def measure(
    program: Path, threads: int, quantizations: tuple[str, ...] = ("q4_k_m",), runs: int = 5, hidden: int = 768
) -> list[Race]:
    """Race on a model that is written to a temporary folder: of hidden size 768, 60 million values and 120 MB."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.gguf"
        write_model(source, list_shapes(hidden))
        return [race(program, source, quantization, threads, runs) for quantization in quantizations]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-quantize", type=Path, required=True, metavar="FILE", help="a built llama-quantize")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--types", default="q4_k_m,q5_k_m,q6_k,q8_0", metavar="NAME,NAME,...")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    results = measure(args.llama_quantize, args.threads, tuple(args.types.split(",")), args.runs)
    print(f"{date.today()}, {args.threads} threads, medians of {args.runs} runs in turn\n")
    print("| type | million values/s | llama.cpp | times llama.cpp's time | error / llama.cpp's |\n|---|---:|---:|---:|---:|")
    print("\n".join(map(format_race, results)))
    met = all(result.ratio <= BAR for result in results if result.quantization == "q4_k_m")
    print(f"\n[{'OK' if met else 'FAIL'}] q4_k_m in at most {BAR:g} times llama.cpp's time")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
