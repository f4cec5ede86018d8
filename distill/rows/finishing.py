"""An answer on its way to a training row: what is wrong with it, and what the row then says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from distill.config import Config
from distill.curation.checks import Fault, describe_markup, find_fault, read_rules
from distill.curation.lengths import TokenCounter
from distill.curation.statements import is_general_knowledge
from distill.prompts import find_citations, invites_knowledge, is_refusal, join_reasoning, neutralise_markup
from distill.records import TrainingExample
from distill.rows.planner import PlannedRow

TOO_LONG = "too long"
SHORT_WORDS = 60  # an answer of one sentence or three


@dataclass(frozen=True)
class Draft:
    """An answer on its way: `cut` where max_tokens ended it, `raw` the reply as it came, `first` the answer before this one."""

    text: str
    teacher: str
    timestamp: str = ""
    reasoning: str = ""
    raw: str = ""
    cut: bool = False
    difficulty: int = 0
    first: str = ""


def check_draft(config: Config, counter: TokenCounter, row: PlannedRow, draft: Draft) -> Fault | None:
    """Why an answer cannot be learnt from. Its length is that of all that the student will say, steps included."""
    if draft.cut:
        return Fault(TOO_LONG, f"cut off at max_tokens {config.generate.teacher.max_tokens}")
    if detail := describe_markup(draft.reasoning):
        return Fault("markup", f"the reasoning {detail}")
    said = join_reasoning(draft.reasoning if config.finetune.include_reasoning else "", draft.text)
    return find_fault(config, row, draft.text, counter.count(said))


def complete_row(config: Config, row: PlannedRow, draft: Draft) -> TrainingExample:
    """A row as it stands in train.jsonl. A refusal is stored in the prompt's own words.

    The answer tells whether the sources hold one, and in which chunks; a row whose golden chunk was taken away holds none.
    """
    refused = is_refusal(config.prompt, draft.text)
    answered = row.answerable is not False and not lacks_source(config, row, draft.text)
    cited = list_cited(config, row, draft.text)
    output = config.prompt.refusal if refused else neutralise_markup(draft.text)
    return TrainingExample(
        id=row.id, instruction=row.prompt.instruction, output=output,
        category=row.category, timestamp=draft.timestamp, teacher_model=draft.teacher, num_chunks=len(row.prompt.context),
        question=row.question.text, context=row.prompt.context, origin=row.origin, reasoning=draft.reasoning, draft=draft.first,
        golden=cited or row.golden if answered else (), answerable=answered,
        difficulty=draft.difficulty if draft.difficulty and not refused else rate_difficulty(config, row, draft.text),
    )


def lacks_source(config: Config, row: PlannedRow, text: str) -> bool:
    """Whether an answer owes nothing to its sources: it refuses, or is general knowledge throughout, where that is invited."""
    prompt = config.prompt
    invited = invites_knowledge(prompt, read_rules(prompt, row))
    return is_refusal(prompt, text) or (invited and is_general_knowledge(prompt, text))


def list_cited(config: Config, row: PlannedRow, text: str) -> tuple[str, ...]:
    """The ids of the chunks that an answer cites, each once, in the order of the sources."""
    numbers = sorted(set(find_citations(config.prompt, text)))
    return tuple(row.chunks[number - 1].chunk_id for number in numbers if 1 <= number <= len(row.chunks))


def rate_difficulty(config: Config, row: PlannedRow, text: str) -> int:
    """1: one source at most is cited, and the answer is short. 3: three sources or more, or no answer in them. Else 2."""
    cited = len(list_cited(config, row, text))
    if cited >= 3 or row.answerable is False or lacks_source(config, row, text):
        return 3
    return 1 if cited <= 1 and len(text.split()) <= SHORT_WORDS else 2
