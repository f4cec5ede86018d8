"""A stage's manifest: written last, so that its presence means complete; read first by the next stage.

It tells what went in and came out (with sha256), under which settings and versions, and carries the sha256 of the manifests
before it, so that a GGUF can be walked back to the questions. No secret and no machine path goes in.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill.config import Config, name_path
from distill.errors import PipelineError
from distill.files import read_json, sha256_file, write_json_atomic

FILE_NAME = "manifest.json"
PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "unsloth", "unsloth_zoo", "bitsandbytes", "datasets", "tokenizers",
    "safetensors", "gguf", "xllamacpp", "sentence-transformers", "openai", "numpy", "pydantic",
    "triton", "triton-windows",
)


def write_manifest(
    folder: Path,
    *,
    made_by: str,
    config: Config,
    sections: Sequence[str],
    inputs: Iterable[Path],
    outputs: Iterable[Path],
    read_manifests: Iterable[Path] = (),
    fixed: Mapping[str, Any],
    counts: Mapping[str, Any],
    started: float,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Write folder/manifest.json, last of all files.

    `sections` are the config sections this stage used; `fixed` maps dotted config keys to values that no later stage may
    disagree about; `started` is the stage's time.time(); `details` is whatever else the stage measured.
    """
    manifest = {
        "made_by": made_by,
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "counts": dict(counts),
        "fixed": dict(fixed),
        "config": {section: config.describe(section) for section in sections},
        "inputs": [describe_file(path, config.work_dir) for path in inputs],
        "outputs": [describe_file(path, config.work_dir) for path in outputs],
        "manifests": {name_path(path, config.work_dir): sha256_file(path) for path in read_manifests},
        "details": dict(details or {}),
        "versions": list_versions(),
        "git": describe_git(),
    }
    target = folder / FILE_NAME
    write_json_atomic(target, manifest)
    return target


def describe_file(path: Path, work_dir: Path) -> dict[str, Any]:
    """A file's name without its machine path, its size in bytes and its sha256."""
    return {"path": name_path(path, work_dir), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def list_versions() -> dict[str, str]:
    """Python, platform and the installed packages that shape a result."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_git() -> dict[str, Any]:
    """Commit and dirty flag of this code, or empty outside a git checkout."""
    commit, status = (run_git(*arguments) for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    return {} if commit is None else {"commit": commit, "dirty": bool(status)}


def run_git(*arguments: str) -> str | None:
    """A git command's output in this file's checkout, or None where git or the checkout is missing."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# -----------------------------------------------------------------------------
# Reading


def require_manifest(folder: Path, made_by: str, config: Config) -> dict[str, Any]:
    """The manifest of the stage before, after its files were checked against it.

    Raises PipelineError when the stage has not finished, or a file is missing or changed since; each names the script to run.
    """
    # Stage 1 makes its files anew from the answers it has; with --overwrite it would ask the teacher again.
    first = made_by == "generate_training_data.py"
    again = f"run  python {made_by}{'' if first else ' --overwrite'}  again"
    mend = f"run  python {made_by} --accept-edits  if you edited it, or make it anew: {again}" if first else again
    manifest = read_manifest(folder, made_by, config)
    for output in manifest["outputs"]:
        require_unchanged(config.work_dir / output["path"], output, again, mend)
    return manifest


def read_manifest(folder: Path, made_by: str, config: Config) -> dict[str, Any]:
    """A manifest without a look at the files it names. Raises PipelineError where it is missing or not of that script."""
    path = folder / FILE_NAME
    name = name_path(path, config.work_dir)
    if not path.is_file():
        raise PipelineError(f"{name} is missing: run  python {made_by}  first")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not {"made_by", "outputs", "fixed", "details"} <= manifest.keys():
        raise PipelineError(f"{name} is damaged: make it anew, run  python {made_by} --overwrite")
    if manifest["made_by"] != made_by:
        raise PipelineError(f"{name} was made by {manifest['made_by']}, not {made_by}")
    return manifest


def require_unchanged(path: Path, recorded: Mapping[str, Any], again: str, mend: str) -> None:
    """Raises PipelineError, with what to run, when a file is missing or not what its manifest recorded."""
    if not path.is_file():
        raise PipelineError(f"{recorded['path']} is missing: {again}")
    if path.stat().st_size != recorded["bytes"] or sha256_file(path) != recorded["sha256"]:
        raise PipelineError(f"{recorded['path']} has changed since its manifest was written: {mend}")


def inherit(manifest: Mapping[str, Any], folder: Path, config: Config, announce: Sequence[str] = ()) -> dict[str, Any]:
    """The values that were fixed by earlier stages; prints one line for each key in `announce`.

    Raises PipelineError, in one line that names both values, when config.yaml now says otherwise.
    """
    source = name_path(folder / FILE_NAME, config.work_dir)
    for key, value in manifest["fixed"].items():
        now = config.value_of(key)
        if now != value:
            was, now = show_difference(value, now)
            raise PipelineError(
                f"config.yaml {key} is {now} but {source} was made with {was}: "
                f"put the old value back, or run the stages again from {first_stage(key)} on"
            )
    for key in announce:
        print(f"[OK] Inherited {key.split('.')[-1]}={manifest['fixed'][key]} from {source}")
    return dict(manifest["fixed"])


def require_same_settings(finished: Mapping[str, Any], config: Config) -> None:
    """Raises PipelineError when config.yaml says another thing than when a finished stage ran that is now only added to."""
    for section, before in finished["config"].items():
        now = config.describe(section)
        for key in now:
            if now[key] != before.get(key):
                was, shown = show_difference(before.get(key), now[key])
                raise PipelineError(
                    f"config.yaml {section}.{key} is {shown} but was {was} in the finished run: "
                    f"put the old value back, or run  python {finished['made_by']} --overwrite"
                )


def first_stage(key: str) -> str:
    """The script from which everything must be made again when a fixed key changes."""
    return "finetune.py" if key.startswith("finetune.") else "generate_training_data.py"


def show_difference(old: Any, new: Any, width: int = 60) -> tuple[str, str]:
    """Both values, long texts cut to the neighbourhood of their first difference, each as one line."""
    old, new = str(old), str(new)
    first = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), min(len(old), len(new)))
    start = max(0, first - width // 3) if max(len(old), len(new)) > width else 0

    def cut(text: str) -> str:
        part = text[start : start + width]
        return repr(("..." if start else "") + part + ("..." if start + width < len(text) else ""))

    return cut(old), cut(new)
