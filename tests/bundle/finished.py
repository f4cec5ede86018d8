"""A finished pipeline to bundle: stage 1 really ran on a small index, stages 2 and 3 are written by hand as they would be."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from distill.config import Config, load_config
from distill.files import sha256_file, write_json_atomic, write_text_atomic
from distill.gguf.outputs import VERIFICATION, Job, list_jobs, write_sums
from distill.manifest import FILE_NAME, list_versions, write_manifest
from distill.training.card import write_model_card
from tests.servers import OllamaServer
from tests.stage1 import call, edit, make_world

SYSTEM = "You answer from the manuals of the plant."
EXPORT = {"name": "student", "quantization": ["q4_k_m", "q8_0"]}


def make_finished(folder: Path) -> Config:
    """training_data/, adapters/ and gguf/ below folder/work."""
    with OllamaServer() as ollama, pytest.MonkeyPatch.context() as patch:
        world = make_world(folder, ollama)
        edit(world, lambda values: values.update(prompt={"system": SYSTEM}, export=EXPORT))
        call(patch, world)
    config = load_config(world.config)
    write_adapters(config)
    write_gguf(config)
    return config


def read_rows(config: Config) -> list[dict[str, Any]]:
    """The rows of both sides."""
    files = (config.training_dir / name for name in ("train.jsonl", "heldout.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def write_adapters(config: Config, smoke_run: bool = False) -> None:
    """What finetune.py leaves, its model card with sample answers included."""
    folder, source, rows = config.adapters_dir, config.training_dir / FILE_NAME, read_rows(config)
    train = config.training_dir / "train.jsonl"
    folder.mkdir(exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "loss.png"):
        (folder / name).write_bytes(f"bytes of {name}".encode())
    facts = {
        "base_model_files": [{"path": "model.safetensors", "bytes": 7, "sha256": "b" * 64}], "base_commit": None,
        "data": [{"name": "training_data", "rows": len(rows), "manifest_sha256": sha256_file(source)}], "backend": "peft",
        "losses": {"first_loss": 2.0, "last_loss": 0.5, "eval_losses": [[5, 0.7]]}, "smoke_run": smoke_run,
    }
    samples = [{"question": row["question"], "before": row["context"][0]["source"], "after": row["output"]} for row in rows]
    base, settings = config.value_of("finetune.base_model"), config.describe("finetune")
    card = {**facts, "base_model": base, "settings": settings, "versions": list_versions(), "samples": samples}
    write_model_card(folder, card)
    stage = json.loads(source.read_text(encoding="utf-8"))
    write_manifest(
        folder, made_by="finetune.py", config=config, sections=["prompt", "finetune"], inputs=[train],
        outputs=sorted(path for path in folder.iterdir() if path.name != FILE_NAME), read_manifests=[source],
        fixed={**stage["fixed"], "finetune.base_model": base}, counts={"rows": len(rows)}, started=time.time(), details=facts,
    )


def write_gguf(config: Config, smoke_run: bool = False, padding: int = 0) -> None:
    """What export_gguf.py leaves; `padding` bytes make each GGUF larger."""
    folder, source = config.gguf_dir, config.adapters_dir / FILE_NAME
    folder.mkdir(exist_ok=True)
    jobs = list_jobs(config, with_base=True)
    for job in jobs:
        write_model(folder / job.gguf, job, padding)
        text = f'FROM ./{job.gguf}\n\nSYSTEM """{SYSTEM}"""\nPARAMETER num_ctx 4096\n'
        write_text_atomic(folder / job.modelfile, text)
    entries = {job.gguf: describe_model(folder / job.gguf, job) for job in jobs}
    write_json_atomic(folder / VERIFICATION, entries)
    names = [*entries, *(job.modelfile for job in jobs)]
    stage = json.loads(source.read_text(encoding="utf-8"))
    first = {job.side: job for job in reversed(jobs)}
    write_manifest(
        folder, made_by="export_gguf.py", config=config, sections=["prompt", "export"],
        inputs=[config.adapters_dir / "adapter_config.json", config.adapters_dir / "adapter_model.safetensors"],
        outputs=[*(folder / name for name in names), write_sums(folder, names), folder / VERIFICATION],
        read_manifests=[source], fixed=stage["fixed"], counts={"gguf_files": len(entries)}, started=time.time(),
        details={
            "models": {
                side: {"ollama_name": job.ollama_name, "file": f"gguf/{job.gguf}", "modelfile": f"gguf/{job.modelfile}"}
                for side, job in first.items()
            },
            "smoke_run": smoke_run,
        },
    )


def write_model(path: Path, job: Job, padding: int) -> None:
    """A GGUF of one small tensor that nothing could run."""
    writer = GGUFWriter(path, "phi3")
    writer.add_name(job.ollama_name)
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(path, "ab") as file:
        file.write(bytes(padding))


def describe_model(path: Path, job: Job) -> dict[str, Any]:
    """A GGUF's entry in verification.json."""
    return {
        "made_from": "a" * 64, "sha256": sha256_file(path), "bytes": path.stat().st_size, "quantization": job.quantization,
        "types": {"F32": 1}, "merged": [], "structure": {"tensors": 1}, "conversion": {"mean_kl": 1e-4, "passed": True},
    }


def reseal(folder: Path) -> None:
    """Write an unpacked bundle's SHA256SUMS anew, as a forger would."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names if name != "SHA256SUMS"]
    (folder / "SHA256SUMS").write_bytes("".join(lines).encode())
