"""
Stage 2 of 4: fine-tune the student on the teacher's answers (QLoRA).

    python finetune.py
    python finetune.py --dry-run        # check rows, lengths and base model; load no weights
    python finetune.py --limit 8        # a smoke run on the first 8 rows
    python finetune.py --overwrite      # start afresh; without it an unfinished run goes on

Reads   training_data/   from generate_training_data.py
Writes  adapters/        for export_gguf.py: the adapter, the base model's tokenizer files, training_log.jsonl, loss.png
Needs   the base model on disk (16-bit safetensors) and one CUDA GPU; a small student trains on a CPU. No network.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.base_model import copy_tokenizer_files, find_base_model, hash_base_model
from distill.config import Config, load_config, type_command
from distill.errors import PipelineError, run
from distill.files import hold_lock, make_private, read_jsonl, sha256_file
from distill.manifest import FILE_NAME, inherit, require_manifest, write_manifest
from distill.progress import show_progress
from distill.records import TrainingExample, load_examples

if TYPE_CHECKING:
    from distill.training.encode import EncodedExample

FEW_ROWS = 200  # below this the tutorial, like most reports, finds prompting and retrieval the better investment


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")
    parser.add_argument("--limit", type=int, metavar="N", help="train on the first N rows only")
    parser.add_argument("--overwrite", action="store_true", help="delete adapters/ and start afresh")
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def load_rows(path: Path, limit: int | None) -> list[TrainingExample]:
    """The training rows. Raises PipelineError when there are none."""
    examples = load_examples(path)[:limit]
    if not examples:
        raise PipelineError(f"{path} holds no rows: run  python generate_training_data.py  again with more questions")
    if len(examples) < FEW_ROWS:
        print(f"[WARN] {len(examples)} rows: below about {FEW_ROWS} a tuned model is rarely better than a good prompt")
    return examples


def encode_rows(folder: Path, config: Config, examples: list[TrainingExample]) -> tuple[Any, list[EncodedExample]]:
    """The base model's tokenizer, and every row as token ids of an allowed length."""
    from transformers import AutoTokenizer

    from distill.training.encode import describe_lengths, encode_examples, require_lengths

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise PipelineError(f"{folder} has no chat template: use an instruct model as finetune.base_model")
    encoded = encode_examples(tokenizer, config.prompt.system, examples, config.finetune.include_reasoning)
    require_lengths(encoded, config.finetune.max_length)
    lengths = describe_lengths(encoded)
    print(
        f"[OK] {lengths['rows']:,} rows, {lengths['tokens']:,} tokens ({lengths['answer_tokens']:,} carry loss), "
        f"median {lengths['median_tokens']:,}, longest {lengths['longest_tokens']:,} of {config.finetune.max_length:,}"
    )
    if config.finetune.include_reasoning:
        print(f"[OK] {sum(bool(row.reasoning) for row in examples):,} rows are learnt with the teacher's steps")
    return tokenizer, encoded


def identify_run(config: Config, data: Path, rows: int, backend: str) -> dict[str, Any]:
    """What must be the same for an unfinished run to go on."""
    # How often the run is saved and logged changes nothing in what is learned.
    settings = {key: value for key, value in config.describe("finetune").items() if key not in ("save_steps", "logging_steps")}
    return {**settings, "backend": backend, "rows": rows, "system_prompt": config.prompt.system, "data": sha256_file(data)}


def train_adapters(trainer: Any, folder: Path, steps: int) -> int | None:
    """Train to the end, from the last checkpoint if there is one; returns the step it went on from."""
    from distill.training.checkpoints import find_last_checkpoint
    from distill.training.trainer import LearningCheck, TrainingLog

    checkpoint = find_last_checkpoint(folder / "checkpoints")
    resumed = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0
    if checkpoint:
        print(f"[OK] Going on from step {resumed} of {steps}")
    with show_progress(steps, "training", "step", done=resumed) as progress:
        trainer.add_callback(TrainingLog(folder / "training_log.jsonl", progress, resumed))
        if trainer.args.learning_rate > 0:
            trainer.add_callback(LearningCheck())
        else:
            print("[WARN] finetune.learning_rate is 0: nothing will be learned")
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return resumed or None


def save_adapters(model: Any, base: Path, base_name: str, folder: Path) -> list[Path]:
    """Write the adapter beside the base model's own tokenizer files, untouched (Unsloth would save an altered one)."""
    from distill.training.trainer import draw_loss

    model.peft_config["default"].base_model_name_or_path = base_name  # PEFT would write a path of this machine
    model.save_pretrained(folder, save_embedding_layers=False)  # "auto" would look for the base under that name
    make_private(folder / "adapter_model.safetensors")  # wherever it is copied to
    copy_tokenizer_files(base, folder)
    draw_loss(folder / "training_log.jsonl", folder / "loss.png")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card, which names a path of this machine
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != FILE_NAME)


