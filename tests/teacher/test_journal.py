from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import TeacherSection
from distill.errors import PipelineError
from distill.teacher.journal import FILE_NAME, Journal, describe_journal, list_missing, load_replies, set_aside
from distill.teacher.requests import Reply, Request, identify
from tests.asking import make_request, make_requests

SECTION = TeacherSection(model="teacher-1")
OTHER = TeacherSection(model="teacher-2")


def make_reply(text: str) -> Reply:
    """A whole reply."""
    return Reply(text, "stop", "teacher-1", 10, 5, 0.001, "2026-11-23T12:00:00+00:00")


def fill(folder: Path, *requests: Request, section: TeacherSection = SECTION) -> None:
    """Keep a reply to each request."""
    with Journal(folder, section) as journal:
        for request in requests:
            journal.add(request, make_reply(f"To {request.row_ids[0]}"))


def test_replies_are_on_disk_at_once_and_found_again(tmp_path: Path) -> None:
    first, second = make_requests(2)
    with Journal(tmp_path, SECTION) as journal:
        journal.add(first, make_reply("It is 80 C."))
        assert load_replies(tmp_path) == {identify(SECTION, first): make_reply("It is 80 C.")}
        assert journal.get(first) == make_reply("It is 80 C.") and journal.get(second) is None
    with Journal(tmp_path, SECTION) as journal:
        assert journal.get(first) == make_reply("It is 80 C.")
    assert list_missing(SECTION, [first, second, second], load_replies(tmp_path)) == [second]


def test_replies_of_another_model_count_again_when_the_config_goes_back(tmp_path: Path) -> None:
    request = make_request("q0")
    fill(tmp_path, request)
    with Journal(tmp_path, OTHER) as journal:
        assert journal.get(request) is None
    with Journal(tmp_path, SECTION) as journal:
        assert journal.get(request)


@pytest.mark.parametrize("torn", [b'{"request": "12', '{"text": "20 \u00b0'.encode()[:-1]])
def test_a_torn_last_line_is_forgotten(tmp_path: Path, torn: bytes) -> None:
    first, second = make_requests(2)
    fill(tmp_path, first)
    with open(tmp_path / FILE_NAME, "ab") as file:
        file.write(torn)
    assert set(load_replies(tmp_path)) == {identify(SECTION, first)}
    fill(tmp_path, second)
    assert set(load_replies(tmp_path)) == {identify(SECTION, first), identify(SECTION, second)}


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('{}\n{"request": \n{}\n', encoding="utf-8")
    with pytest.raises(PipelineError, match=r"answers\.jsonl:2 is not JSON"):
        load_replies(tmp_path)


@pytest.mark.parametrize("line", [
    '{"id": "0123456789abcdef", "question": "Q?", "output": "A.", "teacher_model": "t", "timestamp": "2026"}',
    '{"request": "0123456789abcdef", "text": "A."}', '{"request": 5}', "{}",
])
def test_lines_of_another_shape_are_passed_over(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE_NAME).write_text(line + "\n", encoding="utf-8")
    assert load_replies(tmp_path) == {}


def test_what_is_on_disk_is_described(tmp_path: Path) -> None:
    requests = make_requests(3)
    assert describe_journal(tmp_path, SECTION, requests) == "[OK] 0 of 3 replies are on disk"
    fill(tmp_path, *requests[:2])
    assert describe_journal(tmp_path, SECTION, requests) == "[OK] 2 of 3 replies are on disk"


def test_a_changed_prompt_model_or_setting_says_so(tmp_path: Path) -> None:
    before = [make_request(f"old{number}") for number in range(2)]
    fill(tmp_path, *before)
    line = describe_journal(tmp_path, SECTION, make_requests(3))
    assert line == "[OK] 0 of 3 replies are on disk; 2 are for other requests (question, prompt, model or settings changed)"


def test_what_follows_from_a_reply_is_no_other_request(tmp_path: Path) -> None:
    fill(tmp_path, make_request("q0"), make_request("improve q0", row_ids=("q0",), purpose="improve"))
    assert describe_journal(tmp_path, SECTION, [make_request("q0")]) == "[OK] 1 of 1 replies are on disk"


def test_replies_are_set_aside_under_a_dated_name(tmp_path: Path) -> None:
    assert set_aside(tmp_path) is None
    fill(tmp_path, make_request("q0"))
    kept = set_aside(tmp_path)
    assert kept and kept.name.startswith("answers-2") and kept.exists() and load_replies(tmp_path) == {}


@pytest.mark.parametrize("encrypt", [False, True])
def test_the_replies_to_some_rows_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypt: bool) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=")
    requests = make_requests(3)
    with Journal(tmp_path, SECTION, encrypt=encrypt) as journal:
        for request in requests:
            journal.add(request, make_reply("one\u2028two"))
    before = (tmp_path / FILE_NAME).read_bytes()
    kept = set_aside(tmp_path, {"q1", "another"})
    assert kept and kept.read_bytes() == before
    assert list(load_replies(tmp_path)) == [identify(SECTION, requests[0]), identify(SECTION, requests[2])]
    assert (tmp_path / FILE_NAME).read_bytes().splitlines() == [before.splitlines()[0], before.splitlines()[2]]


def test_an_encrypted_journal_holds_no_plain_text_and_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=")
    request = make_request("q0")
    with Journal(tmp_path, SECTION, encrypt=True) as journal:
        journal.add(request, make_reply("The zanzibar limit"))
    assert b"zanzibar" not in (tmp_path / FILE_NAME).read_bytes()
    with Journal(tmp_path, SECTION, encrypt=True) as journal:
        assert journal.get(request) == make_reply("The zanzibar limit")
