"""Which checkpoint a killed run goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distill.errors import PipelineError
from distill.training.checkpoints import NEEDED, find_last_checkpoint, open_folder, require_same_run


def make_checkpoint(folder: Path, step: int, without: str = "", state: str = "{}", random_state: str = "rng_state.pth") -> Path:
    """With tensors large enough that the middle of each file is one of their values."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"a": torch.ones(5_000), "b": torch.ones(5_000)}, path / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", random_state):
        torch.save({"value": torch.ones(10_000)}, path / name)
    (path / "trainer_state.json").write_text(state, encoding="utf-8")
    if without:
        (path / without).unlink()
    return path


def test_highest_complete_checkpoint_wins(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 9)
    expected = make_checkpoint(tmp_path, 10)
    assert find_last_checkpoint(tmp_path) == expected


def test_a_run_on_several_gpus_goes_on_on_any_number(tmp_path: Path) -> None:
    """Each of its processes saves a random state of its own."""
    expected = make_checkpoint(tmp_path, 5, random_state="rng_state_0.pth")
    assert find_last_checkpoint(tmp_path) == expected


@pytest.mark.parametrize("missing", [*NEEDED, "rng_state.pth"])
def test_half_written_checkpoint_is_passed_over(tmp_path: Path, missing: str) -> None:
    expected = make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 10, without=missing)
    assert find_last_checkpoint(tmp_path) == expected


def test_torn_state_is_passed_over(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 10, state='{"global_step": 1')
    assert find_last_checkpoint(tmp_path) is None


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = {
    "emptied": lambda data: b"",
    "cut to half": lambda data: data[: len(data) // 2],
    "last byte lost": lambda data: data[:-1],
    "zeros of the same length": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("name", [*NEEDED, "rng_state_1.pth"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_power_cut_leaves_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    """Any file may be torn beside whole ones: nothing that transformers writes waits for the disk."""
    expected = make_checkpoint(tmp_path, 5)
    torn = make_checkpoint(tmp_path, 10)
    torch.save({"value": torch.ones(10_000)}, torn / "rng_state_1.pth")
    assert find_last_checkpoint(tmp_path) == torn
    (torn / name).write_bytes(DAMAGES[damage]((torn / name).read_bytes()))
    assert find_last_checkpoint(tmp_path) == expected


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_changed_bit_is_passed_over(tmp_path: Path, name: str) -> None:
    expected = make_checkpoint(tmp_path, 5)
    damaged = make_checkpoint(tmp_path, 10) / name
    damaged.write_bytes(flip_a_bit(damaged.read_bytes()))
    assert find_last_checkpoint(tmp_path) == expected


@pytest.mark.parametrize("name", ["checkpoint-75 - Copy", "checkpoint-", "checkpoint-75.zip", "checkpoint-best"])
def test_a_users_own_copy_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    expected = make_checkpoint(tmp_path, 5)
    make_checkpoint(tmp_path, 75).rename(tmp_path / name)
    assert find_last_checkpoint(tmp_path) == expected


def test_run_that_saved_nothing_holds_nobody_back(tmp_path: Path) -> None:
    require_same_run(tmp_path, {"targets": "wrong"})
    make_checkpoint(tmp_path / "checkpoints", 1, without="optimizer.pt")
    require_same_run(tmp_path, {"targets": "right"})


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    open_folder(tmp_path, {"seed": 1, "data": "a"})
    make_checkpoint(tmp_path / "checkpoints", 1)
    open_folder(tmp_path, {"seed": 1, "data": "a"})
    with pytest.raises(PipelineError, match=r"holds an unfinished run that differs in data \(was a\): .*--overwrite"):
        require_same_run(tmp_path, {"seed": 1, "data": "b"})
