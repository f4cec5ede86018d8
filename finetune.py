"""
Stage 2 of 4: fine-tune the student on the teacher's answers (QLoRA).

    python finetune.py
    python finetune.py --dry-run        # check rows, lengths, machine and plan; load no weights
    python finetune.py --limit 8        # a smoke run on the first 8 rows
    python finetune.py --overwrite      # start afresh; without it an unfinished run goes on
    python finetune.py --download       # fetch the base model, and nothing else

Ctrl-C saves a checkpoint first, and the same command goes on from it. Several GPUs: docs/SCALING.md.

Reads   training_data/   from generate_training_data.py
Writes  adapters/        for export_gguf.py: the adapter, its model card, training_log.jsonl, loss.png, the base's tokenizer
Needs   the base model on disk (16-bit safetensors) and one CUDA GPU; a small student trains on a CPU. No network.
"""

from __future__ import annotations

import argparse
import os
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.base_model import copy_tokenizer_files, find_base_model, find_commit, hash_base_model
from distill.config import Config, load_config, type_command
from distill.errors import PipelineError, run
from distill.files import hold_lock, make_private
from distill.manifest import FILE_NAME, inherit, list_versions, require_manifest, write_manifest
from distill.progress import show_progress
from distill.training.processes import choose_device, is_first, part, quieten_others, wait_for_others

if TYPE_CHECKING:
    from distill.records import TrainingExample
    from distill.training.interrupt import StopOnInterrupt
    from distill.training.lesson import Lesson


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")
    parser.add_argument("--limit", type=int, metavar="N", help="train on the first N rows only: a smoke run")
    parser.add_argument("--overwrite", action="store_true", help="delete adapters/ and start afresh")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    parser.add_argument("--download", action="store_true", help="fetch the base model and stop")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def train_adapters(trainer: Any, config: Config, lesson: Lesson) -> tuple[int | None, StopOnInterrupt]:
    """Train to the end, from the last checkpoint if there is one. Returns the step it went on from, and if it was stopped."""
    from distill.training.checkpoints import CHECKPOINTS, find_last_checkpoint
    from distill.training.interrupt import StopOnInterrupt
    from distill.training.watch import LearningCheck, StepTimeCheck, TensorBoardEvents, TrainingLog

    folder, total = config.adapters_dir, len(lesson.steps)
    checkpoint = find_last_checkpoint(folder / CHECKPOINTS)
    resumed = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0
    if checkpoint:
        print(f"[OK] Going on from step {resumed} of {total}")
    with show_progress(total, "training", "step", done=resumed) as progress, StopOnInterrupt() as stop:
        trainer.add_callback(TrainingLog(folder / "training_log.jsonl", progress, resumed, trainer.meter, lesson.epoch_at))
        trainer.add_callback(StepTimeCheck(trainer.meter))
        if config.finetune.tensorboard:
            trainer.add_callback(TensorBoardEvents(folder / "tensorboard"))
        if config.finetune.learning_rate > 0:
            trainer.add_callback(LearningCheck(lesson.rows_of))
        else:
            print("[WARN] finetune.learning_rate is 0: nothing will be learned")
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return resumed or None, stop


def save_adapters(model: Any, base: Path, base_name: str, folder: Path) -> None:
    """Write the adapter beside the base model's own tokenizer files, untouched (Unsloth would save an altered one)."""
    from distill.training.chart import draw_loss

    model.peft_config["default"].base_model_name_or_path = base_name  # PEFT would write a path of this machine
    model.save_pretrained(folder, save_embedding_layers=False)  # "auto" would look for the base under that name
    make_private(folder / "adapter_model.safetensors")  # wherever it is copied to
    copy_tokenizer_files(base, folder)
    draw_loss(folder / "training_log.jsonl", folder / "loss.png")


def write_card(config: Config, facts: dict[str, Any], samples: list[TrainingExample], answers: list[list[str]]) -> None:
    """The model card, with the student's answers before and after."""
    from distill.curation.duplicates import find_question
    from distill.training.card import write_model_card

    questions = [sample.question or find_question(sample.instruction) for sample in samples]
    pairs = [{"question": asked, "before": old, "after": new} for asked, old, new in zip(questions, *answers)]
    for pair in pairs if not config.encrypt else ():
        asked, old, new = (textwrap.shorten(text, 200, placeholder=" [...]") for text in pair.values())
        print(f"\nQuestion: {asked}\nBefore:   {old}\nAfter:    {new}")
    write_model_card(config.adapters_dir, {
        **facts, "base_model": config.value_of("finetune.base_model"), "settings": config.describe("finetune"),
        "versions": list_versions(), "encrypt": config.encrypt, "samples": pairs,
    })


