"""
What a training step's time goes into on one GPU: python benchmarks/train_profile.py --base FOLDER --tokens 8192

Runs one batch of made-up rows (about 920 tokens, 158 of them answer) forward and back under PyTorch's profiler, after warm-up.
Prints the GPU time by kind of kernel, the output layer's part with answer tokens alone and with all tokens, and the tokens a
second beside what the measured rate of matrix products would allow.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from distill.training.encode import EncodedExample

KINDS = (  # the first that matches a kernel's name
    ("attention (flash)", "flash|fmha"),
    ("matrix products", "nvjet|gemm|cutlass|cublas|wgmma"),
    ("4-bit weights to 16 bits", "nf4|dequant|kDequantize"),
    ("fused element-wise (Triton)", "triton"),
    ("copies", "memcpy|memset|copy"),
    ("other", ""),
)
ROW_TOKENS, ANSWER_TOKENS, VOCABULARY = 920, 158, 30_000


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--backend", choices=["unsloth", "peft"], default="unsloth")
    parser.add_argument("--recompute", action="store_true")
    return parser.parse_args()


def invent_rows(tokens: int) -> list[EncodedExample]:
    """Rows of random tokens, about `tokens` in all."""
    from distill.training.encode import IGNORE, EncodedExample

    rng, rows, left = random.Random(0), [], tokens
    while left > ANSWER_TOKENS:
        length = min(left, max(200, int(rng.gauss(ROW_TOKENS, 150))))
        ids = [rng.randrange(10, VOCABULARY) for _ in range(length)]
        rows.append(EncodedExample(str(len(rows)), ids, [IGNORE] * (length - ANSWER_TOKENS) + ids[-ANSWER_TOKENS:]))
        left -= length
    return rows


def learn(model: Any, rows: list[EncodedExample]) -> None:
    """Forward and back, as the trainer does it."""
    import torch

    from distill.training.batches import lay_end_to_end

    batch = lay_end_to_end(rows, "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets)
    (loss / len(batch.targets)).backward()
    model.zero_grad()


def time_gpu(work: Any, rounds: int = 5) -> float:
    """Median seconds of `work`, the GPU finished."""
    import torch

    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def time_kernels(model: Any, rows: list[EncodedExample]) -> dict[str, float]:
    """Seconds of GPU time by kind of kernel, most first."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        learn(model, rows)
        torch.cuda.synchronize()
    found: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = next(kind for kind, pattern in KINDS if re.search(pattern, event.key, re.IGNORECASE))
        found[kind] = found.get(kind, 0.0) + event.self_device_time_total / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def time_head(model: Any, tokens: int) -> float:
    """Seconds of the output layer, loss and gradient on `tokens` tokens."""
    import torch

    from distill.training.losses import sum_answer_loss

    head = model.get_base_model().get_output_embeddings()
    hidden = torch.randn(tokens, head.weight.shape[1], device="cuda", dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (tokens,), device="cuda")
    return time_gpu(lambda: sum_answer_loss(hidden, head, targets).backward())


def main() -> None:
    args = parse_args()
    if args.backend == "unsloth":
        import unsloth  # noqa: F401 - must come before transformers
    import torch

    from distill.config import FinetuneSection
    from distill.manifest import list_versions
    from distill.training.plan import count_flops, measure_rate, read_shape
    from distill.training.students import load_student

    settings = FinetuneSection(base_model=str(args.base), backend=args.backend)
    model, _ = load_student(args.backend, args.base, settings, in_4bit=True, recompute=args.recompute)
    rows = invent_rows(args.tokens)
    tokens, answers = sum(len(row.input_ids) for row in rows), sum(row.answer_tokens for row in rows)
    model.train()
    for _ in range(3):
        learn(model, rows)
    seconds, kernels = time_gpu(lambda: learn(model, rows)), time_kernels(model, rows)
    limit = measure_rate(8192) / count_flops(read_shape(args.base), settings.lora_r)
    versions = list_versions()
    described = ", ".join(f"{name} {versions.get(name, '-')}" for name in ("torch", "transformers", "unsloth", "bitsandbytes"))
    print(f"\n{date.today().isoformat()}, {torch.cuda.get_device_name(0)}, {described}")
    print(f"\nOne batch of {tokens:,} tokens ({answers:,} answer), {args.backend}, forward and back: {seconds * 1e3:.0f} ms\n")
    print("| GPU time | ms | share |\n|---|---|---|")
    for kind, part in kernels.items():
        print(f"| {kind} | {part * 1e3:.1f} | {part / sum(kernels.values()):.0%} |")
    print(f"| all kernels | {sum(kernels.values()) * 1e3:.1f} | of {seconds * 1e3:.0f} ms |")
    alone, everywhere = (time_head(model, count) * 1e3 for count in (answers, tokens))
    print(f"\nOutput layer on the answer tokens {alone:.1f} ms, on all tokens {everywhere:.1f}")
    print(f"{tokens / seconds:,.0f} tokens/s; at the rate of matrix products {limit:,.0f}")


if __name__ == "__main__":
    main()
