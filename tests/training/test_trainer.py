"""A step learns its rows and nothing depends on how they go through memory; a run ends with its best adapter."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainerState

from distill.config import FinetuneSection
from distill.errors import PipelineError
from distill.files import sha256_file
from distill.training.batches import plan_steps
from distill.training.checkpoints import find_last_checkpoint
from distill.training.encode import EncodedExample
from distill.training.students import load_student
from distill.training.trainer import StudentTrainer, build_trainer, describe_end
from tests.training.families import add_random_lora, make_model, make_row, make_rows, write_model

ROWS, VALIDATION = make_rows(13), make_rows(8, seed=1)
LONGEST = max(len(row.input_ids) for row in ROWS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi3 on disk."""
    return write_model("phi3", tmp_path_factory.mktemp("students") / "phi3")


def make_trainer(
    base: Path, folder: Path, *, rows: Sequence[EncodedExample] = ROWS, validation: Sequence[EncodedExample] = (),
    tokens_per_batch: int = 1_000, recompute: bool = False, difficulty: Sequence[int] | None = None, **changes: Any,
) -> StudentTrainer:
    """Four rows a step (the last of an epoch has one), two epochs unless told otherwise."""
    settings = FinetuneSection.model_validate({
        "backend": "peft", "lora_r": 4, "learning_rate": 1e-2, "warmup_steps": 1, "epochs": 2, "effective_batch_size": 4,
        "save_steps": 2, **changes,
    })
    model, _ = load_student("peft", base, settings, recompute=recompute)
    steps = plan_steps(
        len(rows), settings.effective_batch_size, settings.epochs, settings.max_steps, settings.seed, difficulty
    )
    return build_trainer(model, rows, steps, validation, settings, folder, tokens_per_batch)


def read_log(trainer: StudentTrainer, key: str = "loss") -> list[float]:
    return [row[key] for row in trainer.state.log_history if key in row]


