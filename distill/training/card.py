"""The model card: adapters/README.md. What the adapter is, what it was made of and how, what it answers, what it is for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill.curation.card import make_table, tidy
from distill.files import write_text_atomic

FILE_NAME = "README.md"
SHOWN_EVALS = 20


def write_model_card(folder: Path, facts: Mapping[str, Any]) -> Path:
    """
    Write folder/README.md, private to the user, and return its path.

    `facts` must hold "base_model" (config.value_of("finetune.base_model")), "settings" (config.describe("finetune")) and
    "losses" (from summarise_log). It may hold "base_commit", "base_model_files" (from hash_base_model), "data" (from load_sets:
    name, rows, manifest_sha256, train_sha256 of each folder), "counts" (numbers by name), "plan" (plain values by name),
    "backend", "machine" (from describe_machine), "versions", "samples" ({"question", "before", "after"} each, the question
    alone, not the whole prompt), "smoke_run" and "encrypt": where rows are encrypted, the samples, which repeat them, are left
    out.
    """
    path = folder / FILE_NAME
    write_text_atomic(path, render_card(facts), private=True)
    return path


def render_card(facts: Mapping[str, Any]) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads."""
    parts = [
        render_front_matter(facts["base_model"]), render_summary(facts), render_use(facts), render_data(facts),
        render_losses(facts["losses"]), render_samples(facts), render_making(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_front_matter(base_model: str) -> str:
    """No language: nobody knows that of the documents. The licence is "other", and the text below says why."""
    tags = ["lora", "rag", "transformers", f"base_model:adapter:{base_model}"]
    matter = {
        "base_model": base_model, "base_model_relation": "adapter", "library_name": "peft", "license": "other",
        "pipeline_tag": "text-generation", "tags": tags,
    }
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True).strip()}\n---"


def render_summary(facts: Mapping[str, Any]) -> str:
    """What this is, and who may have it."""
    samples = " The sample answers below are such text." if has_samples(facts) else ""
    lines = [f"# LoRA adapter for {tidy(facts['base_model'])}", ""]
    if facts.get("smoke_run"):
        lines += ["**A smoke run:** it shows that everything works. On so few rows nothing worth using is learnt.", ""]
    return "\n".join([
        *lines,
        "Answers questions from the chunks that a RAG system puts into the prompt, and cites them, as a teacher model did for "
        "the training rows.", "",
        "- **Private.** A tuned model can repeat what it was trained on. This adapter, and every model made with it, is as "
        f"confidential as the documents behind its rows.{samples}",
        "- **Licence:** three things bound it, and no program can weigh them: the base model's licence, the terms under which "
        "the teacher's answers may be used for training (training_data/README.md), and who owns the documents.",
    ])


def render_use(facts: Mapping[str, Any]) -> str:
    """What it is for, what it is not for, and the next command."""
    length = facts["settings"].get("max_length")
    within = f" Rows had at most {length:,} tokens; serve it with no more." if length else ""
    return "\n\n".join([
        "## Use",
        "For HybridRAG3, with the system prompt and the prompt template that manifest.json holds: with others it answers "
        f"worse. Not for questions without sources, and not where a wrong answer does harm without anyone checking it.{within}",
        "For Ollama, merged with its base model and quantised:",
        "```\npython export_gguf.py\npython evaluate.py\n```",
        "The second command measures it against its base model on rows that it never saw. Until then nothing here says that it "
        "is better.",
    ])


def render_data(facts: Mapping[str, Any]) -> str:
    """Which rows, by hash, and how many."""
    folders = facts.get("data") or ()
    rows = [
        (each["name"], each["rows"], short(each.get("train_sha256")), short(each.get("manifest_sha256"))) for each in folders
    ]
    counts = {name.replace("_", " "): value for name, value in (facts.get("counts") or {}).items()}
    parts = [
        make_table(["training data", "rows", "train.jsonl, sha256", "manifest.json, sha256"], rows) if rows else "",
        make_table(["count", "value"], counts.items()) if counts else "",
    ]
    return join_section("## Trained on", parts)


