"""What each process of a run on several does: train a student on the CPU; the first writes the adapter, each what it knows.

    python -m torch.distributed.run --nproc_per_node 2 tests/training/several_processes.py BASE FOLDER TOKENS [CHECKPOINT]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch

from distill.config import FinetuneSection
from distill.training.batches import plan_steps
from distill.training.processes import choose_device, part, take_lowest
from distill.training.students import load_student
from distill.training.trainer import build_trainer
from tests.training.families import make_rows

ROWS = 13  # four a step: the last step of each epoch has one row, so one process has none


def main(base: Path, folder: Path, tokens_per_batch: int, checkpoint: str | None = None) -> None:
    settings = FinetuneSection.model_validate({
        "backend": "peft", "lora_r": 4, "learning_rate": 1e-2, "warmup_steps": 1, "epochs": 2, "effective_batch_size": 4,
        "save_steps": 2, "early_stopping_patience": None,
    })
    choose_device()
    model, _ = load_student("peft", base, settings)
    steps = plan_steps(ROWS, settings.effective_batch_size, settings.epochs, None, settings.seed)
    trainer = build_trainer(model, make_rows(ROWS), steps, make_rows(3, seed=1), settings, folder, tokens_per_batch)
    if trainer.args.world_size > 1:
        # On a CPU accelerate calls the device cpu:0, onto which transformers then cannot load an optimizer's state.
        trainer.args.__dict__["_setup_devices"] = torch.device("cpu")
    trainer.train(resume_from_checkpoint=checkpoint)
    found = {
        "processes": trainer.args.world_size, "mode": trainer.args.parallel_mode.value, "log": trainer.state.log_history,
        "tokens": trainer.meter.tokens, "best": trainer.state.best_global_step,
        "lowest": take_lowest(10.0 + trainer.args.process_index, 20.0 - trainer.args.process_index),
    }
    (folder / f"found_{trainer.args.process_index}.json").write_text(json.dumps(found), encoding="utf-8")
    if trainer.is_world_process_zero():
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    part()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
