"""Training rows as token ids, by the tokenizer's own chat template, with loss on the answer and its end marker alone.

A row is the prompt as it is rendered for generation, so as it is served, and then the answer. Nothing is ever cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.errors import PipelineError
from distill.gguf.chat import DATE
from distill.prompts import Message, find_markup, join_reasoning, to_messages
from distill.records import TrainingExample

IGNORE = -100  # the label that PyTorch's cross entropy leaves out
BATCH = 256  # rows tokenised at once: the tokenizer's own objects take far more memory than the ids
# What a template may write between prompt and answer: white space (Mistral), no thoughts (Qwen3). Of these only the white space
# is learnt: a served prompt is followed by the answer, and the student shall not think first.
LEAD = re.compile(r"(\s*)(?:<think>\s*</think>\s*)?")


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
    markup = find_markup_ids(tokenizer)
    encoded: list[EncodedExample] = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        rendered = [render_example(tokenizer, markup, system, example, include_reasoning) for example in batch]
        prompts = to_ids(tokenizer, [prompt for prompt, _ in rendered])
        wholes = to_ids(tokenizer, [prompt + learnt for prompt, learnt in rendered])
        for example, (_, learnt), prompt_ids, whole_ids in zip(batch, rendered, prompts, wholes):
            learnt_ids = continue_ids(tokenizer, example.id, prompt_ids, whole_ids, learnt)
            require_one_marker(markup, example.id, learnt_ids)
            encoded.append(EncodedExample(example.id, prompt_ids + learnt_ids, [IGNORE] * len(prompt_ids) + learnt_ids))
    return encoded


def encode_example(
    tokenizer: Any, system: str, example: TrainingExample, include_reasoning: bool = False
) -> EncodedExample:
    """One row; see encode_examples, which is faster for many."""
    return encode_examples(tokenizer, system, [example], include_reasoning)[0]


def text_to_learn(example: TrainingExample, include_reasoning: bool) -> str:
    """What the student shall say: the answer, with `include_reasoning` after the teacher's steps where the row has them."""
    return join_reasoning(example.reasoning if include_reasoning else "", example.output)


# -----------------------------------------------------------------------------
# The chat template: text


def render_example(
    tokenizer: Any, markup: dict[int, str], system: str, example: TrainingExample, include_reasoning: bool
) -> tuple[str, str]:
    """The prompt as it is served, and what follows it: the answer and its end marker, after the template's white space if any.

    A template may strip white space around the answer. Raises PipelineError where it writes anything else.
    """
    answer = text_to_learn(example, include_reasoning)
    messages = to_messages(system, example.instruction)
    prompt = render(tokenizer, messages, for_answer=True)
    require_whole_prompt(example.id, messages, prompt)
    # Mistral v0.3 shows the system prompt only while no answer follows: what follows is then told by the user message alone.
    rendered = render_rest(tokenizer, messages, prompt, answer)
    if rendered is None and system:
        rendered = render_rest(tokenizer, messages[1:], render(tokenizer, messages[1:], for_answer=True), answer)
    if rendered is None:
        raise PipelineError(
            f"row {example.id}: the base model's chat template renders the prompt differently before an answer, "
            "so training would not match serving: use another base model"
        )
    return prompt, take_answer(markup, example.id, answer, rendered)


def render_rest(tokenizer: Any, messages: list[Message], prompt: str, answer: str) -> str | None:
    """What the template writes after the prompt of these messages when an answer follows; None where it changes the prompt."""
    whole = render(tokenizer, [*messages, {"role": "assistant", "content": answer}], for_answer=False)
    return whole[len(prompt) :] if whole.startswith(prompt) else None


def render(tokenizer: Any, messages: list[Message], for_answer: bool) -> str:
    """The messages as text. Raises PipelineError when the template refuses them: Gemma 2 knows no system role."""
    from jinja2 import TemplateError

    try:
        # Llama 3.2's template would write today's date into every row, and the Modelfile cannot follow.
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=for_answer, date_string=DATE)
    except TemplateError as error:
        raise PipelineError(
            f'the base model\'s chat template refuses these messages ({error}): set prompt.system to "", put its words into '
            "prompt.template and generate again, or use another base model"
        ) from None


