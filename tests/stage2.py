"""Stage 2 for tests: a small run's config and finished training_data/, and the script as a process or inside this one."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import finetune as script
from distill.config import load_config
from distill.errors import run
from distill.files import read_jsonl, sha256_file
from distill.records import TrainingExample
from tests.training.rowsets import make_config, make_example, write_set

ROOT = Path(__file__).parent.parent
ROWS = 110  # fewer than 100 need --limit
STEPS = 8
FIRST_HELDOUT = 200  # of the rows that make_example makes
WAIT = 240  # seconds for what takes a few


def write_config(folder: Path, base: Path, encrypt: bool = False, **changes: Any) -> Path:
    """A config whose run takes eight steps with a checkpoint after each and measures a tenth of the rows; returns its path."""
    settings = {
        "base_model": base.as_posix(), "backend": "peft", "lora_r": 4, "learning_rate": 1e-2, "warmup_steps": 2,
        "max_steps": STEPS, "effective_batch_size": 4, "save_steps": 1, "max_length": 512, "validation_share": 0.1,
        "sample_questions": 0, **changes,
    }
    make_config(folder, encrypt=encrypt, finetune=settings)
    return folder / "config.yaml"


def make_rows(count: int, first: int = 0) -> list[TrainingExample]:
    """So many rows that ask different things of different documents."""
    return [make_example(first + number) for number in range(count)]


def make_run(folder: Path, base: Path, rows: Sequence[TrainingExample] = (), **changes: Any) -> Path:
    """Config and finished stage 1 in a new folder, with three held-out rows; returns the config's path."""
    path = write_config(folder, base, **changes)
    write_set(load_config(path), rows or make_rows(ROWS), make_rows(3, FIRST_HELDOUT))
    return path


def start(config: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """finetune.py as a process. No CUDA: the tests state what a CPU does."""
    command = [sys.executable, "finetune.py", "--config", str(config), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )


def finetune(config: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    """Run a process to its end; returns what was printed."""
    process = start(config, *arguments, **environment)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == code, printed
    return printed


class Script:
    """finetune.py inside this process, which has loaded the libraries already: for its many endings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, config: Path, *arguments: str, code: int = 0) -> str:
        """What was printed by a run that ends with this exit code."""
        self.monkeypatch.setattr(sys, "argv", ["finetune.py", "--config", str(config), *arguments])
        ended = 0
        try:
            run(script.main)
        except SystemExit as leaving:
            ended = int(leaving.code or 0)
        gc.collect()  # a process that ends lets go of its lock
        printed = "".join(self.capsys.readouterr())
        assert ended == code, printed
        return printed


# -----------------------------------------------------------------------------
# What a run leaves


def find_adapters(config: Path) -> Path:
    return config.parent / "work" / "adapters"


def read_log(config: Path, key: str = "loss") -> list[float]:
    """The loss, or another figure, of every step that has it."""
    return [row[key] for _, row in read_jsonl(find_adapters(config) / "training_log.jsonl") if key in row]


def read_manifest(config: Path) -> dict[str, Any]:
    return json.loads((find_adapters(config) / "manifest.json").read_text(encoding="utf-8"))


def hash_adapter(config: Path) -> str:
    return sha256_file(find_adapters(config) / "adapter_model.safetensors")


def list_outcome(config: Path) -> tuple[list[float], list[float], str]:
    """What two equal runs have in common: losses, validation losses, and the adapter, bit for bit."""
    return read_log(config), read_log(config, "eval_loss"), hash_adapter(config)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a running process has made a file."""
    deadline = time.monotonic() + WAIT
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.005)


def kill_at(config: Path, step: int, name: str = "trainer_state.json", delay: float = 0, **environment: str) -> None:
    """Start a run and kill it so many seconds after a file of that step's checkpoint has appeared."""
    process = start(config, **environment)
    wait_for(find_adapters(config) / "checkpoints" / f"checkpoint-{step}" / name, process)
    time.sleep(delay)
    process.kill()
    process.communicate()
