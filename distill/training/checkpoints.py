"""Finding the checkpoint to go on from, and refusing to go on from another run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.files import read_json, write_json_atomic

# transformers writes trainer_state.json last; the others are what a resumed run cannot do without.
NEEDED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def find_last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step below `folder`; half-written ones are passed over."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    return next((path for path in found if is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file is there and the state, which is written last, is whole."""
    if not all((checkpoint / name).is_file() for name in NEEDED):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def require_same_run(folder: Path, identity: dict[str, Any]) -> None:
    """Record what this run trains on and how; raises PipelineError when there is something to go on from of another run."""
    path = folder / "run.json"
    if path.exists() and find_last_checkpoint(folder / "checkpoints"):
        before = read_json(path)
        changed = sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))
        if changed:
            raise PipelineError(
                f"{folder.name}/ holds an unfinished run with another {', '.join(changed)}: "
                "put the old value back to go on with it, or start afresh with --overwrite"
            )
    write_json_atomic(path, identity)


def clear_folder(folder: Path) -> None:
    """Delete a stage's output before a fresh start. Raises PipelineError while another program holds a file there."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except PermissionError as error:
        raise PipelineError(f"{error.filename} is held by another program: close it and run again") from None
