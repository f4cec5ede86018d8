"""
How a family of models wants a conversation written: Ollama's TEMPLATE, the stops, and the same text in Python.

A format is described once, as data, from which both the TEMPLATE and `render` are made. A base model's format is recognised by
the text that its own chat template makes of some conversations, never by its name: Phi-4-mini and Phi-4 are one family and
write differently. To teach this module another format, add it to FORMATS.

No text holds the BOS token: llama.cpp and Ollama put it in front where the GGUF's tokenizer.ggml.add_bos_token says so, which
must be where `bos` is true.

Ollama gives a TEMPLATE the messages, neighbours of one role joined by a blank line, and once more all system prompts as
.System; its language can not strip white space. From 0.30 on it may take the GGUF's Jinja instead, where that knows more than
the TEMPLATE, such as tools; the text is the same. Read in Ollama's source; the tests run the templates in Go, not in Ollama.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill.errors import PipelineError
from distill.prompts import Message

# Llama 3.1's template writes this date, Llama 3.2's the current one, and both another that is given as `date_string`.
# A student must see one date in training and for ever after.
DATE = "26 Jul 2024"
BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class ChatFormat:
    """
    One way to write a conversation.

    turns: by role what stands before and after a message; other roles are left out. answer: what follows the last message.
    stops: texts at which an answer ends. bos: the BOS token precedes all this. preamble: opens a system turn which is there
    even without a system prompt. fold: the user message that the system prompt opens where it has no turn of its own. trims:
    the roles whose text the Jinja template strips of white space around it. tools: in Ollama's language, what follows the text
    of a role when there are tools.
    """

    name: str
    turns: Mapping[str, tuple[str, str]]
    answer: str
    stops: tuple[str, ...]
    bos: bool = False
    preamble: str = ""
    fold: Literal["", "first", "last"] = ""
    trims: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)

    @property
    def template(self) -> str:
        """Ollama's TEMPLATE."""
        branches = [f'if eq .Role "{role}" }}}}{self._template_turn(role)}{{{{ ' for role in self.turns if self._has_turn(role)]
        loop = "{{ range $index, $_ := .Messages }}{{ " + "else ".join(branches) + "end }}{{ end }}"
        return self._open("{{ .System }}") + loop + self.answer

    def render(self, messages: Sequence[Message]) -> str:
        """What Ollama makes of TEMPLATE for role/content messages, ready for an answer."""
        merged = merge_neighbours(messages)
        system = BLANK_LINE.join(message["content"] for message in messages if message["role"] == "system")
        text = self._open(system)
        for index, message in enumerate(merged):
            role = message["role"]
            if self._has_turn(role):
                folded = system and role == "user" and index == {"first": 1, "last": len(merged) - 1}.get(self.fold)
                before, after = self.turns[role]
                text += before + (system + BLANK_LINE if folded else "") + message["content"] + after
        return text + self.answer

    def tidy(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the Jinja template writes them; white space that it drops, Ollama would keep."""
        return [
            {**message, "content": message["content"].strip()} if message["role"] in self.trims else message
            for message in messages
        ]

    def _has_turn(self, role: str) -> bool:
        return role in self.turns and not (role == "system" and self.preamble)

    def _open(self, system: str) -> str:
        if not self.preamble:
            return ""
        before, after = self.turns["system"]
        return before + self.preamble + system + after

    def _template_turn(self, role: str) -> str:
        before, after = self.turns[role]
        # A system prompt is message 0, so that the first user message is number 1.
        place = {"first": "(eq $index 1)", "last": "(eq (len (slice $.Messages $index)) 1)"}.get(self.fold)
        folded = f"{{{{ if and $.System {place} }}}}{{{{ $.System }}}}{BLANK_LINE}{{{{ end }}}}"
        return before + (folded if place and role == "user" else "") + "{{ .Content }}" + self.tools.get(role, "") + after


def merge_neighbours(messages: Sequence[Message]) -> list[Message]:
    """As Ollama does: messages of one role that follow each other become one, joined by a blank line."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": merged[-1]["content"] + BLANK_LINE + message["content"]}
        else:
            merged.append(message)
    return merged


# -----------------------------------------------------------------------------
# The formats


def repeat_turn(before: str, after: str, *roles: str) -> dict[str, tuple[str, str]]:
    """Turns that differ in the role's name alone, {role} in `before`."""
    return {role: (before.format(role=role), after) for role in roles}


CHAT_ROLES = ("system", "user", "assistant")
# With .Tools, Ollama 0.30 and later stays with this TEMPLATE.
PHI4_MINI_TOOLS = {
    "system": "{{ if $.Tools }}<|tool|>{{ $.Tools }}<|/tool|>{{ end }}",
    "assistant": (
        "{{ if .ToolCalls }}<|tool_call|>[{{ range $i, $t := .ToolCalls }}{{ if $i }},{{ end }}"
        '{"name":"{{ .Function.Name }}","arguments":{{ .Function.Arguments }}}{{ end }}]<|/tool_call|>{{ end }}'
    ),
}
LLAMA_TURNS = repeat_turn("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>", *CHAT_ROLES)
LLAMA_ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
LLAMA_STOPS = ("<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>")

