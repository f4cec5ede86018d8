"""Whether the rows are worth training on: how many there are, and which of them can teach nothing or the wrong thing."""

from __future__ import annotations

from collections.abc import Sequence

from distill.curation.checks import FILLER, NO_ANSWER
from distill.curation.duplicates import find_near_duplicates, find_question
from distill.errors import PipelineError
from distill.training.sets import LocatedRow

FEWEST_ROWS = 100
FEW_ROWS = 200
LIKENESS = 0.8  # as generate.checks.near_duplicate by default
SHOWN = 5


def require_sound_rows(rows: Sequence[LocatedRow], smoke: bool) -> None:
    """Print what is odd, one line a kind, with the first places; raises PipelineError for what training cannot mend.

    It stops for fewer than FEWEST_ROWS rows, unless this is a smoke run, and for blank and placeholder answers: a student of
    them learns to say nothing. It only warns of repeats and of filler inside an answer: these may be meant.
    """
    for line in list_warnings(rows):
        print(f"[WARN] {line}")
    if problems := list_problems(rows):
        raise PipelineError("\n       ".join(problems))
    require_enough(len(rows), smoke)


def require_enough(count: int, smoke: bool) -> None:
    """Raises PipelineError for fewer than FEWEST_ROWS rows unless it is a smoke run; warns of fewer than FEW_ROWS."""
    if count < FEWEST_ROWS and not smoke:
        raise PipelineError(
            f"{count} training rows, fewer than {FEWEST_ROWS}: so few teach a model little, and retrieval with a better prompt "
            "does more for less; add questions, documents or curated rows and run  python generate_training_data.py  again, or "
            f"try it all the same with --limit {count}, which marks the run as a smoke run"
        )
    if count < FEWEST_ROWS:
        print(f"[WARN] smoke run on {count} rows: its adapter shows that the stages work, nothing else")
    elif count < FEW_ROWS:
        print(f"[WARN] {count} rows: below about {FEW_ROWS} a tuned model is rarely better than a good prompt")


# -----------------------------------------------------------------------------
# What stops


def list_problems(rows: Sequence[LocatedRow]) -> list[str]:
    """One line for each kind of answer that is none."""
    blank = [row for row in rows if not row.example.output.strip()]
    placeholders = [row for row in rows if row.example.output.strip() and is_placeholder(row.example.output)]
    # "None." may be meant as an answer; written as a sentence it also tells the student how to answer.
    kinds = (("blank answers", blank), ("placeholders for an answer, such as N/A or TODO", placeholders))
    return [
        f"{name_places(found)}: {len(found):,} {kind}: write them as sentences or delete the rows, then run "
        " python generate_training_data.py --accept-edits"
        for kind, found in kinds if found
    ]


def is_placeholder(text: str) -> bool:
    """Whether an answer is nothing but N/A, TODO, dots, lorem ipsum, [insert ...], or talk about being a language model."""
    said = text.strip()
    filler = FILLER.match(said.lstrip("\"'*"))
    talk = bool(filler) and filler[0][0] not in "[<"  # a sentence may well begin with the [insert date] of a form
    return bool(NO_ANSWER.fullmatch(said)) or talk or not any(map(str.isalnum, FILLER.sub("", said)))


# -----------------------------------------------------------------------------
# What is only told


def list_warnings(rows: Sequence[LocatedRow]) -> list[str]:
    """One line for each kind of row that may be meant as it is."""
    marked = [row for row in rows if not is_placeholder(row.example.output) and is_marked(row)]
    repeats, alike = find_repeats(rows)
    kinds = (
        ('answers hold filler such as [insert ...] or "as an AI, I" that their prompts do not', marked),
        ("rows repeat another word for word and are learnt more often", repeats),
        ("rows ask nearly the same as another", alike),
    )
    return [f"{len(found):,} {kind}: {name_places(found)}" for kind, found in kinds if found]


def is_marked(row: LocatedRow) -> bool:
    """Whether an answer holds filler that its prompt, which shows its sources, does not: a form may say [insert date]."""
    shown = row.example.instruction.lower()
    return any(match[0].lower() not in shown for match in FILLER.finditer(row.example.output))


def find_repeats(rows: Sequence[LocatedRow]) -> tuple[list[LocatedRow], list[LocatedRow]]:
    """The rows that stand there before word for word, and those whose question nearly does.

    The question of a row whose golden chunk was taken away is another one: its answer is the refusal.
    """
    seen: set[tuple[str, str]] = set()
    fresh, repeats = [], []
    for row in rows:
        content = (row.example.instruction, row.example.output)
        (repeats if content in seen else fresh).append(row)
        seen.add(content)
    alike = []
    for answerable in (True, False, None):
        of_kind = [row for row in fresh if row.example.answerable is answerable]
        earlier = find_near_duplicates([question_of(row) for row in of_kind], LIKENESS)
        alike += [row for row, number in zip(of_kind, earlier) if number >= 0]
    return repeats, alike


def question_of(row: LocatedRow) -> str:
    """What a row asks; of a curated row's prompt the line that looks like the question."""
    return row.example.question or find_question(row.example.instruction)


def name_places(rows: Sequence[LocatedRow]) -> str:
    """file:line of the first rows; further lines of the same file without its name."""
    before = [None, *(row.path for row in rows)]
    parts = [row.place if row.path != last else str(row.line) for row, last in zip(rows[:SHOWN], before)]
    return ", ".join(parts) + ", ..." * (len(rows) > SHOWN)
