"""
Stages 1 to 3 at full size on one GPU, through the scripts' own command lines: python benchmarks/full_size.py

    python benchmarks/full_size.py --base D:/models/Phi-4-mini-instruct --rows ROWS.jsonl --work D:/bench

Takes any 16-bit base model on disk and a JSONL of curated rows (instruction, output). Trains --steps steps with the settings of
config.yaml, exports to q4_k_m, verifies, and prints what the manifests and logs recorded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("generate_training_data.py", "finetune.py", "export_gguf.py")
STEADY_STEPS = 10  # the last ones, after compilation and warm-up


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--backend", choices=["unsloth", "peft"], default="unsloth")
    return parser.parse_args()


def write_config(args: argparse.Namespace) -> Path:
    """A config.yaml with config.yaml's defaults, on curated rows alone. JSON is YAML too."""
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / "config.yaml"
    path.write_text(json.dumps({
        "work_dir": args.work.resolve().as_posix(),
        "generate": {"questions_file": None, "curated_files": [args.rows.resolve().as_posix()]},
        "finetune": {"base_model": args.base.resolve().as_posix(), "backend": args.backend, "max_steps": args.steps},
    }), encoding="utf-8")
    return path


def run_stages(config: Path) -> dict[str, float]:
    """Seconds of each script, start-up included. Ends the benchmark when one fails."""
    seconds = {}
    for script in SCRIPTS:
        print(f"\n> python {script} --config {config.name}", flush=True)
        started = time.monotonic()
        subprocess.run([sys.executable, script, "--config", str(config)], cwd=ROOT, check=True)
        seconds[script] = time.monotonic() - started
    return seconds


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def measure_training(work: Path) -> list[tuple[str, str]]:
    """Rows of the table about stage 2."""
    manifest = read_json(work / "adapters" / "manifest.json")
    log = [json.loads(line) for line in (work / "adapters" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()]
    counts, details = manifest["counts"], manifest["details"]
    steps = [row for row in log if "loss" in row]
    times = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(steps)][-STEADY_STEPS:]
    rates = [row["tokens_per_second"] for row in steps][-STEADY_STEPS:]
    gpus = [gpu["name"] for gpu in details["machine"]["gpus"]]
    return [
        ("device", ", ".join(gpus) or "CPU"),
        ("backend", f"{details['backend']} {manifest['versions'].get(details['backend'], '')}"),
        ("plan", details["plan"]["words"]),
        ("adapted modules", f"{counts['adapted_modules']:,}"),
        ("trainable parameters", f"{counts['trainable_parameters']:,}"),
        ("steps", str(len(steps))),
        ("loss, mean of first 5 steps", f"{details['losses']['first_loss']:.4f}"),
        ("loss, mean of last 5 steps", f"{details['losses']['last_loss']:.4f}"),
        ("seconds a step (median of the last 10)", f"{statistics.median(times):.3f}"),
        ("real tokens/s (median of the last 10)", f"{statistics.median(rates):,.0f}"),
        ("peak GPU memory", f"{details['memory'].get('allocated_bytes', 0) / 1e9:.1f} GB"),
    ]


def measure_export(work: Path) -> list[tuple[str, str]]:
    """Rows of the table about stage 3."""
    manifest = read_json(work / "gguf" / "manifest.json")
    files = [output for output in manifest["outputs"] if output["path"].endswith(".gguf")]
    return [(output["path"], f"{output['bytes'] / 1e9:.2f} GB") for output in files]


def main() -> None:
    args = parse_args()
    seconds = run_stages(write_config(args))
    rows = [("date", date.today().isoformat()), *measure_training(args.work), *measure_export(args.work)]
    rows += [(f"{script}, whole run", f"{value:.0f} s") for script, value in seconds.items()]
    versions = read_json(args.work / "adapters" / "manifest.json")["versions"]
    rows.append(("versions", ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "trl"))))
    print("\n| what | measured |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    print((args.work / "gguf" / "verification.json").read_text(encoding="utf-8")[:3000])


if __name__ == "__main__":
    main()
