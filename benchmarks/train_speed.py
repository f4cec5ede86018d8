"""
Training speed and memory on one GPU, ours beside the usual ways: python benchmarks/train_speed.py

    python benchmarks/train_speed.py --base D:/models/Phi-4-mini-instruct --rows ROWS.jsonl --work D:/bench
    python benchmarks/train_speed.py ... --only 8:reference,8:ours-24      # some rows of the table now, others later

Takes any 16-bit base model on disk and a JSONL of curated rows (instruction, output). Every run learns the same rows in the
same order, 25 steps of the same effective batch, the last 20 of them timed from log line to log line. Ours are whole runs of
finetune.py. A call that goes on with an earlier one's table times the reference again and reports the drift.
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
sys.path.insert(0, str(ROOT))

STEPS, TIMED = 25, 20
SEED = 42
ROWS = {  # effective batch: the rows of its table
    8: ("reference", "trl-packing", "ours-12", "ours-16", "ours-24", "ours"),
    32: ("reference", "ours"),
}
NAMES = {
    "reference": "Unsloth, tutorial's settings, all modules", "trl-packing": "TRL + PEFT + bitsandbytes, packing",
    "ours-12": "ours, 12 GB", "ours-16": "ours, 16 GB", "ours-24": "ours, 24 GB", "ours": "ours, all of the card",
}
BARS = {(32, "ours"): 2.2, (8, "ours"): 2.0, (8, "ours-24"): 1.6, (8, "ours-12"): 1.4}
LEAST_TOKENS = 28_000  # a second, at effective batch 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--rows", type=Path, required=True, metavar="FILE")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", default="", help="rows such as 8:reference,32:ours; all without it")
    return parser.parse_args()


def choose_rows(only: str) -> list[tuple[int, str]]:
    """What this call measures, the reference first."""
    if only:
        return [(int(effective), name) for effective, name in (part.split(":") for part in only.split(","))]
    return [(effective, name) for effective, names in ROWS.items() for name in names]


# -----------------------------------------------------------------------------
# The same rows for all


def write_config(work: Path, base: Path, effective: int, vram_gb: float | None) -> Path:
    """A config.yaml with config.yaml's defaults for one run of ours. JSON is YAML too."""
    path = work / "config.yaml"
    path.write_text(json.dumps({
        "work_dir": work.resolve().as_posix(),
        "generate": {"questions_file": None},
        "finetune": {
            "base_model": base.resolve().as_posix(), "max_steps": STEPS, "effective_batch_size": effective, "vram_gb": vram_gb,
            "warmup_steps": 5, "validation_share": 0, "sample_questions": 0, "save_steps": 1000, "seed": SEED,
        },
    }), encoding="utf-8")
    return path


def write_training_data(config_path: Path, rows: Path, count: int) -> None:
    """training_data/ as stage 1 leaves it, with the first `count` rows of the file."""
    from distill.config import load_config
    from distill.files import write_jsonl_atomic
    from distill.manifest import FILE_NAME, write_manifest

    config = load_config(config_path)
    if (config.training_dir / FILE_NAME).exists():
        return
    config.training_dir.mkdir(parents=True)
    lines = itertools.islice(rows.read_text(encoding="utf-8").splitlines(), count)
    examples = [{"id": f"r{number}", "category": "bench", **json.loads(line)} for number, line in enumerate(lines)]
    outputs = [config.training_dir / name for name in ("train.jsonl", "heldout.jsonl")]
    for path, part in zip(outputs, (examples, examples[:1])):
        write_jsonl_atomic(path, [{**row, "id": f"{path.stem}-{row['id']}"} for row in part], private=True)
    prompt = {f"prompt.{key}": value for key, value in config.describe("prompt").items()}
    write_manifest(
        config.training_dir, made_by="generate_training_data.py", config=config, sections=[], inputs=[], outputs=outputs,
        fixed=prompt, counts={}, started=time.time(),
    )


