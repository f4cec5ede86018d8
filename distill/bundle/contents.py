"""
What goes into a bundle: a fixed list of files, so that nothing else can get in. Writes nothing.

No text of a document is in any of them: manifests and verification.json hold figures, settings and hashes, the model card is
rendered anew from the manifests without the sample answers that adapters/README.md shows, and the rows stay behind. The prompt,
which Modelfile and manifests hold, is the user's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from distill.config import Config, name_path
from distill.curation.card import make_table
from distill.errors import PipelineError
from distill.files import read_text, sha256_file
from distill.gguf.outputs import VERIFICATION, Job, list_jobs
from distill.manifest import FILE_NAME, require_manifest
from distill.training import card

HERE = Path(__file__).parent
SUMS = "SHA256SUMS"
INSTALLERS = ("README.txt", "install.ps1", "install.sh", "verify_bundle.py")  # beside the parts too
SMOKE = "Made by a smoke run (--limit): for trying out only."


@dataclass(frozen=True)
class Entry:
    """A file of the bundle: its name there, where its bytes are, their sha256 and their number."""

    name: str
    source: Path | bytes
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Stages:
    """The manifests of the three stages, as values and as the bytes that the next one's hash is of."""

    values: dict[str, dict[str, Any]]
    data: dict[str, bytes]


def collect_entries(config: Config, name: str, with_base: bool) -> list[Entry]:
    """
    Every file of the bundle called `name`, SHA256SUMS last.

    Raises PipelineError when a stage has not finished, or its manifest is not the one that the next stage read.
    """
    stages = read_stages(config)
    manifest = stages.values["gguf"]
    jobs = list_bundled(config, manifest, with_base)
    recorded = {Path(file["path"]).name: file for file in manifest["outputs"]}
    taken = dict.fromkeys(each for job in jobs for each in (job.gguf, job.modelfile))
    files = [take_file(config, recorded, each) for each in (*taken, VERIFICATION)]
    require_verified(files, jobs)
    made = {f"manifests/{stage}.json": data for stage, data in stages.data.items()}
    made |= {"MODEL_CARD.md": render_card(name, jobs, files, stages).encode()}
    made |= render_installers(name, jobs, files, is_smoke_run(stages))
    entries = [*(make_entry(*each) for each in made.items()), *files, *take_chart(config, stages.values["adapters"])]
    return [*entries, make_entry(SUMS, render_sums(entries))]


# -----------------------------------------------------------------------------
# Stages


def read_stages(config: Config) -> Stages:
    """The manifests back to the training data, each checked against the hash that the next one holds."""
    values = {"gguf": require_manifest(config.gguf_dir, "export_gguf.py", config)}
    data = {"gguf": (config.gguf_dir / FILE_NAME).read_bytes()}
    for stage, folder, later in (("adapters", config.adapters_dir, "gguf"), ("training_data", config.training_dir, "adapters")):
        path = folder / FILE_NAME
        place = name_path(path, config.work_dir)
        if not path.is_file():
            raise PipelineError(f"{place} is missing: a bundle carries the manifests of all stages: put the folder back")
        data[stage] = path.read_bytes()
        if hashlib.sha256(data[stage]).hexdigest() != values[later]["manifests"].get(place):
            raise PipelineError(f"{place} is not the one that {later}/ was made from: run the stages after it again")
        values[stage] = json.loads(data[stage])
    return Stages({stage: values[stage] for stage in reversed(values)}, {stage: data[stage] for stage in reversed(data)})


def describe_verification(stages: Stages) -> str:
    """What was checked before the files got their names, as the manifest of the export tells."""
    if stages.values["gguf"].get("config", {}).get("export", {}).get("verify") == "none":
        return "- **Not verified** against the model that was trained (export.verify: none): its structure alone was checked."
    return (
        "- **Verified** before it got its name: verification.json has the figures, verify_bundle.py checks that they are about "
        "these files."
    )


def is_smoke_run(stages: Stages) -> bool:
    """Whether the model is for trying out only."""
    return bool(stages.values["gguf"]["details"].get("smoke_run"))


def list_bundled(config: Config, manifest: Mapping[str, Any], with_base: bool) -> list[Job]:
    """The exported models that go along, named as they were exported, whatever config.yaml says now."""
    models, exported = manifest["details"]["models"], manifest["config"]["export"]
    if with_base and "base" not in models:
        raise PipelineError("gguf/ holds no base model to bundle: export again without --skip-base and with export.export_base")
    same = {"name": models["tuned"]["ollama_name"], "quantization": tuple(exported["quantization"])}
    as_exported = config.model_copy(update={"export": config.export.model_copy(update=same)})
    return list_jobs(as_exported, with_base)


