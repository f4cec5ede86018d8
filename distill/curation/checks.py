"""What an answer must be to become a row: find_fault names the first thing wrong with it. Pure: no file, no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill.config import Config, PromptSection
from distill.curation.statements import (
    is_general_knowledge,
    is_marked,
    is_ordered,
    list_orders,
    list_statements,
    says_nothing,
)
from distill.curation.support import cut, find_unsupported
from distill.curation.words import count_words
from distill.prompts import (
    demands_refusal,
    find_citations,
    find_markup,
    invites_knowledge,
    is_refusal,
    normalise,
    strip_citations,
    wants_citations,
)
from distill.records import Chunk

if TYPE_CHECKING:
    from distill.rows.planner import PlannedRow

# Everything below U+0020 but tab and line ends; and what a broken encoding leaves.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff]")
NO_ANSWER = re.compile(
    r"\W*(?:n/?a|none|null|nil|nan|tba|unknown|placeholder|answer|test|(?:to ?do|tbd)\b.{0,60})?\W*", re.IGNORECASE
)
FILLER = re.compile(
    r"lorem ipsum|\bas an AI(?: language model| model| assistant)?,? I\b|\bas a (?:large )?language model,? I\b|"
    r"\bI(?:'m|\u2019m| am) (?:just |only )?an AI\b|\[(?:insert|fill in|your answer)\b[^\]]*\]|"
    r"\A\s*</?answer>|</?answer>\s*\Z",
    re.IGNORECASE,
)
SOURCE_TAG = re.compile(r"\[(?:source|chunk)s?\b[^\]\n]{0,20}\d[^\]\n]{0,20}\]", re.IGNORECASE)
KNOWLEDGE_MARK = re.compile(r"\[[^\[\]\d]{0,30}\bknowledge\b[^\[\]\d]{0,30}\]", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """Why an answer cannot be learnt from: the name of the check, and one line that shows where."""

    check: str
    detail: str


def find_fault(config: Config, row: PlannedRow, text: str, tokens: int) -> Fault | None:
    """The first fault of an answer of `tokens` student tokens, the most telling first, or None.

    "markup": chat markers, control characters. "placeholder": no answer at all. "refusal": a refusal where an answer was
    expected, or that nobody asked for, or that goes on; and an answer where a refusal was expected. "too long".
    "citation": a source that does not exist, or none. "too short". "support": a sentence that its sources do not support, as
    distill.curation.support measures it.
    """
    fault = find_form_fault(config, text, tokens, list_cited_chunks(config.prompt, row.chunks, text))
    if fault and fault.check != "too long":
        return fault
    detail = find_refusal_fault(config, row, text)
    if detail:
        return Fault("refusal", detail)
    return fault or (None if is_refusal(config.prompt, text) else find_answer_fault(config, row, text))


def find_form_fault(config: Config, text: str, tokens: int, cited: Sequence[Chunk] = ()) -> Fault | None:
    """The faults that show without the question: "markup", "placeholder", "too long". What a `cited` chunk holds is quoted."""
    most = config.generate.checks.max_answer_tokens
    detail = describe_markup(text, cited)
    if detail:
        return Fault("markup", detail)
    if is_placeholder(text, cited):
        return Fault("placeholder", f"is no answer: {cut(one_line(text))}")
    return Fault("too long", f"{tokens} tokens, more than generate.checks.max_answer_tokens {most}") if tokens > most else None


def find_answer_fault(config: Config, row: PlannedRow, text: str) -> Fault | None:
    """The faults that only an answer can have which is no refusal.

    A recorded prompt may have a form in which no sources could be found: there nothing can be said of them.
    """
    checks, prompt, rules = config.generate.checks, config.prompt, read_rules(config.prompt, row)
    invited, orders = invites_knowledge(prompt, rules), list_orders(rules)
    unread = row.origin == "recording" and not row.chunks
    asks = text.strip().endswith("?") and all(is_ordered(each, orders) for each in list_statements(prompt, text))
    detail = "" if unread or asks else find_citation_fault(prompt, len(row.chunks), text, invited)
    detail = detail or find_uninvited_mark(row.chunks, rules, text)
    if detail:
        return Fault("citation", detail)
    said = strip_citations(prompt, text)
    words = count_words(said)
    if words < checks.min_words:
        detail = f"{words} words, fewer than generate.checks.min_words {checks.min_words}: {cut(one_line(said))}"
        return Fault("too short", detail)
    if not row.chunks:
        return None
    detail = find_unsupported(prompt, row.question.text, row.chunks, text, checks.min_support, invited, orders)
    return Fault("support", detail) if detail else None


def read_rules(prompt: PromptSection, row: PlannedRow) -> str:
    """The text that says what an answer may and must do: the template, or the recorded prompt without its chunks."""
    if row.origin != "recording":
        return prompt.template
    text, start, parts = row.prompt.instruction, 0, []
    for span in sorted(row.prompt.context, key=lambda span: span.start):
        parts.append(text[start : span.start])
        start = max(start, span.end)
    return "\n".join([*parts, text[start:]])


def list_cited_chunks(prompt: PromptSection, chunks: Sequence[Chunk], text: str) -> list[Chunk]:
    """The chunks that an answer cites; all of them where it cites none."""
    cited = {number for number in find_citations(prompt, text) if 1 <= number <= len(chunks)}
    return [chunk for number, chunk in enumerate(chunks, start=1) if number in cited or not cited]


def is_quoted(chunks: Sequence[Chunk], text: str) -> bool:
    """Whether one of the chunks holds a text; case and spacing do not matter."""
    return any(normalise(text) in normalise(chunk.text) for chunk in chunks)


def one_line(text: str) -> str:
    """White space folded, case kept."""
    return " ".join(text.split())


# -----------------------------------------------------------------------------
# One check each: what is wrong, in one line, or ""


def describe_markup(text: str, cited: Sequence[Chunk] = ()) -> str:
    """Chat markers that no `cited` chunk holds, and control characters."""
    marker = next((marker for marker in find_markup(text) if not is_quoted(cited, marker)), "")
    if marker:
        return f"holds the chat marker {marker}: {cut(one_line(text[max(0, text.index(marker) - 30) :]))}"
    control = CONTROL.search(text)
    if control:
        place = one_line(CONTROL.sub("?", text[max(0, control.start() - 30) :]))
        return f"holds the character U+{ord(control[0]):04X}: {cut(place)}"
    return ""


def is_placeholder(text: str, cited: Sequence[Chunk] = ()) -> bool:
    """Whether there is no answer: nothing, N/A, lorem ipsum, [insert ...], or talk about being a language model."""
    filler = any(not is_quoted(cited, match[0]) for match in FILLER.finditer(text))
    return filler or not text.strip() or bool(NO_ANSWER.fullmatch(text.strip()))


def find_refusal_fault(config: Config, row: PlannedRow, text: str) -> str:
    """A refusal that was not expected, not asked for or not kept to, and an answer where only a refusal can be right."""
    prompt, rules = config.prompt, read_rules(config.prompt, row)
    refuses, invited = is_refusal(prompt, text), invites_knowledge(prompt, rules)
    said = cut(one_line(text))
    if refuses:
        return find_fault_of_refusal(prompt, row, text, rules)
    if demands_refusal(prompt, text):
        return f"answers and refuses in one: {said}"
    if row.answerable and invited and is_general_knowledge(prompt, text):
        return f"answers from general knowledge although its sources were found to answer: {said}"
    if row.answerable is False and not (invited and is_marked(prompt, text)):
        return f"answers although the sources that hold the answer were taken away: {said}"
    if row.answerable is not False and refuses_in_other_words(prompt, row, text, rules):
        return f"refuses in other words than the prompt's: {said}"
    return ""


def find_fault_of_refusal(prompt: PromptSection, row: PlannedRow, text: str, rules: str) -> str:
    """What is wrong with a refusal in the prompt's words. Where nobody knows whether the sources answer, it may be right."""
    said = cut(one_line(text))
    if not demands_refusal(prompt, rules):
        return f"refuses without being asked to: {said}"
    if goes_on(prompt, text):
        return f"refuses and goes on: {said}"
    return f"refuses although its sources were found to answer: {said}" if row.answerable else ""


