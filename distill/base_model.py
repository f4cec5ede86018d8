"""
The student's 16-bit base model on this machine: a folder, or a snapshot in the Hugging Face cache.

Never downloads. Training, export and evaluation all find the base through here, and its hashes go into the manifests.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from distill.errors import PipelineError
from distill.files import read_json, sha256_file

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "tokenizer.model", "chat_template.jinja",
)
CONFIG_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def find_base_model(name_or_path: str, revision: str | None = None) -> Path:
    """
    The folder of a base model: `name_or_path` itself, or the cached snapshot of a hub id at `revision`.

    Raises PipelineError that says how to get the model when it is absent or incomplete, and for a folder without safetensors
    or with weights already quantised to 4 bits.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = find_snapshot(name_or_path, revision)
    if missing := list_missing(folder):
        raise PipelineError(f"{folder} lacks {', '.join(missing)}: {describe_download(name_or_path)}")
    if not any(folder.glob("*.safetensors")):
        raise PipelineError(f"{folder} holds no *.safetensors: {describe_download(name_or_path)}")
    if read_json(folder / "config.json").get("quantization_config"):
        raise PipelineError(f"{folder} is quantised already: use the 16-bit model, e.g. unsloth/Phi-4-mini-instruct")
    return folder


def list_missing(folder: Path) -> list[str]:
    """The files that a base model cannot do without and that are not there: a copy may have been cut short."""
    index = folder / "model.safetensors.index.json"
    shards = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else []
    return [name for name in (*NEEDED, *shards) if not (folder / name).is_file()]


def find_snapshot(name: str, revision: str | None) -> Path:
    """A snapshot in the local cache. Raises PipelineError when it is not there or the name is no hub id."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)  # what it misses may be nothing that we want: GGUF files, pickles, pictures
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        at = f" at revision {revision}" if revision else ""
        raise PipelineError(f"base model {name}{at} is not on this machine: {describe_download(name)}") from None


def describe_download(name: str) -> str:
    """The command that fetches a model, as the user would type it; a folder can only be completed by hand."""
    if Path(name).is_absolute() or Path(name).is_dir():
        return "set finetune.base_model to a complete folder of 16-bit safetensors, or to a hub id"
    return "run  python finetune.py --download  where there is internet, or set finetune.base_model to a folder"


def find_commit(folder: Path) -> str | None:
    """The commit that a folder of the Hugging Face cache is a snapshot of; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name) else None


def hash_base_model(folder: Path) -> list[dict[str, Any]]:
    """Name, bytes and sha256 of config, tokenizer and weight files, sorted by name; no machine path."""
    wanted = {*CONFIG_FILES, *TOKENIZER_FILES}
    files = [path for path in folder.iterdir() if path.name in wanted or path.suffix == ".safetensors"]
    return [{"path": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(files)]


def copy_tokenizer_files(folder: Path, target: Path) -> list[Path]:
    """Copy the base's tokenizer files byte for byte, whatever a training library saved there before; returns the copies."""
    target.mkdir(parents=True, exist_ok=True)
    copied = []
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
            copied.append(target / name)
        else:
            (target / name).unlink(missing_ok=True)
    return copied
