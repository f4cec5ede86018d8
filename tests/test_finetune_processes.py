"""finetune.py under torchrun: several processes make the run that one makes, and the first alone prints and writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.files import read_jsonl, sha256_file
from tests.training.rowsets import make_config, make_example, write_set

ROOT = Path(__file__).parent.parent
ROWS = 24  # 15 are learnt, four a step: the last step of an epoch has three rows
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def make_run(folder: Path, base: Path, **changes: Any) -> Path:
    """A config and its rows in a new folder; returns the config's path."""
    settings = {
        "base_model": base.as_posix(), "backend": "peft", "lora_r": 4, "learning_rate": 1e-3, "warmup_steps": 1, "epochs": 2,
        "effective_batch_size": 4, "save_steps": 1, "max_length": 512, "validation_share": 0.4, "sample_questions": 1,
        **changes,
    }
    config = make_config(folder, finetune=settings)
    write_set(config, [make_example(number) for number in range(ROWS)], [make_example(200 + number) for number in range(3)])
    return folder / "config.yaml"


def start(config: Path, processes: int, *arguments: str) -> subprocess.Popen[str]:
    """finetune.py on the CPU, under torchrun when `processes` is over 1."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launch, "finetune.py", "--config", str(config), "--limit", str(ROWS), *arguments]
    surroundings = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    return subprocess.Popen(
        command, cwd=ROOT, env={**surroundings, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )


def finetune(config: Path, processes: int, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run to the end; returns what was printed and what went to stderr."""
    process = start(config, processes, *arguments)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == code, printed + errors
    return printed, errors


def read_log(config: Path, key: str) -> list[float]:
    return [row[key] for _, row in read_jsonl(config.parent / "work" / "adapters" / "training_log.jsonl") if key in row]


def list_files(config: Path) -> set[str]:
    folder = config.parent / "work"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def require_same(found: Path, expected: Path) -> None:
    """The same losses within float noise, and a close adapter."""
    for key in ("loss", "eval_loss"):
        assert read_log(found, key) == pytest.approx(read_log(expected, key), rel=1e-4), key
    folders = (config.parent / "work" / "adapters" for config in (found, expected))
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-2, atol=1e-4, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> Path:
    """The config of a run in one process."""
    config = make_run(tmp_path_factory.mktemp("alone") / "run", tiny_phi3)
    finetune(config, 1)
    return config


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> tuple[Path, str]:
    """The config of a run in two processes, and what they printed."""
    config = make_run(tmp_path_factory.mktemp("two") / "run", tiny_phi3)
    printed, errors = finetune(config, 2)
    (config.parent / "errors.txt").write_text(errors, encoding="utf-8")
    return config, printed


def test_two_processes_make_the_run_that_one_makes(two: tuple[Path, str], alone: Path) -> None:
    assert len(read_log(alone, "loss")) == 8 and len(read_log(alone, "eval_loss")) == 8
    require_same(two[0], alone)


def test_they_leave_the_files_that_one_leaves(two: tuple[Path, str], alone: Path) -> None:
    """Manifest, card and log once; no checkpoints, no lock that is held, nothing of the second process."""
    assert list_files(two[0]) == list_files(alone)
    manifests = [json.loads((c.parent / "work/adapters/manifest.json").read_text(encoding="utf-8")) for c in (two[0], alone)]
    assert manifests[0]["counts"] == manifests[1]["counts"]
    adapter = two[0].parent / "work" / "adapters" / "adapter_model.safetensors"
    assert sha256_file(adapter) in json.dumps(manifests[0])


def test_each_line_is_printed_once(two: tuple[Path, str]) -> None:
    config, printed = two
    lines = [line for line in printed.splitlines() if line.startswith("[")]
    assert len(lines) > 6 and len(set(lines)) == len(lines)
    errors = (config.parent / "errors.txt").read_text(encoding="utf-8")
    assert "Traceback" not in errors and errors.count("training: 8/8") == 1


def test_a_finished_run_is_refused_in_one_line_a_process(two: tuple[Path, str]) -> None:
    path = two[0].parent / "work" / "adapters" / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"smoke_run": true', '"smoke_run": false'), encoding="utf-8")
    printed, errors = finetune(two[0], 2, code=1)
    assert "[FAIL]" in errors and "holds a finished run" in errors and not printed
    assert 'finetune.py", line' not in errors  # torchrun shows a traceback of its own


def test_a_run_that_is_under_way_is_not_entered(two: tuple[Path, str]) -> None:
    from distill.files import hold_lock

    before = list_files(two[0])
    lock = hold_lock(two[0].parent / "work" / "adapters")
    try:
        _, errors = finetune(two[0], 2, "--overwrite", code=1)
    finally:
        lock.release()
    assert errors.count("another run is at work") == 1 and "[rank1]" not in errors
    assert {name for name in list_files(two[0]) - before if "/cache/" not in name} == set()


def test_dry_run_leaves_nothing(tmp_path: Path, tiny_phi3: Path) -> None:
    config = make_run(tmp_path / "run", tiny_phi3)
    printed, _ = finetune(config, 2, "--dry-run")
    assert printed.count("8 steps of 4 rows") == 1 and not (config.parent / "work" / "adapters").exists()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun hands on POSIX signals")
def test_ctrl_c_saves_and_one_process_goes_on(alone: Path, tmp_path: Path, tiny_phi3: Path) -> None:
    config = make_run(tmp_path / "run", tiny_phi3)
    process = start(config, 2)
    checkpoints = config.parent / "work" / "adapters" / "checkpoints"
    wait_for(checkpoints / "checkpoint-2" / "trainer_state.json", process)
    process.send_signal(signal.SIGINT)  # to torchrun, as a terminal does; it hands it on
    printed, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and printed.count("[OK] Stopped at step ") == 1, printed + errors
    assert not (config.parent / "work" / "adapters" / "manifest.json").exists()
    printed, _ = finetune(config, 1)
    assert "Going on from step" in printed
    require_same(config, alone)


def test_a_killed_run_begins_afresh_with_overwrite(alone: Path, tmp_path: Path, tiny_phi3: Path) -> None:
    """No process may find the old checkpoints before the first has deleted them."""
    config = make_run(tmp_path / "run", tiny_phi3)
    shutil.copytree(alone.parent / "work" / "adapters", config.parent / "work" / "adapters")
    stale = config.parent / "work" / "adapters" / "checkpoints" / "checkpoint-6"
    stale.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        (stale / name).write_bytes(b"stale")
    (stale / "trainer_state.json").write_text("{}", encoding="utf-8")
    printed, _ = finetune(config, 2, "--overwrite")
    assert "Going on" not in printed
    require_same(config, alone)
