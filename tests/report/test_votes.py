"""Votes are counted once for each person and question, on the answers as they are, for the models that were voted on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.cases.case_set import CaseSet, Measure, Question
from distill.errors import PipelineError
from distill.files import sha256_text
from distill.report.page_cards import digest
from distill.report.votes import Ballot, count_votes, load_votes, require_same_models
from tests.report.answers import make_answer

MODELS = {"base": sha256_text("base"), "tuned": sha256_text("tuned")}


def make_sets(count: int = 12, share: int = 1) -> tuple[list[CaseSet], dict]:
    """Questions, `share` of them about each document, with both answers."""
    questions = [Question("heldout", f"row-{n}", (), group=f"manual {n // share}") for n in range(count)]
    cases = CaseSet("heldout", "", questions, {"m": Measure("")}, "m", lambda answers: [])
    sides = ("base", "tuned")
    answers = {("heldout", side): [make_answer(q.id, side, f"{side} says {q.id}") for q in questions] for side in sides}
    return [cases], answers


def make_vote(number: int, choice: str = "tuned", **changes: str) -> dict:
    shas = {f"{side}_sha256": digest(f"{side} says row-{number}") for side in ("base", "tuned")}
    return {"set": "heldout", "id": f"row-{number}", "vote": choice, "left": "base", **shas, **changes}


def make_ballot(votes: list[dict], voter: str = "a", made_at: str = "2026-11-23T10:00:00.000Z", **changes: object) -> dict:
    return {
        "kind": "blind votes", "version": 1, "voter": voter, "models": MODELS, "made_at": made_at, "votes": votes, **changes,
    }


def count(*ballots: dict, share: int = 1) -> dict:
    return count_votes([Ballot.model_validate(ballot) for ballot in ballots], *make_sets(share=share))


def test_votes_are_counted() -> None:
    votes = [make_vote(n) for n in range(8)] + [make_vote(8, "base"), make_vote(9, "tie")]
    assert count(make_ballot(votes)) == {
        "voters": 1, "votes": 10, "questions": 10, "documents": 10, "documents_tuned": 8,
        "documents_base": 1, "tuned": 8, "base": 1, "tie": 1,
        "p_value": pytest.approx(2 * (1 + 9) / 2**9), "stale": 0,
    }


def test_a_second_export_of_one_person_replaces_the_first_in_any_order() -> None:
    early = make_ballot([make_vote(0, "base"), make_vote(1, "base")])
    late = make_ballot([make_vote(0), make_vote(2)], made_at="2026-11-23T11:00:00.000Z")
    for ballots in ((early, late), (late, early)):
        found = count(*ballots)
        assert (found["voters"], found["votes"], found["tuned"], found["base"]) == (1, 3, 2, 1)


def test_two_people_on_one_question_are_two_votes_but_one_witness() -> None:
    found = count(make_ballot([make_vote(0)]), make_ballot([make_vote(0)], voter="b"))
    assert (found["voters"], found["votes"], found["questions"], found["documents"], found["p_value"]) == (2, 2, 1, 1, 1.0)


def test_questions_about_one_document_are_one_witness() -> None:
    votes = make_ballot([make_vote(n) for n in range(12)])
    assert count(votes)["p_value"] == pytest.approx(2 / 2**12)
    assert count(votes, share=6)["p_value"] == pytest.approx(2 / 2**2) and count(votes, share=6)["documents"] == 2


def test_votes_that_cancel_out_prove_nothing() -> None:
    found = count(make_ballot([make_vote(0)]), make_ballot([make_vote(0, "base")], voter="b"))
    assert found["p_value"] == 1.0 and (found["tuned"], found["base"]) == (1, 1)


@pytest.mark.parametrize("changes", [{"base_sha256": "0" * 64}, {"tuned_sha256": "0" * 64}, {"id": "gone"}, {"set": "own"}])
def test_votes_on_other_answers_are_stale_and_do_not_count(changes: dict) -> None:
    found = count(make_ballot([make_vote(0), make_vote(1, **changes)]))
    assert (found["votes"], found["stale"], found["tuned"]) == (1, 1, 1)


def test_a_call_that_failed_since_makes_a_vote_stale() -> None:
    sets, answers = make_sets()
    answers["heldout", "base"][0] = make_answer("row-0", "base", error="down")
    found = count_votes([Ballot.model_validate(make_ballot([make_vote(0, base_sha256=digest(""))]))], sets, answers)
    assert (found["votes"], found["stale"]) == (0, 1)


def test_no_vote_at_all() -> None:
    assert count(make_ballot([])) == {
        "voters": 0, "votes": 0, "questions": 0, "documents": 0,
        "documents_tuned": 0, "documents_base": 0, "tuned": 0, "base": 0, "tie": 0, "p_value": None, "stale": 0,
    }


def test_without_a_control_every_vote_is_stale() -> None:
    sets, answers = make_sets()
    del answers["heldout", "base"]
    found = count_votes([Ballot.model_validate(make_ballot([make_vote(0)]))], sets, answers)
    assert (found["votes"], found["stale"], found["p_value"]) == (0, 1, None)


def test_a_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "votes.json"
    path.write_text(json.dumps(make_ballot([make_vote(0)])), encoding="utf-8-sig")
    ballot = load_votes(path)
    assert ballot.voter == "a" and ballot.votes[0].vote == "tuned"
    require_same_models(path, ballot, MODELS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"), ("[]", "whole file"), ("{}", "kind"), (json.dumps(make_ballot([], kind="x")), "kind"),
        (json.dumps(make_ballot([], version=2)), "version"), (json.dumps(make_ballot([make_vote(0, "left")])), "votes.0.vote"),
        (json.dumps(make_ballot([make_vote(0, extra="x")])), "votes.0.extra"), (json.dumps(make_ballot([], voter="")), "voter"),
        (json.dumps(make_ballot([], models={})), "models.base"),
    ],
)
def test_what_is_no_export_is_refused_in_one_line(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "votes.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"votes\.json") as caught:
        load_votes(path)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"none\.json does not exist"):
        load_votes(tmp_path / "none.json")


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_votes_of_another_evaluation_are_refused(side: str) -> None:
    ballot = Ballot.model_validate(make_ballot([]))
    with pytest.raises(PipelineError, match=f"another evaluation, with another {side} model"):
        require_same_models(Path("votes.json"), ballot, {**MODELS, side: "0" * 64})


def test_half_a_surrogate_pair_has_a_digest() -> None:
    assert digest("\ud800") != digest("?")
