"""Steps, the log across a resume, and the checks that watch the run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.files import read_jsonl, write_jsonl_atomic
from distill.progress import Progress
from distill.training.trainer import LearningCheck, TrainingLog, count_steps, draw_loss


@pytest.mark.parametrize(
    ("rows", "changes", "steps"),
    [
        (64, {"epochs": 3}, 24),
        (65, {"epochs": 1}, 9),
        (3, {"epochs": 2}, 2),
        (64, {"epochs": 0.5}, 4),
        (64, {"max_steps": 7}, 7),
    ],
)
def test_steps(rows: int, changes: dict, steps: int) -> None:
    assert count_steps(rows, FinetuneSection.model_validate(changes)) == steps


def test_log_after_a_resume_has_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_jsonl_atomic(path, [{"step": step, "loss": 1.0, "seconds": step} for step in range(1, 6)])
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')
    log = TrainingLog(path, Progress(8, "training", "step"), resumed_step=4)
    log.on_log(None, SimpleNamespace(global_step=5), None, logs={"loss": 0.5, "learning_rate": 1e-4, "other": 1})
    log.on_train_end(None, None, None)
    assert [row["step"] for _, row in read_jsonl(path)] == [1, 2, 3, 4, 5]
    assert [row["loss"] for _, row in read_jsonl(path)][-1] == 0.5


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_no_number_stops_the_run(loss: float) -> None:
    with pytest.raises(PipelineError, match=r"at step 3: halve finetune.learning_rate"):
        LearningCheck().on_log(None, SimpleNamespace(global_step=3), None, logs={"loss": loss})


def test_adapters_are_checked_after_the_first_step_that_can_move_them(tiny_phi3: Path) -> None:
    from distill.training.students import load_student

    model, _ = load_student("trl", tiny_phi3, FinetuneSection.model_validate({"backend": "trl", "lora_r": 4}))
    check, schedule = LearningCheck(), SimpleNamespace(get_last_lr=lambda: [0.0])
    check.on_step_begin(None, None, None, lr_scheduler=schedule)
    check.on_step_end(None, None, None, model=model)
    check.on_step_begin(None, None, None, lr_scheduler=SimpleNamespace(get_last_lr=lambda: [1e-5]))
    with pytest.raises(PipelineError, match="did not move"):
        check.on_step_end(None, None, None, model=model)


def test_trainer_batches_hold_the_labels_that_were_made(tiny_phi3: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from distill.training.encode import IGNORE, EncodedExample
    from distill.training.students import load_student
    from distill.training.trainer import build_trainer

    settings = FinetuneSection.model_validate({"backend": "trl", "lora_r": 4, "batch_size": 2})
    model, _ = load_student("trl", tiny_phi3, settings)
    rows = [EncodedExample("a", [5, 6, 7, 8], [IGNORE, IGNORE, 7, 8]), EncodedExample("b", [9, 10], [IGNORE, 10])]
    trainer = build_trainer(model, AutoTokenizer.from_pretrained(tiny_phi3), rows, settings, tmp_path)
    (batch,) = list(trainer.get_train_dataloader())
    found = {tuple(row) for row in batch["labels"].tolist()}
    assert found == {(IGNORE, IGNORE, 7, 8), (IGNORE, 10, IGNORE, IGNORE)}


def test_loss_is_drawn(tmp_path: Path) -> None:
    write_jsonl_atomic(tmp_path / "log.jsonl", [{"step": step, "loss": 1 / step} for step in range(1, 40)])
    draw_loss(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
