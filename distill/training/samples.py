"""What the student answers to a few questions: read before and after training, for the eye alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distill.records import TrainingExample
from distill.training.attention import plain_attention
from distill.training.encode import encode_example
from distill.training.precision import choose_dtype

CUT = " [...]"  # ends an answer that was longer than max_new_tokens


def choose_samples(examples: Sequence[TrainingExample], count: int) -> list[TrainingExample]:
    """`count` rows, or all if there are fewer, spread evenly over the whole list."""
    count = min(count, len(examples))
    return [examples[index * len(examples) // count] for index in range(count)]


def answer_samples(
    model: Any, tokenizer: Any, system: str, examples: Sequence[TrainingExample], max_new_tokens: int = 200
) -> list[str]:
    """One greedy answer a row, to the prompt that is served; the model is left exactly as it was, training or not.

    A failure never costs the run: it is a [WARN] and empty answers. The model's answer before training is this function's
    before trainer.train(), also in a run that goes on from a checkpoint, since only train() loads that.
    """
    answers: list[str] = []
    reason = ""
    try:
        with answering(model):
            answers = generate_answers(model, tokenizer, system, examples, max_new_tokens) if examples else []
    except Exception as error:  # out of memory, or whatever a backend's generation stumbles over
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    free_memory()  # after the except block, whose traceback holds the tensors
    if reason:
        print(f"[WARN] no sample answers ({reason}): training does not need them")
        return [""] * len(examples)
    return answers


def generate_answers(
    model: Any, tokenizer: Any, system: str, examples: Sequence[TrainingExample], max_new_tokens: int
) -> list[str]:
    """All rows at once, padded on the left: it takes about as long as one alone, and attention leaves the padding out."""
    import torch
    from transformers import GenerationConfig

    encoded = [encode_prompt(tokenizer, system, example) for example in examples]
    ends = sorted({end for _, end in encoded} | list_end_tokens(model, tokenizer))
    longest = max(len(prompt) for prompt, _ in encoded)
    padded = [[ends[0]] * (longest - len(prompt)) + prompt for prompt, _ in encoded]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in encoded]
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, use_cache=True, eos_token_id=ends, pad_token_id=ends[0],
        disable_compile=True,  # compiling takes longer than these few answers
    )
    out = model.generate(
        input_ids=torch.tensor(padded, device=model.device), attention_mask=torch.tensor(mask, device=model.device),
        generation_config=settings,
    )
    return [read_answer(tokenizer, tokens, ends) for tokens in out[:, longest:].tolist()]


def encode_prompt(tokenizer: Any, system: str, example: TrainingExample) -> tuple[list[int], int]:
    """The prompt's token ids as they are trained, and the end marker; the row's own answer has no part in either."""
    row = encode_example(tokenizer, system, example.model_copy(update={"output": "x", "reasoning": ""}))
    return row.input_ids[: len(row.input_ids) - row.answer_tokens], row.input_ids[-1]


def list_end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """What else ends an answer: the model's own settings name one token or several, or none."""
    named = getattr(model.generation_config, "eos_token_id", None)
    several = named if isinstance(named, (list, tuple)) else [named]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}


def read_answer(tokenizer: Any, tokens: list[int], ends: Sequence[int]) -> str:
    """The text up to the first end marker."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), None)
    text = tokenizer.decode(tokens[:stop], skip_special_tokens=True).strip()
    return text if stop is not None else text + CUT


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Evaluation mode and transformers' own attention while the block runs; then every flag as it stood.

    Unsloth switches its modules by functions of its own, and back to what it takes for training: flags are restored after it.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    checkpointing = [(module, module.gradient_checkpointing) for module in model.modules() if has_checkpointing(module)]
    configs = [(config, config.use_cache) for config in list_configs(model)]
    unsloth = sys.modules.get("unsloth")
    on_gpu = model.device.type == "cuda"
    try:
        if unsloth is not None:
            unsloth.FastLanguageModel.for_inference(model)
        else:
            model.eval()
        with plain_attention(model), torch.autocast(model.device.type, choose_dtype(), enabled=on_gpu):
            yield
    finally:
        if unsloth is not None:
            unsloth.FastLanguageModel.for_training(model)
        for module, mode in modes:
            module.training = mode
        for module, value in checkpointing:
            module.gradient_checkpointing = value
        for config, value in configs:
            config.use_cache = value


def has_checkpointing(module: Any) -> bool:
    """Whether a module has the flag itself: PEFT's wrappers only pass on their model's."""
    return "gradient_checkpointing" in vars(module) or hasattr(type(module), "gradient_checkpointing")


def list_configs(model: Any) -> list[Any]:
    """The model's settings and those of its text part, where they say whether keys and values are kept."""
    both = {id(config): config for config in (model.config, model.config.get_text_config())}
    return [config for config in both.values() if hasattr(config, "use_cache")]


def free_memory() -> None:
    """Give the GPU memory that generation took back before training plans with it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