def write_peer_rows(config_path: Path, effective: int, target: Path) -> list[int]:
    """The rows of every step in our order, rendered by the base model's template; returns their tokens."""
    from transformers import AutoTokenizer

    from distill.config import load_config
    from distill.prompts import to_messages
    from distill.records import load_examples
    from distill.training.batches import plan_steps

    config = load_config(config_path)
    examples = load_examples(config.training_dir / "train.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(config.finetune.base_model)
    order = plan_steps(len(examples), effective, 3, STEPS, SEED)
    lines, counts = [], []
    for number in itertools.chain.from_iterable(order):
        messages = to_messages(config.prompt.system, examples[number].instruction)
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        completion = examples[number].output + "<|end|>"
        tokens = len(tokenizer(prompt + completion, add_special_tokens=False)["input_ids"])
        counts.append(tokens)
        lines.append(json.dumps({"prompt": prompt, "completion": completion}))
    target.write_text("\n".join(lines), encoding="utf-8")
    return counts


def count_step_tokens(counts: list[int], effective: int) -> list[int]:
    """Tokens of every step after the first."""
    return [sum(counts[step * effective : (step + 1) * effective]) for step in range(1, STEPS)]


# -----------------------------------------------------------------------------
# Runs


def measure_peer(args: argparse.Namespace, name: str, effective: int) -> dict[str, Any]:
    """One run of benchmarks/train_peers.py."""
    config = write_config(args.work, args.base, effective, None)
    write_training_data(config, args.rows, 1_000)
    rows, out = args.work / f"peer-{effective}.jsonl", args.work / "peer.json"
    counts = write_peer_rows(config, effective, rows)
    peer = "unsloth-tutorial" if name == "reference" else name
    subprocess.run(
        [sys.executable, "benchmarks/train_peers.py", "--peer", peer, "--base", str(args.base), "--rows", str(rows),
         "--steps", str(STEPS), "--effective", str(effective), "--out", str(out)],
        cwd=ROOT, check=True,
    )
    measured = json.loads(out.read_text(encoding="utf-8"))
    steps, learnt = measured["steps"], count_step_tokens(counts, effective)
    if name == "trl-packing":  # TRL counts them: packed sequences hold other rows
        learnt = [after["tokens"] - before["tokens"] for before, after in itertools.pairwise(steps)]
    seconds = [after["at"] - before["at"] for before, after in itertools.pairwise(steps)]
    return {
        "seconds": seconds[-TIMED:], "tokens": learnt[-TIMED:], "losses": [step["loss"] for step in steps],
        "allocated": measured["allocated"], "reserved": measured["reserved"], "startup": measured["startup_seconds"],
        "row_tokens": statistics.mean(counts), "plan": "2 rows at once, recomputed" if name == "reference" else "2,048 packed",
    }


def measure_ours(args: argparse.Namespace, name: str, effective: int) -> dict[str, Any]:
    """One run of finetune.py, read from its log and manifest."""
    cap = float(name.split("-")[1]) if "-" in name else None
    config = write_config(args.work, args.base, effective, cap)
    write_training_data(config, args.rows, 1_000)
    subprocess.run([sys.executable, "finetune.py", "--config", str(config), "--overwrite"], cwd=ROOT, check=True)
    counts = write_peer_rows(config, effective, args.work / f"peer-{effective}.jsonl")
    adapters = args.work / "adapters"
    log = [json.loads(line) for line in (adapters / "training_log.jsonl").read_text(encoding="utf-8").splitlines()]
    details = json.loads((adapters / "manifest.json").read_text(encoding="utf-8"))["details"]
    seconds = [after["seconds"] - before["seconds"] for before, after in itertools.pairwise(log)]
    return {
        "seconds": seconds[-TIMED:], "tokens": count_step_tokens(counts, effective)[-TIMED:],
        "losses": [row["loss"] for row in log], "row_tokens": statistics.mean(counts),
        "allocated": details["memory"]["allocated_bytes"], "reserved": details["memory"]["reserved_bytes"],
        "startup": details["startup_seconds"], "predicted": details["plan"]["peak_bytes"],
        "plan": details["plan"]["words"], "matrix_tflops": details["plan"]["matrix_tflops"],
        "flops": details["plan"]["flops_per_token"],
    }


def measure(args: argparse.Namespace, effective: int, name: str) -> dict[str, Any]:
    """One row of the table, with what it is."""
    print(f"\n> effective batch {effective}: {NAMES[name]}", flush=True)
    found = (measure_ours if name.startswith("ours") else measure_peer)(args, name, effective)
    rates = [tokens / seconds for tokens, seconds in zip(found["tokens"], found["seconds"])]
    return {"effective": effective, "name": name, "rate": statistics.median(rates), "day": date.today().isoformat(), **found}


# -----------------------------------------------------------------------------
# The table


HEADINGS = (
    "batch", "run", "plan", "tokens/s", "examples/s", "against reference", "allocated GB", "predicted", "reserved GB",
    "loss, last 5", "start-up s", "of ceiling",
)


def describe_row(row: dict[str, Any], reference: float | None, ceiling: float | None) -> list[str]:
    """The cells of one run; `reference` in tokens a second, `ceiling` in tokens a second at the measured rate of products."""
    predicted = row.get("predicted")
    return [
        str(row["effective"]), NAMES[row["name"]], row["plan"], f"{row['rate']:,.0f}", f"{row['rate'] / row['row_tokens']:.1f}",
        f"{row['rate'] / reference:.2f}" if reference else "",
        f"{row['allocated'] / 1e9:.1f}",
        f"{predicted / 1e9:.1f} ({predicted / row['allocated'] - 1:+.0%})" if predicted else "",
        f"{row['reserved'] / 1e9:.1f}",
        f"{statistics.mean(row['losses'][-5:]):.4f}",
        f"{row['startup']:.0f}",
        f"{row['rate'] / ceiling:.0%}" if ceiling else "",
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Markdown: one line a run, then what the bars say."""
    rates = {(row["effective"], row["name"]): row["rate"] for row in rows}
    ceiling = next((row["matrix_tflops"] * 1e12 / row["flops"] for row in rows if "flops" in row), None)
    print("\n| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS))
    for row in rows:
        print("| " + " | ".join(describe_row(row, rates.get((row["effective"], "reference")), ceiling)) + " |")
    for (effective, name), least in BARS.items():
        if (effective, name) in rates and (effective, "reference") in rates:
            times = rates[effective, name] / rates[effective, "reference"]
            print_bar(f"{NAMES[name]} at {effective}, times the reference", times, least)
    if (32, "ours") in rates:
        print_bar("ours at 32, tokens/s", rates[32, "ours"], LEAST_TOKENS)


def print_bar(what: str, value: float, least: float) -> None:
    """Whether a bar is met."""
    print(f"\n{what}: {value:,.2f}, bar {least:,}: {'met' if value >= least else 'MISSED'}")


def main() -> None:
    args = parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    store = args.work / "train_speed.jsonl"
    known = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()] if store.exists() else []
    wanted = choose_rows(args.only)
    before = next((row for row in known if (row["effective"], row["name"]) == (8, "reference")), None)
    if before is not None:
        drift = measure(args, 8, "reference")["rate"] / before["rate"] - 1
        print(f"\nThe reference row again: {drift:+.1%} against the first call")
        wanted = [row for row in wanted if row != (8, "reference")]
    for effective, name in wanted:
        if any((row["effective"], row["name"]) == (effective, name) for row in known):
            continue
        known.append(measure(args, effective, name))
        with open(store, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(known[-1]) + "\n")
    import torch

    from distill.manifest import list_versions

    versions = list_versions()
    names = ("python", "torch", "transformers", "trl", "peft", "unsloth", "bitsandbytes")
    described = ", ".join(f"{name} {versions.get(name, '-')}" for name in names)
    print(f"\n{date.today().isoformat()}, {torch.cuda.get_device_name(0)}, {described}")
    print_table(known)


if __name__ == "__main__":
    main()