def take_file(config: Config, recorded: Mapping[str, Mapping[str, Any]], name: str) -> Entry:
    """A file of gguf/ as its manifest recorded it."""
    if name not in recorded:
        raise PipelineError(f"gguf/{FILE_NAME} does not list {name}: export again with --overwrite")
    return Entry(name, config.gguf_dir / name, recorded[name]["sha256"], recorded[name]["bytes"])


def take_chart(config: Config, manifest: Mapping[str, Any]) -> list[Entry]:
    """The plot that the model card shows, if it is still the one that was drawn."""
    path = config.adapters_dir / "loss.png"
    recorded = [file for file in manifest["outputs"] if file["path"] == name_path(path, config.work_dir)]
    kept = path.is_file() and bool(recorded) and sha256_file(path) == recorded[0]["sha256"]
    return [Entry("loss.png", path, recorded[0]["sha256"], recorded[0]["bytes"])] if kept else []


def require_verified(files: Sequence[Entry], jobs: Sequence[Job]) -> None:
    """Raises PipelineError unless verification.json is about the very files."""
    by_name = {entry.name: entry for entry in files}
    verified = json.loads(Path(by_name[VERIFICATION].source).read_bytes())  # type: ignore[arg-type]
    for job in jobs:
        if verified.get(job.gguf, {}).get("sha256") != by_name[job.gguf].sha256:
            raise PipelineError(f"gguf/{VERIFICATION} is not about this {job.gguf}: export again with --overwrite")


# -----------------------------------------------------------------------------
# What is made for the bundle


def make_entry(name: str, data: bytes) -> Entry:
    """A file whose bytes are at hand."""
    return Entry(name, data, hashlib.sha256(data).hexdigest(), len(data))


def render_sums(entries: Sequence[Entry]) -> bytes:
    """As `sha256sum --check` reads it."""
    return "".join(f"{entry.sha256}  {entry.name}\n" for entry in entries).encode()


def render_installers(name: str, jobs: Sequence[Job], files: Sequence[Entry], smoke_run: bool) -> dict[str, bytes]:
    """README.txt, HYBRIDRAG3.txt, both installers and verify_bundle.py with this bundle's names in them; LF line ends."""
    # A model of the user's own may be called NAME-trial.
    trial = next(f"trial-{entry.sha256[:8]}" for entry in files if entry.name == jobs[0].gguf)
    names = {
        "@TRIAL@": trial, "@BUNDLE@": name, "@MODEL@": jobs[0].ollama_name, "@SMOKE@": SMOKE if smoke_run else "",
        "@MODELS@": " ".join(f"{job.ollama_name}:{job.modelfile}" for job in jobs),
    }
    texts = {each: read_text(HERE / each).replace("\r\n", "\n") for each in (*INSTALLERS, "HYBRIDRAG3.txt")}
    for mark, value in names.items():
        texts = {each: text.replace(mark, value) for each, text in texts.items()}
    return {each: text.encode("ascii") for each, text in texts.items()}


def render_card(name: str, jobs: Sequence[Job], files: Sequence[Entry], stages: Stages) -> str:
    """The bundle's model card: its files; data, loss and making of the adapter; not the adapter card's sample answers."""
    adapters = stages.values["adapters"]
    base = adapters["fixed"]["finetune.base_model"]
    facts = {
        "losses": {}, **{key: value for key, value in adapters["details"].items() if key != "samples"}, "base_model": base,
        "settings": adapters["config"]["finetune"], "counts": adapters["counts"], "versions": adapters["versions"],
    }
    sizes = {entry.name: entry for entry in files}
    rows = [(job.gguf, job.side, job.quantization, sizes[job.gguf].bytes, sizes[job.gguf].sha256) for job in jobs]
    parts = [
        f"# {name}", f"**{SMOKE}**" if is_smoke_run(stages) else "",
        f"{card.tidy(base)}, tuned to answer questions from the chunks that HybridRAG3 puts into the prompt, for Ollama.",
        make_table(["file", "model", "quantisation", "bytes", "sha256"], rows),
        f"{describe_verification(stages)}\n"
        "- **Private.** A tuned model can repeat what it was trained on: it is as confidential as the documents behind its "
        "rows. No text of theirs stands in the other files of this bundle.\n"
        "- **Licence:** the base model's, the terms under which the teacher's answers may be used for training, and who owns "
        "the documents.",
        card.render_data(facts), card.render_losses(facts["losses"]), card.render_making(facts),
        "The manifest of that stage is manifests/adapters.json here.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def find_moment(config: Config) -> datetime:
    """When the export finished: the date of the files in the zip, so that the same export makes the same bundle."""
    return datetime.fromisoformat(json.loads((config.gguf_dir / FILE_NAME).read_bytes())["made_at"])