def summarise_losses(log: Path) -> dict[str, float]:
    """Mean loss of the first and of the last five logged steps: TrainOutput.training_loss is wrong after a resume."""
    losses = [row["loss"] for _, row in read_jsonl(log)]
    return {"first_loss": sum(losses[:5]) / len(losses[:5]), "last_loss": sum(losses[-5:]) / len(losses[-5:])}


def main() -> None:
    args = parse_args()
    config = load_config(args.config)
    settings, folder, started = config.finetune, config.adapters_dir, time.time()

    # ---------------------------------------------------------------------------
    # Inputs: fail here, before the GPU is touched
    manifest = require_manifest(config.training_dir, "generate_training_data.py", config)
    fixed = inherit(manifest, config.training_dir, config)
    if (folder / FILE_NAME).exists() and not args.overwrite:
        raise PipelineError(f"{folder} holds a finished run: export it, or train again with --overwrite")
    data = config.training_dir / "train.jsonl"
    examples = load_rows(data, args.limit)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: from here on no library may fetch anything
    base = find_base_model(settings.base_model, settings.base_revision)
    print(f"[OK] Base model {config.value_of('finetune.base_model')}; prompt as in {config.training_dir.name}/{FILE_NAME}")

    # ---------------------------------------------------------------------------
    # Libraries, tokens, lengths
    if "LOCAL_RANK" not in os.environ:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with several, transformers would multiply the effective batch
    import torch

    has_cuda = torch.cuda.is_available()
    from distill.training.students import choose_backend, load_student

    backend = choose_backend(settings, has_cuda)
    if backend == "unsloth":
        import unsloth  # noqa: F401 - patches trl, transformers and peft, so it must come before them
    tokenizer, rows = encode_rows(base, config, examples)
    from distill.training.encode import describe_lengths
    from distill.training.trainer import build_trainer, count_steps

    steps = count_steps(len(rows), settings)
    device = torch.cuda.get_device_name(0) if has_cuda else "CPU"
    print(f"[OK] {backend} on {device}: {steps:,} steps of {settings.effective_batch_size} rows")
    if has_cuda and backend != settings.backend == "auto" and backend == "trl":
        print("[WARN] unsloth is not installed: training with TRL, which is slower: pip install -r requirements.txt")
    if settings.load_in_4bit and not has_cuda:
        print("[WARN] no CUDA GPU: the base model is loaded in float32, not in 4 bits")
    if args.dry_run:
        return

    # ---------------------------------------------------------------------------
    # Model and adapters
    from distill.training.checkpoints import clear_folder, require_same_run

    lock = hold_lock(folder)
    if args.overwrite:
        clear_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    make_private(folder)  # an adapter repeats what it was trained on, and so do its checkpoints
    require_same_run(folder, identify_run(config, data, len(rows), backend))
    model, adapted = load_student(backend, base, settings)
    from distill.training.lora import count_parameters, list_left_out

    trainable, total = count_parameters(model)
    print(f"[OK] {len(adapted)} modules adapted, {trainable:,} of {total:,} parameters train")
    if left_out := list_left_out(model, adapted):
        print(f"[WARN] finetune.target_modules leaves {len(left_out)} modules out, such as {left_out[0]}")

    # ---------------------------------------------------------------------------
    # Training
    trainer = build_trainer(model, tokenizer, rows, settings, folder / "checkpoints")
    resumed = train_adapters(trainer, folder, steps)
    losses = summarise_losses(folder / "training_log.jsonl")

    # ---------------------------------------------------------------------------
    # Output
    if require_manifest(config.training_dir, "generate_training_data.py", config) != manifest:
        raise PipelineError("training_data/ was made again while this trained: run again with --overwrite")
    outputs = save_adapters(model, base, config.value_of("finetune.base_model"), folder)
    peak = torch.cuda.max_memory_allocated() if has_cuda else None
    write_manifest(
        folder,
        made_by="finetune.py",
        config=config,
        sections=["prompt", "finetune"],
        inputs=[data],
        outputs=outputs,
        read_manifests=[config.training_dir / FILE_NAME],
        fixed={
            **fixed,
            "finetune.base_model": config.value_of("finetune.base_model"),
            "finetune.base_revision": settings.base_revision,
            "finetune.max_length": settings.max_length,
        },
        counts={**describe_lengths(rows), "steps": steps, "adapted_modules": len(adapted), "trainable_parameters": trainable},
        started=started,
        details={
            **losses, "backend": backend, "device": device, "peak_bytes": peak, "resumed_from_step": resumed,
            "smoke_run": args.limit is not None, "adapted": adapted, "base_model_files": hash_base_model(base),
        },
    )
    clear_folder(folder / "checkpoints")  # after the manifest: killed before it, the run goes on from them
    print(f"[OK] Loss {losses['first_loss']:.4f} -> {losses['last_loss']:.4f} in {time.time() - started:.0f} s")
    print(f"[OK] {folder}\nNext:  {type_command('export_gguf.py', args.config)}")
    lock.release()


if __name__ == "__main__":
    run(main)
