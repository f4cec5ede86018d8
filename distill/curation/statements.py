"""The sentences of an answer, what each rests on, and what the prompt itself has ordered to be said.

A sentence rests on the sources that it cites, or on general knowledge where it carries the mark for that.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from distill.config import PromptSection
from distill.curation.words import fold_signs, list_content_words
from distill.prompts import citation_pattern, find_citations, normalise, wants_citations
from distill.sentences import cut_sentences

MARKER = r"(?:[-*+\u2022]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])\s+"
NUMBERING = re.compile(rf"^\s*(?:{MARKER})*(?:\*{{0,2}}(?:[Ss]tep|STEP)\s+\d+\b)?")
ITEM = re.compile(rf"^\s*{MARKER}")
NEW_BLOCK = re.compile(rf"^\s*(?:#{{1,6}}\s|\||{MARKER})")
BOLD = re.compile(r"^\s*(?:\*\*|__)[^*_]+(?:\*\*|__):?\s*$")
HEADING = re.compile(rf"^\s*#{{1,6}}\s|{BOLD.pattern}|:\s*(?:\*\*|__)?\s*$")
BOLD_NUMBERING = re.compile(r"^\W*\d+(?:\.\d+)*[.)]\s+")
LONGEST_BOLD = 8  # words; a longer bold line says something
# Tags are held by private characters while an answer is cut, so that nothing in them ends a sentence.
HELD = re.compile("\ue000(\\d+)\ue001")
BEHIND_THE_STOP = re.compile("([.!?][\"')\\]*]*)((?:[ \\t]*\ue000\\d+\ue001[ \\t,;]*)+)")
QUOTED = re.compile(r"[\"\u201c]([^\"\u201c\u201d]{3,200})[\"\u201d]")
ENDS = " .:;,!?*_\u2026"
FEWEST_WORDS = 3  # of content, in a sentence that says something
SOURCES = (
    r"(?:(?:provided|given|available|supplied|retrieved|above|numbered) )*"
    r"(?:sources?|documents?|context|excerpts?|passages?|text)"
)
REFUSAL_IN_OTHER_WORDS = re.compile(
    rf"(?:unfortunately,? |(?:I'm |I am )?sorry,?(?: but)? |based on .{{0,60}}, )?"
    rf"(?:(?:the|these|your|none of the) )?{SOURCES} (?:do(?:es)?|did) ?(?:not|n't|n\u2019t) "
    r"(?:(?:seem to|appear to|explicitly|directly) )?"
    r"(?:contain|provide|mention|specify|include|answer|state|address|give|discuss|hold|cover|describe)\b|"
    rf"there is (?:no|not enough|insufficient) (?:relevant )?(?:information|detail|mention)\b.*\b{SOURCES}\b|"
    r"(?:unfortunately,? )?I(?: am|'m|\u2019m)? (?:cannot|can't|can\u2019t|could not|unable to|not able to) "
    r"(?:answer|find|determine|provide)\b",
    re.IGNORECASE,
)
# After this a sentence that began as a refusal goes on to say something.
TURN = re.compile(r";|[,\s](?:but|however|though|although|yet|so|only|instead|rather)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """A sentence without its tags; the source numbers that it cites; whether it carries the mark of general knowledge."""

    text: str
    cited: tuple[int, ...] = ()
    marked: bool = False
    heading: bool = False


def list_statements(prompt: PromptSection, answer: str) -> list[Statement]:
    """The sentences of an answer in their order.

    A sentence without a tag takes that of the next one with a tag in its paragraph or list item, else of the one before, else
    every tag of the answer; a tag behind the full stop belongs to the sentence before it. A sentence without a tag behind a
    marked one in its paragraph is marked, too, and so are the list items below a paragraph that ends marked.
    """
    blocks = read_blocks(prompt, answer)
    every = tuple(sorted({number for block in blocks for statement in block for number in statement.cited}))
    return [statement for block in blocks for statement in spread_tags(block, every)]


def read_blocks(prompt: PromptSection, answer: str) -> list[list[Statement]]:
    """The sentences of each paragraph, list item, heading and table row, with their own tags alone."""
    tags: list[tuple[int, ...]] = []

    def hold(match: re.Match[str]) -> str:
        tags.append(tuple(int(number) for number in re.findall(r"\d+", match[0])))
        return f"\ue000{len(tags) - 1}\ue001"

    blocks, below_marked = [], False
    for text in cut_blocks(citation_pattern(prompt).sub(hold, answer)):
        item = bool(ITEM.match(text))
        block = spread_mark([read_statement(prompt, piece, tags) for piece in cut_block(prompt, text)], item and below_marked)
        below_marked = below_marked if item else bool(block) and block[-1].marked
        blocks.append(block)
    return blocks


def cut_blocks(text: str) -> list[str]:
    """Paragraphs, list items, headings and table rows, each on one line."""
    blocks: list[str] = []
    following = False
    for line in text.splitlines():
        if not line.strip():
            following = False
        elif following and not NEW_BLOCK.match(line):
            blocks[-1] += " " + line.strip()
        else:
            blocks.append(line.strip())
            following = not HEADING.search(line)
    return blocks


def cut_block(prompt: PromptSection, block: str) -> list[str]:
    """The sentences of a block; tags behind a full stop, and a mark at the block's end, belong to the sentence before them."""
    if BOLD.match(block):
        block = BOLD_NUMBERING.sub("**", block)
    pieces = cut_sentences(BEHIND_THE_STOP.sub(r" \2\1 ", NUMBERING.sub("", block)))
    mark = normalise(prompt.general_knowledge)
    if len(pieces) > 1 and mark and normalise(pieces[-1]).rstrip(".") == mark.rstrip("."):
        pieces[-2:] = [" ".join(pieces[-2:])]
    return pieces


