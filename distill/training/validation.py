"""Which training rows are not learnt but measured at each checkpoint: whole documents, so that it is no test of memory."""

from __future__ import annotations

from collections.abc import Sequence

from distill.curation.duplicates import find_question, group_similar
from distill.files import sha256_text
from distill.records import TrainingExample
from distill.rows.split import choose_heldout, find_components
from distill.training.encode import EncodedExample

FEWEST = 8  # the mean loss of fewer rows hangs on which ones they are
LIKENESS = 0.8  # as generate.checks.near_duplicate by default


def hold_validation(
    examples: Sequence[TrainingExample], encoded: Sequence[EncodedExample], share: float, seed: int
) -> tuple[list[int], list[int]]:
    """The numbers of the rows to learn and of those to validate on, both ascending; about `share` of the rows validate.

    Rows whose answers rest on the same document stay together, and so do nearly the same questions; a chunk beside the golden
    one may be of a document that is learnt. None validate, and [SKIP] is printed, where that would be fewer than FEWEST rows.
    The same rows and seed give the same choice, in whatever order the rows stand.
    """
    # Canaries must be learnt: the evaluation asks whether they were learnt by heart.
    groups = [rows for rows in group_rows(examples) if all(examples[row].origin != "canary" for row in rows)]
    ordered = sorted(groups, key=lambda rows: min(hash_row(examples[row], seed) for row in rows))
    validate = sorted(row for place in choose_groups([len(rows) for rows in ordered], share) for row in ordered[place])
    if len(validate) < FEWEST:
        if share:
            print(
                f"[SKIP] validation: no whole documents make at least {FEWEST} rows at about {share:.0%} of {len(examples):,}; "
                f"all are learnt and nothing is stopped early: {FEWEST} rows are finetune.validation_share "
                f"{FEWEST / max(1, len(examples)):.2f}"
            )
        return list(range(len(examples))), []
    tokens = sum(encoded[row].answer_tokens for row in validate)
    print(f"[OK] {len(validate):,} of {len(examples):,} rows validate ({tokens:,} answer tokens), the others are learnt")
    held = set(validate)
    return [row for row in range(len(examples)) if row not in held], validate


def choose_groups(sizes: Sequence[int], share: float) -> list[int]:
    """The places of the groups that validate: in order those that fit into the share, or else up to twice as many rows."""
    wanted, chosen, held = round(share * sum(sizes)), [], 0
    for place, size in enumerate(sizes):
        if held + size <= wanted:
            chosen.append(place)
            held += size
    return chosen if held >= max(FEWEST, wanted / 2) or not share else choose_heldout(sizes, share)


def group_rows(examples: Sequence[TrainingExample]) -> list[list[int]]:
    """Row numbers that must stay together; a row without context is linked by its question alone."""
    similar = group_similar([example.question or find_question(example.instruction) for example in examples], LIKENESS)
    return find_components([find_documents(example) for example in examples], similar)


def find_documents(example: TrainingExample) -> set[str]:
    """The documents that an answer rests on: those of its golden chunks, or else that of its best, the first of equals."""
    golden = {span.source for span in example.context if span.chunk_id in example.golden}
    best = max(example.context, key=lambda span: span.score, default=None)
    return golden or ({best.source} if best else set())


def hash_row(example: TrainingExample, seed: int) -> str:
    """What groups are shuffled by: what a row asks and answers, and the seed; not its chunks, of which some may be trimmed."""
    return sha256_text(f"{seed}\n{example.question or example.instruction}\n{example.output}")
