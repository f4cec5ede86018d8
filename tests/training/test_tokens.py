"""The token cache: the same rows, much sooner. Never another run's, never damaged ones, never plain beside encrypted rows."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distill.records import TrainingExample
from distill.training.encode import IGNORE, EncodedExample, encode_examples
from distill.training.tokens import list_key_parts, load_or_encode
from tests.tiny_models import invent_sentences

ROWS = [
    EncodedExample("r1", [5, 6, 7, 8], [IGNORE, IGNORE, 7, 8]),
    EncodedExample("long name, \u00fcber", [9, 200_000], [IGNORE, 200_000]),
]
OTHERS = [EncodedExample("r9", [1, 2], [IGNORE, 2])]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "adapters" / "cache"


def fail() -> list[EncodedExample]:
    raise AssertionError("encoded again")


def test_rows_come_back_as_they_were(cache: Path) -> None:
    assert load_or_encode(cache, ["a"], lambda: ROWS) == ROWS
    assert load_or_encode(cache, ["a"], fail) == ROWS


@pytest.mark.parametrize("parts", [["b"], ["a", ""], ["", "a"], []])
def test_another_key_has_other_rows_and_leaves_one_file(cache: Path, parts: list[str]) -> None:
    load_or_encode(cache, ["a"], lambda: ROWS)
    assert load_or_encode(cache, parts, lambda: OTHERS) == OTHERS
    assert load_or_encode(cache, parts, fail) == OTHERS
    assert len(list(cache.iterdir())) == 1


def damage(data: bytes, how: str) -> bytes:
    half = len(data) // 2
    changed = {"empty": b"", "torn": data[:half], "flipped": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]}
    return {**changed, "longer": data + b"x", "digest": bytes(32) + data[32:], "only digest": data[:32]}[how]


@pytest.mark.parametrize("how", ["empty", "torn", "flipped", "longer", "digest", "only digest"])
def test_damaged_file_is_made_anew(cache: Path, how: str) -> None:
    load_or_encode(cache, ["a"], lambda: ROWS)
    path, = cache.iterdir()
    path.write_bytes(damage(path.read_bytes(), how))
    assert load_or_encode(cache, ["a"], lambda: OTHERS) == OTHERS
    assert load_or_encode(cache, ["a"], fail) == OTHERS


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    assert load_or_encode(None, ["a"], lambda: ROWS) == ROWS
    assert not list(tmp_path.iterdir())


def test_encrypted_rows_leave_no_tokens_and_old_ones_go(cache: Path) -> None:
    load_or_encode(cache, ["a"], lambda: ROWS)
    assert load_or_encode(cache, ["a"], lambda: OTHERS, encrypt=True) == OTHERS
    assert not cache.exists()


def test_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert load_or_encode(tmp_path / "file" / "cache", ["a"], lambda: ROWS) == ROWS
    assert "[WARN] the tokens could not be kept" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_tokens_are_private_like_their_rows(cache: Path) -> None:
    load_or_encode(cache, ["a"], lambda: ROWS)
    path, = cache.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700 and path.stat().st_mode & 0o777 == 0o600


# -----------------------------------------------------------------------------
# The key, and the time


@pytest.fixture(scope="module")
def tokenizer(tiny_phi3: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_phi3)


def make_row(**fields: str) -> TrainingExample:
    return TrainingExample(**{"id": "r1", "instruction": "Why?", "output": "So.", **fields})


@pytest.mark.parametrize(
    "changed",
    [
        {"system": "Be brief."}, {"include_reasoning": True}, {"template": "{{ messages }}"}, {"files": "{}"},
        {"rows": [make_row(output="No.")]}, {"rows": [make_row(instruction="How?")]}, {"rows": [make_row(id="r2")]},
        {"rows": [make_row(), make_row()]},
    ],
)
def test_key_holds_all_that_the_tokens_hang_on(tmp_path: Path, tokenizer: Any, changed: dict[str, Any]) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer.json").write_text("[]", encoding="utf-8")
    before = list_key_parts(base, tokenizer, "Be exact.", [make_row()], False)
    assert list_key_parts(base, tokenizer, "Be exact.", [make_row(reasoning="Hm.", category="A")], False) == before
    (base / "tokenizer.json").write_text(changed.get("files", "[]"), encoding="utf-8")
    template, tokenizer.chat_template = tokenizer.chat_template, changed.get("template", tokenizer.chat_template)
    after = list_key_parts(
        base, tokenizer, changed.get("system", "Be exact."), changed.get("rows", [make_row()]),
        changed.get("include_reasoning", False),
    )
    tokenizer.chat_template = template
    assert after != before


def test_steps_count_where_they_are_learnt(tmp_path: Path, tokenizer: Any) -> None:
    keys = [list_key_parts(tmp_path, tokenizer, "", [make_row(reasoning=steps)], True) for steps in ("", "Hm.")]
    assert keys[0] != keys[1]


def test_two_thousand_rows_come_back_much_sooner_than_they_are_made(cache: Path, tiny_phi3: Path, tokenizer: Any) -> None:
    sentences = invent_sentences(60)
    rows = [
        make_row(id=f"r{number}", instruction=" ".join(sentences[number % 20 :]), output=sentences[number % 60])
        for number in range(2_000)
    ]

    def load() -> tuple[list[EncodedExample], float]:
        started = time.perf_counter()
        parts = list_key_parts(tiny_phi3, tokenizer, "Be exact.", rows, False)
        found = load_or_encode(cache, parts, lambda: encode_examples(tokenizer, "Be exact.", rows))
        return found, time.perf_counter() - started

    (first, slow), (second, fast) = load(), load()
    assert first == second
    tokens = sum(len(row.input_ids) for row in first)
    print(f"{tokens:,} tokens: {slow:.2f} s, then {fast:.2f} s, {slow / fast:.0f} times as fast")
    assert fast < slow / 3  # about 20 times; a busy machine may take some of it
