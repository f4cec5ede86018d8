"""Train the demo's student from scratch: a reader of about two million parameters that has seen the corpus and nothing else.

It learns to find the sentence of a source that a few of its words ask for, to repeat it, and to stop. It has never seen a real
question nor a citation: that is what the fine-tuning adds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.tiny_phi3 import END_OF_TEXT, describe_shape, write_tokenizer
from distill.files import write_json_atomic
from distill.progress import show_progress
from distill.sentences import split_sentences

VOCABULARY = 2048
LAYERS, HIDDEN, FEED_FORWARD = 2, 256, 512  # rows of 256 and 512 values are what K-quants need
STEPS, WARMUP, BATCH, LEARNING_RATE = 500, 30, 8, 3e-3
PROMPT_WEIGHT = 0.2  # the prompt is corpus text: learning it a little teaches the language, the answer teaches the task
QUESTION_WORDS = ("What", "How", "Why", "Which", "When", "Where", "What does", "How does", "Why does", "What is", "Why is")
SMALL_WORDS = (
    "a", "an", "and", "are", "as", "at", "be", "because", "by", "for", "from", "has", "have", "in", "is", "it", "of", "on",
    "or", "so", "than", "that", "the", "to", "which", "with",
)
INSTRUCTION = "Read the sources and give the sentence that the question is about."


def make_student(folder: Path, passages: Sequence[str], wording: Sequence[str] = (), steps: int = STEPS, seed: int = 0) -> None:
    """Train on `passages` and write tokenizer, config.json and bfloat16 safetensors into `folder`.

    `wording` is text that prompts will hold, so that the tokenizer has words for it; the model is not trained on it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = write_tokenizer(folder, [*passages, *[INSTRUCTION, *wording] * 5], VOCABULARY)
    end = tokenizer.token_to_id(END_OF_TEXT)
    shape = describe_shape(tokenizer.get_vocab_size(), end, layers=LAYERS, hidden=HIDDEN, feed_forward=FEED_FORWARD)
    write_json_atomic(folder / "config.json", shape)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa")
    train(model, ReadingTask(tokenizer, passages, seed), steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_json_atomic(folder / "config.json", shape)  # transformers rewrote it in its own style; keep the hub's


class ReadingTask:
    """Endless (prompt, answer) pairs: numbered passages and some words of one sentence; the sentence is the answer."""

    def __init__(self, tokenizer: Any, passages: Sequence[str], seed: int) -> None:
        self._tokenizer, self._rng = tokenizer, random.Random(seed)
        self._passages = [(passage, split_sentences(passage)) for passage in passages]

    def draw_batch(self, size: int) -> list[tuple[list[int], list[int]]]:
        """Pairs with the same number of passages, so that little padding is needed."""
        count = self._rng.choice((1, 2))
        return [self.draw(count) for _ in range(size)]

    def draw(self, count: int) -> tuple[list[int], list[int]]:
        """Token ids of one prompt over `count` passages and its answer, end marker included."""
        shown = self._rng.sample(self._passages, count)
        sentence = self._rng.choice(self._rng.choice(shown)[1])
        sources = "\n\n".join(f"[Source {number}]\n{text}" for number, (text, _) in enumerate(shown, start=1))
        prompt = f"<|user|>{INSTRUCTION}\n\n{sources}\n\nQuestion: {self.ask_about(sentence)}?<|end|><|assistant|>"
        return self._tokenizer.encode(prompt).ids, self._tokenizer.encode(sentence + "<|end|>").ids

    def ask_about(self, sentence: str) -> str:
        """A question word and two to six of the sentence's telling words, mostly in order, small words strewn between."""
        words = [word for word in sentence.rstrip(".").replace(",", "").split() if word.lower() not in SMALL_WORDS]
        chosen = sorted(self._rng.sample(range(len(words)), self._rng.randint(2, min(6, len(words)))))
        if self._rng.random() < 0.3:
            self._rng.shuffle(chosen)
        asked = [self._rng.choice(QUESTION_WORDS)]
        for place in chosen:
            asked += [self._rng.choice(SMALL_WORDS)] * (self._rng.random() < 0.4) + [words[place]]
        return " ".join(asked)


def train(model: Any, task: ReadingTask, steps: int) -> None:
    """AdamW with warm-up and linear decay; the answer's tokens weigh 1, the prompt's PROMPT_WEIGHT."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1.0) * (1 - 0.95 * step / steps)
    )
    model.train()
    with show_progress(steps, "student", "step") as progress:
        for _ in range(steps):
            loss = weigh_loss(model, *make_batch(task.draw_batch(BATCH), model.config.pad_token_id))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.advance(note=f"loss {loss.item():.3f}")


def make_batch(pairs: Sequence[tuple[list[int], list[int]]], padding: int) -> tuple[Any, Any]:
    """Token ids and loss weights, both [batch, longest], padded on the right."""
    import torch

    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.full((len(pairs), longest), padding)
    weights = torch.zeros(len(pairs), longest)
    for row, (prompt, answer) in enumerate(pairs):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor(prompt + answer)
        weights[row, : len(prompt)] = PROMPT_WEIGHT
        weights[row, len(prompt) : length] = 1.0
    return ids, weights


def weigh_loss(model: Any, ids: Any, weights: Any) -> Any:
    """The weighted mean of the next-token cross entropy."""
    import torch

    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()