def read_adapter(trainer: StudentTrainer) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def run_out_of_memory(trainer: StudentTrainer, largest: int) -> list[int]:
    """Let the student fail on batches of more than `largest` tokens; returns the sizes that were tried."""
    decoder, tried = trainer.model.get_base_model().get_decoder(), []

    def fail_if_too_large(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        tried.append(kwargs["input_ids"].shape[1])
        if tried[-1] > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    decoder.register_forward_pre_hook(fail_if_too_large, with_kwargs=True)
    return tried


class Alongside(TrainerCallback):
    """Calls `does` after every step."""

    def __init__(self, does: Callable[[int, Any], None]) -> None:
        self.does = does

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.does(state.global_step, control)


# -----------------------------------------------------------------------------
# A step


def test_losses_are_means_per_answer_token_of_each_step(base: Path, tmp_path: Path) -> None:
    """With a learning rate of zero every step can be computed anew."""
    trainer = make_trainer(base, tmp_path, learning_rate=0)
    steps = list(trainer.train_dataset)
    trainer.train()
    with torch.no_grad():
        expected = [
            float(sum(trainer.sum_loss(trainer.model, [row]) for row in rows)) / sum(row.answer_tokens for row in rows)
            for rows in ([ROWS[number] for number in step] for step in steps)
        ]
    assert read_log(trainer) == pytest.approx(expected, rel=1e-5)
    assert len(steps) == 8 and [len(step) for step in steps] == [4, 4, 4, 1] * 2


@pytest.mark.parametrize("tokens", [LONGEST, 60, 100])
def test_batches_of_any_size_learn_the_same(base: Path, tmp_path: Path, tokens: int) -> None:
    whole = make_trainer(base, tmp_path / "whole")
    parts = make_trainer(base, tmp_path / "parts", tokens_per_batch=tokens)
    whole.train()
    parts.train()
    assert parts.meter.batches > whole.meter.batches == 8
    assert parts.meter.tokens == whole.meter.tokens == 2 * sum(len(row.input_ids) for row in ROWS)
    assert read_log(parts) == pytest.approx(read_log(whole), rel=1e-5)
    assert read_log(parts, "grad_norm") == pytest.approx(read_log(whole, "grad_norm"), rel=1e-4)
    for name, weight in read_adapter(whole).items():
        torch.testing.assert_close(read_adapter(parts)[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_activations_computed_again_learn_the_same(base: Path, tmp_path: Path) -> None:
    kept, again = make_trainer(base, tmp_path / "kept"), make_trainer(base, tmp_path / "again", recompute=True)
    kept.train()
    again.train()
    assert again.model.get_base_model().is_gradient_checkpointing
    assert read_log(again) == pytest.approx(read_log(kept), rel=1e-6)


def test_loss_falls(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, epochs=6)
    trainer.train()
    losses = read_log(trainer)
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_only_adapters_learn(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], weight) != ("lora_" in name) for name, weight in before.items())


def test_same_rows_and_seed_give_the_same_adapter_to_the_byte(base: Path, tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("first", 42), ("second", 42), ("other", 43)):
        trainer = make_trainer(base, tmp_path / name, seed=seed, lora_dropout=0.1)
        trainer.train()
        trainer.model.save_pretrained(tmp_path / name / "adapter")
        hashes.append(sha256_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_easy_rows_are_learnt_first(base: Path, tmp_path: Path) -> None:
    difficulty = [row % 3 + 1 for row in range(len(ROWS))]
    trainer, learnt = make_trainer(base, tmp_path, epochs=1, difficulty=difficulty), []
    learn = trainer.learn
    trainer.learn = lambda rows: learnt.extend(row.example_id for row in rows) or learn(rows)
    trainer.train()
    order = [difficulty[int(name[1:])] for name in learnt]
    assert order == sorted(difficulty)


def test_a_loss_that_is_no_number_is_logged_as_it_is(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path)

    def spoil(step: int, control: Any) -> None:
        if step == 3:
            with torch.no_grad():
                next(p for p in trainer.model.parameters() if p.requires_grad).fill_(float("nan"))

    trainer.add_callback(Alongside(spoil))
    trainer.train()
    assert [math.isnan(loss) for loss in read_log(trainer)] == [False] * 3 + [True] * 5


# -----------------------------------------------------------------------------
# Out of memory


def test_out_of_memory_halves_the_batches_and_changes_nothing(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,000 tokens at once become 125, then 62: the step begins again, the rows of a step stay."""
    small = make_trainer(base, tmp_path / "small", tokens_per_batch=62)
    small.train()
    large = make_trainer(base, tmp_path / "large", tokens_per_batch=1_000)
    tried = run_out_of_memory(large, 62)
    large.train()
    printed = capsys.readouterr().out
    assert large.tokens_per_batch == 62 and max(tried[5:]) <= 62 < tried[0]
    assert printed.count("[WARN] Out of GPU memory with ") == 4
    assert "with 1,000 tokens at once: going on with 500, 4 rows a step as before" in printed
    assert read_log(large) == read_log(small)
    adapters = read_adapter(large), read_adapter(small)
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert large.meter.tokens == small.meter.tokens and large.meter.batches == small.meter.batches


def test_running_out_in_the_middle_of_a_step_leaves_no_gradients_behind(base: Path, tmp_path: Path) -> None:
    """The first batches of the step went well; they must not count twice."""
    small = make_trainer(base, tmp_path / "small", tokens_per_batch=LONGEST, max_steps=1)
    small.train()
    large = make_trainer(base, tmp_path / "large", tokens_per_batch=2 * LONGEST, max_steps=1)
    decoder, calls = large.model.get_base_model().get_decoder(), []

    def fail_at_second(module: Any, args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    decoder.register_forward_pre_hook(fail_at_second)
    large.train()
    assert large.tokens_per_batch == LONGEST
    assert read_log(large, "grad_norm") == read_log(small, "grad_norm") and read_log(large) == read_log(small)


@pytest.mark.parametrize("tokens", [1_000, LONGEST, 10])
def test_a_row_too_large_by_itself_stops_the_run(base: Path, tmp_path: Path, tokens: int) -> None:
    trainer = make_trainer(base, tmp_path, tokens_per_batch=tokens)
    run_out_of_memory(trainer, 10)
    with pytest.raises(PipelineError, match="out of GPU memory with") as problem:
        trainer.train()
    assert "\n" not in str(problem.value) and "finetune.tokens_per_batch" in str(problem.value)


# -----------------------------------------------------------------------------
# Validation


def test_validation_is_the_mean_loss_per_answer_token(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, validation=VALIDATION)
    reference = add_random_lora(make_model("phi3"))
    for (_, ours), (_, theirs) in zip(reference.named_parameters(), trainer.model.named_parameters()):
        ours.data.copy_(theirs.data)
    with torch.no_grad():
        losses = [
            reference(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss * row.answer_tokens
            for row in VALIDATION
        ]
    expected = float(sum(losses)) / sum(row.answer_tokens for row in VALIDATION)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_measuring_changes_nothing_that_is_learnt(base: Path, tmp_path: Path) -> None:
    """Not even with dropout, whose random numbers it must not use up."""
    without = make_trainer(base, tmp_path / "without", lora_dropout=0.2)
    without.train()
    measured = make_trainer(base, tmp_path / "measured", lora_dropout=0.2, validation=VALIDATION, early_stopping_patience=None)
    measured.train()
    assert read_log(measured) == read_log(without) and len(read_log(measured, "eval_loss")) == 4


def test_a_longer_validation_row_is_measured_too(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, validation=[*VALIDATION, make_row("long", 5 * LONGEST, 10)])
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_best_checkpoint_is_loaded_at_the_end(base: Path, tmp_path: Path) -> None:
    """Learning rows of noise soon makes others worse: the last adapter is not the best."""
    trainer = make_trainer(base, tmp_path, validation=VALIDATION, epochs=6, early_stopping_patience=None, learning_rate=5e-2)
    trainer.train()
    measured = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    best = min(measured, key=measured.__getitem__)
    assert best != max(measured)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(measured[best], rel=1e-6)
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{best}"


def test_best_checkpoint_is_found_where_the_folder_was_moved_to(base: Path, tmp_path: Path) -> None:
    """After its last step too, when nothing is saved any more that would name it anew."""
    changes = {"validation": VALIDATION, "epochs": 6, "early_stopping_patience": None, "learning_rate": 5e-2}
    first = make_trainer(base, tmp_path / "here", **changes)
    first.train()
    best, adapter = first.state.best_global_step, read_adapter(first)
    shutil.move(tmp_path / "here", tmp_path / "there")
    second = make_trainer(base, tmp_path / "there", **changes)
    second.train(resume_from_checkpoint=str(find_last_checkpoint(tmp_path / "there")))
    assert second.state.best_model_checkpoint == str(tmp_path / "there" / f"checkpoint-{best}")
    assert all(torch.equal(weight, adapter[name]) for name, weight in read_adapter(second).items())


def test_settings_of_now_hold_after_a_resume(base: Path, tmp_path: Path) -> None:
    stop = Alongside(lambda step, control: setattr(control, "should_training_stop", step == 2))
    first = make_trainer(base, tmp_path, save_steps=1)
    first.add_callback(stop)
    first.train()
    second = make_trainer(base, tmp_path, save_steps=4, logging_steps=2)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [row["step"] for row in second.state.log_history if "loss" in row] == [1, 2, 4, 6, 8]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]


@pytest.mark.parametrize(("best", "kept", "said"), [
    (None, None, ""), (3, "checkpoint-3", "Kept the checkpoint of step 3"), (3, None, "[WARN] The best checkpoint"),
])
def test_end_says_which_checkpoint_is_kept(best: Any, kept: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    state = TrainerState(best_global_step=best, best_model_checkpoint=kept, best_metric=1.0, global_step=8, max_steps=8)
    describe_end(state)
    assert said in capsys.readouterr().out


def test_the_last_step_is_measured_too(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, validation=VALIDATION, max_steps=5, early_stopping_patience=None)
    trainer.train()
    steps = [row["step"] for row in trainer.state.log_history if "eval_loss" in row]
    assert steps == [2, 4, 5]


def test_without_validation_rows_nothing_is_measured(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path)
    trainer.train()
    assert not read_log(trainer, "eval_loss") and trainer.state.best_model_checkpoint is None


def train_until_stopped(base: Path, folder: Path, **changes: Any) -> StudentTrainer:
    """A run that gets worse on the validation rows after a few steps and stops two checkpoints later."""
    options = {"epochs": 10, "learning_rate": 5e-2, "early_stopping_patience": 2, "save_steps": 1, **changes}
    return make_trainer(base, folder, validation=VALIDATION, **options)


def test_early_stopping_stops(base: Path, tmp_path: Path) -> None:
    trainer = train_until_stopped(base, tmp_path)
    trainer.train()
    measured = read_log(trainer, "eval_loss")
    assert len(measured) < 40 and trainer.state.global_step == len(measured)
    assert min(measured) == measured[-3] and trainer.state.best_global_step == len(measured) - 2


# -----------------------------------------------------------------------------
# Resume


@pytest.mark.parametrize("killed_after", [3, 5, 8])
def test_a_resumed_run_ends_as_an_unbroken_one(base: Path, tmp_path: Path, killed_after: int) -> None:
    """With dropout and validation, whatever checkpoint is the last. After step 8 nothing is left to learn."""
    options = {"validation": VALIDATION, "lora_dropout": 0.1, "early_stopping_patience": None}
    unbroken = make_trainer(base, tmp_path / "unbroken", **options)
    unbroken.train()

    class Killed(Exception):
        pass

    def kill(step: int, control: Any) -> None:
        if step > killed_after:
            raise Killed

    broken = make_trainer(base, tmp_path / "broken", **options)
    broken.add_callback(Alongside(kill))
    if killed_after < 8:
        with pytest.raises(Killed):
            broken.train()
    else:
        broken.train()
    resumed = make_trainer(base, tmp_path / "broken", **options)
    checkpoint = find_last_checkpoint(tmp_path / "broken")
    assert checkpoint.name == f"checkpoint-{killed_after // 2 * 2}"
    resumed.train(resume_from_checkpoint=str(checkpoint))
    for key in ("loss", "grad_norm", "eval_loss"):
        assert read_log(resumed, key) == read_log(unbroken, key), key
    adapters = read_adapter(resumed), read_adapter(unbroken)
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


def keep_up_to(folder: Path, step: int) -> Path:
    """As if the run had been killed right after `step`; returns its checkpoint."""
    for path in folder.glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > step:
            shutil.rmtree(path)
    return folder / f"checkpoint-{step}"


def test_patience_survives_a_resume(base: Path, tmp_path: Path) -> None:
    """Killed one checkpoint before it would have stopped."""
    unbroken = train_until_stopped(base, tmp_path / "run")
    unbroken.train()
    last = unbroken.state.global_step
    resumed = train_until_stopped(base, tmp_path / "run")
    checkpoint = keep_up_to(tmp_path / "run", last - 2)  # the best one, which save_total_limit spares
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == last and read_log(resumed, "eval_loss") == read_log(unbroken, "eval_loss")


def test_patience_may_change_before_a_run_goes_on(base: Path, tmp_path: Path) -> None:
    first = train_until_stopped(base, tmp_path, early_stopping_patience=None, max_steps=10)
    first.train()
    checkpoint = find_last_checkpoint(tmp_path)
    impatient = train_until_stopped(base, tmp_path, early_stopping_patience=1, max_steps=20)
    impatient.train(resume_from_checkpoint=str(checkpoint))
    measured = read_log(impatient, "eval_loss")
    assert measured[:10] == read_log(first, "eval_loss")
    assert len(measured) == impatient.state.global_step < 20 and min(measured) == min(measured[:-1])


# -----------------------------------------------------------------------------
# The plan


def test_proving_a_plan_leaves_nothing_behind(base: Path, tmp_path: Path) -> None:
    plain, proven = (make_trainer(base, tmp_path / name, lora_dropout=0.2) for name in ("plain", "proven"))
    tried = run_out_of_memory(proven, 1_000)
    state = torch.random.get_rng_state()
    proven.prove_plan()
    largest = max(sum(len(ROWS[row].input_ids) for row in step) for step in proven.train_dataset)
    assert tried == [largest] and proven.tokens_per_batch == 1_000
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(p.grad is not None for p in proven.model.parameters())
    torch.manual_seed(1)
    plain.train()
    torch.manual_seed(1)
    proven.train()
    assert read_log(plain) == read_log(proven)


def test_a_plan_that_does_not_fit_is_mended_before_the_first_step(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, tokens_per_batch=240)
    tried = run_out_of_memory(trainer, 62)
    trainer.prove_plan()
    assert trainer.tokens_per_batch == 60 and tried[-1] <= 60 < 62 < min(tried[:-1])
    assert trainer.state.global_step == 0 and not any(p.grad is not None for p in trainer.model.parameters())


def test_a_row_that_no_plan_fits_stops_before_the_first_step(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path)
    run_out_of_memory(trainer, 10)
    with pytest.raises(PipelineError, match="out of GPU memory"):
        trainer.prove_plan()


def test_nothing_is_reported_to_anybody(base: Path, tmp_path: Path) -> None:
    assert make_trainer(base, tmp_path).args.report_to == []
