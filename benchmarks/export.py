"""
What an export costs, beside the disk's own time and llama.cpp's tools: python benchmarks/export.py

    python benchmarks/export.py --base D:/models/Phi-4-mini-instruct --work D:/bench
    python benchmarks/export.py ... --device cpu --llama-cpp D:/llama.cpp    # its converter and quantiser beside ours

Takes any 16-bit base model on disk and makes a random LoRA adapter of rank 16 for it. Each export is a process of its own,
timed from the command to its end, with the base's files out of the page cache. The time to read the base and to write and
fsync as many bytes as the result has is measured in the same run. Needs Linux, whose page cache can be asked to forget.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PIECE = 1 << 24
RANK = 16
LEAST_RATIO, START_SECONDS = 1.5, 6.0  # the bar: at most 1.5 times reading and writing, and 6 seconds
MOST_RAM, MOST_VRAM = 4e9, 2e9


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--runs", default="q4_k_m;q4_k_m:base;f16,q8_0,q4_k_m", help=":base adds the base control")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="by default the GPU if there is one")
    parser.add_argument("--threads", type=int, help="of the CPU, for ours and for llama.cpp")
    parser.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="a built llama.cpp to time beside it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


# -----------------------------------------------------------------------------
# The disk


def forget(paths: list[Path]) -> None:
    """Have the page cache forget files."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_reading(paths: list[Path]) -> float:
    """Seconds to read the files once, cold, one after another."""
    forget(paths)
    buffer = bytearray(PIECE)
    started = time.perf_counter()
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


def time_writing(path: Path, count: int) -> float:
    """Seconds to write and fsync `count` bytes that do not compress."""
    piece = os.urandom(PIECE)
    started = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for start in range(0, count, PIECE):
            file.write(piece[: count - start])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


# -----------------------------------------------------------------------------
# One export, in a process of its own


class MemoryWatch(threading.Thread):
    """The most anonymous memory that this process held, looked at a hundred times a second; file pages are not counted."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            self.peak_bytes = max(self.peak_bytes, int(line.split()[1]) * 1024)
            time.sleep(0.01)


def export_in_this_process(args: argparse.Namespace) -> None:
    """Convert what --child names, and print the figures as one JSON line."""
    watch = MemoryWatch()
    watch.start()
    import torch

    from distill.gguf.convert import Output, convert

    if args.threads:
        torch.set_num_threads(args.threads)
    names, _, base = args.child.partition(":")
    outputs = [
        Output(args.work / f"{'tuned' if tuned else 'base'}-{name}.gguf", name, "bench", tuned)
        for tuned in ((True, False) if base else (True,)) for name in names.split(",")
    ]
    started = time.perf_counter()
    done = convert(args.base, args.work / "adapter", outputs, device=args.device)
    vram = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    print(json.dumps({
        "inside": time.perf_counter() - started, "bytes": sum(each.bytes for each in done),
        "ram": watch.peak_bytes, "vram": vram,
    }))


def measure(args: argparse.Namespace, shards: list[Path], run: str) -> dict[str, Any]:
    """One line of the table: an export from a cold base, and the disk's own time for the same bytes."""
    forget(shards)
    command = [sys.executable, __file__, *sys.argv[1:], "--child", run]
    seconds, used, said = time_program(command, dict(os.environ))
    found = json.loads(said.splitlines()[-1])
    read, write = time_reading(shards), time_writing(args.work / "write.bin", found["bytes"])
    return {"run": run, "seconds": seconds, "used": used, "read": read, "write": write, **found}


