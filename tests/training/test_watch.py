"""The log across evaluations and resumes, the checks that stop or warn, and what is reported where."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.files import read_jsonl
from distill.progress import Progress
from distill.training.encode import IGNORE, EncodedExample
from distill.training.trainer import build_trainer
from distill.training.watch import (
    LearningCheck,
    Pace,
    StepMeter,
    StepTimeCheck,
    TensorBoardEvents,
    TrainingLog,
    describe,
    explain_slowdown,
    find_slowdown,
    require_tensorboard,
)
from tests.training.runs import TOKENS, Slope, make_trainer

GIB = 2**30


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def make_log(path: Path, meter: StepMeter, steps: int = 8, resumed_step: int = 0, **options: Any) -> TrainingLog:
    return TrainingLog(path, Progress(steps, "training", "step", done=resumed_step), resumed_step, meter, **options)


def train(folder: Path, steps: int, **changes: Any) -> list[dict[str, Any]]:
    """The rows that a run leaves in its log."""
    meter = StepMeter()
    make_trainer(folder, [make_log(folder / "log.jsonl", meter)], steps, meter=meter, **changes).train()
    return read_rows(folder / "log.jsonl")


# -----------------------------------------------------------------------------
# The log


def test_each_step_is_a_row_with_what_a_person_wants_to_know(tmp_path: Path) -> None:
    rows = train(tmp_path, 4)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0].keys() == {"step", "loss", "grad_norm", "learning_rate", "tokens_per_second", "seconds"}
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert rows[-1]["seconds"] >= rows[0]["seconds"]


def test_epoch_is_the_one_that_the_plan_gives(tmp_path: Path) -> None:
    meter = StepMeter()
    log = make_log(tmp_path / "log.jsonl", meter, epoch_of=lambda step: step / 2)
    make_trainer(tmp_path, [log], 3, meter=meter, eval_strategy="steps", eval_steps=3).train()
    *learnt, measured = read_rows(tmp_path / "log.jsonl")
    assert [row["epoch"] for row in learnt] == [0.5, 1.0, 1.5]
    assert measured.keys() == {"step", "eval_loss", "seconds"}


def test_validation_has_rows_of_its_own(tmp_path: Path) -> None:
    rows = train(tmp_path, 4, eval_strategy="steps", eval_steps=2)
    measured = [row for row in rows if "eval_loss" in row]
    assert [row["step"] for row in measured] == [2, 4]
    assert measured[0].keys() == {"step", "eval_loss", "seconds"}
    assert len(rows) == 6


def test_a_run_in_two_parts_leaves_the_log_of_an_unbroken_one(tmp_path: Path) -> None:
    changes = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    whole = train(tmp_path / "whole", 6, **changes)

    train(tmp_path / "parts", 6, **changes)
    path = tmp_path / "parts" / "log.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"step": 7, "lo')
    meter = StepMeter()
    trainer = make_trainer(tmp_path / "parts", [make_log(path, meter, resumed_step=4)], 6, meter=meter, **changes)
    trainer.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-4"))

    told = ("step", "loss", "grad_norm", "learning_rate", "eval_loss")
    assert [{key: row.get(key) for key in told} for row in read_rows(path)] == [
        {key: row.get(key) for key in told} for row in whole
    ]
    seconds = [row["seconds"] for row in read_rows(path)]
    assert seconds == sorted(seconds)


def test_a_run_without_checkpoint_begins_its_log_anew(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 9.0, "seconds": 1.0}\n', encoding="utf-8")
    assert [row["loss"] for row in train(tmp_path, 1)] != [9.0]


def test_only_the_first_of_several_processes_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("the first one's\n", encoding="utf-8")
    log = make_log(path, StepMeter(), steps=1)
    state = SimpleNamespace(is_world_process_zero=False, global_step=1)
    log.on_train_begin(None, state, None)
    log.on_log(None, state, None, logs={"loss": 1.0})
    log.on_step_end(None, state, None)
    log.on_train_end(None, state, None)
    assert path.read_text(encoding="utf-8") == "the first one's\n"
    assert capsys.readouterr().err == ""


def test_what_is_no_number_is_null_so_that_every_reader_takes_the_log(tmp_path: Path) -> None:
    train(tmp_path, 1, losses=[float("nan")], logging_nan_inf_filter=False)
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text and json.loads(text)["loss"] is None


def test_progress_tells_loss_speed_memory_and_validation() -> None:
    shown = {"loss": 1.25, "tokens_per_second": 12345.6, "peak_gb": 6.34, "eval_loss": 1.5, "grad_norm": 3.0}
    assert describe(shown) == "loss 1.2500, validation 1.5000, 12,346 tokens/s, 6.3 GB"
    assert describe({}) == ""


def test_validation_loss_stays_beside_the_bar_until_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meter = StepMeter()
    log = make_log(tmp_path / "log.jsonl", meter, steps=3)
    make_trainer(tmp_path, [log], 3, meter=meter, eval_strategy="steps", eval_steps=2).train()
    last = capsys.readouterr().err.splitlines()[-1]
    assert "3/3 step" in last and "loss " in last and "validation " in last and "tokens/s" in last


def test_pace_leaves_out_what_lies_between_a_log_line_and_the_next_step() -> None:
    meter = StepMeter()
    pace = Pace(meter)
    pace.start()
    meter.add(1000, 1)
    time.sleep(0.05)
    assert 0 < pace.finish() <= 1000 / 0.05
    time.sleep(0.5)  # measuring and saving
    pace.start()
    meter.add(1000, 1)
    pace.start()  # a second step before the next log line
    assert pace.finish() > 1000 / 0.5


def test_pace_without_a_step_or_without_tokens_is_unknown() -> None:
    pace = Pace(StepMeter())
    assert pace.finish() is None
    pace.start()
    assert pace.finish() is None


# -----------------------------------------------------------------------------
# TensorBoard


def test_missing_tensorboard_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(PipelineError, match=r"finetune.tensorboard is true .*: pip install tensorboard, or set it to false"):
        require_tensorboard()
    with pytest.raises(PipelineError, match="tensorboard"):
        TensorBoardEvents(tmp_path)


def test_events_hold_the_numbers_of_the_log_and_no_path(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path / "out", [TensorBoardEvents(tmp_path / "events")], 3, losses=[3.0, 2.0, 1.0]).train()
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert set(events.Tags()["scalars"]) == {"loss", "grad_norm", "learning_rate"} and not events.Tags()["tensors"]
    (file,) = (tmp_path / "events").iterdir()
    assert str(tmp_path).encode() not in file.read_bytes()


def test_events_beyond_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(tmp_path / "out", [TensorBoardEvents(tmp_path / "events")], 4, **changes).train()
    time.sleep(1.1)  # TensorBoard orders the files of a folder by the second they were begun in
    trainer = make_trainer(tmp_path / "out", [TensorBoardEvents(tmp_path / "events")], 4, **changes)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


@pytest.mark.parametrize("tensorboard", [False, True])
def test_nothing_is_reported_to_any_service(tmp_path: Path, tiny_phi3: Path, tensorboard: bool) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    settings = FinetuneSection(tensorboard=tensorboard)
    rows = [EncodedExample("a", [5, 6, 7, 8], [IGNORE, IGNORE, 7, 8])]
    model = AutoModelForCausalLM.from_pretrained(tiny_phi3)
    trainer = build_trainer(model, rows, [[0]], rows, settings, tmp_path, 64)
    assert trainer.args.report_to == []
    assert not {type(callback) for callback in trainer.callback_handler.callbacks} & set(INTEGRATION_TO_CALLBACK.values())


# -----------------------------------------------------------------------------
# Learning


def follow(losses: list[float], warmup_steps: int = 0, check: LearningCheck | None = None) -> int | None:
    """The step at which a run with these losses is stopped, None if never."""
    check = check or LearningCheck()
    args = SimpleNamespace(get_warmup_steps=lambda steps: warmup_steps)
    for step, loss in enumerate(losses, start=1):
        state = SimpleNamespace(global_step=step, max_steps=len(losses))
        try:
            check.on_log(args, state, None, logs={"loss": loss})
        except PipelineError:
            return step
    return None


@pytest.mark.parametrize(("losses", "stopped_at"), [
    pytest.param([2.0] * 30, None, id="flat"),
    pytest.param([2.0, 1.0, 0.5, 0.1, 0.01] + [0.001] * 10 + [0.9] * 5, None, id="noise about zero"),
    pytest.param([1.0] * 10 + [8.0] + [1.0] * 10, None, id="one bad row"),
    pytest.param([0.8] * 10 + [2.2] * 10, None, id="easy rows first"),
    pytest.param([1.0] * 10 + [11.0] * 10, 12, id="explosion"),
    pytest.param([3.0, 2.0, 1.0, 1.0, 1.0] + [12.0] * 10, 8, id="as soon as the mean tells"),
    pytest.param([2.0] * 3 + [12.0] * 3, None, id="too few to know"),
])
def test_exploding_loss_stops_the_run(losses: list[float], stopped_at: int | None) -> None:
    assert follow(losses) == stopped_at


def test_explosion_during_warm_up_is_judged_after_it() -> None:
    assert follow([1.0] * 10 + [12.0] * 20, warmup_steps=15) == 16


def test_loss_before_the_checkpoint_counts_after_a_resume() -> None:
    check = LearningCheck()
    history = [{"loss": 1.0, "step": step} for step in range(1, 6)] + [{"eval_loss": 1.0, "step": 5}]
    check.on_train_begin(SimpleNamespace(), SimpleNamespace(log_history=history, global_step=5), None, model=Slope())
    assert follow([12.0] * 5, check=check) == 2  # two of the last five are enough
    assert follow([12.0] * 5) is None


@pytest.mark.parametrize("key", ["loss", "eval_loss"])
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_no_number_stops_the_run_with_advice(key: str, loss: float) -> None:
    with pytest.raises(PipelineError, match=r"loss is .* at step 3: look at the rows of the last steps, halve finetune"):
        LearningCheck().on_log(None, SimpleNamespace(global_step=3), None, logs={key: loss})


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_transformers_hides_no_such_loss_from_the_check(tmp_path: Path, loss: float) -> None:
    trainer = make_trainer(tmp_path, [LearningCheck()], 6, losses=[1.0, 1.0, loss, 1.0, 1.0, 1.0])
    with pytest.raises(PipelineError, match=rf"the loss is {loss} at step 3"):
        trainer.train()


@pytest.mark.parametrize(("logging_steps", "named"), [
    (1, r"rows of the last steps \(3a, 3b\), halve"),
    (3, r"rows of the last steps \(1a, 1b, 2a, 2b, 3a, 3b\), halve"),
    (6, r"\(1a, 1b, 2a, 2b, 3a, 3b, 4a, 4b and 4 more\)"),
])
def test_rows_since_the_last_log_line_are_named(tmp_path: Path, logging_steps: int, named: str) -> None:
    check = LearningCheck(rows_of=lambda step: [f"{step}a", f"{step}b"])
    losses = [1.0, 1.0, math.nan, 1.0, 1.0, 1.0]
    trainer = make_trainer(tmp_path, [check], 6, losses=losses, logging_steps=logging_steps, logging_first_step=False)
    with pytest.raises(PipelineError, match=named):
        trainer.train()


def test_rows_before_a_bad_measurement_are_named_too() -> None:
    check = LearningCheck(rows_of=lambda step: [f"{step}a"])
    check.on_train_begin(SimpleNamespace(), SimpleNamespace(log_history=[], global_step=3), None, model=Slope())
    with pytest.raises(PipelineError, match=r"the validation loss is nan at step 3: .* \(3a\)"):
        check.on_log(None, SimpleNamespace(global_step=3), None, logs={"eval_loss": math.nan})


def test_exploding_run_ends_in_the_trainer(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [LearningCheck()], 20, losses=[1.0] * 8 + [50.0] * 12)
    with pytest.raises(PipelineError, match=r"the loss rose from 1\.00 to 10\.80 by step 9: "):
        trainer.train()
    assert trainer.state.global_step == 9


def test_adapters_are_checked_after_the_first_step_that_can_move_them(tiny_phi3: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(r=4, target_modules=["qkv_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_phi3), lora)
    check, schedule = LearningCheck(), SimpleNamespace(get_last_lr=lambda: [0.0])
    check.on_train_begin(SimpleNamespace(), SimpleNamespace(log_history=[], global_step=0), None, model=model)
    check.on_step_begin(None, None, None, lr_scheduler=schedule)
    check.on_step_end(None, None, None, model=model)
    check.on_step_begin(None, None, None, lr_scheduler=SimpleNamespace(get_last_lr=lambda: [1e-5]))
    with pytest.raises(PipelineError, match="did not move"):
        check.on_step_end(None, None, None, model=model)


def test_step_that_float16_leaves_out_proves_nothing() -> None:
    check, schedule = LearningCheck(), SimpleNamespace(get_last_lr=lambda: [1e-5])
    check.on_step_begin(None, None, None, lr_scheduler=schedule)
    check.on_step_end(None, None, None, model=None, optimizer=SimpleNamespace(step_was_skipped=True))


# -----------------------------------------------------------------------------
# Speed


@pytest.mark.parametrize(("rates", "logging_steps", "found"), [
    pytest.param([1.0] * 3 + [100.0] * 20 + [30.0] * 5, 1, (100.0, 30.0), id="collapsed"),
    pytest.param([1.0] * 3 + [100.0] * 20 + [34.0] * 5, 1, None, id="slower, not collapsed"),
    pytest.param([1.0] * 3 + [100.0] * 20 + [100.0] * 3 + [1.0] * 2, 1, None, id="two slow steps are chance"),
    pytest.param([1.0] * 3 + [100.0] * 20 + [1.0] * 4, 1, None, id="too early to know"),
    pytest.param([900.0] * 3 + [100.0] * 25, 1, None, id="first steps do not count"),
    pytest.param([1.0] + [100.0] * 2 + [10.0], 10, (100.0, 10.0), id="a log line every ten steps"),
])
def test_slowdown_is_found(rates: list[float], logging_steps: int, found: tuple[float, float] | None) -> None:
    assert find_slowdown(rates, logging_steps) == found


def test_collapsed_step_time_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meter = StepMeter()
    trainer = make_trainer(
        tmp_path, [StepTimeCheck(meter)], 40, meter=meter, during=lambda step: time.sleep(0.005 if step < 25 else 0.08)
    )
    trainer.train()
    said = [line for line in capsys.readouterr().out.splitlines() if "[WARN]" in line]
    assert len(said) == 1 and "tokens/s instead of" in said[0] and "another program" in said[0]
    assert meter.tokens == 40 * TOKENS and meter.batches == 40


@pytest.mark.parametrize(("windows", "reserved", "total", "parts"), [
    (True, 4 * GIB, 24 * GIB, ["Sysmem Fallback", "finetune.vram_gb", "tokens_per_batch"]),
    (False, 23 * GIB, 24 * GIB, ["96% of the GPU memory is taken", "Sysmem Fallback", "tokens_per_batch"]),
    (False, 12 * GIB, 24 * GIB, ["nvidia-smi"]),
    (True, 0, 0, ["another program"]),
    (False, 0, 0, ["another program"]),
])
def test_reason_for_a_slowdown_fits_the_machine(windows: bool, reserved: int, total: int, parts: list[str]) -> None:
    text = explain_slowdown(windows, reserved, total)
    assert all(part in text for part in parts)
    assert ("Sysmem" in text) == ("Sysmem Fallback" in parts)
