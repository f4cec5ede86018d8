"""Finding the checkpoint to go on from, and refusing to go on from another run's."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config import Config
from distill.errors import PipelineError
from distill.files import make_private, read_json, sha256_file, write_json_atomic
from distill.manifest import FILE_NAME

if TYPE_CHECKING:
    from distill.training.plan import Plan

CHECKPOINTS, CACHE = "checkpoints", "cache"  # below adapters/, while a run is unfinished
RUN = "run.json"  # what the run is, for the next start
# Settings that may change before an unfinished run goes on.
FREE = frozenset({
    "save_steps", "logging_steps", "vram_gb", "load_in_4bit", "gradient_checkpointing", "tokens_per_batch", "tensorboard",
    "sample_questions", "early_stopping_patience",
})
# transformers writes trainer_state.json last; the others are what a resumed run cannot do without.
NEEDED = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
STEP = re.compile(r"checkpoint-[0-9]+")
RANDOM_STATES = "rng_state*.pth"  # one a process: a run may go on with another number of GPUs


def find_last_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step below `folder`; half-written ones are passed over."""
    found = [path for path in folder.glob("checkpoint-*") if STEP.fullmatch(path.name)]  # a user's copy has another name
    found.sort(key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    return next((path for path in found if is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether every file is there and whole. After a power cut any of them may be empty or torn: nothing waits for the disk."""
    random_states = list(checkpoint.glob(RANDOM_STATES))
    return bool(random_states) and all(is_whole(path) for path in (*(checkpoint / name for name in NEEDED), *random_states))


def is_whole(path: Path) -> bool:
    """Whether JSON parses, a safetensors file is as long as its header says, and a file of torch.save has its checksums."""
    try:
        if path.suffix == ".json":
            return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
        if path.suffix == ".safetensors":
            return has_all_tensors(path)
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def has_all_tensors(path: Path) -> bool:
    """Whether the header can be read; safe_open compares the file's size with the last tensor's end too."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return True
    except SafetensorError:
        return False


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
    """Raises PipelineError when there is something to go on from of another run than `identity` describes."""
    path = folder / RUN
    checkpoint = find_last_checkpoint(folder / CHECKPOINTS) if path.exists() else None
    if checkpoint is None:
        return
    before = read_json(path)
    changed = sorted(key for key in {*before, *identity} if before.get(key) != identity.get(key))
    if changed:
        named = ", ".join(describe_old(key, before.get(key)) for key in changed)
        raise PipelineError(
            f"{folder.name}/ holds an unfinished run that differs in {named}: "
            "put the old value back to go on with it, or start afresh with --overwrite"
        )
    print(f"[OK] {folder.name}/ holds an unfinished run, at {checkpoint.name.replace('-', ' ')}")


def describe_old(key: str, value: Any) -> str:
    """A setting with its old value, where that is short enough to read."""
    return f"{key} (was {value})" if isinstance(value, (str, int, float)) and len(str(value)) <= 40 else key


def open_folder(folder: Path, identity: dict[str, Any]) -> None:
    """adapters/, private, for a run that `identity` describes. Raises PipelineError as require_same_run does."""
    require_same_run(folder, identity)
    folder.mkdir(parents=True, exist_ok=True)
    make_private(folder)  # an adapter repeats what it was trained on, and so do its checkpoints
    write_json_atomic(folder / RUN, identity)


def is_smoke_run(folder: Path) -> bool:
    """Whether a finished smoke run stands there: nobody wants to keep it."""
    path = folder / FILE_NAME
    return path.is_file() and bool(read_json(path).get("details", {}).get("smoke_run"))


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
