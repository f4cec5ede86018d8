"""Training rows as token ids, by the tokenizer's own chat template, with loss on the answer and its end marker alone.

Lengths are known before anything is trained, and nothing is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import PipelineError
from distill.prompts import join_reasoning, to_messages
from distill.records import TrainingExample

IGNORE = -100  # the label that PyTorch's cross entropy leaves out


@dataclass(frozen=True)
class EncodedExample:
    """One row as tokens: `input_ids`, and `labels` of the same length with IGNORE wherever there is no loss."""

    example_id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def answer_tokens(self) -> int:
        """How many tokens carry loss."""
        return sum(label != IGNORE for label in self.labels)


def encode_examples(
    tokenizer: Any, system: str, examples: Sequence[TrainingExample], include_reasoning: bool = False
) -> list[EncodedExample]:
    """Raises PipelineError naming the row that would be trained otherwise than it is served."""
    return [encode_example(tokenizer, system, example, include_reasoning) for example in examples]


def text_to_learn(example: TrainingExample, include_reasoning: bool) -> str:
    """What the student shall say: the answer, with `include_reasoning` after the teacher's steps where the row has them."""
    return join_reasoning(example.reasoning if include_reasoning else "", example.output)


def encode_example(
    tokenizer: Any, system: str, example: TrainingExample, include_reasoning: bool = False
) -> EncodedExample:
    """The prompt exactly as it is rendered for generation, then the answer and the template's end marker."""
    answer = text_to_learn(example, include_reasoning)
    messages = to_messages(system, example.instruction)
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": answer}], tokenize=False, add_generation_prompt=False
    )
    if not whole.startswith(prompt):
        raise PipelineError(
            f"row {example.id}: the base model's chat template renders the prompt differently before an answer, "
            "so training would not match serving: use another base model"
        )
    require_plain_answer(tokenizer, example.id, answer)
    prompt_ids = to_ids(tokenizer, prompt)
    answer_ids = keep_first_end_marker(tokenizer, to_ids(tokenizer, whole[len(prompt) :]))
    return EncodedExample(example.id, prompt_ids + answer_ids, [IGNORE] * len(prompt_ids) + answer_ids)


def to_ids(tokenizer: Any, text: str) -> list[int]:
    """The template has written every special token already; none is added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def list_special_ids(tokenizer: Any) -> set[int]:
    """Every token that is markup, not text."""
    return set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)


def require_plain_answer(tokenizer: Any, row_id: str, answer: str) -> None:
    """Raises PipelineError when an answer's text holds a marker such as <|end|>: the student would learn to stop there."""
    found = [token for token in to_ids(tokenizer, answer) if token in list_special_ids(tokenizer)]
    if found:
        raise PipelineError(
            f"row {row_id}: the answer holds {tokenizer.decode(found[:1])}, which the base model reads as markup: "
            "write it otherwise, or leave the row out"
        )


def keep_first_end_marker(tokenizer: Any, answer_ids: list[int]) -> list[int]:
    """Cut what the template writes after the answer's end marker: Phi-4-mini's adds a second, <|endoftext|>."""
    special = list_special_ids(tokenizer)
    ends = [position for position, token in enumerate(answer_ids) if token in special]
    if not ends:
        raise PipelineError(
            "the base model's chat template writes no end marker after an answer: the student would never learn to stop; "
            "use an instruct model"
        )
    return answer_ids[: ends[0] + 1]


def require_lengths(encoded: Sequence[EncodedExample], max_length: int) -> None:
    """Raises PipelineError when a row is longer than max_length: an answer that is cut teaches the student to break off."""
    too_long = sorted((row for row in encoded if len(row.input_ids) > max_length), key=lambda row: -len(row.input_ids))
    if too_long:
        named = ", ".join(f"{row.example_id} ({len(row.input_ids):,} tokens)" for row in too_long[:3])
        raise PipelineError(
            f"{len(too_long)} of {len(encoded)} rows are longer than finetune.max_length {max_length}, the longest {named}: "
            "raise finetune.max_length, or lower generate.top_k and generate again"
        )


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
