"""Several processes learn what one learns. On the CPU, with gloo, as transformers does it with NCCL on several GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.errors import PipelineError
from distill.training.checkpoints import find_last_checkpoint
from distill.training.processes import choose_device, count_processes, is_first, meet, take_lowest, wait_for_others
from tests.training.families import write_model

ROOT = Path(__file__).parent.parent.parent
SCRIPT = Path(__file__).parent / "several_processes.py"


def train(processes: int, base: Path, folder: Path, tokens_per_batch: int = 1_000, checkpoint: Path | None = None) -> Path:
    """A run in `folder`; returns it."""
    folder.mkdir(exist_ok=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    arguments = [str(base), str(folder), str(tokens_per_batch), *([str(checkpoint)] if checkpoint else [])]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), *arguments], cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, encoding="utf-8", timeout=300,
    )
    # On a busy CPU gloo's threads sometimes abort a process that has ended its work (SIGABRT at exit): what it wrote counts.
    wrote_all = all((folder / f"found_{process}.json").exists() for process in range(processes))
    assert done.returncode == 0 or ("exitcode: -6" in done.stderr and wrote_all), done.stdout + done.stderr
    return folder


def read(folder: Path, process: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"found_{process}.json").read_text(encoding="utf-8"))


def read_log(folder: Path, key: str, process: int = 0) -> list[float]:
    return [row[key] for row in read(folder, process)["log"] if key in row]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("phi3", tmp_path_factory.mktemp("students") / "phi3")


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process."""
    return train(1, base, tmp_path_factory.mktemp("processes") / "alone")


@pytest.fixture(scope="module")
def two(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two, each with its rows in several batches, and not the same number of them."""
    return train(2, base, tmp_path_factory.mktemp("processes") / "two", tokens_per_batch=45)


def require_same(found: Path, expected: Path) -> None:
    for key, tolerance in (("loss", 1e-5), ("eval_loss", 1e-5), ("grad_norm", 1e-4)):
        assert read_log(found, key) == pytest.approx(read_log(expected, key), rel=tolerance), key
    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-5, msg=name)


# -----------------------------------------------------------------------------
# One process among several


def test_alone_there_is_nobody_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    wait_for_others()
    assert is_first() and count_processes() == 1 and take_lowest(3.0, 1.0) == [3.0, 1.0]
    assert not torch.distributed.is_initialized()


def test_without_torchrun_one_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    choose_device()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")  # transformers would spread a batch over both
    choose_device()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # the user's choice
    choose_device()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_gpus_that_cannot_speak_to_one_another_are_refused_in_one_line() -> None:
    """PyTorch as it is published has no MPI, as that for Windows has no NCCL."""
    with pytest.raises(PipelineError, match="several GPUs need MPI, which this PyTorch has not") as problem:
        meet("mpi")
    assert "docs/SCALING.md" in str(problem.value) and "\n" not in str(problem.value)


@pytest.mark.parametrize(("rank", "printed"), [("0", "hello\n"), ("1", "")])
def test_the_first_process_alone_prints(rank: str, printed: str) -> None:
    code = "from distill.training.processes import quieten_others; quieten_others(); print('hello')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "RANK": rank}, capture_output=True, text=True, check=True
    )
    assert done.stdout == printed


# -----------------------------------------------------------------------------
# Several against one


def test_two_processes_learn_what_one_learns(two: Path, alone: Path) -> None:
    """Same losses, validation, gradients and adapter, though the last step of an epoch has one row for both."""
    assert (read(two)["processes"], read(two)["mode"]) == (2, "distributed")
    assert (read(alone)["processes"], read(alone)["mode"]) == (1, "not_parallel")
    assert len(read_log(two, "loss")) == 8 and len(read_log(two, "eval_loss")) == 4
    require_same(two, alone)


def test_every_process_knows_the_same_figures(two: Path) -> None:
    """Or one would stop early and the other wait for it."""
    for key in ("loss", "eval_loss", "grad_norm"):
        assert read_log(two, key, 0) == read_log(two, key, 1)
    assert read(two, 0)["best"] == read(two, 1)["best"]
    assert read(two, 0)["lowest"] == read(two, 1)["lowest"] == [10.0, 19.0]


def test_the_meter_counts_the_tokens_of_all_processes(two: Path, alone: Path) -> None:
    assert read(two)["tokens"] == read(alone)["tokens"]


def test_more_processes_than_rows_in_a_step(base: Path, alone: Path, tmp_path: Path) -> None:
    require_same(train(5, base, tmp_path / "five"), alone)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_on_two_goes_on_on_any_number(processes: int, two: Path, base: Path, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "checkpoint-8")
    checkpoint = find_last_checkpoint(folder)
    assert checkpoint is not None
    train(processes, base, folder, checkpoint=checkpoint)
    require_same(folder, alone)
