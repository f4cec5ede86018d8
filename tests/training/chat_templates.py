"""The chat templates of the families that people fine-tune, written from their formats, each with a tokenizer that knows its
markers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.tiny_phi3 import CHAT_TEMPLATE


@dataclass(frozen=True)
class Family:
    """A template, its special tokens (the first and the last are bos and eos), other added tokens, and the answer's end."""

    template: str
    special: tuple[str, ...]
    end: str
    added: tuple[str, ...] = ()
    lead: str = ""


LLAMA_3 = """{{ bos_token }}{% for message in messages -%}
<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{# the blank line belongs to the header #}{% endif %}"""

# The system prompt stands before the last message, if that is the user's: an answer behind it makes it vanish.
MISTRAL_3 = """{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}{{ bos_token }}
{%- for message in turns %}{% if message['role'] == 'user' %}
{%- if loop.last and system is defined %}{{ '[INST] ' + system + '\\n\\n' + message['content'] + '[/INST]' }}
{%- else %}{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}
{%- else %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}"""

GEMMA_3 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set opening = messages[0]['content'] + '\\n\\n' %}
{%- set turns = messages[1:] %}{% else %}{% set opening = '' %}{% set turns = messages %}{% endif %}
{%- for message in turns %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + (opening if loop.first else '') + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

GEMMA_2 = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + GEMMA_3

# Generation opens with no thoughts, but an answer that was given is shown behind empty ones.
QWEN_3 = """{% for message in messages %}{% set said = message['content'] %}
{%- if message['role'] == 'assistant' %}{% set said = said.split('</think>')[-1].lstrip('\\n') %}
{%- set said = '<think>\\n\\n</think>\\n\\n' + said %}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + said + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""

# Llama's and Gemma's tokenizers know many more markers; Gemma's also has blank lines and HTML as added tokens.
FAMILIES = {
    "phi-4-mini": Family(CHAT_TEMPLATE, ("<|endoftext|>", "<|endoftext|>"), "<|end|>"),
    "llama-3": Family(
        LLAMA_3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"
    ),
    "mistral-v0.3": Family(MISTRAL_3, ("<s>", "[INST]", "[/INST]", "</s>"), "</s>", lead=" "),
    "gemma-3": Family(
        GEMMA_3, ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"), "<end_of_turn>", added=("\n\n", "<table>")
    ),
    "qwen3": Family(QWEN_3, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", added=("<think>", "</think>")),
}


def make_tokenizer(base: Path, family: Family) -> Any:
    """The tokenizer in `base` with a family's markers and template."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in family.special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.added])
    tokenizer.bos_token, tokenizer.eos_token = family.special[0], family.special[-1]
    tokenizer.chat_template = family.template
    return tokenizer