def main() -> None:
    args = parse_args()
    config = load_config(args.config)
    settings, folder, started = config.finetune, config.adapters_dir, time.time()
    quieten_others()
    if args.download:  # the one thing here that needs a network
        from distill.training.download import download_base

        download_base(config)
        return

    # ---------------------------------------------------------------------------
    # Inputs: fail here, before the GPU is touched
    from distill.training import checkpoints
    from distill.training.rounds import describe_round
    from distill.training.sanity import require_enough, require_sound_rows
    from distill.training.sets import load_sets

    manifest = require_manifest(config.training_dir, "generate_training_data.py", config)
    fixed = inherit(manifest, config.training_dir, config)
    overwrite = args.overwrite or checkpoints.is_smoke_run(folder)
    if (folder / FILE_NAME).exists() and not (overwrite or args.dry_run):
        checkpoints.clear_leftovers(folder)  # of a run that was killed after its manifest was written
        raise PipelineError(f"{folder} holds a finished run: export it, or train again with --overwrite")
    rows, heldout, sets = load_sets(config, args.limit)
    require_sound_rows(rows, smoke=args.limit is not None)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: from here on no library may fetch anything
    base = find_base_model(settings.base_model, settings.base_revision)
    base_name = config.value_of("finetune.base_model")
    earlier = describe_round(settings.continue_from, folder, sets, base_name, base)
    print(f"[OK] Base model {base_name}; prompt as in {config.training_dir.name}/{FILE_NAME}")

    # ---------------------------------------------------------------------------
    # This machine, the rows as tokens, and the plan
    choose_device()
    import torch

    from distill.training.students import choose_backend, load_student

    backend = choose_backend(settings, torch.cuda.is_available())
    if backend == "unsloth":
        import unsloth  # noqa: F401 - patches transformers and peft, so it must come before them
    from distill.training.lesson import prepare_lesson
    from distill.training.plan import compare_peak, plan_run
    from distill.training.readiness import check_readiness, print_findings

    if is_first():
        print_findings(check_readiness(config, base, backend))
    lock = hold_lock(folder) if is_first() and not args.dry_run else None
    lesson = prepare_lesson(base, config, [row.example for row in rows], keep_tokens=lock is not None)
    if (left := len(lesson.rows) + len(lesson.validation)) < len(rows):
        require_enough(left, smoke=args.limit is not None)
    print(f"[OK] {backend}: {len(lesson.steps):,} steps of {settings.effective_batch_size} rows")
    plan, figures = plan_run(base, settings, lesson, backend)
    identity = checkpoints.describe_run(config, sets, base, len(lesson.rows), backend, plan)
    if args.dry_run:
        if not overwrite:
            checkpoints.require_same_run(folder, identity)
        return

    # ---------------------------------------------------------------------------
    # Model and adapters
    from distill.training.lora import count_parameters, list_left_out
    from distill.training.proofs import require_rows_apart
    from distill.training.provenance import describe_machine, summarise_log
    from distill.training.samples import answer_samples, choose_samples
    from distill.training.trainer import build_trainer, describe_end

    if lock is not None and not overwrite:
        checkpoints.open_folder(folder, identity)
    model, adapted = load_student(backend, base, settings, in_4bit=plan.in_4bit, recompute=plan.recompute)
    if lock is not None and overwrite:  # only now: a model that cannot be loaded or adapted costs no finished run
        checkpoints.clear_folder(folder)
        checkpoints.open_folder(folder, identity)
    wait_for_others()
    trainable, total = count_parameters(model)
    print(f"[OK] {len(adapted)} modules adapted, {trainable:,} of {total:,} parameters train")
    if left_out := list_left_out(model, adapted):
        print(f"[WARN] finetune.target_modules leaves {len(left_out)} modules out, such as {left_out[0]}")

    # ---------------------------------------------------------------------------
    # Training
    samples = choose_samples([row.example for row in heldout], settings.sample_questions) if lock else []
    before = answer_samples(model, lesson.tokenizer, config.prompt.system, samples)
    parts = lesson.rows, lesson.steps, lesson.validation
    trainer = build_trainer(model, *parts, settings, folder / checkpoints.CHECKPOINTS, plan.tokens_per_batch)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # the plan is about training, not about loading and answering
        trainer.prove_plan()
    require_rows_apart(model, lesson.rows, trainer.args.device, trainer.longest)
    startup_seconds = time.time() - started
    resumed, stop = train_adapters(trainer, config, lesson)
    stop.exit_if_stopped()
    if lock is None:
        return part()  # one of several processes: the first writes
    describe_end(trainer.state)
    memory = compare_peak(plan)
    after = answer_samples(model, lesson.tokenizer, config.prompt.system, samples)

    # ---------------------------------------------------------------------------
    # Output
    if require_manifest(config.training_dir, "generate_training_data.py", config) != manifest:
        raise PipelineError("training_data/ was made again while this trained: run again with --overwrite")
    save_adapters(model, base, base_name, folder)
    facts = {
        "base_model_files": hash_base_model(base), "base_commit": find_commit(base), "backend": backend,
        "data": sets, "continued_from": earlier, "machine": describe_machine(), "plan": figures, "memory": memory,
        "adapted": adapted, "losses": summarise_log(folder / "training_log.jsonl"), "lengths": lesson.lengths,
        "smoke_run": args.limit is not None, "startup_seconds": startup_seconds, "resumed_from_step": resumed,
        "tokens_per_batch": trainer.tokens_per_batch,
    }
    counts = {**lesson.counts, "adapted_modules": len(adapted), "trainable_parameters": trainable}
    write_card(config, {**facts, "counts": counts}, samples, [before, after])
    write_manifest(
        folder,
        made_by="finetune.py",
        config=config,
        sections=["prompt", "finetune"],
        inputs=[config.training_dir / "train.jsonl"],
        outputs=sorted(path for path in folder.iterdir() if path.is_file() and path.name != FILE_NAME),
        read_manifests=[config.training_dir / FILE_NAME],
        fixed={
            **fixed,
            "finetune.base_model": base_name,
            "finetune.base_revision": settings.base_revision,
            "finetune.max_length": settings.max_length,
        },
        counts=counts,
        started=started,
        details=facts,
    )
    checkpoints.clear_leftovers(folder)  # after the manifest: killed before it, the run goes on from them
    losses = facts["losses"]
    print(f"[OK] Loss {losses['first_loss']:.4f} -> {losses['last_loss']:.4f} in {losses['seconds']:.0f} s of training")
    print(f"[OK] {folder}\nNext:  {type_command('export_gguf.py', args.config)}")
    lock.release()
    part()


if __name__ == "__main__":
    run(main)
