"""The typed rows that cross a stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.errors import PipelineError
from distill.files import read_jsonl


@dataclass(frozen=True)
class Chunk:
    """One passage of the index as retrieved for one question; `score` is a plain cosine, -1 to 1."""

    chunk_id: str
    source: str
    text: str
    score: float


class ContextSpan(BaseModel):
    """Where a chunk's text stands in a row's instruction: instruction[start:end], offsets in characters."""

    model_config = ConfigDict(frozen=True)

    chunk_id: str
    source: str
    score: float
    start: int
    end: int


Origin = Literal["", "question", "document", "recording", "curated", "canary"]


class TrainingExample(BaseModel):
    """One row of train.jsonl or heldout.jsonl: the user message, the answer to learn, and where both came from.

    A curated row needs `instruction` and `output` only. `golden` are the chunk ids that hold the answer; `answerable` is
    whether the sources in the instruction hold it, None where nobody knows; `difficulty` is 1 to 3, 0 where nobody knows;
    `reasoning` are the teacher's steps, `draft` the answer before the teacher improved it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = ""
    instruction: str = Field(min_length=1)
    output: str = Field(min_length=1)
    category: str = ""
    timestamp: str = ""
    teacher_model: str = ""
    num_chunks: int = 0
    question: str = ""
    context: tuple[ContextSpan, ...] = ()
    origin: Origin = ""
    golden: tuple[str, ...] = ()
    answerable: bool | None = None
    difficulty: int = Field(default=0, ge=0, le=3)
    reasoning: str = ""
    draft: str = ""


Side = Literal["train", "heldout"]
SIDES: tuple[Side, Side] = ("train", "heldout")
Rows = dict[Side, list[TrainingExample]]  # each side becomes a file


def load_examples(path: Path) -> list[TrainingExample]:
    """Read a JSONL file of training rows. Raises PipelineError with file and line for the first row that is not one."""
    return [to_example(row, path, number) for number, row in read_jsonl(path)]


def to_example(row: dict[str, Any], path: Path, number: int) -> TrainingExample:
    """Raises PipelineError naming file, line and key."""
    try:
        return TrainingExample.model_validate(row)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise PipelineError(f"{path}:{number} {key}: {problem['msg']}") from None


ModelSide = Literal["base", "tuned", "stock"]  # tuned and its control, and the model in use today


@dataclass(frozen=True)
class Answer:
    """What one model said to one question. A failed call has an `error` and no text, and is never scored.

    `set` and `example_id` name the question. `seconds` is the whole call as it was waited for, `first_token_seconds` and
    `answer_seconds` are what the engine told: loading and reading the prompt, then writing `answer_tokens`; 0 where it did not.
    """

    example_id: str
    side: ModelSide
    text: str = ""
    error: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    request_sha256: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    set: str = "heldout"
    first_token_seconds: float = 0.0
    answer_seconds: float = 0.0

    def to_row(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return asdict(self)
