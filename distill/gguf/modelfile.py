"""
The text of an Ollama Modelfile for Phi-4-mini.

The template is the Hugging Face chat template in Ollama's language, `<|end|>` after the system prompt included; without a
TEMPLATE Ollama would send prompts bare. Knows text only: neither files nor models.
"""

from __future__ import annotations

from collections.abc import Sequence

from distill.errors import PipelineError

TEMPLATE = """\
{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}
{{- if and (eq .Role "system") $.Tools }}<|tool|>{{ $.Tools }}<|/tool|>{{ end }}
{{- if .ToolCalls }}<|tool_call|>[{{ range $i, $t := .ToolCalls }}{{ if $i }},{{ end }}\
{"name":"{{ .Function.Name }}","arguments":{{ .Function.Arguments }}}{{ end }}]<|/tool_call|>{{ end }}<|end|>
{{- end }}<|assistant|>"""
STOPS = ("<|end|>", "<|endoftext|>", "<|user|>", "<|system|>")
QUOTES = '"""'


def render_modelfile(
    gguf_name: str,
    *,
    system: str,
    temperature: float,
    top_p: float,
    top_k: int,
    num_ctx: int,
    comments: Sequence[str] = (),
) -> str:
    """
    A Modelfile for the GGUF that lies beside it; LF line ends.

    comments: header lines, without their number sign. An empty system prompt is left out.
    Raises PipelineError for a system prompt that Ollama's parser would alter.
    """
    require_plain_text(system)
    lines = [f"# {comment}".rstrip() for comment in comments]
    lines += [f"FROM ./{gguf_name}", "", f"TEMPLATE {QUOTES}{TEMPLATE}{QUOTES}", ""]
    if system:
        lines += [f"SYSTEM {QUOTES}{system}{QUOTES}", ""]
    lines += [f'PARAMETER stop "{stop}"' for stop in STOPS]
    numbers = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "num_ctx": num_ctx}
    lines += [f"PARAMETER {name} {value}" for name, value in numbers.items()]
    return "\n".join(lines) + "\n"


def require_plain_text(system: str) -> None:
    """
    Raises PipelineError for text that does not survive Ollama's Modelfile parser.

    The parser ends a text at three quotation marks, and drops every character that does not print: carriage returns, no-break
    and other special spaces, zero-width characters.
    """
    if QUOTES in system:
        raise PipelineError('config.yaml prompt.system: three quotation marks in a row end a Modelfile\'s SYSTEM: remove them')
    for place, character in enumerate(system):
        if character not in "\n\t" and not character.isprintable():
            raise PipelineError(
                f"config.yaml prompt.system: character U+{ord(character):04X} after {system[max(0, place - 20):place]!r} "
                "would be lost in Ollama's Modelfile: replace it by a plain space or remove it"
            )