FORMATS = (
    ChatFormat(
        "phi-4-mini",
        repeat_turn("<|{role}|>", "<|end|>", *CHAT_ROLES, "tool"),
        answer="<|assistant|>",
        stops=("<|end|>", "<|endoftext|>", "<|user|>", "<|system|>"),
        tools=PHI4_MINI_TOOLS,
    ),
    ChatFormat(
        "phi-4",
        repeat_turn("<|im_start|>{role}<|im_sep|>", "<|im_end|>", *CHAT_ROLES),
        answer="<|im_start|>assistant<|im_sep|>",
        stops=("<|im_end|>", "<|endoftext|>", "<|im_start|>"),
    ),
    ChatFormat(
        "mistral-v0.3",  # SentencePiece
        {"user": ("[INST] ", "[/INST]"), "assistant": (" ", "</s>")},
        answer="",
        stops=("</s>", "[INST]", "[/INST]"),
        bos=True,
        fold="last",
        trims=("assistant",),
    ),
    ChatFormat(
        "mistral-nemo",  # Tekken
        {"user": ("[INST]", "[/INST]"), "assistant": ("", "</s>")},
        answer="",
        stops=("</s>", "[INST]", "[/INST]"),
        bos=True,
        fold="last",
    ),
    ChatFormat(
        "gemma-3",
        {
            "user": ("<start_of_turn>user\n", "<end_of_turn>\n"),
            "assistant": ("<start_of_turn>model\n", "<end_of_turn>\n"),
        },
        answer="<start_of_turn>model\n",
        stops=("<end_of_turn>", "<eos>", "<start_of_turn>"),
        bos=True,
        fold="first",
        trims=("user", "assistant"),
    ),
    ChatFormat("llama-3", LLAMA_TURNS, answer=LLAMA_ANSWER, stops=LLAMA_STOPS, bos=True, trims=CHAT_ROLES),
    ChatFormat(
        "llama-3.1",  # 3.2 and 3.3 too
        LLAMA_TURNS,
        answer=LLAMA_ANSWER,
        stops=(*LLAMA_STOPS, "<|eom_id|>"),
        bos=True,
        preamble=f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n",
        trims=CHAT_ROLES,
    ),
    ChatFormat(
        # The prompt that training learns from: nothing switches thoughts off, and the student's answers have none.
        "qwen3",
        repeat_turn("<|im_start|>{role}\n", "<|im_end|>\n", *CHAT_ROLES),
        answer="<|im_start|>assistant\n",
        stops=("<|im_end|>", "<|endoftext|>", "<|im_start|>"),
    ),
)


# -----------------------------------------------------------------------------
# Recognition


def make_conversation(*texts: str, system: str = "") -> list[Message]:
    """User and assistant in turn, the system prompt before them if there is one."""
    turns: list[Message] = [{"role": "assistant" if index % 2 else "user", "content": text} for index, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


# Every template must make of them what its format makes of them.
CONVERSATIONS: tuple[list[Message], ...] = (
    make_conversation("What does the relief valve do?"),
    make_conversation("Which torque?", system="Answer from the sources."),
    make_conversation("One?", "1", "Two?"),
    make_conversation("One?", "1", "Two?", "2", "Three?", system="Be brief."),
    make_conversation(
        '{{ .Content }} {% if x %} "45\u00a0Nm" \u00b5m \u2265 \U0001f527 <b>\\n</b>\n\n\tend', system='Line one.\nLine "two".'
    ),
    make_conversation(""),
    make_conversation("  around  ", "\n around \n", "\taround\n\n", system="\n around "),
)


def recognise_format(folder: Path) -> ChatFormat:
    """
    The format of the base model in `folder`: the one that writes every conversation as the tokenizer's own template does.

    Raises PipelineError for a template that none of FORMATS matches.
    """
    tokenizer = load_tokenizer(folder)
    wanted = [render_jinja(tokenizer, messages) for messages in CONVERSATIONS]
    for known in FORMATS:
        bos = (tokenizer.bos_token or "") if known.bos else ""
        if wanted == [bos + known.render(known.tidy(messages)) for messages in CONVERSATIONS]:
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise PipelineError(
        f"{folder}: this chat template is none of {names}, so the TEMPLATE that Ollama needs is unknown: "
        "use another instruct model as finetune.base_model, or describe the format in distill/gguf/chat.py"
    )


def load_tokenizer(folder: Path) -> Any:
    """The base model's tokenizer, from the disk alone. Raises PipelineError for one without a chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare ones for a damaged file
        raise PipelineError(f"{folder}: its tokenizer can not be read: {' '.join(str(error).split())[:200]}") from None
    if not tokenizer.chat_template:
        raise PipelineError(f"{folder} has no chat template: use an instruct model as finetune.base_model")
    return tokenizer


def render_jinja(tokenizer: Any, messages: Sequence[Message]) -> str | None:
    """
    What the tokenizer's own template makes of the messages, BOS included, at DATE; None where it refuses them.

    Raises PipelineError for a template that breaks on them, and for several of which none is the default.
    """
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, date_string=DATE)
    except TemplateError:
        return None
    except Exception as error:  # a template is a program of the model's maker
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(f"{tokenizer.name_or_path}: its chat template can not be used: {reason}") from None


def pin_date(jinja: str) -> str:
    """
    The template for a GGUF: one that writes a date writes DATE, as it did in training.

    llama.cpp gives every template today's date as `date_string`, and a template's own default is then never used.
    """
    return f'{{%- set date_string = "{DATE}" %}}{jinja}' if "date_string" in jinja else jinja


# -----------------------------------------------------------------------------
# Comparison


def describe_difference(text: str, wanted: str) -> str:
    """Where a rendered text parts from the one that it should be."""
    place = count_common(text, wanted)
    return (
        f"after {text[:place][-40:]!r} comes {text[place : place + 40]!r} instead of {wanted[place : place + 40]!r}"
    )


def count_common(one: str, other: str) -> int:
    """How many characters two texts share at their beginning."""
    pairs = enumerate(zip(one, other))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
