"""Finding the checkpoint to go on from, and refusing to go on from another run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import Config
from distill.errors import PipelineError
from distill.files import read_json, sha256_file, write_json_atomic

if TYPE_CHECKING:
    from distill.training.plan import Plan

CHECKPOINTS, CACHE = "checkpoints", "cache"  # below adapters/, while a run is unfinished
# Settings that may change before an unfinished run goes on.
FREE = frozenset({
    "save_steps", "logging_steps", "vram_gb", "load_in_4bit", "gradient_checkpointing", "tokens_per_batch", "tensorboard",
    "sample_questions", "early_stopping_patience",
})
# transformers writes trainer_state.json last; the others are what a resumed run cannot do without.
NEEDED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
RANDOM_STATES = "rng_state*.pth"  # one a process: a run may go on with another number of GPUs


def find_last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step below `folder`; half-written ones are passed over."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    return next((path for path in found if is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file is there and the state, which is written last, is whole."""
    if not all((checkpoint / name).is_file() for name in NEEDED) or not any(checkpoint.glob(RANDOM_STATES)):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def describe_run(
    config: Config, sets: list[dict[str, Any]], base: Path, rows: int, backend: str, plan: Plan
) -> dict[str, Any]:
    """What must be the same for an unfinished run to go on: not how often it is saved, nor how it fits into memory."""
    settings = {key: value for key, value in config.describe("finetune").items() if key not in FREE}
    return {
        **settings, "backend": backend, "base in 4 bits": plan.in_4bit, "rows": rows, "training data": sets,
        "base model files": {path.name: path.stat().st_size for path in sorted(base.glob("*.safetensors"))},
        "system_prompt": config.prompt.system, "adapter to go on from": hash_continued(config),
    }


def hash_continued(config: Config) -> str | None:
    """The sha256 of the weights that finetune.continue_from names: its folder may be called as any other."""
    path = config.finetune.continue_from and config.finetune.continue_from / "adapter_model.safetensors"
    return sha256_file(path) if path and path.is_file() else None


def require_same_run(folder: Path, identity: dict[str, Any]) -> None:
    """Record what this run trains on and how; raises PipelineError when there is something to go on from of another run."""
    path = folder / "run.json"
    if path.exists() and find_last_checkpoint(folder / CHECKPOINTS):
        before = read_json(path)
        changed = sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))
        if changed:
            raise PipelineError(
                f"{folder.name}/ holds an unfinished run that differs in {', '.join(changed)}: "
                "put the old value back to go on with it, or start afresh with --overwrite"
            )
    write_json_atomic(path, identity)


def clear_leftovers(folder: Path) -> None:
    """Delete what only an unfinished run needs: its checkpoints, and its rows as tokens."""
    for name in (CHECKPOINTS, CACHE):
        clear_folder(folder / name)


def clear_folder(folder: Path) -> None:
    """Delete a stage's output before a fresh start. Raises PipelineError while another program holds a file there."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except PermissionError as error:
        raise PipelineError(f"{error.filename} is held by another program: close it and run again") from None
