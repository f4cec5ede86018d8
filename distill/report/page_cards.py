"""The questions of the side-by-side reader, each with every model's answer."""

from __future__ import annotations

import hashlib
import ntpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill.cases.case_set import CaseSet, Measure, Question, Scores
from distill.config import PromptSection
from distill.prompts import is_refusal
from distill.records import Answer, ModelSide
from distill.report.page_words import Span, join_spans, mark_both, split_spans
from distill.report.results import Results

SETS = ("heldout", "own", "golden", "general")  # what the memory probe asks makes no sense to a reader
MODELS: tuple[ModelSide, ...] = ("base", "tuned", "stock")
REFUSALS = ("right_refusal", "wrong_refusal", "general_refused")  # the scores that are 1 for an answer that refuses
OUTCOMES = {"improved": "Improved", "same": "Same", "worse": "Worse", "failed": "Failed", "refused": "Refused"}


@dataclass(frozen=True)
class Reply:
    """One model's answer as the reader shows it."""

    side: ModelSide
    answer: Answer
    refused: bool
    spans: Sequence[Span]
    sha256: str


@dataclass(frozen=True)
class Mark:
    """One measure of a card: each side's score, and how tuned did: up, down or flat."""

    name: str
    scores: Mapping[ModelSide, float | None]
    tone: str


@dataclass(frozen=True)
class Card:
    """One question. `gain` is that of the set's primary measure, above zero where tuned is better; `tags` are OUTCOMES.

    `sources` are (file name, text); without any, `prompt` is what was asked, word for word, where that is more than `text`.
    """

    number: int
    question: Question
    text: str
    replies: Mapping[ModelSide, Reply]
    marks: Sequence[Mark]
    gain: float | None
    tags: Sequence[str]
    sources: Sequence[tuple[str, str]]
    prompt: str

    @property
    def votable(self) -> bool:
        """Whether people may choose: two different answers, and a question that has more than one right answer."""
        sides = [self.replies.get(side) for side in ("base", "tuned")]
        answered = self.question.set != "general" and all(reply and not reply.answer.error for reply in sides)
        return answered and sides[0].answer.text != sides[1].answer.text


def digest(text: str) -> str:
    """The sha256 by which a vote names the answer it was given on."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def make_cards(prompt: PromptSection, results: Results) -> list[Card]:
    """A card for each question of every set a person can read, set by set in the order asked."""
    rows = [row for name in SETS if name in results.sets for row in list_rows(results, results.sets[name])]
    return [make_card(prompt, number, *row) for number, row in enumerate(rows, start=1)]


Row = tuple[CaseSet, Question, dict[ModelSide, Answer], dict[ModelSide, Scores]]


def list_rows(results: Results, cases: CaseSet) -> list[Row]:
    """Each question with the answers and scores of every side that was asked."""
    sides = [side for side in MODELS if (cases.name, side) in results.answers]
    answers, scores = ({side: table[cases.name, side] for side in sides} for table in (results.answers, results.scores))
    return [
        (cases, question, {side: answers[side][index] for side in sides}, {side: scores[side][index] for side in sides})
        for index, question in enumerate(cases.questions)
    ]


def make_card(
    prompt: PromptSection, number: int, cases: CaseSet, question: Question, answers: Mapping[ModelSide, Answer],
    scores: Mapping[ModelSide, Scores],
) -> Card:
    """A question with its answers, the differing words marked."""
    replies = make_replies(prompt, answers, scores)
    gain = measure_gain(cases.measures[cases.primary], scores, cases.primary)
    asked = question.messages[-1]["content"] if question.messages else ""
    text = question.text or shorten(asked)
    return Card(
        number=number,
        question=question,
        text=text,
        replies=replies,
        marks=make_marks(cases, scores),
        gain=gain,
        tags=list_tags(replies, gain),
        sources=[(ntpath.basename(source.name), source.text) for source in question.sources],
        prompt="" if question.sources or asked.split() == text.split() else asked,
    )


def make_replies(
    prompt: PromptSection, answers: Mapping[ModelSide, Answer], scores: Mapping[ModelSide, Scores]
) -> dict[ModelSide, Reply]:
    """Every side's answer; base and tuned are compared word by word where both answered."""
    spans = {side: join_spans(split_spans(prompt, answer.text)) for side, answer in answers.items()}
    if all(side in answers and not answers[side].error for side in ("base", "tuned")):
        spans["base"], spans["tuned"] = mark_both(prompt, answers["base"].text, answers["tuned"].text)
    return {
        side: Reply(side, answer, has_refused(prompt, answer, scores[side]), spans[side], digest(answer.text))
        for side, answer in answers.items()
    }


def has_refused(prompt: PromptSection, answer: Answer, scores: Scores) -> bool:
    """As the scores have it; by the prompt's refusal where the set has no such score."""
    known = [score for name in REFUSALS if (score := scores.get(name)) is not None]
    return max(known) == 1 if known else not answer.error and is_refusal(prompt, answer.text)


def make_marks(cases: CaseSet, scores: Mapping[ModelSide, Scores]) -> list[Mark]:
    """The primary measure and those that may decide, where any side has a score."""
    names = [cases.primary, *(name for name, m in cases.measures.items() if m.decides and name != cases.primary)]
    marks = []
    for name in names:
        gained = measure_gain(cases.measures[name], scores, name)
        values = {side: row.get(name) for side, row in scores.items()}
        if any(value is not None for value in values.values()):
            marks.append(Mark(name, values, "up" if (gained or 0) > 0 else "down" if (gained or 0) < 0 else "flat"))
    return marks


def measure_gain(measure: Measure, scores: Mapping[ModelSide, Scores], name: str) -> float | None:
    """By how much tuned is better than base; None where one of them has no score."""
    base, tuned = (scores.get(side, {}).get(name) for side in ("base", "tuned"))
    if base is None or tuned is None:
        return None
    return tuned - base if measure.higher_is_better else base - tuned


def list_tags(replies: Mapping[ModelSide, Reply], gain: float | None) -> list[str]:
    """The filters that show a card."""
    pair = [replies[side] for side in ("base", "tuned") if side in replies]
    tags = []
    if any(reply.answer.error for reply in pair):
        tags.append("failed")
    elif gain is not None:
        tags.append("improved" if gain > 0 else "worse" if gain < 0 else "same")
    return tags + ["refused"] * any(reply.refused for reply in pair)


def shorten(text: str, length: int = 160) -> str:
    """The end of a prompt without a known question: that is where people ask."""
    line = " ".join(text.split())
    return line if len(line) <= length else "..." + line[-length:]
