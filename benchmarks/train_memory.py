"""
The planner's memory formula against one GPU, and the speed of each plan: python benchmarks/train_memory.py --base FOLDER

Loads the student once (--16-bit, --backend peft for another table) and learns batches that fill each of --tokens, activations
kept and computed again; no optimizer. Prints tokens a second and the memory that PyTorch had allocated at most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.train_profile import ANSWER_TOKENS, ROW_TOKENS, invent_rows, learn  # noqa: E402

if TYPE_CHECKING:
    from distill.training.plan import Shape

WARM, TIMED = 3, 7
OPTIMIZER_BYTES = 8  # of the formula's bytes an adapter weight: AdamW's moments, which nothing here has


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--backend", choices=["unsloth", "peft"], default="unsloth")
    parser.add_argument("--16-bit", dest="in_4bit", action="store_false")
    parser.add_argument("--tokens", default="2048,4096,8192", metavar="N,N,...")
    return parser.parse_args()


def measure(model: Any, tokens: int) -> tuple[float, int]:
    """Tokens a second (median) and the most bytes allocated."""
    import torch

    rows = invent_rows(tokens)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(WARM + TIMED):
        torch.cuda.synchronize()
        started = time.perf_counter()
        learn(model, rows)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return sum(len(row.input_ids) for row in rows) / statistics.median(seconds[WARM:]), torch.cuda.max_memory_allocated()


def predict(shape: Shape, args: argparse.Namespace, recompute: bool, tokens: int) -> int:
    """The planner's figure for such a batch."""
    from distill.training.plan import count_adapter_weights, predict_peak
    from distill.training.students import compiles_layers

    answers = tokens * ANSWER_TOKENS // ROW_TOKENS
    compiled = compiles_layers(args.backend)
    peak = predict_peak(shape, args.in_4bit, recompute, args.backend, 16, tokens, answers, compiled)
    return peak - OPTIMIZER_BYTES * count_adapter_weights(shape, 16)


def describe(args: argparse.Namespace, recompute: bool, tokens: int, shape: Shape, measured: tuple[float, int]) -> str:
    """One line of the table."""
    base, kept = "4-bit" if args.in_4bit else "16-bit", "computed again" if recompute else "kept"
    rate, peak = measured
    formula = predict(shape, args, recompute, tokens)
    return f"| {args.backend} | {base} | {kept} | {tokens:,} | {rate:,.0f} | {peak / 1e9:.2f} | {formula / 1e9:.2f} |"


def main() -> None:
    args = parse_args()
    if args.backend == "unsloth":
        import unsloth  # noqa: F401 - must come before transformers
    import torch

    from distill.config import FinetuneSection
    from distill.training.plan import read_shape
    from distill.training.students import load_student

    settings, shape = FinetuneSection(base_model=str(args.base), backend=args.backend), read_shape(args.base)
    model, _ = load_student(args.backend, args.base, settings, in_4bit=args.in_4bit, recompute=True)
    model.train()
    print(f"\n{date.today().isoformat()}, {torch.cuda.get_device_name(0)}\n")
    print("| backend | base | activations | tokens at once | tokens/s | measured GB | formula GB |\n" + "|---" * 7 + "|")
    for recompute in (True, False):
        if not recompute:
            model.gradient_checkpointing_disable()
        for tokens in map(int, args.tokens.split(",")):
            print(describe(args, recompute, tokens, shape, measure(model, tokens)), flush=True)


if __name__ == "__main__":
    main()