def render_losses(losses: Mapping[str, Any]) -> str:
    """Where the loss began and ended; of validation rows, which were not learnt, where it was lowest."""
    figures = {
        "training loss, first steps": show_loss(losses.get("first_loss")),
        "training loss, last steps": show_loss(losses.get("last_loss")),
        "lowest validation loss": describe_best(losses.get("best_eval")),
        "seconds of training": losses.get("seconds") and round(losses["seconds"]),
        "tokens a second, median": losses.get("tokens_per_second") and round(losses["tokens_per_second"]),
        "peak GPU memory, GiB": losses.get("peak_gb"),
    }
    evals = losses.get("eval_losses") or []
    shown = [(step, show_loss(loss)) for step, loss in evals[-SHOWN_EVALS:]]
    parts = [
        "Cross-entropy in nats a token, over answers only.",
        make_table(["figure", "value"], [(name, value) for name, value in figures.items() if value]),
        "![loss](loss.png)",
        make_table(["step", "validation loss"], shown) if shown else "",
    ]
    return join_section("## Loss", parts)


def describe_best(best: Mapping[str, Any] | None) -> str:
    """Loss and step."""
    return f"{show_loss(best['loss'])} at step {best['step']:,}" if best else ""


def show_loss(loss: float | None) -> str:
    """Four digits."""
    return "" if loss is None else f"{loss:.4f}"


def has_samples(facts: Mapping[str, Any]) -> bool:
    """Whether the card holds text of the documents."""
    return bool(facts.get("samples")) and not facts.get("encrypt")


def render_samples(facts: Mapping[str, Any]) -> str:
    """The same held-out questions before and after."""
    if facts.get("samples") and facts.get("encrypt"):
        return "## Sample answers\n\nLeft out: the rows are encrypted, and these answers repeat them."
    parts = [
        part
        for sample in facts.get("samples") or ()
        for part in (
            f"**{tidy(sample['question'])}**", "Before:", quote(sample["before"]), "After:", quote(sample["after"])
        )
    ]
    return join_section("## Sample answers to held-out questions", parts)


def quote(text: str) -> str:
    """A text as it is, whatever Markdown it holds: in a fence that is longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip() or '(nothing)'}\n{fence}"


def render_making(facts: Mapping[str, Any]) -> str:
    """Base model, settings, plan, machine and versions: enough to do it again."""
    commit = facts.get("base_commit")
    files = [(each["path"], each["bytes"], short(each["sha256"])) for each in facts.get("base_model_files") or ()]
    parts = [
        f"Base model {tidy(facts['base_model'])}" + (f" at commit {commit}." if commit else ", by its files:"),
        make_table(["file", "bytes", "sha256"], files) if files else "",
        f"Backend: {facts['backend']}." if facts.get("backend") else "",
        make_values("setting", facts["settings"]), make_values("plan", facts.get("plan")),
        make_values("machine", flatten_gpus(facts.get("machine"))), make_values("package", facts.get("versions")),
        "Whole hashes, and those of the stages before, are in manifest.json; every step is in training_log.jsonl.",
    ]
    return join_section("## How it was made", parts)


def make_values(head: str, values: Mapping[str, Any] | None) -> str:
    """A table of plain values; "" where there are none."""
    return make_table([head, "value"], [(name, show_value(value)) for name, value in values.items()]) if values else ""


def show_value(value: Any) -> Any:
    """A value as YAML would write it: null and true, not None and True."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {show_value(each)}" for name, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(str(show_value(each)) for each in value)
    return value


def flatten_gpus(machine: Mapping[str, Any] | None) -> dict[str, Any]:
    """The machine without what it lacks, and each GPU as one line."""
    if not machine:
        return {}
    gpus = [f"{gpu['name']}, {gpu['bytes'] / 2**30:.0f} GiB, capability {gpu['capability']}" for gpu in machine["gpus"]]
    others = {name: value for name, value in machine.items() if value is not None and name not in ("gpus", "torch_archs")}
    return {**({"gpus": "; ".join(gpus)} if gpus else {}), **others}


def short(digest: str | None) -> str:
    """Enough of a hash to compare by eye; the whole stands in manifest.json."""
    return (digest or "")[:16]


def join_section(head: str, parts: Iterable[str]) -> str:
    """A section of what there is; "" of nothing."""
    found: Sequence[str] = [part for part in parts if part]
    return "\n\n".join([head, *found]) if found else ""
