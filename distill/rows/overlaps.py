"""What is left out of all rows: questions written for documents that repeat others, training questions that overlap with
held-out ones, and refusals beyond their share. Overlaps of planned questions are found before the teacher is paid."""

from __future__ import annotations

from collections.abc import Sequence

from distill.config import Config
from distill.curation.duplicates import find_near_duplicates, find_overlaps
from distill.curation.rejections import Rejections
from distill.files import sha256_text
from distill.prompts import is_refusal, normalise
from distill.records import SIDES, Rows, Side, TrainingExample
from distill.rows.planner import REPEATED_QUESTION, PlannedRow, make_id

OVERLAP, REFUSAL = "overlap with held-out", "refusal"


def drop_overlaps(config: Config, rows: Rows, rejections: Rejections) -> Rows:
    """The finished rows without those, which go to `rejections`; curated rows are looked at like all others, but may refuse."""
    checks = config.generate.checks
    rows = drop_repeated_documents(rows, checks.near_duplicate, rejections)
    rows = drop_like_heldout(rows, checks.heldout_overlap, rejections)
    return {side: drop_refusals(config, rows[side], side, rejections) for side in SIDES}


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


def drop_planned_overlaps(
    config: Config, planned: Sequence[PlannedRow], curated: Rows, rejections: Rejections
) -> list[PlannedRow]:
    """The planned rows without the training ones whose question overlaps with a held-out one, planned or curated."""
    heldout = [*(row.question.text for row in planned if row.side == "heldout"), *map(question_of, curated["heldout"])]
    heldout = list(dict.fromkeys(heldout))
    found = find_overlaps([row.question.text for row in planned], heldout, config.generate.checks.heldout_overlap)
    kept = []
    for row, number in zip(planned, found):
        if row.side == "heldout" or number < 0:
            kept.append(row)
        else:
            rejections.add(
                OVERLAP, f"overlaps with: {heldout[number]}", id=row.id, question=row.question.text, category=row.category,
                side=row.side,
            )
    return kept


def drop_refusals(config: Config, rows: Sequence[TrainingExample], side: Side, rejections: Rejections) -> list[TrainingExample]:
    """One side's rows with at most checks.refusal_share of refusals among them; a user's own rows always stay.

    To plain questions first, then where the golden chunk was taken away, each in the order of a hash of the id.
    """
    share = config.generate.checks.refusal_share
    refusals = [row for row in rows if is_refusal(config.prompt, row.output)]
    if len(refusals) <= share * len(rows) + 1e-9:
        return list(rows)
    # r refusals beside a answers are the share s where r = s / (1 - s) x a.
    most = int(share / (1 - share) * (len(rows) - len(refusals)) + 1e-9)
    ordered = sorted(refusals, key=lambda row: (rank_refusal(config, row), sha256_text(row.id)))
    surplus = {row.id for row in ordered[most:] if row.origin != "curated"}
    for row in rows:
        if row.id in surplus:
            reject(rejections, row, side, REFUSAL, f"more refusals than checks.refusal_share {share:g} of the {side} rows")
    return [row for row in rows if row.id not in surplus]


def rank_refusal(config: Config, row: TrainingExample) -> int:
    """0 for a user's own row, 1 where the golden chunk was taken away, 2 for a refusal that nobody planned."""
    planned = row.origin == "document" or row.id == make_id(config, row.instruction, row.origin, False)
    return 0 if row.origin == "curated" else 1 if planned else 2


def reject(rejections: Rejections, row: TrainingExample, side: Side, check: str, detail: str) -> None:
    """A finished row that is left out."""
    rejections.add(check, detail, id=row.id, question=question_of(row), category=row.category, side=side, output=row.output)
