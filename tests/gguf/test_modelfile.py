from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.gguf.modelfile import STOPS, TEMPLATE, render_modelfile, require_plain_text

SETTINGS = {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "num_ctx": 4096}


def parse(modelfile: str) -> list[tuple[str, str]]:
    """Commands and arguments as Ollama's parser reads them: a text ends where white space follows its closing quotes."""
    commands, rest = [], modelfile
    while rest := rest.lstrip():
        if rest.startswith("#"):
            rest = rest.partition("\n")[2]
            continue
        name, _, rest = rest.partition(" ")
        end = next(
            place for place, character in enumerate(rest) if character == "\n" and is_whole("".join(filter(kept, rest[:place])))
        )
        commands.append((name, unquote("".join(filter(kept, rest[:end])))))
        rest = rest[end:]
    return commands


def kept(character: str) -> bool:
    return character in "\n\r\t" or character.isprintable()


def is_whole(text: str) -> bool:
    text = text.strip()
    if text.startswith('"""'):
        return text.endswith('"""') and len(text) >= 6
    return not text.startswith('"') or text[1:].endswith('"')


def unquote(text: str) -> str:
    text = text.strip()
    width = 3 if text.startswith('"""') else 1 if text.startswith('"') else 0
    return text[width : len(text) - width]


def test_the_whole_file() -> None:
    modelfile = render_modelfile("a-q4_k_m.gguf", system="Be precise.", comments=["made by me", ""], **SETTINGS)
    assert modelfile.startswith("# made by me\n#\nFROM ./a-q4_k_m.gguf\n")
    assert parse(modelfile) == [
        ("FROM", "./a-q4_k_m.gguf"), ("TEMPLATE", TEMPLATE), ("SYSTEM", "Be precise."),
        *[("PARAMETER", f'stop "{stop}"') for stop in STOPS],
        ("PARAMETER", "temperature 0.3"), ("PARAMETER", "top_p 0.9"), ("PARAMETER", "top_k 40"), ("PARAMETER", "num_ctx 4096"),
    ]
    assert "\r" not in modelfile
    assert modelfile.isascii()


def test_an_empty_system_prompt_is_left_out() -> None:
    assert "SYSTEM" not in render_modelfile("a.gguf", system="", **SETTINGS)


def test_the_template_ends_every_message() -> None:
    # Ollama's library template for phi4-mini forgets <|end|> after the system prompt.
    assert TEMPLATE.count("<|end|>") == 1
    assert TEMPLATE.endswith("<|end|>\n{{- end }}<|assistant|>")


@pytest.mark.parametrize(("system", "named"), [
    ('say """this""" now', "three quotation marks"),
    ('ends in """', "three quotation marks"),
    ("one\r\ntwo", r"U\+000D"),
    ("45\u00a0Nm", r"U\+00A0"),
    ("zero\u200bwidth", r"U\+200B"),
    ("\ufeffmark", r"U\+FEFF"),
    ("a\x00b", r"U\+0000"),
])
def test_text_that_the_parser_would_alter_is_refused(system: str, named: str) -> None:
    with pytest.raises(PipelineError, match=rf"prompt\.system.*{named}") as error:
        render_modelfile("a.gguf", system=system, **SETTINGS)
    assert "\n" not in str(error.value)


@given(st.text(alphabet=st.one_of(st.sampled_from('" \n\t#'), st.characters(codec="utf-8")), min_size=1))
def test_what_is_accepted_survives_the_parser(system: str) -> None:
    try:
        require_plain_text(system)
    except PipelineError:
        return
    assert ("SYSTEM", system) in parse(render_modelfile("a.gguf", system=system, **SETTINGS))
