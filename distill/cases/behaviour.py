"""What an answer does with a question: does it refuse, or ask back? Told by its wording, as models really write it.

prompts.is_refusal knows the configured sentence alone, which a tuned model learnt. A golden case is also put to models that
refuse in words of their own, and must be fair to both. English only.
"""

from __future__ import annotations

import re

from distill.cases.facts import split_fact
from distill.config import PromptSection
from distill.curation.words import list_content_words
from distill.prompts import is_refusal, normalise, strip_citations

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
NEGATION = r"(?:\b(?:not|cannot|no|none|neither|lacks?|without|insufficient)|n['\u2019]t)\b"
SOURCES = (
    r"\b(?:documents?|documentation|context|sources?|passages?|texts?|information|data|details?|excerpts?|materials?|answer)\b"
)
NOT_KNOWN = (
    r"\bunknown\b|\bnot (?:found|known|specified|stated|mentioned|available|provided|included|listed|covered|described)\b"
    r"|\b(?:can ?not|can['\u2019]t|could not|unable to|impossible to) (?:be )?(?:determin|answer|find|found|sa[iy]|tell)"
    r"|\bdo(?: not|n['\u2019]t) know\b"
)
SAYS_NO = re.compile(rf"{NEGATION}.*{SOURCES}|{SOURCES}.*{NEGATION}|{NOT_KNOWN}", re.IGNORECASE)
# What may stand beside a refusal: what the sources hold instead, and where else to look.
HOLDS_INSTEAD = re.compile(
    rf"(?:{SOURCES}|^(?:they|it|these|this)\b).*\b(?:mention|discuss|describ|cover|contain|talk|focus|deal|provid)",
    re.IGNORECASE,
)
ONLY = re.compile(r"\b(?:only|just|solely)\b", re.IGNORECASE)
POINTER = re.compile(
    r"\b(?:please|consult|refer|contact|check|if you|you (?:may|might|can|could|should|would))\b", re.IGNORECASE
)
APOLOGY = re.compile(r"^\W*(?:i am |i['\u2019]m )?(?:very )?(?:sorry|apologies),?\s+but\b", re.IGNORECASE)
# After one of these an answer comes after all.
TURN = re.compile(
    r"\b(?:however|nevertheless|nonetheless|although|though|that said|typically|generally|usually|probably|likely"
    r"|but(?! (?:not|no|none|neither|do|does|did)\b))\b",
    re.IGNORECASE,
)
REFUSAL_WORDS = 60
ASKING = re.compile(
    r"\b(?:which|(?:do|did|are|were) you (?:mean|mean\w*|refer\w*|ask\w*|look\w*|interested)|clarify|specify"
    r"|what (?:\w+ )?(?:kind|type|sort|document|revision|version|system|model|unit|component|part)s?)\b",
    re.IGNORECASE,
)
REQUEST = re.compile(
    r"\b(?:please|could you|can you|(?:need|have) to know|need you to|must know)\b.*\b(?:clarify|specify|which|what)\b",
    re.IGNORECASE,
)
COURTESY = re.compile(
    r"\b(?:anything else|(?:any )?(?:other|more|further) questions?|would you like|do you want|want me to"
    r"|(?:shall|can|may) i (?:help|assist))\b",
    re.IGNORECASE,
)
REPEATED_SHARE = 0.8


def split_answer(answer: str) -> list[str]:
    """The sentences of an answer; a line's end is one too."""
    return [sentence.strip() for sentence in SENTENCE_END.split(answer) if sentence.strip()]


def refuses(prompt: PromptSection, question: str, answer: str) -> bool:
    """Whether an answer says in its first sentence that there is none, and gives none afterwards."""
    said = strip_citations(prompt, answer)
    first, *others = split_answer(said) or [""]
    if not (is_refusal(prompt, said) or SAYS_NO.search(first)) or TURN.search(APOLOGY.sub("", said)):
        return False
    known = set(list_numbers(question))
    beside = all(belongs_to_refusal(each, known) for each in others)
    return beside and known.issuperset(list_numbers(first)) and len(said.split()) <= REFUSAL_WORDS


def belongs_to_refusal(sentence: str, known: set[str]) -> bool:
    """Whether a sentence after a refusal answers nothing. A number that the question has not (`known`) is an answer."""
    tells = SAYS_NO.search(sentence) or HOLDS_INSTEAD.search(sentence)
    if tells and ONLY.search(sentence):
        return True
    return bool(tells or POINTER.search(sentence)) and known.issuperset(list_numbers(sentence))


def list_numbers(text: str) -> list[str]:
    """The numbers of a text in one form."""
    return [piece for piece in split_fact(text) if piece.lstrip("-")[:1].isdigit()]


def asks_back(question: str, answer: str) -> bool:
    """Whether an answer asks what is meant. To repeat the question is no asking, nor is to offer more help."""
    return any(
        is_question_back(sentence) and not COURTESY.search(sentence) and not repeats_question(question, sentence)
        for sentence in split_answer(answer)
    )


def is_question_back(sentence: str) -> bool:
    """Whether a sentence asks for more than the asker said."""
    return bool((sentence.endswith("?") and ASKING.search(sentence)) or REQUEST.search(sentence))


def repeats_question(question: str, sentence: str) -> bool:
    """Whether a sentence has hardly a word that the question has not."""
    asked, words = set(list_content_words(normalise(question))), set(list_content_words(normalise(sentence)))
    return bool(asked) and len(words & asked) >= REPEATED_SHARE * len(words | asked)
