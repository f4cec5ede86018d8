"""What is left out once all rows are there: questions written for documents that repeat others, and training questions that
overlap with held-out ones."""

from __future__ import annotations

from distill.config import Config
from distill.curation.duplicates import find_near_duplicates, find_overlaps
from distill.curation.rejections import Rejections
from distill.prompts import normalise
from distill.records import SIDES, Rows, Side, TrainingExample
from distill.rows.planner import REPEATED_QUESTION

OVERLAP = "overlap with held-out"


def drop_overlaps(config: Config, rows: Rows, rejections: Rejections) -> Rows:
    """The rows without those, which go to `rejections`; curated rows are looked at like all others."""
    checks = config.generate.checks
    rows = drop_repeated_documents(rows, checks.near_duplicate, rejections)
    return drop_like_heldout(rows, checks.heldout_overlap, rejections)


def question_of(row: TrainingExample) -> str:
    """What a row asks; a curated one may hold no more than its instruction."""
    return row.question or row.instruction


def drop_repeated_documents(rows: Rows, threshold: float, rejections: Rejections) -> Rows:
    """Without the questions written for documents that repeat any other, also one that was planned later.

    Of two the held-out one stays, then the first. A question may have two rows, with and without its golden chunk.
    """
    repeated = find_repeated(rows, threshold)
    seen: set[tuple[str, bool | None]] = set()
    kept: Rows = {side: [] for side in SIDES}
    for side in reversed(SIDES):
        for row in rows[side]:
            key = normalise(question_of(row))
            again = repeated.get(key) or (question_of(row) if (key, row.answerable) in seen else "")
            if row.origin == "document" and again:
                reject(rejections, row, side, REPEATED_QUESTION, f"repeats: {again}")
            else:
                kept[side].append(row)
            seen.add((key, row.answerable))
    return kept


def find_repeated(rows: Rows, threshold: float) -> dict[str, str]:
    """For each normalised question that repeats another's, the other; those written for documents come last.

    One that another row asks word for word repeats that.
    """
    every = [row for side in reversed(SIDES) for row in rows[side]]
    first: dict[str, str] = {}
    for row in sorted(every, key=lambda row: row.origin == "document"):
        first.setdefault(normalise(question_of(row)), question_of(row))
    texts = list(first.values())
    earlier = find_near_duplicates(texts, threshold)
    repeated = {normalise(text): texts[number] for text, number in zip(texts, earlier) if number >= 0}
    asked = (question_of(row) for row in every if row.origin != "document")
    return {**{normalise(text): text for text in asked}, **repeated}


def drop_like_heldout(rows: Rows, share: float, rejections: Rejections) -> Rows:
    """Without the training rows whose question overlaps with a held-out one."""
    heldout = list(dict.fromkeys(question_of(row) for row in rows["heldout"]))
    asked = list(dict.fromkeys(question_of(row) for row in rows["train"]))
    found = dict(zip(asked, find_overlaps(asked, heldout, share)))
    kept = []
    for row in rows["train"]:
        number = found[question_of(row)]
        if number < 0:
            kept.append(row)
        else:
            reject(rejections, row, "train", OVERLAP, f"overlaps with: {heldout[number]}")
    return {**rows, "train": kept}


def reject(rejections: Rejections, row: TrainingExample, side: Side, check: str, detail: str) -> None:
    """A finished row that is left out."""
    rejections.add(check, detail, id=row.id, question=question_of(row), category=row.category, side=side, output=row.output)
