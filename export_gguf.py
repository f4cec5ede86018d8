"""
Stage 3 of 4: adapters -> GGUF files and Modelfiles for Ollama, each proven to be the model that was trained.

    python export_gguf.py
    python export_gguf.py --dry-run     # check everything, print what would be written and how large it is
    python export_gguf.py --skip-base   # the tuned model alone; evaluate.py then has nothing to compare it with
    python export_gguf.py --overwrite   # export again; without it an unfinished export goes on
    python export_gguf.py --register    # have tuned and base in Ollama; exports first if that was not done yet
    python export_gguf.py --bundle      # pack a zip for a machine without a network; --part-size 1.9GB makes parts
    python export_gguf.py --llama-cpp FOLDER   # with your own llama.cpp, for a model that this exporter does not know

Reads   adapters/        from finetune.py, and the 16-bit base model on disk
        training_data/   if it is there: its texts are tokenized, its held-out rows measure perplexity (verify: full)
Writes  gguf/            for Ollama and evaluate.py: <name>-q4_k_m.gguf, <name>-base-q4_k_m.gguf, Modelfile, Modelfile.base,
                         SHA256SUMS, verification.json
Needs   no GPU, no compiler, no network; about 6 GB of memory to verify Phi-4-mini, and disk for the files that --dry-run lists
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.base_model import find_base_model, hash_base_model
from distill.config import Config, load_config, name_path, type_command
from distill.errors import PipelineError, run
from distill.files import hold_lock, read_json, sha256_file, sha256_text, write_text_atomic
from distill.manifest import FILE_NAME, inherit, require_manifest, write_manifest

NAME = "export_gguf.py"


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")
    parser.add_argument("--skip-base", action="store_true", help="do not export the base model for comparison")
    parser.add_argument("--overwrite", action="store_true", help="delete gguf/ and export again")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--register", action="store_true", help="create the models in Ollama and check them there")
    parser.add_argument("--bundle", nargs="?", const="", metavar="FILE", help="pack gguf/ for another machine")
    parser.add_argument("--bundle-base", action="store_true", help="with the base model too, for an evaluation over there")
    parser.add_argument("--part-size", metavar="SIZE", help="split the bundle into parts of this size: 1.9GB; under 2 GiB")
    parser.add_argument("--llama-cpp", type=Path, metavar="FOLDER", help="use the converter and quantiser of this llama.cpp")
    return parser.parse_args()


# -----------------------------------------------------------------------------
# Inputs


def require_same_base(base: Path, adapters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The base's file hashes. Raises PipelineError when they are not those that the adapter was trained on."""
    files = hash_base_model(base)
    recorded = adapters["details"].get("base_model_files", [])
    present, trained = ({file["path"]: file for file in each} for each in (files, recorded))
    changed = sorted(path for path in present.keys() | trained.keys() if present.get(path) != trained.get(path))
    if changed:
        raise PipelineError(f"{base}: {', '.join(changed)} changed since the adapter was trained: restore that base model")
    return files


def describe_origin(config: Config, adapters: Mapping[str, Any]) -> list[str]:
    """Comment lines of every Modelfile: base, rows, epochs, rank, and the hash by which the adapter can be found."""
    source, settings, counts = config.adapters_dir / FILE_NAME, adapters["config"]["finetune"], adapters["counts"]
    rows, steps = counts.get("rows", 0), counts.get("steps", 0)
    epochs = steps * settings["effective_batch_size"] / rows if rows else 0
    return [
        f"Made by {NAME} from {config.value_of('finetune.base_model')}",
        f"Trained on {rows:,} rows, {epochs:.1f} epochs in {steps:,} steps, rank {settings['lora_r']}",
        f"{name_path(source, config.work_dir)} has sha256 {sha256_file(source)}",
    ]


# -----------------------------------------------------------------------------
# The stage


