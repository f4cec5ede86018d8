"""The dataset card: training_data/README.md and lengths.png. They hold figures and settings, and no text of a document."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill.curation.lengths import CHARACTERS_PER_TOKEN, TokenCounter
from distill.files import create_private, replace_file, sha256_text, write_text_atomic
from distill.records import SIDES, Rows

FILE_NAME, PLOT_NAME = "README.md", "lengths.png"
BINS = 40
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
ORIGINS = {
    "question": "questions of the user, answered by the teacher from retrieved chunks",
    "document": "questions and answers that the teacher wrote about sets of chunks",
    "recording": "prompts recorded from HybridRAG3, answered by the teacher",
    "curated": "rows that the user wrote",
    "canary": "made up and planted, to see later whether the model learnt rows by heart",
}
CHECKS = {
    "markup": "chat markers or control characters in the answer",
    "placeholder": "no answer at all",
    "refusal": "a refusal where an answer was expected, or the reverse, or one of too many",
    "too long": "longer than HybridRAG3 serves",
    "too short": "too few words",
    "citation": "cites a source that is not there, or none",
    "support": "a sentence that its sources do not support",
    "judge": "graded too low by the teacher",
    "unclear question": "a question that cannot be understood without its sources",
    "near-duplicate question": "repeats another question",
    "overlap with held-out": "a training question that overlaps with a held-out one",
}


def write_card(
    folder: Path, rows: Rows, facts: Mapping[str, Any], encrypt: bool = False, counter: TokenCounter | None = None
) -> list[Path]:
    """Write the card and its plot, private to the user, and return both paths.

    `facts` holds "counts" (from count_rows) and may hold "teacher" (who and where), "licence" (what the preflight found, a
    mapping), "checks" (rows left out, by check), "masking" (masked, by kind), "failures" (a number), "config" (the section
    `generate` as plain values) and "edits" (from accept_edits). `encrypt` is whether the rows beside it are encrypted; the card
    holds nothing of them and is not.
    """
    plot = draw_lengths(folder / PLOT_NAME, rows, counter or TokenCounter())
    card = folder / FILE_NAME
    write_text_atomic(card, render_card(facts, encrypt), private=True)
    return [card, plot]


def render_card(facts: Mapping[str, Any], encrypt: bool) -> str:
    """The card in Markdown, with the front matter that the Hugging Face hub reads."""
    parts = [
        render_front_matter(facts["counts"]), render_summary(facts, encrypt), render_counts(facts["counts"]),
        render_filters(facts), render_making(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_front_matter(counts: Mapping[str, Any]) -> str:
    """Nothing that would publish it by itself: the licence is "other", and the text below says which."""
    size = next((name for limit, name in SIZES if counts["rows"] < limit), "n>1M")
    matter = {
        "license": "other", "task_categories": ["question-answering"], "size_categories": [size],
        "configs": [{
            "config_name": "default",
            "data_files": [{"split": "train", "path": "train.jsonl"}, {"split": "test", "path": "heldout.jsonl"}],
        }],
    }
    return f"---\n{yaml.safe_dump(matter, sort_keys=False).strip()}\n---"


def render_summary(facts: Mapping[str, Any], encrypt: bool) -> str:
    """What this is, who answered, and under which licence."""
    counts = facts["counts"]
    lines = [
        "# Training rows for a RAG student", "",
        f"{counts['rows']:,} rows: {counts['train']:,} to train on, {counts['heldout']:,} held out for the evaluation. Each is "
        "a whole RAG prompt and the answer to learn.", "",
        f"- Teacher: {tidy(facts.get('teacher') or 'none')}",
        f"- Licence of the answers: {describe_mapping(facts.get('licence')) or 'not known'}",
        "- The rows hold text of the indexed documents: they are as confidential as those.",
    ]
    if encrypt:
        lines.append("- train.jsonl and heldout.jsonl are encrypted (AES-256-GCM, line by line).")
    documents = counts.get("documents", {})
    if any(documents.values()):
        lines.append(f"- Documents: {documents['train']:,} behind training rows, {documents['heldout']:,} behind the others.")
    return "\n".join(lines)


def render_counts(counts: Mapping[str, Any]) -> str:
    """Tables by category, origin and kind, and the lengths."""
    kinds = {"the sources hold the answer": "answerable", "they do not": "unanswerable", "nobody knows": "unknown"}
    sides = {"training": counts["train"], "held out": counts["heldout"]}
    found = {name: counts.get(key, 0) for name, key in kinds.items()}
    estimate = f"estimated at {CHARACTERS_PER_TOKEN} characters each"
    exact = "of the student's tokenizer" if counts.get("tokens_are_exact") else estimate
    lengths = [
        [name, *(f"{counts[key][figure]:,}" for figure in ("mean", "median", "p95", "max"))]
        for name, key in (("prompt", "prompt_tokens"), ("answer", "answer_tokens")) if counts.get(key)
    ]
    origins = [(name, rows, ORIGINS.get(name, "")) for name, rows in counts["per_origin"].items()]
    return "\n\n".join([
        "## Rows", make_table(["side", "rows"], sides.items()),
        make_table(["category", "rows"], counts["per_category"].items()),
        make_table(["origin", "rows", "what they are"], origins),
        make_table(["answer", "rows"], [*found.items(), ("refusals among them", counts["refusals"])]),
        make_table(["teacher", "rows"], counts["per_teacher"].items()),
        f"Lengths in tokens, {exact}:", make_table(["text", "mean", "median", "95%", "longest"], lengths),
        f"![lengths]({PLOT_NAME})",
    ])


def render_filters(facts: Mapping[str, Any]) -> str:
    """What was left out, and what was masked."""
    checks, masking = facts.get("checks") or {}, facts.get("masking") or {}
    parts = ["## Filters", "Left out by a check:" if checks else "No row was left out by a check."]
    if checks:
        lines = [(name, rows, CHECKS.get(name, "")) for name, rows in checks.items()]
        parts.append(make_table(["check", "rows", "why"], lines))
    if facts.get("failures"):
        parts.append(f"{facts['failures']:,} rows got no answer.")
    parts.append("Personal data masked in questions and sources:" if masking else "No personal data was found to mask.")
    if masking:
        parts.append(make_table(["kind", "times"], sorted(masking.items())))
    if facts.get("edits"):
        parts.append(f"Edited by hand afterwards: {describe_mapping(facts['edits'])}.")
    return "\n\n".join(parts)


def render_making(facts: Mapping[str, Any]) -> str:
    """The settings, and their hash."""
    config = facts.get("config")
    if not config:
        return ""
    text = json.dumps(config, sort_keys=True, ensure_ascii=False, default=str)
    settings = yaml.safe_dump(json.loads(text), sort_keys=False, allow_unicode=True).strip()
    return "\n\n".join([
        "## How it was made",
        "By generate_training_data.py. No document, and none of its near-duplicates, is on both sides; questions that are "
        "nearly the same are on one.",
        f"The settings of `generate` in config.yaml, sha256 {sha256_text(text)}:", f"```yaml\n{settings}\n```",
    ])


def make_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(tidy(cell) for cell in line) + " |" for line in lines)


def tidy(value: Any) -> str:
    """A value as it may stand in a table cell."""
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else " ".join(str(value).split())
    return text.replace("|", "\\|") or "(none)"


def describe_mapping(mapping: Mapping[str, Any] | None) -> str:
    """Plain values on one line."""
    return ", ".join(f"{key} {tidy(value)}" for key, value in (mapping or {}).items())


def draw_lengths(path: Path, rows: Rows, counter: TokenCounter) -> Path:
    """A histogram of prompts and of answers, in tokens; it appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    every = [row for side in SIDES for row in rows[side]]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, key) in enumerate((("prompts", "instruction"), ("answers", "output")), start=1):
        axes = figure.add_subplot(1, 2, place)
        axes.hist([counter.count(getattr(row, key)) for row in every], bins=BINS, color="#4a6fa5")
        axes.set(title=name, xlabel="tokens" if counter.exact else "tokens, estimated", ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    temporary = path.with_name(f".{path.stem}.tmp.png")
    create_private(temporary)
    figure.savefig(temporary, dpi=110, metadata={"Software": None})
    replace_file(temporary, path)
    return path
