"""
Stage 3 of 4: adapters -> merged weights -> GGUF files and Modelfiles for Ollama.

    python export_gguf.py
    python export_gguf.py --dry-run     # check everything, print what would be written and how large it is
    python export_gguf.py --skip-base   # the tuned model alone; evaluate.py then has nothing to compare it with
    python export_gguf.py --overwrite   # export again; without it an unfinished export goes on

Reads   adapters/   from finetune.py, and the 16-bit base model on disk
Writes  gguf/       for Ollama and evaluate.py: <name>-q4_k_m.gguf, <name>-base-q4_k_m.gguf, Modelfile, Modelfile.base,
                    SHA256SUMS, verification.json
Needs   no GPU, no compiler, no network; about 6 GB of memory for Phi-4-mini, and the disk space that --dry-run prints
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.base_model import find_base_model, hash_base_model
from distill.config import Config, load_config, name_path, type_command
from distill.errors import PipelineError, run
from distill.files import hold_lock, read_json, replace_file, sha256_file, sha256_text, write_json_atomic, write_text_atomic
from distill.manifest import FILE_NAME, inherit, require_manifest, write_manifest
from distill.progress import show_progress

if TYPE_CHECKING:
    from distill.gguf.bundle import Job
    from distill.gguf.verify import Distributions

NAME = "export_gguf.py"
POSITIONS = 32  # compared with Hugging Face for each GGUF; each costs llama.cpp about a second with Phi-4-mini


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")
    parser.add_argument("--skip-base", action="store_true", help="do not export the base model for comparison")
    parser.add_argument("--overwrite", action="store_true", help="delete gguf/ and export again")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    return parser.parse_args()


# -----------------------------------------------------------------------------
# Inputs


def require_same_base(base: Path, adapters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The base's file hashes. Raises PipelineError when they are not those that the adapter was trained on."""
    files = hash_base_model(base)
    recorded = adapters["details"].get("base_model_files", files)
    present, trained = ({file["path"]: file for file in each} for each in (files, recorded))
    changed = sorted(path for path in present.keys() | trained.keys() if present.get(path) != trained.get(path))
    if changed:
        raise PipelineError(f"{base}: {', '.join(changed)} changed since the adapter was trained: restore that base model")
    return files


def check_adapter(base: Path, folder: Path) -> int:
    """The number of modules to merge. Raises PipelineError for an adapter that can not be merged into this base."""
    from distill.gguf.merge import BaseWeights, MergedWeights, load_adapter

    with BaseWeights(base) as weights:
        merged = MergedWeights(weights, load_adapter(folder))
        if len(merged.list_unchanged()) == len(merged.pairs):
            print("[WARN] the adapter changes nothing, all its B matrices are zero: tuned and base will be the same model")
        return len(merged.pairs)


def warn_long_context(config: Config, base: Path) -> None:
    """Above the original context llama.cpp serves a longrope model with factors that training never used."""
    from distill.gguf.phi3 import read_phi3

    original = read_phi3(base).original_context
    if config.export.num_ctx > original:
        print(f"[WARN] export.num_ctx {config.export.num_ctx} is above {original}: the served model is not the trained one")


# -----------------------------------------------------------------------------
# Export


def export_all(config: Config, base: Path, jobs: Sequence[Job], made_from: str) -> dict[str, dict[str, Any]]:
    """Make every GGUF that an unfinished run has not made; returns the contents of verification.json."""
    from distill.gguf.bundle import VERIFICATION
    from distill.gguf.verify import make_reference

    folder, adapters = config.gguf_dir, {"tuned": config.adapters_dir, "base": None}
    references = {side: make_reference(base, adapter, POSITIONS) for side, adapter in adapters.items()}
    entries: dict[str, dict[str, Any]] = read_json(folder / VERIFICATION) if (folder / VERIFICATION).exists() else {}
    entries = {job.gguf: entries[job.gguf] for job in jobs if job.gguf in entries}
    for job in jobs:
        if is_finished(folder / job.gguf, entries.get(job.gguf, {}), made_from):
            print(f"[SKIP] {job.gguf} was finished by an earlier run")
            continue
        entry = export_one(config, base, adapters[job.side], job, references[job.side])
        entries[job.gguf] = {"made_from": made_from, **entry}
        write_json_atomic(folder / VERIFICATION, entries)
    return entries


def is_finished(path: Path, entry: Mapping[str, Any], made_from: str) -> bool:
    """True for a file that was verified and has not changed since."""
    return entry.get("made_from") == made_from and path.is_file() and sha256_file(path) == entry["sha256"]


def export_one(
    config: Config, base: Path, adapter: Path | None, job: Job, reference: Callable[[], Distributions]
) -> dict[str, Any]:
    """Convert and verify, and only then give the file its name; returns what was found."""
    from distill.gguf.convert import convert, count_tensors
    from distill.gguf.verify import check_structure, release_mappings

    target, unverified = config.gguf_dir / job.gguf, config.gguf_dir / f"{job.gguf}.part"
    target.unlink(missing_ok=True)
    try:
        with show_progress(count_tensors(base), job.gguf, "tensors") as progress:
            done = convert(
                base, adapter, unverified, quantization=job.quantization, name=job.ollama_name, advance=progress.advance
            )
        checks = {"structure": check_structure(unverified, base, job.quantization)}
        checks |= verify_one(config, unverified, base, job, reference)
        gc.collect()  # Windows renames no file that is still mapped into memory
        replace_file(unverified, target)
    except BaseException as error:
        release_mappings(error)  # and deletes none either
        raise
    finally:
        unverified.unlink(missing_ok=True)
    return {
        "sha256": sha256_file(target), "bytes": done.bytes, "quantization": job.quantization, "types": done.types,
        "merged": list(done.merged), **checks,
    }


