"""The sentences of a chunk or an answer: what is prose in it, and where each one ends."""

from __future__ import annotations

import re

from distill.prompts import normalise

FEWEST_WORDS, LONGEST_CHARACTERS = 4, 400
FEWEST_LETTERS = 0.6  # share of letters and blanks; tables, paths and code have fewer

FENCE = re.compile(r"^\s*(?:```|~~~)(.*)")
QUOTE = re.compile(r"^\s{0,3}>\s?(?!>)")
HEADING = re.compile(r"^\s*(#{1,6}\s|[-=_*\s]{3,}$|\[(SLIDE|SHEET|HEADER|ROW)\b)")
CODE = re.compile(r"^(\t| {4,})\S|^\s*(\||>>>|\$ |PS [A-Z]:|[A-Z]:\\|//|<!--)|[;{}]\s*$")
BULLET = re.compile(r"^\s*([-*+]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+")
END = re.compile(r"[.!?][\"')\]]*(?=\s|$)")
ABBREVIATION = re.compile(r"(?:^|[\s(\[\"'])(?:e\.g|i\.e|etc|vs|cf|dr|mr|mrs|ms|prof|et al)\.$", re.IGNORECASE)
NUMBERED = re.compile(
    r"(?:^|[\s(\[])(?:no|nos|figs?|eqs?|sec|ch|vol|pp?|refs?|approx|ca|max|min|temp|freq|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.$", re.IGNORECASE
)
# J. Smith and U.S. Army; but "10 W. The" ends a sentence: a letter after a number is a unit.
INITIAL = re.compile(r"(?:^|[^\d\s]\s+|[(\[])(?:[A-Za-z]\.)*[A-Z]\.$")


def split_sentences(text: str) -> list[str]:
    """The whole sentences of a chunk, in order, with single blanks; headings, tables, code and torn ends are left out."""
    beginning, ending = text.lstrip(), normalise(text)
    sentences = []
    for block, listed in find_blocks(text):
        for number, piece in enumerate(cut_sentences(block)):
            torn = number == 0 and not piece[0].isupper() and beginning.startswith(piece[:20])
            # A list item may end without a full stop, but not the one at which the chunk was cut.
            whole = END.search(piece[-3:]) or (listed and not ending.endswith(normalise(piece)))
            if whole and not torn and is_prose(piece):
                sentences.append(piece)
    return sentences


def find_blocks(text: str) -> list[tuple[str, bool]]:
    """Paragraphs and list items as (text on one line, whether it is a list item)."""
    blocks: list[tuple[str, bool]] = []
    following = False
    for line in drop_fenced([QUOTE.sub("", line) for line in text.splitlines()]):
        listed = BULLET.match(line)
        if not line.strip() or HEADING.match(line) or (CODE.search(line) and not listed and not following):
            following = False
        elif following and not listed:
            blocks[-1] = (f"{blocks[-1][0]} {' '.join(line.split())}", blocks[-1][1])
        else:
            blocks.append((" ".join(line[listed.end() if listed else 0 :].split()), bool(listed)))
            following = True
    return [(block, listed) for block, listed in blocks if block]


def drop_fenced(lines: list[str]) -> list[str]:
    """The lines outside ``` fences, with a blank line for each fence.

    Only an opening fence may name a language: where a closing one seems to, the chunk began inside a fence.
    """
    languages = [match[1].strip() for match in map(FENCE.match, lines) if match]
    inside = any(languages[1::2])
    kept = []
    for line in lines:
        if FENCE.match(line):
            inside = not inside
            kept.append("")
        elif not inside:
            kept.append(line)
    return kept


def cut_sentences(block: str) -> list[str]:
    """Cut where a sentence ends: not in numbers (3.5 dB), not after e.g. or an initial, not before a small letter."""
    pieces, start = [], 0
    for match in END.finditer(block):
        before, after = block[start : match.end()], block[match.end() :].lstrip()
        if after and not after[0].islower() and not is_abbreviation(before, after):
            pieces.append(before.strip())
            start = match.end()
    return [piece for piece in [*pieces, block[start:].strip()] if piece]


def is_abbreviation(before: str, after: str) -> bool:
    """Whether the full stop that ends `before` belongs to an abbreviation: e.g., Fig. 3, U.S., J."""
    numbered = after[0].isdigit() or after[0] == "("
    return bool(ABBREVIATION.search(before) or INITIAL.search(before) or (numbered and NUMBERED.search(before)))


def is_prose(sentence: str) -> bool:
    """Neither a fragment nor a table, a line of code or a link."""
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return (
        len(sentence.split()) >= FEWEST_WORDS and len(sentence) <= LONGEST_CHARACTERS
        and letters >= FEWEST_LETTERS * len(sentence) and not any(mark in sentence for mark in ("|", "](", "://"))
    )