def time_program(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds and what a program printed. Raises CalledProcessError when it fails."""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, encoding="utf-8")
    seconds, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used, done.stdout


def measure_llama_cpp(args: argparse.Namespace, shards: list[Path]) -> list[tuple[str, float, float]]:
    """
    Name, wall seconds and CPU seconds of llama.cpp's converter to f16 and quantiser to q4_k_m, for the base alone.

    The converter knows no tokenizer but published ones; where it refuses the base, the quantiser is given our f16 file.
    """
    from distill.gguf.convert import Output, convert
    from distill.gguf.external import find_llama_cpp

    tools = find_llama_cpp(args.llama_cpp, ["q4_k_m"])
    f16, small = args.work / "llama-f16.gguf", args.work / "llama-q4_k_m.gguf"
    environment = {**os.environ, "PYTHONPATH": str(args.llama_cpp / "gguf-py"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(tools.converter), str(args.base), "--outfile", str(f16), "--outtype", "f16"]
    rows = []
    forget(shards)
    try:
        rows.append(("llama.cpp, converter to f16", *time_program(command, environment)[:2]))
    except subprocess.CalledProcessError:
        print("llama.cpp's converter refuses this base: its quantiser gets our f16 file")
        convert(args.base, None, [Output(f16, "f16", "bench", tuned=False)], device="cpu")
    forget([f16])
    threads = [str(args.threads)] if args.threads else []
    command = [str(tools.quantiser), str(f16), str(small), "Q4_K_M", *threads]
    return [*rows, ("llama.cpp, quantiser to q4_k_m", *time_program(command, environment)[:2])]


# -----------------------------------------------------------------------------
# The adapter and the table


def write_adapter(base: Path, target: Path) -> None:
    """A random LoRA adapter on every linear layer, as PEFT writes one, without loading the base."""
    import torch
    from safetensors.torch import save_file

    from distill.gguf.families import read_model

    layers = [weight for weight in read_model(base).weights if "layers." in weight.source and len(weight.shape) == 2]
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for weight in layers:
        rows, columns = weight.shape
        module = f"base_model.model.{weight.source.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * 0.02
        tensors[f"{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 0.02
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "bias": "none", "target_modules": "all-linear"}
    (target / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


HEADINGS = (
    "export", "seconds", "of it converting", "CPU s", "read cold s", "write s", "over read + write", "RAM GB", "VRAM GB",
    "written GB",
)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Markdown, then what the bars say."""
    print("\n| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS))
    for row in rows:
        disk = row["read"] + row["write"]
        cells = (
            row["run"].replace(":base", ", tuned and base"), f"{row['seconds']:.1f}", f"{row['inside']:.1f}",
            f"{row['used']:.0f}", f"{row['read']:.1f}", f"{row['write']:.1f}", f"{row['seconds'] / disk:.2f}",
            f"{row['ram'] / 1e9:.2f}", f"{row['vram'] / 1e9:.2f}",
            f"{row['bytes'] / 1e9:.2f}",
        )
        print("| " + " | ".join(cells) + " |")


def print_bars(row: dict[str, Any]) -> None:
    """The bars of a single q4_k_m on a GPU."""
    most = LEAST_RATIO * (row["read"] + row["write"]) + START_SECONDS
    for name, value, bar in (("seconds", row["seconds"], most), ("RAM GB", row["ram"] / 1e9, MOST_RAM / 1e9),
                             ("VRAM GB", row["vram"] / 1e9, MOST_VRAM / 1e9)):
        print(f"{row['run']}, {name}: {value:.2f}, bar {bar:.2f}: {'met' if value <= bar else 'MISSED'}")


def main() -> None:
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.child:
        export_in_this_process(args)
        return
    import torch

    from distill.gguf.shards import list_shards
    from distill.manifest import list_versions

    write_adapter(args.base, args.work / "adapter")
    shards = list_shards(args.base)
    rows = [measure(args, shards, run) for run in args.runs.split(";")]
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() and args.device != "cpu" else "CPU"
    versions = list_versions()
    print(f"\n{date.today().isoformat()}, {device}, {os.cpu_count()} cores, " + ", ".join(
        f"{name} {versions.get(name, '-')}" for name in ("python", "torch", "gguf")))
    print_table(rows)
    for name, seconds, used in measure_llama_cpp(args, shards) if args.llama_cpp else []:
        ratio = rows[0]["used"] / used
        print(f"{name}: {seconds:.1f} s, {used:.1f} s of CPU time; ours, the whole {rows[0]['run']}, over it: {ratio:.2f}")
    if device != "CPU":
        print_bars(rows[0])


if __name__ == "__main__":
    main()
