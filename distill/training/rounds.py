"""Further rounds: what the adapter that a run goes on from was made of, and what cannot be known about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.files import read_json, sha256_file
from distill.manifest import FILE_NAME

MADE_BY = "finetune.py"
WEIGHTS = "adapter_model.safetensors"
SMALL = 64 * 2**20  # bytes


def describe_round(
    folder: Path | None, own: Path, sets: Sequence[dict[str, Any]], base_name: str, base: Path
) -> dict[str, Any] | None:
    """The earlier round in `folder` for the manifest: its name, hashes and data; None without one.

    `own` is this run's adapters/, `sets` the records of load_sets, `base_name` and `base` the name of the base
    model in config.yaml and its folder. Warns when the earlier rows are not among these, for then nobody has compared them with
    the held-out rows. Raises PipelineError for an unfinished or changed folder, another base model, and this run's own folder.
    """
    if folder is None:
        return None
    if folder.resolve() == own.resolve():
        raise PipelineError(f"finetune.continue_from is this run's own {own.name}/: copy or rename that folder first")
    path = folder / FILE_NAME
    manifest = read_json(path) if path.is_file() else {}
    if manifest.get("made_by") != MADE_BY:
        raise PipelineError(f"config.yaml finetune.continue_from: {folder} holds no finished run: name the adapters/ of one")
    recorded = {Path(output["path"]).name: output["sha256"] for output in manifest["outputs"]}
    weights = folder / WEIGHTS
    if not weights.is_file() or sha256_file(weights) != recorded.get(WEIGHTS):
        raise PipelineError(f"{weights} is missing or has changed since its manifest was written: copy the whole folder again")
    if manifest["fixed"].get("finetune.base_model") != base_name:
        before = manifest["fixed"].get("finetune.base_model")
        raise PipelineError(
            f"the adapter in {folder.name}/ was trained on {before}, not on {base_name}: set finetune.base_model to it"
        )
    require_same_files(manifest["details"].get("base_model_files", []), base, folder)
    data = manifest["details"].get("data", [])
    if unknown := [known["name"] for known in data if known["train_sha256"] not in {mine["train_sha256"] for mine in sets}]:
        print(
            f"[WARN] The earlier round learnt {', '.join(unknown)}, which is not part of this run: whether that holds held-out "
            "questions of this one was not compared"
        )
    return {"name": folder.name, "manifest_sha256": sha256_file(path), "adapter_sha256": recorded[WEIGHTS], "data": data}


def require_same_files(recorded: Sequence[dict[str, Any]], base: Path, folder: Path) -> None:
    """Sizes of all files and hashes of the small ones: hashing the weights would take longer than the run's whole start."""
    for file in recorded:
        path = base / file["path"]
        small = file["bytes"] <= SMALL
        if not path.is_file() or path.stat().st_size != file["bytes"] or (small and sha256_file(path) != file["sha256"]):
            raise PipelineError(
                f"the adapter in {folder.name}/ was trained on a base model with another {file['path']}: use that base model"
            )
