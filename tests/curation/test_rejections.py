from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distill.curation.rejections import Rejections
from distill.files import read_jsonl


def make_rejections(order: int = 1) -> Rejections:
    """Three rejections by two checks."""
    rejections = Rejections()
    for question in ["b?", "a?"][::order]:
        detail = "5 C is not in source 1"
        rejections.add("support", detail, id="1", question=question, category="RF", side="train", output="5 C")
    rejections.add("near-duplicate question", "repeats: a?", question="A?")
    return rejections


def test_each_check_is_counted() -> None:
    assert make_rejections().counts() == {"near-duplicate question": 1, "support": 2} and len(make_rejections()) == 3
    assert Rejections().counts() == {} and len(Rejections()) == 0


def test_every_row_stands_in_the_file_whatever_the_order_of_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    make_rejections().write(path)
    rows = [row for _, row in read_jsonl(path)]
    assert [(row["check"], row["question"]) for row in rows] == [
        ("near-duplicate question", "A?"), ("support", "a?"), ("support", "b?"),
    ]
    assert rows[1] == {
        "check": "support", "detail": "5 C is not in source 1", "id": "1", "side": "train", "category": "RF", "question": "a?",
        "output": "5 C",
    }
    before = path.read_bytes()
    make_rejections(-1).write(path)
    assert path.read_bytes() == before


def test_the_file_is_the_users_alone_and_encrypted_if_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    path = tmp_path / "rejected.jsonl"
    make_rejections().write(path)
    assert sys.platform == "win32" or path.stat().st_mode & 0o077 == 0
    assert "5 C" in path.read_text(encoding="utf-8")
    make_rejections().write(path, encrypt=True)
    assert "5 C" not in path.read_text(encoding="utf-8") and len([*read_jsonl(path)]) == 3


def test_a_run_that_rejects_nothing_leaves_an_empty_file(tmp_path: Path) -> None:
    Rejections().write(tmp_path / "rejected.jsonl")
    assert (tmp_path / "rejected.jsonl").read_bytes() == b""
