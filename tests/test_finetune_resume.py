"""Stage 2 stopped at any moment, by a kill or by Ctrl-C: the same command goes on and ends where an unbroken run ends."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.stage2 import (
    STEPS,
    Script,
    find_adapters,
    finetune,
    kill_at,
    list_outcome,
    make_run,
    read_log,
    read_manifest,
    start,
    wait_for,
    write_config,
)

DROPOUT = {"lora_dropout": 0.1}  # so that the state of the random numbers counts; the masks hang on tokens_per_batch, too


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(monkeypatch, capsys)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> Path:
    """The config of a run that nobody stopped."""
    config = make_run(tmp_path_factory.mktemp("unbroken") / "run", tiny_phi3)
    finetune(config)
    return config


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> Path:
    """The config of a run that was killed after its third checkpoint."""
    config = make_run(tmp_path_factory.mktemp("killed") / "run", tiny_phi3)
    kill_at(config, 3)
    return config


@pytest.fixture
def copied(killed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    shutil.copytree(killed.parent, tmp_path / "run")
    return tmp_path / "run" / "config.yaml"


def list_checkpoints(config: Path) -> list[Path]:
    """The highest last."""
    found = (find_adapters(config) / "checkpoints").glob("checkpoint-*")
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


# -----------------------------------------------------------------------------
# Kill


@pytest.fixture(scope="module")
def by_chance(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> Path:
    """The config of an unbroken run that draws random numbers at every step."""
    config = make_run(tmp_path_factory.mktemp("by_chance") / "run", tiny_phi3, **DROPOUT)
    finetune(config)
    return config


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_killed_at_any_moment_it_ends_the_same(by_chance: Path, tmp_path: Path, tiny_phi3: Path, seed: int) -> None:
    """Two kills, at random moments of the training; the second may come before the run has learnt anything new."""
    config = make_run(tmp_path / "run", tiny_phi3, **DROPOUT)
    moments = random.Random(seed)
    for _ in range(2):
        process = start(config)
        wait_for(find_adapters(config) / "training_log.jsonl", process)
        time.sleep(moments.uniform(0, 2))
        process.kill()
        process.communicate()
    if not (find_adapters(config) / "manifest.json").exists():
        finetune(config)
    assert list_outcome(config) == list_outcome(by_chance)


@pytest.mark.parametrize("name", [
    "adapter_model.safetensors", *(pytest.param(name, marks=pytest.mark.slow) for name in ("", "optimizer.pt", "scheduler.pt")),
])
def test_killed_while_it_writes_a_checkpoint(unbroken: Path, tmp_path: Path, tiny_phi3: Path, name: str) -> None:
    """As soon as the folder, or one of its files, is there."""
    config = make_run(tmp_path / "run", tiny_phi3)
    kill_at(config, 4, name)
    printed = finetune(config)
    assert "Going on from step 3" in printed or "Going on from step 4" in printed
    assert list_outcome(config) == list_outcome(unbroken)
    assert not (find_adapters(config) / "checkpoints").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(("name", "damage"), [
    ("trainer_state.json", Path.unlink), ("trainer_state.json", cut), ("optimizer.pt", Path.unlink),
    ("rng_state.pth", Path.unlink), ("adapter_model.safetensors", Path.unlink),
])
def test_half_written_checkpoint_is_passed_over(
    unbroken: Path, copied: Path, script: Script, name: str, damage: Callable[[Path], None]
) -> None:
    before, last = list_checkpoints(copied)[-2:]
    damage(last / name)
    assert f"[OK] Going on from step {before.name.split('-')[1]} of {STEPS}" in script(copied)
    assert list_outcome(copied) == list_outcome(unbroken)


# The loss on the validation rows is lowest after step 3 and training stops after step 6.
OVERSHOOTING = {"learning_rate": 0.03, "lr_scheduler": "constant_with_warmup", "early_stopping_patience": 3}


@pytest.fixture(scope="module")
def overshot(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> Path:
    """The config of an unbroken run that stopped early."""
    config = make_run(tmp_path_factory.mktemp("overshot") / "run", tiny_phi3, **OVERSHOOTING)
    printed = finetune(config)
    assert "[OK] Stopped early at step 6 of 8" in printed and "[OK] Kept the checkpoint of step 3" in printed
    return config


def test_unfinished_run_that_was_moved_keeps_its_best_checkpoint(
    overshot: Path, tmp_path: Path, tiny_phi3: Path, script: Script
) -> None:
    """transformers writes down where the best checkpoint lay; another machine has other folders."""
    kill_at(make_run(tmp_path / "here", tiny_phi3, **OVERSHOOTING), 4)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there" / "config.yaml"
    assert "[OK] Kept the checkpoint of step 3" in script(moved)
    assert list_outcome(moved) == list_outcome(overshot)


def break_off_at_the_end(config: Path) -> None:
    """All steps are learnt and saved, but not the output."""
    (find_adapters(config) / "loss.png").mkdir(parents=True)
    assert "loss.png" in finetune(config, code=1)
    (find_adapters(config) / "loss.png").rmdir()


def test_killed_after_the_last_step_nothing_is_learnt_twice(
    unbroken: Path, tmp_path: Path, tiny_phi3: Path, script: Script
) -> None:
    config = make_run(tmp_path / "run", tiny_phi3)
    break_off_at_the_end(config)
    assert f"Going on from step {STEPS} of {STEPS}" in script(config)
    assert list_outcome(config) == list_outcome(unbroken)


def test_killed_after_an_early_stop_nothing_more_is_learnt(
    overshot: Path, tmp_path: Path, tiny_phi3: Path, script: Script
) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, **OVERSHOOTING)
    break_off_at_the_end(config)
    printed = script(config)
    assert "[OK] Stopped early at step 6 of 8" in printed and "[OK] Kept the checkpoint of step 3" in printed
    assert list_outcome(config) == list_outcome(overshot)


# -----------------------------------------------------------------------------
# Ctrl-C


@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one process there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(
    unbroken: Path, tmp_path: Path, tiny_phi3: Path, number: signal.Signals
) -> None:
    for attempt in range(4):  # on a busy machine the run may end before the signal reaches it
        config = make_run(tmp_path / f"run{attempt}", tiny_phi3, save_steps=100)
        process = start(config)
        wait_for(find_adapters(config) / "training_log.jsonl", process)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=240)
        if process.returncode != 0:
            break
    assert process.returncode == 130 and "Traceback" not in printed, printed
    last = list_checkpoints(config)[-1].name.split("-")[1]
    assert f"[OK] Stopped at step {last}: run the same command to go on" in printed
    assert not (find_adapters(config) / "manifest.json").exists()
    assert f"Going on from step {last} of {STEPS}" in finetune(config)
    assert read_log(config) == read_log(unbroken)
    assert read_manifest(config)["details"]["resumed_from_step"] == int(last)


# -----------------------------------------------------------------------------
# Other settings


@pytest.mark.parametrize(("changes", "named"), [
    ({"learning_rate": 0.02}, "learning_rate"),
    ({"lora_r": 8}, "lora_r"),
    ({"effective_batch_size": 8}, "effective_batch_size"),
    ({"seed": 7}, "seed"),
    ({"max_steps": 9}, "max_steps"),
    ({"curriculum": True}, "curriculum"),
    ({"validation_share": 0.2}, "rows, validation_share"),
])
def test_another_setting_refuses_to_go_on(
    copied: Path, tiny_phi3: Path, script: Script, changes: dict[str, Any], named: str
) -> None:
    write_config(copied.parent, tiny_phi3, **changes)
    printed = script(copied, code=1)
    line = printed.split("adapters/ holds an unfinished run that differs in ")[1].split(": put the old value back")[0]
    assert [part.split(" ")[0] for part in line.split(", ")] == named.split(", ")
    assert all("(was " in part for part in line.split(", "))
    assert "Traceback" not in printed and list_checkpoints(copied)


def test_fewer_rows_refuse_to_go_on(copied: Path, script: Script) -> None:
    assert "holds an unfinished run that differs in rows" in script(copied, "--limit", "105", code=1)


@pytest.mark.parametrize("changes", [
    {"tokens_per_batch": 700}, {"vram_gb": 12}, {"save_steps": 2}, {"sample_questions": 1}, {"load_in_4bit": False},
])
def test_what_does_not_change_the_result_may_change(
    unbroken: Path, copied: Path, tiny_phi3: Path, script: Script, changes: dict[str, Any]
) -> None:
    write_config(copied.parent, tiny_phi3, **changes)
    assert "Going on from step" in script(copied)
    assert read_log(copied) == pytest.approx(read_log(unbroken), rel=1e-4)
    if "tokens_per_batch" in changes:
        assert read_manifest(copied)["details"]["plan"]["batches"] > 1
