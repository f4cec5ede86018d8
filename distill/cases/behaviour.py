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
NOT = r"(?:\b(?:not|never|neither)\b|\bcannot\b|n['\u2019]t\b)"
DOCUMENTS = (
    r"\b(?:documents?|documentation|context|sources?|passages?|texts?|excerpts?|materials?|files?|chunks?|information|answer)\b"
)
SOURCES = rf"(?:{DOCUMENTS}|\b(?:data|details?)\b)"
# What documents do: one that "is not encrypted" refuses nothing.
TELL = (
    r"\b(?:mention|sa(?:y|id)|stat(?:e|ing)|contain|provid|specif|includ|cover|address|giv|describ|discuss|answer|nam(?:e|ing)|indicat|list"
    r"|defin|tell|disclos|hold|hav|has|reveal|detail|explain|report|suffic|enough|relevant)\w*"
)
NEWS = r"\b(?:information|details?|mention|answer|references?|indication|evidence|statement|data)\b"
# Information that is not in the documents, rather than not in the device.
ABOUT = (
    rf"(?:\W*$|\W+(?:\w+ly\W+)?(?:about|on|regarding|concerning|of|for|to|as to|that|whether|how|in the (?:\w+ )?{DOCUMENTS}"
    r"|(?:is|are|was|were|has been)? ?(?:given|available|provided|found|included|present|stated|mentioned)))"
)
NOT_KNOWN = (
    r"\bunknown\b|\bnot (?:\w+ly )?(?:known|specified|stated|mentioned|described|listed|documented|disclosed|discussed"
    r"|addressed|defined)\b"
    rf"|\bnot (?:found|available|provided|included|covered|contained|given|present)\b.*{DOCUMENTS}"
    rf"|{SOURCES}.*\bnot (?:found|available|provided|included|covered|contained|given|present)\b"
    r"|^\W*not (?:found|available|provided|included|covered|given)\W*$"
    r"|\b(?:I|we)(?: am| are)? (?:can ?not|can['\u2019]t|could not|couldn['\u2019]t|unable to|not able to) "
    r"(?:determin|answer|find|sa[iy]|tell|provid)"
    r"|\b(?:can ?not|can['\u2019]t|could not|impossible to) (?:be )?(?:determin|answer|sa[iy]|told|tell)"
    rf"|\b(?:can ?not|can['\u2019]t|could not|unable to) (?:be )?(?:find|found)\b.*{SOURCES}"
    r"|\bdo(?: not|n['\u2019]t) know\b"
)
SAYS_NO = re.compile(
    rf"{DOCUMENTS}.*{NOT}\W+(?:\w+ly\W+|seem to\W+|appear to\W+|even\W+)*{TELL}"
    rf"|\b(?:none|neither|no) (?:of )?(?:the |these |those )?(?:\w+ ){{0,2}}{DOCUMENTS}.*{TELL}"
    rf"|{DOCUMENTS}.*{TELL}\W+(?:no|nothing|neither)\b|{DOCUMENTS}.*\b(?:lacks?|insufficient|not (?:enough|sufficient))\b"
    rf"|\b(?:no|not enough|insufficient|not sufficient|lacks?) (?:\w+ ){{0,2}}{NEWS}{ABOUT}"
    rf"|\bnothing (?:is |was )?(?:\w+ )?(?:about|on|regarding|in the (?:\w+ )?{DOCUMENTS})"
    rf"|{NOT_KNOWN}",
    re.IGNORECASE,
)
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
