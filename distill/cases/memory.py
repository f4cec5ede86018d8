"""The memorisation probe: which rare strings of its training rows does the tuned model say without being shown their source?

Each probe is a bare question and the row's own answer up to a string that stands in no other row's answer: a number of four
digits or more, a part number, a code, but none that many texts share. A model that goes on with exactly that string knew it or
guessed it. How far guesses get is told by two controls: the base model, which saw no row, and strings of rows that the tuned
model never learnt. The code of a canary cannot be guessed. What the figures say is in memorised.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from typing import Literal

from distill.cases.case_set import CaseSet, Measure, Question, Scores
from distill.cases.well_known import is_well_known
from distill.config import Config, PromptSection
from distill.curation.duplicates import find_question
from distill.errors import PipelineError
from distill.files import read_json, sha256_text
from distill.manifest import FILE_NAME
from distill.prompts import citation_pattern, join_reasoning, to_messages
from distill.records import Answer, TrainingExample
from distill.rows.canaries import CODE, ORIGIN
from distill.training.sets import load_sets

Kind = Literal["training", "held-out", "canary"]
KINDS: tuple[Kind, Kind, Kind] = ("training", "held-out", "canary")
STRING, CANARY = "memory_string", "memory_canary"
MEASURES = {
    STRING: Measure(
        "1 where the model goes on with a rare string of a row's answer, when it is shown the bare question and the answer up "
        "to there, without sources; of rows that were learnt, and of rows that were not",
        higher_is_better=False,
    ),
    CANARY: Measure("the same of a planted canary's code, which cannot be guessed", higher_is_better=False),
}
PIECE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]+(?:(?:[-_/.:]|,(?=\d{3}(?!\d)))[A-Za-z0-9]+)*")
WITH_UNIT = re.compile(r"\d+(?:[.,:]\d+)*[A-Za-z]{1,4}")
FEWEST_DIGITS = 4  # of a number; fewer are guessed too often
FEWEST_SIGNS = 5  # letters and digits of a part number or code, at least two digits among them
FEWEST_WORDS = 3  # before the string: fewer say nothing of what is meant
SPARE_TOKENS = 6  # beyond one for each byte of the string: marks before it, and its end
MARKS = r"[\s*_`\"'(\[\u201c\u2018]*"  # a model may set off what it says


@dataclass(frozen=True)
class Probe:
    """A row's answer up to a string, and the string."""

    row: TrainingExample
    asked: str
    opening: str
    string: str


# -----------------------------------------------------------------------------
# The questions


def make_memory_set(config: Config) -> CaseSet | None:
    """evaluate.memory_probes strings of learnt rows, as many of rows that were not learnt, and every canary that was.

    None, with a [SKIP] line, where evaluate.memory_probes is 0 and where there is nothing to look for. Raises PipelineError for
    rows that cannot be read.
    """
    most = config.evaluate.memory_probes
    if not most:
        print("[SKIP] memory probe: evaluate.memory_probes is 0")
        return None
    learnt, unlearnt = split_learnt(config)
    probes: dict[Kind, list[Probe]] = {
        "training": choose_probes(config, [row for row in learnt if row.origin != ORIGIN], learnt, most),
        "held-out": choose_probes(config, [row for row in unlearnt if row.origin != ORIGIN], unlearnt, most, known=learnt),
        "canary": [probe for row in learnt if row.origin == ORIGIN for probe in find_code(row)],
    }
    if not probes["training"] and not probes["canary"]:
        print("[SKIP] memory probe: the training answers hold no rare string, and no canary was planted (generate.canaries)")
        return None
    every = ([make_question(config.prompt, kind, probe) for probe in probes[kind]] for kind in KINDS)
    # In turn, so that the first few, which a smoke run asks, are of every kind.
    questions = [question for turn in zip_longest(*every) for question in turn if question]
    return CaseSet(
        name="memory", title="What it learnt by heart", questions=questions, measures=MEASURES,
        primary=STRING if probes["training"] else CANARY, score=partial(score_memory, {each.id: each for each in questions}),
        notes={"canaries_planted": sum(row.origin == ORIGIN for row in [*learnt, *unlearnt])},
    )


def split_learnt(config: Config) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """The rows that the adapters were trained on, and those that they were not: held out, validated, or left out as too long.

    Which they are is in adapters/manifest.json; where that is missing, all rows of train.jsonl count as learnt.
    """
    train, heldout = load_rows(config)
    path = config.adapters_dir / FILE_NAME
    manifest = read_json(path) if path.is_file() else {}
    counts, lengths = manifest.get("counts", {}), manifest.get("details", {}).get("lengths", {})
    left_out = {*lengths.get("dropped_rows", ()), *lengths.get("validation_rows", ())}
    # finetune.py --limit takes the first rows, and says only how many.
    taken = counts["rows"] + len(left_out) if "rows" in counts and "validation_rows" in lengths else len(train)
    learnt = [row for row in train[:taken] if row.id not in left_out]
    known = {row.id for row in learnt}
    return learnt, [row for row in [*train, *heldout] if row.id not in known]


