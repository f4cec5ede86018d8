"""
Make GGUF files and prove them, by our own converter or by the user's llama.cpp. No file has its name before it is proven.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distill.config import Config
from distill.errors import PipelineError
from distill.files import read_json, replace_file, sha256_file, write_json_atomic
from distill.gguf.chat import ChatFormat, load_tokenizer, recognise_format
from distill.gguf.convert import Output, convert, count_tensors, require_complete
from distill.gguf.external import LlamaCpp, count_types, make_16_bit, quantise_f16
from distill.gguf.families import read_model
from distill.gguf.families.common import Model
from distill.gguf.merge import MergedWeights, load_adapter
from distill.gguf.outputs import MERGED, VERIFICATION, Job
from distill.gguf.quantisation.kquants import load_compiled
from distill.gguf.shards import BaseWeights
from distill.gguf.verification import Checks, Mode, plan_references, verify_outputs
from distill.gguf.verification.foreign import compare_quantised, verify_foreign
from distill.gguf.verification.held_out import Example
from distill.gguf.verification.lines import describe_checks
from distill.manifest import FILE_NAME
from distill.progress import show_progress
from distill.records import load_examples
from distill.training.encode import encode_examples


@dataclass(frozen=True)
class Materials:
    """
    What an export works with. adapter: its folder. work: where temporary files may stand, on the disk of the outputs.
    texts: of the training data, for the tokens; examples: encoded held-out rows, for `full`.
    """

    base: Path
    adapter: Path
    work: Path
    mode: Mode
    chat_format: ChatFormat
    texts: Sequence[str] = ()
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Made:
    """One proven file: tensors that the adapter changed, count of each type, checks, seconds of making and proving."""

    output: Output
    merged: tuple[str, ...]
    types: dict[str, int]
    checks: Checks
    seconds: dict[str, float] = field(default_factory=dict)


def find_model(base: Path, with_llama_cpp: bool) -> Model | None:
    """What this exporter knows of the base. Raises PipelineError for an unknown one, unless llama.cpp takes over."""
    try:
        return read_model(base)
    except PipelineError:
        if with_llama_cpp:
            return None
        raise


def check_adapter(base: Path, folder: Path, model: Model | None) -> list[str]:
    """The tensors that the adapter changes. Raises PipelineError when it can not be merged, or the base is not whole."""
    with BaseWeights(base) as weights:
        if model is not None:
            require_complete(model, weights)
        merged = MergedWeights(weights, load_adapter(folder), tied=model is not None and model.tied)
        changed = merged.list_merged()
        if model is not None:
            merged.require_used({weight.source for weight in model.weights})
        if len(merged.list_unchanged()) == len(changed):
            print("[WARN] the adapter changes nothing, all its B matrices are zero: tuned and base will be the same model")
        return changed


def gather_materials(config: Config, base: Path, adapters: Mapping[str, Any]) -> Materials:
    """Models, chat format, and the rows that the adapter was trained on, if training_data/ is still that one."""
    chat_format, rows = recognise_format(base), {}
    source = config.training_dir / FILE_NAME
    if source.is_file() and sha256_file(source) in adapters["manifests"].values():
        rows = {name: load_examples(config.training_dir / f"{name}.jsonl") for name in ("train", "heldout")}
    else:
        print(f"[SKIP] {config.training_dir.name}/ is not the one that was trained on: built-in texts alone are compared")
    examples = rows.get("heldout", []) if config.export.verify == "full" else []
    return Materials(
        base, config.adapters_dir, config.gguf_dir, config.export.verify, chat_format,
        texts=[text for row in rows.get("train", []) for text in (row.instruction, row.output)],
        examples=encode_examples(load_tokenizer(base), config.prompt.system, examples) if examples else (),
    )


@contextmanager
def measure(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add up what the block takes."""
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def split_sides(outputs: Sequence[Output]) -> list[list[Output]]:
    """Tuned and base apart, tuned first, empty sides left out."""
    sides = ([output for output in outputs if output.tuned == tuned] for tuned in (True, False))
    return [side for side in sides if side]


# -----------------------------------------------------------------------------
# Our own converter


def make_files(materials: Materials, outputs: Sequence[Output], merged: Path | None) -> Iterator[Made]:
    """
    Convert all outputs in one read of the base, then yield each side's files once they are proven.

    merged: where the merged model goes as safetensors, if it is wanted. Raises PipelineError for a file that fails its checks.
    """
    if not torch.cuda.is_available() and load_compiled() is None:
        print("[WARN] Numba can not be loaded, quantising takes several times as long: python -m pip install numba==0.68.1")
    references, seconds = plan_references(outputs, materials.mode, materials.work), {"convert": 0.0}
    try:
        with measure(seconds, "convert"), show_progress(count_tensors(materials.base), "Converting", "tensors") as progress:
            done = convert(
                materials.base, materials.adapter, [*outputs, *references], merged=merged, advance=progress.advance
            )
        conversions = {each.path: each for each in done}
        for side in split_sides(outputs):
            spent = dict(seconds)
            with measure(spent, "verify"):
                checks = verify_side(materials, side, [each for each in references if each.tuned == side[0].tuned])
            for output in side:
                found = conversions[output.path]
                yield Made(output, found.merged, found.types, checks[output.path], spent)
    finally:
        for reference in references:
            reference.path.unlink(missing_ok=True)