def read_statement(prompt: PromptSection, piece: str, tags: Sequence[tuple[int, ...]]) -> Statement:
    """One sentence with its own tags alone."""
    mark = normalise(prompt.general_knowledge)
    cited = tuple(number for match in HELD.finditer(piece) for number in tags[int(match[1])])
    plain = re.sub(r" (?=[.,;:!?])", "", " ".join(HELD.sub(" ", piece).split()))
    return Statement(plain, cited, bool(mark) and mark in normalise(plain), not cited and is_heading(plain))


def is_heading(plain: str) -> bool:
    """Whether a line names what follows: # and a title, an introduction with a colon, a short bold line without a number."""
    if BOLD.match(plain) and (len(plain.split()) > LONGEST_BOLD or re.search(r"\d", plain)):
        return False
    return bool(HEADING.search(plain))


def spread_mark(block: Sequence[Statement], marked: bool) -> list[Statement]:
    """Sentences without a tag behind a marked one are marked, too; `marked` is whether what comes before them is."""
    result = []
    for statement in block:
        marked = statement.marked or (marked and not statement.cited)
        result.append(replace(statement, marked=marked))
    return result


def spread_tags(block: Sequence[Statement], every: tuple[int, ...]) -> list[Statement]:
    """Sentences of one block: those without a tag get one."""
    result = []
    for place, statement in enumerate(block):
        nearest = [*block[place:], *reversed(block[:place])]
        result.append(replace(statement, cited=next((other.cited for other in nearest if other.cited), every)))
    return result


# -----------------------------------------------------------------------------
# Answers that go beyond the sources, or say that these do not tell


def is_marked(prompt: PromptSection, answer: str) -> bool:
    """Whether an answer says by the general knowledge mark what it did not find in the sources.

    Each sentence must be marked or cite a source itself. Headings are no sentences, and one may say that the sources do not
    tell. An answer without any mark is not marked, and none is where no mark is configured.
    """
    statements = [statement for block in read_blocks(prompt, answer) for statement in block if re.search(r"\w", statement.text)]
    return any(statement.marked for statement in statements) and all(
        statement.marked or statement.cited or statement.heading or REFUSAL_IN_OTHER_WORDS.match(statement.text)
        for statement in statements
    )


def is_general_knowledge(prompt: PromptSection, answer: str) -> bool:
    """Whether an answer is wholly marked and cites nothing: then the sources were no help."""
    return is_marked(prompt, answer) and not find_citations(prompt, answer)


def says_nothing(prompt: PromptSection, answer: str, orders: Collection[str] = ()) -> bool:
    """Whether an answer only says, in words of its own, that the sources do not tell.

    Not where another sentence, or the second half of the first, gives an answer: one that is marked or cites a source, or
    one with enough words where the prompt asks for no tags. `orders` are those of list_orders: to obey them is no answer.
    """
    statements = [each for block in read_blocks(prompt, answer) for each in block if not each.heading]
    if not statements or not REFUSAL_IN_OTHER_WORDS.match(statements[0].text):
        return False
    return not any(gives_answer(prompt, each) and not is_ordered(each, orders) for each in statements)


def tells_nothing(text: str) -> bool:
    """Whether a sentence says that the sources do not tell, and no more."""
    refusal = REFUSAL_IN_OTHER_WORDS.match(text)
    return refusal is not None and not TURN.search(text, refusal.end())


def gives_answer(prompt: PromptSection, statement: Statement) -> bool:
    """Whether a sentence says what is, not only that the sources do not tell."""
    refusal = REFUSAL_IN_OTHER_WORDS.match(statement.text)
    if statement.marked or (statement.cited and not refusal):
        return True
    if tells_nothing(statement.text) or (wants_citations(prompt) and not statement.cited):
        return False
    turn = TURN.search(statement.text, refusal.end()) if refusal else None
    said = statement.text[turn.end() :] if turn else statement.text
    words = len(list_content_words(fold_signs(said))) + len(re.findall(r"\d+", said))
    return words >= (FEWEST_WORDS - 1 if turn else FEWEST_WORDS)


# -----------------------------------------------------------------------------
# What a prompt orders to be said


def list_orders(rules: str) -> frozenset[str]:
    """What a prompt puts in double quotes, folded: sentences, labels and marks that an answer is told to use."""
    return frozenset(normalise(quoted).strip(ENDS) for quoted in QUOTED.findall(rules)) - {""}


def is_ordered(statement: Statement, orders: Collection[str]) -> bool:
    """Whether a sentence, or what stands behind its colon, is one of `orders`, or it begins with one that is a [MARK]."""
    text = normalise(statement.text)
    forms = {text.strip(ENDS), text.rpartition(": ")[2].strip(ENDS)}
    marks = tuple(order for order in orders if order.startswith("[") and order.endswith("]"))
    return bool(forms & {*orders}) or (bool(marks) and text.startswith(marks))
