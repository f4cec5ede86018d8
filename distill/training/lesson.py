"""What a run learns: its rows as tokens, the order of its steps, and the rows that are measured instead of learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Config
from distill.errors import PipelineError
from distill.records import TrainingExample
from distill.training.batches import plan_steps
from distill.training.checkpoints import CACHE
from distill.training.encode import EncodedExample, encode_examples
from distill.training.lengths import describe_lengths, fit_lengths
from distill.training.tokens import list_key_parts, load_or_encode
from distill.training.validation import hold_validation


@dataclass(frozen=True)
class Lesson:
    """`steps` are the row numbers of each optimizer step, over all epochs; `counts` and `lengths` go to the manifest."""

    tokenizer: Any
    rows: list[EncodedExample]
    steps: list[list[int]]
    validation: list[EncodedExample]
    counts: dict[str, int]
    lengths: dict[str, Any]

    def epoch_at(self, step: int) -> float:
        """How often the rows have been learnt after `step` steps."""
        return round(sum(len(rows) for rows in self.steps[:step]) / len(self.rows), 3)

    def rows_of(self, step: int) -> list[str]:
        """The ids of the rows of a step, counted from 1."""
        return [self.rows[row].example_id for row in self.steps[step - 1]]


def load_tokenizer(base: Path) -> Any:
    """The base model's tokenizer. Raises PipelineError for one that knows no chat."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise PipelineError(f"{base} has no chat template: use an instruct model as finetune.base_model")
    return tokenizer


def prepare_lesson(base: Path, config: Config, examples: Sequence[TrainingExample], keep_tokens: bool) -> Lesson:
    """Prints the length report; with `keep_tokens` the tokens stay in adapters/cache/ for the next start.

    Raises PipelineError for rows that cannot be learnt as they are served, or are too long.
    """
    settings, system, tokenizer = config.finetune, config.prompt.system, load_tokenizer(base)
    encoded = load_or_encode(
        config.adapters_dir / CACHE if keep_tokens else None,
        list_key_parts(base, tokenizer, system, examples, settings.include_reasoning),
        lambda: encode_examples(tokenizer, system, examples, settings.include_reasoning),
        config.encrypt,
    )
    examples, encoded, report = fit_lengths(tokenizer, system, examples, settings, config.prompt, encoded)
    learn, validate = hold_validation(examples, encoded, settings.validation_share, settings.seed)
    rows, validation = ([encoded[row] for row in part] for part in (learn, validate))
    difficulty = [examples[row].difficulty for row in learn] if settings.curriculum else None
    steps = plan_steps(
        len(rows), settings.effective_batch_size, settings.epochs, settings.max_steps, settings.seed, difficulty
    )
    if settings.effective_batch_size > len(rows):
        print(f"[WARN] finetune.effective_batch_size {settings.effective_batch_size} is more than the {len(rows):,} rows")
    if settings.warmup_steps >= len(steps):
        print(f"[WARN] finetune.warmup_steps {settings.warmup_steps}: all {len(steps):,} steps are warm-up")
    counts = {**describe_lengths(rows), "validation_rows": len(validation), "steps": len(steps)}
    # Which rows were not learnt, as with the dropped ones: the evaluation asks what of the others is known by heart.
    lengths = {**report.to_manifest(), "validation_rows": [row.example_id for row in validation]}
    return Lesson(tokenizer, rows, steps, validation, counts, lengths)