def goes_on(prompt: PromptSection, text: str) -> bool:
    """Whether anything follows the refusal that an answer begins with."""
    left = normalise(text).removeprefix(normalise(prompt.refusal).rstrip("."))
    return bool(re.search(r"\w", left))


def refuses_in_other_words(prompt: PromptSection, row: PlannedRow, text: str, rules: str) -> bool:
    """Whether an answer only says that the sources do not tell, or labels gaps as the prompt orders, and quotes neither."""
    statements = [statement for statement in list_statements(prompt, text) if not statement.heading]
    if not statements or is_quoted(row.chunks, statements[0].text):
        return False
    orders = list_orders(rules)
    gaps = not text.strip().endswith("?") and all(is_ordered(each, orders) and not each.cited for each in statements)
    return gaps or says_nothing(prompt, text, orders)


def find_citation_fault(prompt: PromptSection, sources: int, text: str, invited: bool) -> str:
    """A source that the student does not see; none cited where the prompt asks for tags; a tag where it asks for none."""
    cited = find_citations(prompt, text)
    wrong = sorted({number for number in cited if not 1 <= number <= sources})
    if wrong:
        return f"cites source {', '.join(map(str, wrong))} of {sources}"
    if wants_citations(prompt) and not cited and not (invited and is_marked(prompt, text)):
        return f"cites no source: {cut(one_line(text))}"
    if not wants_citations(prompt) and (tag := SOURCE_TAG.search(text)):
        return f"cites with {tag[0]}, where the prompt asks for no tags"
    return ""


def find_uninvited_mark(chunks: Sequence[Chunk], rules: str, text: str) -> str:
    """A mark such as [General Knowledge] in an answer to a prompt that names none."""
    for match in KNOWLEDGE_MARK.finditer(text):
        if normalise(match[0]) not in normalise(rules) and not is_quoted(chunks, match[0]):
            return f"marks {match[0]}, which the prompt does not ask for"
    return ""
