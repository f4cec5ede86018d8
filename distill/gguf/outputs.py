"""
What lies in gguf/: which GGUF files, Modelfiles and names in Ollama an export makes, and the room they need.
Converts and verifies nothing itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_file, write_text_atomic
from distill.gguf.chat import ChatFormat
from distill.gguf.convert import estimate_bytes
from distill.gguf.modelfile import render_modelfile
from distill.gguf.shards import list_shards
from distill.prompts import to_messages

VERIFICATION = "verification.json"
MERGED = "merged"  # the folder of save_merged
# The manifest first: while files are being removed, the folder must not look complete.
OWN_FILES = ("manifest.json", VERIFICATION, "SHA256SUMS", "Modelfile*", "*.gguf", MERGED)
# The models that HybridRAG3 approves. It folds phi4-mini:anything to phi4-mini, and a student of such a name would take the
# untuned model's place.
TAKEN_NAMES = ("phi4-mini", "mistral", "phi4", "gemma3", "mistral-nemo")
LEFTOVERS = ("*.part", ".*.tmp")


@dataclass(frozen=True)
class Job:
    """One GGUF to make, its Modelfile and its name in Ollama."""

    side: Literal["tuned", "base"]
    quantization: str
    gguf: str
    modelfile: str
    ollama_name: str


def list_jobs(config: Config, with_base: bool) -> list[Job]:
    """Every GGUF to make, the tuned ones first; the first quantisation of a side is the one that is evaluated."""
    jobs = []
    for side in ("tuned", "base") if with_base else ("tuned",):
        name = config.export.name + ("" if side == "tuned" else "-base")
        modelfile = "Modelfile" + ("" if side == "tuned" else ".base")
        for number, quantization in enumerate(config.export.quantization):
            dot, dash = (f".{quantization}", f"-{quantization}") if number else ("", "")
            jobs.append(Job(side, quantization, f"{name}-{quantization}.gguf", modelfile + dot, name + dash))
    return jobs


def render_modelfiles(
    config: Config, jobs: Sequence[Job], chat_format: ChatFormat, comments: Sequence[str]
) -> dict[str, str]:
    """Name and text of every Modelfile. Raises PipelineError for a name or a system prompt that Ollama would change."""
    settings = config.export
    for job in jobs:
        require_own_name(job.ollama_name)
    messages = to_messages(config.prompt.system, config.prompt.template)
    if chat_format.tidy(messages)[-1] != messages[-1]:
        print("[WARN] prompt.template begins or ends with white space, which training leaves out and Ollama sends: remove it")
    return {
        job.modelfile: render_modelfile(
            job.gguf, format=chat_format, system=config.prompt.system, temperature=settings.temperature, top_p=settings.top_p,
            top_k=settings.top_k, num_ctx=settings.num_ctx, comments=comments,
        )
        for job in jobs
    }


def require_own_name(name: str) -> None:
    """Raises PipelineError for a name in Ollama that HybridRAG3 would take for another model."""
    if ":" in name or name in TAKEN_NAMES:
        raise PipelineError(
            f"config.yaml export.name {name}: HybridRAG3 would take it for the untuned {name.partition(':')[0]}: "
            "choose a name of your own, such as hybridrag-phi4mini"
        )


def write_sums(folder: Path, names: Sequence[str], known: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """Write SHA256SUMS as `sha256sum --check` reads it. known: entries of verification.json, which tell hashes already."""
    target, known = folder / "SHA256SUMS", known or {}
    sums = {name: known[name]["sha256"] if name in known else sha256_file(folder / name) for name in names}
    write_text_atomic(target, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return target


def clear_export(folder: Path) -> None:
    """Remove an earlier export; files that no export makes stay."""
    remove_files(folder, OWN_FILES)


def clear_leftovers(folder: Path) -> None:
    """Remove the half-written files, gigabytes each, of a run that was killed."""
    remove_files(folder, LEFTOVERS)


def remove_files(folder: Path, patterns: Sequence[str]) -> None:
    """Delete what matches, pattern by pattern."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def require_room(config: Config, base_folder: Path, jobs: Sequence[Job], with_llama_cpp: bool) -> None:
    """Print what will be written and how large it is. Raises PipelineError when the disk is too full for it."""
    folder, base_bytes = config.gguf_dir, sum(path.stat().st_size for path in list_shards(base_folder))
    sizes = {job.gguf: base_bytes if with_llama_cpp else estimate_bytes(base_folder, job.quantization) for job in jobs}
    for name, size in sizes.items():
        print(f"[OK] {name}: {'at most ' if with_llama_cpp else ''}{format_bytes(size)}")
    present = sum((folder / name).stat().st_size for name in sizes if (folder / name).is_file())
    # A full verification writes f16 files beside them, llama.cpp an f16 file and a merged copy; both go again.
    passing = 2 * base_bytes if with_llama_cpp or config.export.verify == "full" else 0
    require_disk_space(folder, sum(sizes.values()) - present + passing + (base_bytes if config.export.save_merged else 0))


def require_disk_space(folder: Path, needed: int) -> None:
    """Raises PipelineError when the disk is too full."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise PipelineError(f"{folder} needs {format_bytes(needed)} but the disk has {format_bytes(free)} free: make room")


def format_bytes(count: int) -> str:
    """2.49 GB, or 1.0 MB for a small student."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def list_commands(folder: Path, jobs: Sequence[Job]) -> list[str]:
    """What the user types to have the models in Ollama; one command a line, for PowerShell 5.1 and any other shell."""
    return [f'cd "{folder}"', *(f"ollama create {job.ollama_name} -f {job.modelfile}" for job in jobs)]
