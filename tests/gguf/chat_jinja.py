"""The chat templates that distill/gguf/chat.py knows, in Jinja, written from their formats; and tokenizers that have them."""

from __future__ import annotations

from pathlib import Path

from demo.tiny_phi3 import CHAT_TEMPLATE
from tests.training.chat_templates import GEMMA_3, LLAMA_3, MISTRAL_3, Family, make_tokenizer

PHI_4 = """{% for message in messages %}{% if message.role in ('system', 'user', 'assistant') %}
{{- '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""

# Roles must alternate; the system prompt stands before the last user message.
MISTRAL_NEMO = """{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}{{ bos_token }}
{%- for message in turns %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}
{%- if message.role == 'user' %}
{{- '[INST]' + (system + '\\n\\n' if loop.last and system is defined else '') + message.content + '[/INST]' }}
{%- else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"""

# The system turn is always there; `DATE_LINE` differs between 3.1 and 3.2.
LLAMA_31 = """{{ bos_token }}DATE_LINE{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}
{%- set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: ' + date_string }}
{{- '\\n\\n' + system + '<|eot_id|>' }}{% for message in turns %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
FIXED_DATE = "{% if date_string is not defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
CURRENT_DATE = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"

# Thoughts are shown, empty ones too, in answers to the last question alone.
QWEN_3 = """{% set ns = namespace(last=0) %}{% for message in messages %}{% if message.role == 'user' %}
{%- set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for message in messages %}
{%- set thoughts = '<think>\\n\\n</think>\\n\\n' if message.role == 'assistant' and loop.index0 > ns.last else '' %}
{{- '<|im_start|>' + message.role + '\\n' + thoughts + message.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"""

LLAMA_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
MISTRAL_TOKENS = ("<s>", "[INST]", "[/INST]", "</s>")
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

# By the name of the model; the format's name in distill/gguf/chat.py is the first part.
MODELS = {
    "phi-4-mini": Family(CHAT_TEMPLATE, ("<|endoftext|>", "<|endoftext|>"), "<|end|>"),
    "phi-4": Family(PHI_4, ("<|endoftext|>", "<|im_sep|>", *CHATML_TOKENS), "<|im_end|>"),
    "mistral-v0.3": Family(MISTRAL_3, MISTRAL_TOKENS, "</s>"),
    "mistral-nemo": Family(MISTRAL_NEMO, MISTRAL_TOKENS, "</s>"),
    "gemma-3": Family(GEMMA_3, ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>"), "<end_of_turn>"),
    "llama-3": Family(LLAMA_3, LLAMA_TOKENS, "<|eot_id|>"),
    "llama-3.1": Family(LLAMA_31.replace("DATE_LINE", FIXED_DATE), LLAMA_TOKENS, "<|eot_id|>"),
    "llama-3.1 of the day": Family(LLAMA_31.replace("DATE_LINE", CURRENT_DATE), LLAMA_TOKENS, "<|eot_id|>"),
    "qwen3": Family(QWEN_3, CHATML_TOKENS, "<|im_end|>", added=("<think>", "</think>")),
}


def write_chat_tokenizer(base: Path, family: Family, folder: Path) -> Path:
    """The tokenizer in `base` with a family's markers and template, saved in `folder`."""
    make_tokenizer(base, family).save_pretrained(folder)
    return folder
