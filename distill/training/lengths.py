"""How long the rows are in tokens, and what happens to those that are longer than the student may see: see fit_lengths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.config import FinetuneSection, PromptSection
from distill.errors import PipelineError
from distill.records import TrainingExample
from distill.training.encode import EncodedExample, encode_example, encode_examples
from distill.training.trimming import Unfit, drop_chunks, list_droppable

BINS = 8
BAR = 40  # characters
SHOWN = 5
UNNAMED = "(no category)"


@dataclass(frozen=True)
class LengthReport:
    """What fit_lengths did. `dropped` and `trimmed` map row ids to categories, `reasons` the ids of `dropped` to why.

    `chunks` maps the ids of `trimmed` to how many chunks were left out of the row.
    """

    over_length: str
    dropped: dict[str, str]
    reasons: dict[str, str]
    trimmed: dict[str, str]
    chunks: dict[str, int]

    def to_manifest(self) -> dict[str, Any]:
        """Counts by category, and the ids; no text."""
        return {
            "over_length": self.over_length,
            "dropped": dict(Counter(self.dropped.values())), "dropped_rows": dict(self.reasons),
            "trimmed": dict(Counter(self.trimmed.values())), "trimmed_rows": dict(self.chunks),
        }


def describe_lengths(encoded: Sequence[EncodedExample]) -> dict[str, int]:
    """Token counts over all rows: total, supervised, median, longest."""
    lengths = sorted(len(row.input_ids) for row in encoded)
    return {
        "rows": len(lengths),
        "tokens": sum(lengths),
        "answer_tokens": sum(row.answer_tokens for row in encoded),
        "median_tokens": lengths[len(lengths) // 2],
        "longest_tokens": lengths[-1],
    }


# -----------------------------------------------------------------------------
# The report


def print_length_report(
    rows: Sequence[EncodedExample], max_length: int, examples: Sequence[TrainingExample] = ()
) -> None:
    """Print a summary, a histogram, and how many rows are longer than max_length; with `examples`, by category."""
    found = describe_lengths(rows)
    print(
        f"[OK] {found['rows']:,} rows, {found['tokens']:,} tokens ({found['answer_tokens']:,} carry loss), "
        f"median {found['median_tokens']:,}, longest {found['longest_tokens']:,} of {max_length:,}"
    )
    for line in draw_histogram([len(row.input_ids) for row in rows]):
        print(line)
    over = [place for place, row in enumerate(rows) if len(row.input_ids) > max_length]
    if over:
        named = [examples[place].category or UNNAMED for place in over] if examples else []
        listed = f": {list_counts(named)}" if named else ""
        print(f"[WARN] {len(over):,} rows are longer than finetune.max_length {max_length:,}{listed}")


def draw_histogram(lengths: Sequence[int]) -> list[str]:
    """Lines of at most about BINS bins from the shortest length's to the longest's: range in tokens, rows, share, bar."""
    width = choose_width(max(lengths) - min(lengths))
    counts = Counter((length - 1) // width for length in lengths)
    most = max(counts.values())
    lines = ["       tokens            rows  share"]
    for place in range(min(counts), max(counts) + 1):
        label = f"{place * width + 1:,} - {(place + 1) * width:,}"
        bar = "#" * math.ceil(BAR * counts[place] / most)
        lines.append(f"       {label:<15} {counts[place]:>6,} {counts[place] / len(lengths):>6.1%}  {bar}".rstrip())
    return lines


def choose_width(span: int) -> int:
    """The smallest of 1, 2, 4, 5, 8 times a power of ten with which BINS bins hold lengths that are `span` apart."""
    scale = 1
    while 8 * scale * BINS < span:
        scale *= 10
    return next(step * scale for step in (1, 2, 4, 5, 8) if step * scale * BINS >= span)


def list_counts(categories: Iterable[str]) -> str:
    """Categories with how many of each, most first."""
    return ", ".join(f"{name} {count:,}" for name, count in Counter(categories).most_common())


# -----------------------------------------------------------------------------
# Fitting


def fit_lengths(
    tokenizer: Any, system: str, examples: Sequence[TrainingExample], settings: FinetuneSection,
    prompt: PromptSection | None = None, encoded: Sequence[EncodedExample] | None = None,
) -> tuple[list[TrainingExample], list[EncodedExample], LengthReport]:
    """The rows that are learnt, the same as tokens, and what became of those longer than settings.max_length.

    settings.over_length: "error" raises PipelineError; "drop" leaves them out; "trim_context" leaves chunks out of their
    prompts, and rows that still do not fit (see trimming.py, which needs `prompt`: how chunks are rendered and cited).
    `encoded` are the examples' tokens, where they are known; ids must be unique. Prints the length report and what was left
    out. Raises PipelineError when no row is left.
    """
    rows = list(encoded) if encoded is not None else encode_examples(tokenizer, system, examples, settings.include_reasoning)
    print_length_report(rows, settings.max_length, examples)
    if settings.over_length == "error":
        require_lengths(rows, settings.max_length)
    report = LengthReport(settings.over_length, {}, {}, {}, {})
    kept: list[tuple[TrainingExample, EncodedExample]] = []
    for example, row in zip(examples, rows):
        category = example.category or UNNAMED
        try:
            fitted = fit_row(tokenizer, system, example, row, settings, prompt)
        except Unfit as reason:
            # Out, not an error: who chose trim_context wants the run to go on, and "drop" would lose the other long rows, too.
            report.dropped[example.id], report.reasons[example.id] = category, str(reason)
            continue
        if fitted[0] is not example:
            report.trimmed[example.id] = category
            report.chunks[example.id] = len(example.context) - len(fitted[0].context)
        kept.append(fitted)
    print_outcome(report, settings.max_length)
    if not kept:
        raise PipelineError(f"no row is within finetune.max_length {settings.max_length}: raise it, or generate shorter rows")
    return [example for example, _ in kept], [row for _, row in kept], report


def fit_row(
    tokenizer: Any, system: str, example: TrainingExample, row: EncodedExample, settings: FinetuneSection,
    prompt: PromptSection | None,
) -> tuple[TrainingExample, EncodedExample]:
    """A row within max_length: itself, or without its least telling chunks. Raises Unfit, with the reason, otherwise."""
    if len(row.input_ids) <= settings.max_length:
        return example, row
    if settings.over_length != "trim_context":
        raise Unfit(f"{len(row.input_ids):,} tokens")
    if prompt is None or not example.context:
        raise Unfit("it names no chunks" if prompt else "it is not known how its chunks are rendered")
    droppable, encoded = list_droppable(prompt, example, settings.include_reasoning), row
    for count in range(1, len(droppable) + 1):
        shorter = drop_chunks(prompt, example, droppable[:count])
        encoded = encode_example(tokenizer, system, shorter, settings.include_reasoning)
        if len(encoded.input_ids) <= settings.max_length:
            return shorter, encoded
    raise Unfit(f"{len(encoded.input_ids):,} tokens with the chunks that its answer needs")


def require_lengths(encoded: Sequence[EncodedExample], max_length: int) -> None:
    """Raises PipelineError when a row is longer than max_length: an answer that is cut teaches the student to break off."""
    too_long = sorted((row for row in encoded if len(row.input_ids) > max_length), key=lambda row: -len(row.input_ids))
    if too_long:
        named = ", ".join(f"{row.example_id} ({len(row.input_ids):,} tokens)" for row in too_long[:3])
        raise PipelineError(
            f"{len(too_long)} of {len(encoded)} rows are longer than finetune.max_length {max_length}, the longest {named}: "
            "raise finetune.max_length, set finetune.over_length to trim_context or drop, or lower generate.top_k and generate "
            "again"
        )


def print_outcome(report: LengthReport, max_length: int) -> None:
    """Print what was trimmed, and what was left out with the first reasons."""
    if report.trimmed:
        print(
            f"[OK] {len(report.trimmed):,} rows fit finetune.max_length {max_length:,} now, less "
            f"{sum(report.chunks.values()):,} chunks: {list_counts(report.trimmed.values())}"
        )
    if report.dropped:
        named = "; ".join(f"{row_id} ({report.reasons[row_id]})" for row_id in list(report.dropped)[:SHOWN])
        more = "; ..." if len(report.dropped) > SHOWN else ""
        print(f"[WARN] {len(report.dropped):,} rows are left out as too long: {list_counts(report.dropped.values())}")
        print(f"       {named}{more}")