def require_whole_prompt(row_id: str, messages: Sequence[Message], prompt: str) -> None:
    """Raises PipelineError when the template left a message out."""
    for message in messages:
        if message["content"].strip() not in prompt:
            raise PipelineError(
                f"row {row_id}: the base model's chat template leaves out or changes the {message['role']} message: "
                "use another base model"
            )


def take_answer(markup: dict[int, str], row_id: str, answer: str, rendered: str) -> str:
    """Of what a template writes after the prompt the answer and its first end marker: Phi-4-mini's adds <|endoftext|>."""
    lead = LEAD.match(rendered)  # it matches nothing, too
    end = lead.end() + len(answer.strip())
    if rendered[lead.end() : end] != answer.strip():
        refuse_markup(row_id, answer, markup.values())
        raise PipelineError(
            f"row {row_id}: the base model's chat template writes {rendered[:40]!r} where the answer should begin: "
            "use another base model"
        )
    rest = rendered[end:]
    space = len(rest) - len(rest.lstrip())
    marker = max((text for text in markup.values() if rest.startswith(text, space)), key=len, default="")
    if not marker:
        raise PipelineError(
            "the base model's chat template writes no end marker after an answer: the student would never learn to stop; "
            "use an instruct model"
        )
    return lead[1] + rendered[lead.end() : end + space + len(marker)]


# -----------------------------------------------------------------------------
# The tokenizer: ids


def to_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The template has written every special token already; none is added."""
    return tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]


def find_markup_ids(tokenizer: Any) -> dict[int, str]:
    """The ids and texts of the tokens that are markup.

    Not every added token is: Gemma's are also blank lines and HTML tags. But <think>, which is not marked special, is.
    """
    added = {index: token for index, token in tokenizer.added_tokens_decoder.items() if token.content}
    special = set(tokenizer.all_special_ids)
    return {
        index: token.content for index, token in added.items()
        if token.special or index in special or find_markup(token.content)
    }


def continue_ids(tokenizer: Any, row_id: str, prompt_ids: list[int], whole_ids: list[int], learnt: str) -> list[int]:
    """The ids of what follows the prompt, whose own ids stay those of serving.

    Tokenised in one piece with the prompt: by itself, some tokenizers would put a blank in front of it. Where prompt and answer
    melt into one token in that piece, it is tokenised by itself. Raises PipelineError if that changes the text.
    """
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        return whole_ids[len(prompt_ids) :]
    learnt_ids = to_ids(tokenizer, [learnt])[0]
    if tokenizer.decode(prompt_ids + learnt_ids) != tokenizer.decode(whole_ids):
        raise PipelineError(f"row {row_id}: the base model's tokenizer joins prompt and answer: use another base model")
    return learnt_ids


def require_one_marker(markup: dict[int, str], row_id: str, learnt_ids: Sequence[int]) -> None:
    """Raises PipelineError when an answer's text holds a marker such as <|end|>: the student would learn to stop there."""
    found = [markup[token] for token in learnt_ids[:-1] if token in markup]
    refuse_markup(row_id, "".join(found), found[:1])
    if learnt_ids[-1] not in markup:
        raise PipelineError(f"row {row_id}: the base model's tokenizer does not know the end marker: use another base model")


def refuse_markup(row_id: str, text: str, markers: Iterable[str]) -> None:
    """Raises PipelineError naming the first of the markers in a text, if there is one."""
    places = sorted((text.index(marker), -len(marker), marker) for marker in markers if marker in text)
    if places:
        raise PipelineError(
            f"row {row_id}: the answer holds {places[0][2]}, which the base model reads as markup: "
            "write it otherwise, or leave the row out"
        )