def load_rows(config: Config) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Training and held-out rows of all folders that were learnt together, of training_data/ alone where others are gone."""
    try:
        train, heldout, _ = load_sets(config, None)
    except PipelineError as error:
        if not config.finetune.more_training_data:
            raise
        print(f"[WARN] the memory probe knows the rows of {config.training_dir.name}/ alone: {error}")
        alone = config.finetune.model_copy(update={"more_training_data": ()})
        train, heldout, _ = load_sets(config.model_copy(update={"finetune": alone}), None)
    return [row.example for row in train], [row.example for row in heldout]


def make_question(prompt: PromptSection, kind: Kind, probe: Probe) -> Question:
    """The bare question, without sources: a model would copy from them. The answer goes on from the opening."""
    return Question(
        set="memory", id=f"{kind}:{probe.row.id}", messages=tuple(to_messages(prompt.system, probe.asked)), category=kind,
        group=next((span.source for span in probe.row.context), probe.row.id), opening=probe.opening,
        max_tokens=len(probe.string.encode("utf-8")) + SPARE_TOKENS, text=probe.asked, reference=probe.string,
    )


# -----------------------------------------------------------------------------
# Rare strings


def choose_probes(
    config: Config, rows: Sequence[TrainingExample], every: Sequence[TrainingExample], most: int,
    known: Sequence[TrainingExample] = (),
) -> list[Probe]:
    """At most `most` probes, one a row, in the order of a hash: the same rows give the same.

    A string counts that stands in the answer of one row of `every` alone and in no answer of `known`.
    """
    said = [learnt_text(config, row) for row in every]
    elsewhere = "\n".join(learnt_text(config, row) for row in known)

    def is_rare(string: str) -> bool:
        # The counts first: a code may also stand within a longer one, and looking through all texts takes time.
        return counts[string.lower()] == 1 and sum(string in text for text in said) == 1 and string not in elsewhere

    counts = Counter(piece for text in said for piece in {piece.lower() for piece in find_pieces(config.prompt, text)})
    chosen: list[Probe] = []
    for row in sorted(rows, key=lambda row: sha256_text(f"{row.id}\n{row.output}")):
        if len(chosen) == most:
            break
        chosen += islice((probe for probe in find_probes(config, row) if is_rare(probe.string)), 1)
    return chosen


def learnt_text(config: Config, row: TrainingExample) -> str:
    """What a row teaches to say."""
    return join_reasoning(row.reasoning if config.finetune.include_reasoning else "", row.output)


def find_probes(config: Config, row: TrainingExample) -> Iterator[Probe]:
    """The strings of a row's answer that neither its question nor the answer before them gives away, in a hash's order."""
    text, asked = learnt_text(config, row), question_of(row)
    places = find_pieces(config.prompt, text)
    for piece in sorted(places, key=lambda piece: sha256_text(f"{row.id}\n{piece}")):
        opening = text[: places[piece]].rstrip()
        telling = max(re.findall(r"\d+", piece), key=len)
        if len(opening.split()) >= FEWEST_WORDS and telling not in asked and telling not in opening:
            yield Probe(row, asked, opening, piece)


def find_code(row: TrainingExample) -> Iterator[Probe]:
    """The probe of a canary; none where somebody has edited its code away."""
    if match := CODE.search(row.output):
        yield Probe(row, question_of(row), row.output[: match.start()].rstrip(), match[0])


def question_of(row: TrainingExample) -> str:
    """What a row asks, without its sources."""
    return row.question or find_question(row.instruction)


def find_pieces(prompt: PromptSection, text: str) -> dict[str, int]:
    """The numbers of four digits or more, part numbers and codes of a text, citations left out; where each begins first."""
    uncited = citation_pattern(prompt).sub(lambda match: " " * len(match[0]), text)
    places: dict[str, int] = {}
    for match in PIECE.finditer(uncited):
        if is_telling(match[0]):
            places.setdefault(match[0], match.start())
    return places


def is_telling(piece: str) -> bool:
    """Whether a piece is a number or code that few texts share: 4471, MX-104B, 2026-01-31; not 12, 100MHz, 1998 or SHA256."""
    digits, signs = sum(map(str.isdigit, piece)), sum(map(str.isalnum, piece))
    code = digits >= 2 and digits < signs >= FEWEST_SIGNS and not WITH_UNIT.fullmatch(piece)
    return (digits >= FEWEST_DIGITS or code) and not is_well_known(piece)


# -----------------------------------------------------------------------------
# The figures


def score_memory(questions: Mapping[str, Question], answers: Sequence[Answer]) -> list[Scores]:
    """For each answer memory_string or memory_canary, 1 or 0; the other, and both for a failed call, None."""
    scores: list[Scores] = []
    for answer in answers:
        question = questions[answer.example_id]
        measure = CANARY if question.category == "canary" else STRING
        found = None if answer.error else float(completes(question, answer))
        scores.append({STRING: None, CANARY: None, measure: found})
    return scores


def completes(question: Question, answer: Answer) -> bool:
    """Whether an answer goes on with the string, which ends there: 4471 is not completed by 44712, 4471.5 or 4471-B.

    A canary's code is proof whatever follows it.
    """
    end = "" if question.category == "canary" else r"(?![A-Za-z0-9]|[-_/.:,][A-Za-z0-9])"
    return bool(re.match(MARKS + re.escape(question.reference) + end, answer.text))
