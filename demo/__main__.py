"""
The whole pipeline in small, on real parts, offline: python -m demo

Builds an index in HybridRAG3's format over demo/corpus with real MiniLM vectors, trains a tiny Phi3-shaped student from
scratch, then runs the four scripts as you would type them. Under five minutes on two cores.

    python -m demo
    python -m demo --config mine.yaml   # another copy of demo/config.yaml

Writes  demo/run/   (work_dir of the config); the index and the student are kept for the next run
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from distill.config import Config, load_config
from distill.errors import PipelineError, run
from distill.files import read_json, write_json_atomic, write_text_atomic

HERE = Path(__file__).parent
SCRIPTS = ("generate_training_data.py", "finetune.py", "export_gguf.py", "evaluate.py")
CLAIM = "made_by_demo.txt"  # written first: what lies in this folder is the demo's, to be deleted and made again
MARKER = "made_from.json"  # written last: a folder with it is complete


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml", metavar="FILE")
    return parser.parse_args()


def read_corpus() -> list[tuple[str, str]]:
    """(path, text) of every document of the corpus."""
    return [(path.relative_to(HERE).as_posix(), path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("corpus/*.md"))]


def identify_world() -> dict[str, str]:
    """What index and student are made from; another value makes them again."""
    sources = [*sorted(HERE.glob("corpus/*.md")), HERE / "student.py", HERE / "tiny_phi3.py", HERE / "build_index.py"]
    return {"sha256": hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()}


def claim_folders(config: Config) -> None:
    """Mark the folders that the demo writes as its own. Raises PipelineError before it touches one that holds other work."""
    folders = [config.work_dir, config.generate.index_folder, Path(config.finetune.base_model)]
    for folder in folders:
        if folder.exists() and any(folder.iterdir()) and not (folder / CLAIM).is_file():
            raise PipelineError(f"{folder} holds files that the demo did not make: give the demo's config folders of its own")
    for folder in folders:
        write_text_atomic(folder / CLAIM, "Made by python -m demo, which deletes and replaces what lies here.\n")


def is_made(folder: Path, identity: dict[str, str]) -> bool:
    """Whether an earlier run finished this folder from the same sources."""
    return (folder / MARKER).is_file() and read_json(folder / MARKER) == identity


def make_index(config: Config, identity: dict[str, str]) -> None:
    """MiniLM on disk, and an index in HybridRAG3's format with its vectors: about two chunks a document."""
    from demo.build_index import build_index
    from demo.minilm import find_minilm
    from distill.index.embedders import make_embedder

    folder, embedder = config.generate.index_folder, config.generate.embedder
    if is_made(folder, identity):
        return
    print(f"[OK] Building an index over {len(read_corpus())} documents")
    shutil.copytree(find_minilm(), embedder.model, dirs_exist_ok=True)
    build_index(folder, read_corpus(), make_embedder(embedder).embed, chunk_characters=700, overlap=0)
    write_json_atomic(folder / MARKER, identity)


def make_base(config: Config, identity: dict[str, str]) -> None:
    """The student, trained on the corpus."""
    from demo.student import make_student

    folder = Path(config.finetune.base_model)
    if is_made(folder, identity):
        return
    started = time.time()
    print("[OK] Training a student from scratch")
    passages = [part for _, text in read_corpus() for part in text.split("\n\n") if not part.startswith("#")]
    make_student(folder, passages, wording=[config.prompt.template, config.prompt.system])
    write_json_atomic(folder / MARKER, identity)
    print(f"[OK] Student trained in {time.time() - started:.0f} s")


def clear_stages(config: Config) -> None:
    """Remove what an earlier demo wrote, so that every stage runs."""
    for folder in (config.training_dir, config.adapters_dir, config.gguf_dir, config.evaluation_dir):
        if folder.exists():
            shutil.rmtree(folder)


def run_script(script: str, config: Path) -> None:
    """Run one script as a user would, from the project's folder. Raises PipelineError when it fails."""
    root = HERE.parent
    shown = config.relative_to(root).as_posix() if config.is_relative_to(root) else config
    print(f"\n> python {script} --config {shown}", flush=True)
    # A student of this size is faster on the CPU, and requirements-cpu.txt has no CUDA packages.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, script, "--config", str(config)], cwd=root, env=environment, check=False)
    if done.returncode:
        raise PipelineError(f"{script} ended with exit code {done.returncode}: see its message above")


def main() -> None:
    args = parse_args()
    config = load_config(args.config)
    started = time.time()

    # ---------------------------------------------------------------------------
    # A world to work on
    claim_folders(config)
    identity = identify_world()
    make_index(config, identity)
    make_base(config, identity)
    clear_stages(config)

    # ---------------------------------------------------------------------------
    # The four scripts
    for script in SCRIPTS:
        run_script(script, args.config.resolve())

    # ---------------------------------------------------------------------------
    # The result
    print(f"\n[OK] Demo finished in {time.time() - started:.0f} s")
    print(f"[OK] Report: {config.evaluation_dir / 'report.html'}")


if __name__ == "__main__":
    run(main)
