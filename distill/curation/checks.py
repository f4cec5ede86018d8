"""What an answer must be to become a row: find_fault names the first thing wrong with it. Pure: no file, no network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from distill.config import Config, PromptSection
from distill.curation.support import cut, find_unsupported, list_statements
from distill.prompts import (
    demands_refusal,
    find_citations,
    invites_knowledge,
    is_marked,
    is_refusal,
    normalise,
    strip_citations,
    wants_citations,
)
from distill.records import Chunk

# What chat templates write around a turn; in an answer it would teach the student to stop, or to speak for the user.
CHAT_MARKER = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|</?think>"
)
# Everything below U+0020 but tab and line ends; and what a broken encoding leaves.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff]")
NO_ANSWER = re.compile(
    r"\W*(?:n/?a|none|null|nil|nan|tba|unknown|placeholder|answer|test|(?:to ?do|tbd)\b.{0,60})?\W*", re.IGNORECASE
)
FILLER = re.compile(
    r"lorem ipsum|\bas an AI\b|\bas a (?:large )?language model,? I\b|\bI(?:'m|\u2019m| am) (?:just |only )?an AI\b|"
    r"\[(?:insert|fill in|your answer)\b[^\]]*\]|</?answer>",
    re.IGNORECASE,
)
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


class Asked(Protocol):
    """What the checks want to know of a planned row: see distill.rows.planner.PlannedRow."""

    @property
    def question(self) -> HasText: ...
    @property
    def origin(self) -> str: ...
    @property
    def chunks(self) -> tuple[Chunk, ...]: ...
    @property
    def answerable(self) -> bool | None: ...
    @property
    def prompt(self) -> HasInstruction: ...


class HasText(Protocol):
    """A question."""

    @property
    def text(self) -> str: ...


class HasInstruction(Protocol):
    """A user message."""

    @property
    def instruction(self) -> str: ...


@dataclass(frozen=True)
class Fault:
    """Why an answer cannot be learnt from: the name of the check, and one line that shows where."""

    check: str
    detail: str


def find_fault(config: Config, row: Asked, text: str, tokens: int) -> Fault | None:
    """The first fault of an answer of `tokens` student tokens, the most telling first, or None.

    "markup": chat markers, control characters. "placeholder": no answer at all. "refusal": a refusal where an answer was
    expected, or that nobody asked for, or that goes on; and an answer where a refusal was expected. "too long".
    "citation": a source that does not exist, or none. "too short". "support": a sentence that its sources do not support, as
    distill.curation.support measures it.
    """
    checks = config.generate.checks
    detail = find_markup(text)
    if detail:
        return Fault("markup", detail)
    if is_placeholder(text):
        return Fault("placeholder", f"is no answer: {cut(one_line(text))}")
    detail = find_refusal_fault(config, row, text)
    if detail:
        return Fault("refusal", detail)
    if tokens > checks.max_answer_tokens:
        return Fault("too long", f"{tokens} tokens, more than generate.checks.max_answer_tokens {checks.max_answer_tokens}")
    if is_refusal(config.prompt, text):
        return None
    return find_answer_fault(config, row, text)


def find_answer_fault(config: Config, row: Asked, text: str) -> Fault | None:
    """The faults that only an answer can have which is no refusal.

    A recorded prompt may have a form in which no sources could be found: there nothing can be said of them.
    """
    checks, prompt = config.generate.checks, config.prompt
    unread = row.origin == "recording" and not row.chunks
    invited = invites_knowledge(prompt, read_rules(prompt, row))
    detail = "" if unread else find_citation_fault(prompt, len(row.chunks), text, invited)
    if detail:
        return Fault("citation", detail)
    said = strip_citations(prompt, text)
    words = len(said.split())
    if words < checks.min_words:
        detail = f"{words} words, fewer than generate.checks.min_words {checks.min_words}: {cut(one_line(said))}"
        return Fault("too short", detail)
    if not row.chunks:
        return None
    detail = find_unsupported(prompt, row.question.text, row.chunks, text, checks.min_support, invited)
    return Fault("support", detail) if detail else None


def read_rules(prompt: PromptSection, row: Asked) -> str:
    """The text that says what an answer may and must do: the template, or the recorded prompt itself."""
    return row.prompt.instruction if row.origin == "recording" else prompt.template


def one_line(text: str) -> str:
    """White space folded, case kept."""
    return " ".join(text.split())


# -----------------------------------------------------------------------------
# One check each: what is wrong, in one line, or ""


def find_markup(text: str) -> str:
    """Chat markers and control characters."""
    marker = CHAT_MARKER.search(text)
    if marker:
        return f"holds the chat marker {marker[0]}: {cut(one_line(text[max(0, marker.start() - 30) :]))}"
    control = CONTROL.search(text)
    if control:
        place = one_line(CONTROL.sub("?", text[max(0, control.start() - 30) :]))
        return f"holds the character U+{ord(control[0]):04X}: {cut(place)}"
    return ""


def is_placeholder(text: str) -> bool:
    """Whether there is no answer: nothing, N/A, lorem ipsum, [insert ...], or talk about being a language model."""
    return not text.strip() or bool(NO_ANSWER.fullmatch(text.strip()) or FILLER.search(text))


def find_refusal_fault(config: Config, row: Asked, text: str) -> str:
    """A refusal that was not expected, not asked for or not kept to, and an answer where only a refusal can be right."""
    prompt = config.prompt
    rules = read_rules(prompt, row)
    refuses, keep = is_refusal(prompt, text), config.generate.checks.keep_refusals
    said = cut(one_line(text))
    if not refuses and demands_refusal(prompt, text):
        return f"answers and refuses in one: {said}"
    if refuses and not demands_refusal(prompt, rules):
        return f"refuses without being asked to: {said}"
    if refuses and goes_on(prompt, text):
        return f"refuses and goes on: {said}"
    if refuses and row.answerable and not keep:
        return f"refuses although its sources were found to answer: {said}"
    if not refuses and row.answerable is False and not (invites_knowledge(prompt, rules) and is_marked(prompt, text)):
        return f"answers although the sources that hold the answer were taken away: {said}"
    if not refuses and row.answerable is not False and refuses_in_other_words(prompt, row, text):
        return f"refuses in other words than the prompt's: {said}"
    return ""


def goes_on(prompt: PromptSection, text: str) -> bool:
    """Whether anything follows the refusal that an answer begins with."""
    left = normalise(text).removeprefix(normalise(prompt.refusal).rstrip("."))
    return bool(re.search(r"\w", left))


def refuses_in_other_words(prompt: PromptSection, row: Asked, text: str) -> bool:
    """Whether the first sentence says that the sources do not tell, and is not itself quoted from one."""
    first = next((statement for statement in list_statements(prompt, text) if not statement.heading), None)
    if first is None or first.marked or not REFUSAL_IN_OTHER_WORDS.match(first.text):
        return False
    return not any(normalise(first.text) in normalise(chunk.text) for chunk in row.chunks)


def find_citation_fault(prompt: PromptSection, sources: int, text: str, invited: bool) -> str:
    """A source that the student does not see; or none cited where the prompt asks for tags and nothing marks the answer."""
    cited = find_citations(prompt, text)
    wrong = sorted({number for number in cited if not 1 <= number <= sources})
    if wrong:
        return f"cites source {', '.join(map(str, wrong))} of {sources}"
    if wants_citations(prompt) and not cited and not (invited and is_marked(prompt, text)):
        return f"cites no source: {cut(one_line(text))}"
    return ""
