"""What people preferred in the report's blind voting mode: their votes.json files, checked and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill.cases.case_set import CaseSet, Question, SetName
from distill.errors import PipelineError
from distill.files import read_json
from distill.records import Answer, ModelSide
from distill.report.page_cards import digest
from distill.report.statistics import Documents, count_leanings, sign_p_value

Key = tuple[str, str]  # set, question id
Choice = Literal["tuned", "base", "tie"]


class Vote(BaseModel):
    """One person's choice on one question, with the sha256 of both answers as they stood; `left` is who stood there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set: str
    id: str
    vote: Choice
    left: Literal["tuned", "base"]
    base_sha256: str
    tuned_sha256: str


class Models(BaseModel):
    """The sha256 of the two files that were compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    tuned: str


class Ballot(BaseModel):
    """A votes.json: `voter` is a random name that the browser made up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["blind votes"]
    version: Literal[1]
    voter: str = Field(min_length=1, max_length=100)
    models: Models
    made_at: str
    votes: tuple[Vote, ...]


def load_votes(path: Path) -> Ballot:
    """Read a file that the report exported. Raises PipelineError naming file and key where it is not one."""
    if not path.is_file():
        raise PipelineError(f"{path} does not exist: export votes.json from the voting mode of report.html")
    value = read_json(path)
    try:
        return Ballot.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "(the whole file)"
        raise PipelineError(f"{path} {key}: {problem['msg']}: export votes.json from report.html again") from None


def require_same_models(path: Path, ballot: Ballot, models: Mapping[str, str]) -> None:
    """Raises PipelineError where people voted on other models; `models` is the sha256 by side."""
    for side in ("base", "tuned"):
        if getattr(ballot.models, side) != models.get(side):
            raise PipelineError(
                f"{path} holds votes of another evaluation, with another {side} model: leave it out, or vote in this report"
            )


def count_votes(
    ballots: Sequence[Ballot], sets: Sequence[CaseSet], answers: Mapping[tuple[SetName, ModelSide], Sequence[Answer]]
) -> dict[str, Any]:
    """summary["votes"]: of each person the last vote on each question; `stale` are those on answers that have changed.

    `p_value` is an exact sign test over documents: each leans to the side with more votes on its questions. People agree with
    one another and questions about one document succeed and fail together, so that single votes are no independent draws.
    """
    known = list_pairs(sets, answers)
    latest = {
        (ballot.voter, vote.set, vote.id): vote
        for ballot in sorted(ballots, key=lambda ballot: ballot.made_at) for vote in ballot.votes
    }
    valid = {key: vote for key, vote in latest.items() if is_on(vote, known)}
    counts = Counter(vote.vote for vote in valid.values())
    documents = gather_signs(valid.values(), {key: question for key, (question, *_) in known.items()})
    return {
        "voters": len({voter for voter, *_ in valid}), "votes": len(valid), "questions": len({key[1:] for key in valid}),
        "documents": len(documents), **count_leanings(documents),
        "tuned": counts["tuned"], "base": counts["base"], "tie": counts["tie"],
        "p_value": sign_p_value(documents) if valid else None, "stale": len(latest) - len(valid),
    }


def list_pairs(
    sets: Sequence[CaseSet], answers: Mapping[tuple[SetName, ModelSide], Sequence[Answer]]
) -> dict[Key, tuple[Question, str, str]]:
    """Every question with the sha256 of both answers."""
    return {
        (cases.name, question.id): (question, digest(base.text), digest(tuned.text))
        for cases in sets
        if (cases.name, "base") in answers
        for question, base, tuned in zip(cases.questions, answers[cases.name, "base"], answers[cases.name, "tuned"])
        if not base.error and not tuned.error
    }


def is_on(vote: Vote, known: Mapping[Key, tuple[Question, str, str]]) -> bool:
    """Whether a vote was given on the answers as they are now."""
    return known.get((vote.set, vote.id), (None, "", ""))[1:] == (vote.base_sha256, vote.tuned_sha256)


def gather_signs(votes: Iterable[Vote], questions: Mapping[Key, Question]) -> Documents:
    """For each document its votes: 1 for tuned, -1 for base, 0 for a tie."""
    signs: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        question = questions[vote.set, vote.id]
        signs[question.group or question.id].append(float((vote.vote == "tuned") - (vote.vote == "base")))
    return signs
