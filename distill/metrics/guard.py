"""Whether HybridRAG3 would show an answer: its answer guard as it works without its NLI model, which is how it is delivered.

Facts from grounded_query_engine.py and claim_extractor.py there. The answer is cut into sentences; those that state nothing are
left out; a sentence passes if at least 30% of its tokens stand anywhere in the chunks, or if it carries [General Knowledge];
where fewer than 80% pass, the user sees a fixed sentence instead of the answer. One number changed never stops an answer.
"""

from __future__ import annotations

import re

from distill.metrics.case import Case

FEWEST_TOKENS, FEWEST_PASSED = 0.30, 0.80
MARKS = ("[General Knowledge]", "[GENERAL KNOWLEDGE]")
LEFT_OUT = """
a after an and are as at be been before being but by can could did do does during for from had has have he her his if in into
is it its may might no nor not of on or our shall she should so than that the their them these they this those through to was
we were will with would you your
"""
WORDS_LEFT_OUT = frozenset(LEFT_OUT.split())
# A full stop behind these ends no sentence before a small letter, a digit, a comma or a bracket.
SHORTENED = re.compile(
    r"(Dr|Mr|Mrs|Ms|Prof|Sr|Jr|vs|etc|i\.e|e\.g|approx|dept|Fig|fig|No|no|Vol|vol|Rev|Gen|Col|Sgt|Corp|MHz|GHz|dB|dBm|km|ft|lb)"
    r"\.(?=\s+[a-z0-9,(])"
)
HELD = "\ue000"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(\[])")
TRIVIAL = re.compile(
    r"here|below|above|the following|as follows|in summary|to summarize|in conclusion|overall|i hope|i trust|please|let me|"
    r"feel free|(?:note|warning|important|disclaimer):|(?:yes|no|sure|okay|understood)[.,!]?\s*$|#{1,6}\s|\*\*.*\*\*$|[-*]\s|"
    r"---+$|\d+\.\s*$|```"
)
OTHER_TAG = re.compile(r"\[Source:\s*chunk_\d+\]", re.IGNORECASE)


def guard_passed(case: Case) -> float | None:
    """1 if HybridRAG3's answer guard would show the answer, 0 if it would put a fixed sentence in its place.

    Not for rows without sources.
    """
    return float(passes_guard([source.text for source in case.row.sources], case.text)) if case.row.sources else None


def passes_guard(sources: list[str], answer: str) -> bool:
    """Whether at least 80% of the sentences that state something pass; true where none does."""
    known = {token for text in sources for token in list_tokens(text)}
    verdicts = [verdict for sentence in cut_sentences(answer) if (verdict := judge_sentence(sentence, known)) is not None]
    return not verdicts or sum(verdicts) / len(verdicts) >= FEWEST_PASSED


def cut_sentences(text: str) -> list[str]:
    """The answer as HybridRAG3 cuts it; scraps of up to five characters are dropped."""
    pieces = SENTENCE_END.split(SHORTENED.sub(lambda match: match[0].replace(".", HELD), text))
    return [piece.strip() for piece in (piece.replace(HELD, ".") for piece in pieces) if len(piece.strip()) > 5]


def judge_sentence(sentence: str, known: set[str]) -> bool | None:
    """Whether a sentence passes; None where it states nothing."""
    plain = OTHER_TAG.sub("", sentence).strip().replace("[UNSOURCED INFERENCE]", "").strip()
    folded = plain.lower()
    if TRIVIAL.match(folded) or folded.endswith("?") or len(folded.split()) < 4 or "insufficient source data" in folded:
        return None
    if any(mark in sentence for mark in MARKS):
        return True
    tokens = list_tokens(plain)
    return sum(token in known for token in tokens) / len(tokens) >= FEWEST_TOKENS if tokens else None


def list_tokens(text: str) -> list[str]:
    """Runs of letters and runs of digits of at least two characters, without the words left out."""
    raw = re.findall(r"[A-Za-z0-9][\w\-.]*", text.lower())
    runs = (run for token in raw for run in re.findall(r"[a-z]+|[0-9]+", token))
    return [run for run in runs if len(run) >= 2 and run not in WORDS_LEFT_OUT]
