from __future__ import annotations

import json
import os
import platform
import stat
import sys
from pathlib import Path

import pytest
import torch

from distill.files import write_jsonl_atomic
from distill.training.provenance import describe_machine, find_driver, split_cudnn, summarise_log, thin_out

STEP = {"grad_norm": 1.0, "learning_rate": 1e-4, "tokens_per_second": 100.0}


def write_log(path: Path, *rows: dict[str, object]) -> Path:
    write_jsonl_atomic(path, rows)
    return path


# -----------------------------------------------------------------------------
# The machine


def test_the_machine_is_described_without_a_gpu() -> None:
    found = describe_machine()
    assert found["gpus"] == [] or torch.cuda.is_available()
    assert 0 < found["cpu_cores"] <= os.cpu_count() and found["ram_bytes"] > 2**28
    assert found["torch"] == torch.__version__ and found["cuda"] == torch.version.cuda
    assert json.loads(json.dumps(found)) == found  # as a manifest holds it


def test_nothing_tells_whose_machine_it_is() -> None:
    text = json.dumps(describe_machine())
    told = {platform.node(), str(Path.home()), os.environ.get("USERNAME") or os.environ.get("USER") or "root"}
    assert not [each for each in told if len(each) > 3 and each in text]


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for nvidia-smi")
@pytest.mark.parametrize(("script", "expected"), [
    ("echo 580.65.06; echo 580.65.06", "580.65.06"),
    ("echo NVIDIA-SMI has failed; exit 9", None),
    ("echo no devices were found", None),
    ("echo 580.65.06; exit 9", None),
    ("exit 0", None),
])
def test_the_driver_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str | None
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_driver() == expected


def test_no_driver_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_driver() is None


@pytest.mark.parametrize(("number", "version"), [(91002, (9, 10, 2)), (8902, (8, 9, 2)), (90100, (9, 1, 0))])
def test_cudnn_numbers(number: int, version: tuple[int, int, int]) -> None:
    assert split_cudnn(number) == version


# -----------------------------------------------------------------------------
# The log


def test_losses_are_means_of_five_and_the_best_measurement_is_named(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": float(step), **STEP, "seconds": step * 2.0} for step in range(1, 21)]
    evals = [{"step": 10, "eval_loss": 1.5, "seconds": 21.0}, {"step": 20, "eval_loss": 1.25, "seconds": 43.0}]
    found = summarise_log(write_log(tmp_path / "log.jsonl", *rows[:10], evals[0], *rows[10:], evals[1]))
    assert (found["first_loss"], found["last_loss"], found["logged_steps"]) == (3.0, 18.0, 20)
    assert found["best_eval"] == {"step": 20, "loss": 1.25} and found["eval_losses"] == [[10, 1.5], [20, 1.25]]
    assert found["losses"] == [[step, float(step)] for step in range(1, 21)]
    assert (found["seconds"], found["tokens_per_second"], found["peak_gb"]) == (43.0, 100.0, None)


def test_a_short_log_and_an_empty_one_work(tmp_path: Path) -> None:
    one = summarise_log(write_log(tmp_path / "one.jsonl", {"step": 1, "loss": 2.0, "peak_gb": 4.5, "seconds": 1.0}))
    assert one["first_loss"] == one["last_loss"] == 2.0 and one["best_eval"] is None and one["peak_gb"] == 4.5
    none = summarise_log(write_log(tmp_path / "none.jsonl"))
    assert none["first_loss"] is None and none["losses"] == [] and none["seconds"] == 0.0


def test_a_loss_that_was_no_number_is_passed_over(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", {"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 2, "eval_loss": None})
    assert summarise_log(log)["last_loss"] == 2.0 and summarise_log(log)["eval_losses"] == []


@pytest.mark.parametrize("count", [1, 199, 200, 201, 5_000])
def test_a_long_history_is_thinned_and_keeps_both_ends(count: int) -> None:
    points = list(range(count))
    kept = thin_out(points, 200)
    assert len(kept) == min(count, 200) and (kept[0], kept[-1]) == (0, count - 1) and kept == sorted(set(kept))