def export(config: Config, args: argparse.Namespace) -> None:
    """adapters/ to a finished gguf/."""
    folder, started = config.gguf_dir, time.time()

    # Inputs: fail here, before anything is converted
    source = config.adapters_dir / FILE_NAME
    adapters = require_manifest(config.adapters_dir, "finetune.py", config)
    fixed = inherit(adapters, config.adapters_dir, config, announce=["finetune.base_model"])
    smoke_run = bool(adapters["details"].get("smoke_run"))
    if smoke_run:
        print("[WARN] adapters/ come from a smoke run (--limit): for trying out only")
    base = find_base_model(config.finetune.base_model, config.finetune.base_revision)
    base_files = require_same_base(base, adapters)
    from distill.gguf import outputs
    from distill.gguf.external import find_llama_cpp
    from distill.gguf.making import check_adapter, find_model, gather_materials, make_missing
    from distill.gguf.modelfile import require_context
    from distill.gguf.vocabulary.tokenizer import read_vocabulary

    jobs = outputs.list_jobs(config, with_base=config.export.export_base and not args.skip_base)
    materials = gather_materials(config, base, adapters)
    modelfiles = outputs.render_modelfiles(config, jobs, materials.chat_format, describe_origin(config, adapters))
    llama_cpp = find_llama_cpp(args.llama_cpp, config.export.quantization) if args.llama_cpp else None
    model = find_model(base, llama_cpp is not None)
    if model is not None:
        require_context(model, config.export.num_ctx)
    if llama_cpp is None:
        read_vocabulary(base, model.vocabulary)
    changed = check_adapter(base, config.adapters_dir, model)
    outputs.require_room(config, base, jobs, args.llama_cpp)
    print(f"[OK] {len(changed)} tensors of {config.value_of('finetune.base_model')} are changed by the adapter")
    if args.dry_run:
        return

    # GGUF files
    if args.overwrite:
        outputs.clear_export(folder)
    outputs.clear_leftovers(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = [config.export.verify, config.export.save_merged, llama_cpp is not None]
    made_from = sha256_text(json.dumps([sha256_file(source), base_files, settings]))
    entries = make_missing(config, materials, jobs, made_from, llama_cpp)  # each gets its name when it is proven

    # What lies beside them; the manifest last
    for name, text in modelfiles.items():
        write_text_atomic(folder / name, text)
    names = [*entries, *modelfiles]
    first = {job.side: job for job in reversed(jobs)}
    write_manifest(
        folder,
        made_by=NAME,
        config=config,
        sections=["prompt", "export"],
        inputs=[config.adapters_dir / "adapter_config.json", config.adapters_dir / "adapter_model.safetensors"],
        outputs=[
            *(folder / name for name in names), outputs.write_sums(folder, names, entries), folder / outputs.VERIFICATION,
            *sorted((folder / outputs.MERGED).glob("*")),
        ],
        read_manifests=[source],
        fixed=fixed,
        started=started,
        counts={"gguf_files": len(entries), "merged_modules": len(changed)},
        details={
            "models": {
                side: {
                    "ollama_name": job.ollama_name, "file": name_path(folder / job.gguf, config.work_dir),
                    "modelfile": name_path(folder / job.modelfile, config.work_dir),
                }
                for side, job in first.items()
            },
            "merged": changed,
            "chat_format": materials.chat_format.name,
            "base_model_files": base_files,
            "smoke_run": smoke_run,
        },
    )
    print(f"[OK] {folder} in {time.time() - started:.0f} s. To have the models in Ollama, type:")
    print("\n".join(f"    {command}" for command in outputs.list_commands(folder, jobs)))


# -----------------------------------------------------------------------------
# What may follow a finished export


def register(config: Config, manifest: Mapping[str, Any]) -> None:
    """Have the models of a finished gguf/ in Ollama, as they were exported, checked there."""
    from distill.bundle.contents import list_bundled
    from distill.gguf.chat import recognise_format
    from distill.gguf.register import register_all

    if manifest["config"]["export"] != config.describe("export"):
        print("[WARN] config.yaml's export section has changed since gguf/ was made; to have that, export with --overwrite")
    jobs = list_bundled(config, manifest, with_base="base" in manifest["details"]["models"])
    base = find_base_model(config.finetune.base_model, config.finetune.base_revision)
    register_all(config, config.gguf_dir, jobs, recognise_format(base), base)


def check_wishes(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """What make_bundle will be called with. Raises PipelineError, before the work, for what could not be done after it."""
    from distill.bundle.pack import parse_size, require_name
    from distill.gguf.register import find_program

    if (args.part_size or args.bundle_base) and args.bundle is None:
        raise PipelineError("--part-size and --bundle-base say how to make a bundle: use them with --bundle")
    target = Path(args.bundle) if args.bundle else config.work_dir / f"{config.export.name}.zip"
    if args.bundle is not None:
        require_name(target)
    if args.register:
        find_program()
    part_bytes = parse_size(args.part_size) if args.part_size else None
    return {"target": target, "part_bytes": part_bytes, "with_base": args.bundle_base}


def main() -> None:
    args = parse_args()
    config = load_config(args.config)
    folder, follows = config.gguf_dir, args.register or args.bundle is not None
    bundle = check_wishes(config, args)
    finished = (folder / FILE_NAME).exists() and not args.overwrite
    if finished and not follows:
        raise PipelineError(f"{folder} holds a finished export: use it, or export again with --overwrite")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: from here on no library may fetch anything
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its advice on rope_parameters is for those who write configs
    from distill.bundle.pack import make_bundle

    if args.dry_run:
        export(config, args)
        return
    lock = hold_lock(folder)
    if not finished:
        export(config, args)
    manifest = require_manifest(folder, NAME, config) if finished else read_json(folder / FILE_NAME)
    inherit(manifest, folder, config)
    if args.register:
        register(config, manifest)
    if args.bundle is not None:
        make_bundle(config, **bundle)
    if not follows:
        print(f"or     {type_command(NAME + ' --register', args.config)}   which also checks them there")
    print(f"Next:  {type_command('evaluate.py', args.config)}")
    lock.release()


if __name__ == "__main__":
    run(main)