def verify_side(materials: Materials, outputs: Sequence[Output], references: Sequence[Output]) -> dict[Path, Checks]:
    """Prove the files of one side, with a progress bar."""
    name = "Verifying tuned" if outputs[0].tuned else "Verifying base"
    with show_progress(len(outputs) + len(references), name, "files") as progress:
        return verify_outputs(
            materials.base, materials.adapter, outputs, mode=materials.mode, chat_format=materials.chat_format,
            texts=materials.texts, examples=materials.examples, references=references, advance=progress.advance,
        )


# -----------------------------------------------------------------------------
# The user's llama.cpp


def make_files_with(
    llama_cpp: LlamaCpp, materials: Materials, outputs: Sequence[Output], merged: Path | None
) -> Iterator[Made]:
    """The same by llama.cpp's converter and quantiser: a merged copy and an f16 file come into being and go again."""
    for side in split_sides(outputs):
        tuned, seconds = side[0].tuned, {}
        f16 = materials.work / f"reference-{'tuned' if tuned else 'base'}.gguf.part"
        keep = merged if tuned else None
        try:
            with measure(seconds, "convert"):
                folder, changed = make_16_bit(llama_cpp, materials.base, materials.adapter if tuned else None, f16, keep)
            with measure(seconds, "verify"):
                checks, answers = verify_foreign(f16, folder, materials.chat_format, materials.texts)
            for output in side:
                with measure(seconds, "convert"):
                    quantise_f16(llama_cpp, f16, output.path, output.quantization)
                with measure(seconds, "verify"):
                    quantised = compare_quantised(output, folder, answers)
                yield Made(output, tuple(changed), count_types(output.path), checks | quantised, dict(seconds))
        finally:
            f16.unlink(missing_ok=True)
            shutil.rmtree(materials.work / "merged.part", ignore_errors=True)


# -----------------------------------------------------------------------------
# All files of an export


def make_missing(
    config: Config, materials: Materials, jobs: Sequence[Job], made_from: str, llama_cpp: LlamaCpp | None
) -> dict[str, dict[str, Any]]:
    """Make and prove every GGUF that an unfinished run has not made, then name it; the contents of verification.json."""
    folder = config.gguf_dir
    entries = load_finished(folder, jobs, made_from)
    left = {folder / f"{job.gguf}.part": job for job in jobs if job.gguf not in entries}
    outputs = [Output(path, job.quantization, job.ollama_name, job.side == "tuned") for path, job in left.items()]
    merged = folder / MERGED if config.export.save_merged else None
    made = make_files_with(llama_cpp, materials, outputs, merged) if llama_cpp else make_files(materials, outputs, merged)
    if outputs:
        shutil.rmtree(folder / MERGED, ignore_errors=True)  # of an earlier adapter, or not proven
    try:
        for each in made if outputs else ():
            target = folder / left[each.output.path].gguf
            replace_file(each.output.path, target)
            entries[target.name] = {
                "made_from": made_from, "sha256": sha256_file(target), "bytes": target.stat().st_size,
                "quantization": each.output.quantization, "types": each.types, "merged": list(each.merged), **each.checks,
                "seconds": {name: round(value, 1) for name, value in each.seconds.items()},
            }
            write_json_atomic(folder / VERIFICATION, entries)
            print("\n".join(describe_checks(target.name, each.checks)))
    except BaseException:
        shutil.rmtree(folder / MERGED, ignore_errors=True)
        raise
    finally:
        for path in left:
            path.unlink(missing_ok=True)
    return entries


def load_finished(folder: Path, jobs: Sequence[Job], made_from: str) -> dict[str, dict[str, Any]]:
    """What verification.json says of files that were made of the same inputs and have not changed since; the others go."""
    known: dict[str, dict[str, Any]] = read_json(folder / VERIFICATION) if (folder / VERIFICATION).exists() else {}
    wanted, finished = {job.gguf for job in jobs}, {}
    for name, entry in known.items():
        path, same = folder / name, name in wanted and entry.get("made_from") == made_from
        if same and path.is_file() and sha256_file(path) == entry.get("sha256"):
            print(f"[SKIP] {name} was finished by an earlier run")
            finished[name] = entry
        else:
            path.unlink(missing_ok=True)
    return finished