def verify_one(config: Config, path: Path, base: Path, job: Job, reference: Callable[[], Distributions]) -> dict[str, Any]:
    """Compare with the Hugging Face model and print the figures. Raises PipelineError when the file is wrong."""
    from distill.gguf.bundle import format_bytes
    from distill.gguf.verify import verify_numbers

    if not config.export.verify:
        print(f"[SKIP] {job.gguf} is not compared with the Hugging Face model: export.verify is false")
        return {}
    found = verify_numbers(path, base, reference, POSITIONS)
    same, loss = found["conversion"], found["against_16_bit"]
    print(
        f"[OK] {job.gguf}: {format_bytes(path.stat().st_size)}. llama.cpp against Hugging Face with the same weights: "
        f"KL {same.mean_kl:.1e}; against the 16-bit model: KL {loss.mean_kl:.1e}, same top token {loss.top1:.0%}"
    )
    return {key: asdict(value) for key, value in found.items()}


def main() -> None:
    args = parse_args()
    config = load_config(args.config)
    folder, started = config.gguf_dir, time.time()

    # ---------------------------------------------------------------------------
    # Inputs: fail here, before anything is converted
    source = config.adapters_dir / FILE_NAME
    adapters = require_manifest(config.adapters_dir, "finetune.py", config)
    fixed = inherit(adapters, config.adapters_dir, config, announce=["finetune.base_model"])
    smoke_run = bool(adapters["details"].get("smoke_run"))
    if smoke_run:
        print("[WARN] adapters/ come from a smoke run (--limit): for trying out only")
    if (folder / FILE_NAME).exists() and not args.overwrite:
        raise PipelineError(f"{folder} holds a finished export: use it, or export again with --overwrite")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: from here on no library may fetch anything
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice on rope_parameters is for those who write configs
    base = find_base_model(config.finetune.base_model, config.finetune.base_revision)
    from distill.gguf import bundle
    from distill.gguf.convert import estimate_bytes

    jobs = bundle.list_jobs(config, with_base=config.export.export_base and not args.skip_base)
    comments = [
        f"Made by {NAME} from {config.value_of('finetune.base_model')}",
        f"{name_path(source, config.work_dir)} has sha256 {sha256_file(source)}",
    ]
    modelfiles = bundle.render_modelfiles(config, jobs, comments)
    sizes = {job.gguf: estimate_bytes(base, job.quantization) for job in jobs}
    modules = check_adapter(base, config.adapters_dir)
    warn_long_context(config, base)
    bundle.require_disk_space(folder, sum(sizes.values()) - sum(path.stat().st_size for path in folder.glob("*.gguf*")))
    print(f"[OK] {modules} modules of the adapter go into {config.value_of('finetune.base_model')}")
    if args.dry_run:
        for name, size in sizes.items():
            print(f"[OK] would write {folder / name}: {bundle.format_bytes(size)}")
        return

    # ---------------------------------------------------------------------------
    # GGUF files
    lock = hold_lock(folder)
    if args.overwrite:
        bundle.clear_bundle(folder)
    bundle.clear_leftovers(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base_files = require_same_base(base, adapters)
    made_from = sha256_text(json.dumps([sha256_file(source), base_files, config.export.verify]))
    entries = export_all(config, base, jobs, made_from)

    # ---------------------------------------------------------------------------
    # What lies beside them; the manifest last
    for name, text in modelfiles.items():
        write_text_atomic(folder / name, text)
    names = [*entries, *modelfiles]
    outputs = [*(folder / name for name in names), bundle.write_sums(folder, names), folder / bundle.VERIFICATION]
    first = {job.side: job for job in reversed(jobs)}
    write_manifest(
        folder,
        made_by=NAME,
        config=config,
        sections=["prompt", "export"],
        inputs=[config.adapters_dir / "adapter_config.json", config.adapters_dir / "adapter_model.safetensors"],
        outputs=outputs,
        read_manifests=[source],
        fixed=fixed,
        started=started,
        counts={"gguf_files": len(entries), "merged_modules": modules},
        details={
            "models": {
                side: {
                    "ollama_name": job.ollama_name, "file": name_path(folder / job.gguf, config.work_dir),
                    "modelfile": name_path(folder / job.modelfile, config.work_dir),
                }
                for side, job in first.items()
            },
            "base_model_files": base_files,
            "smoke_run": smoke_run,
        },
    )
    print(f"[OK] {folder} in {time.time() - started:.0f} s. To have the models in Ollama, type:")
    print("\n".join(f"    {command}" for command in bundle.list_commands(folder, jobs)))
    print(f"Next:  {type_command('evaluate.py', args.config)}")
    lock.release()


if __name__ == "__main__":
    run(main)
