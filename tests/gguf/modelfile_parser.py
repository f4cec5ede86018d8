"""Ollama's Modelfile parser (parser/parser.go there), as far as our files need it."""

from __future__ import annotations


def parse_modelfile(modelfile: str) -> list[tuple[str, str]]:
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
    """Whatever does not print is dropped."""
    return character in "\n\r\t" or character.isprintable()


def is_whole(text: str) -> bool:
    """Whether an opened quotation has been closed."""
    text = text.strip()
    if text.startswith('"""'):
        return text.endswith('"""') and len(text) >= 6
    return not text.startswith('"') or text[1:].endswith('"')


def unquote(text: str) -> str:
    """The text inside its quotation marks."""
    text = text.strip()
    width = 3 if text.startswith('"""') else 1 if text.startswith('"') else 0
    return text[width : len(text) - width]
