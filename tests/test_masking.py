"""The user's words and patterns, overlaps, counts, and that a masked text stays as it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import MaskingSection
from distill.errors import PipelineError
from distill.masking import Masker, load_words, merge_spans
from tests.test_personal import KEPT_CASES, MASKED_CASES

SECTION = MaskingSection(patterns={"EMPLOYEE": r"EMP-\d+", "SITE": r"(?i)site [a-z]\b"})
# Pieces that touch each other in every way: digits beside letters, tags inside tags, labels before numbers.
PIECES = st.sampled_from(
    [*(text for _, text, _ in MASKED_CASES), *(text for _, text in KEPT_CASES), "[EMAIL]", "[", "]", "EMP-7", "site b", " ",
     "\n", "-", ".", "1", "call ", "version "]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join) | st.text("0123456789.-@:+ ()ab[]", max_size=40) | st.text()


def write_words(folder: Path, text: str) -> MaskingSection:
    path = folder / "words.txt"
    path.write_text(text, encoding="utf-8")
    return MaskingSection(kinds=(), words_file=path)


@given(text=TEXTS)
def test_masking_a_masked_text_changes_nothing(text: str) -> None:
    masked = Masker(SECTION).mask(text)
    again = Masker(SECTION)
    assert again.mask(masked) == masked and not again.counts


@given(text=TEXTS)
def test_nothing_that_is_not_masked_is_lost(text: str) -> None:
    """What was found, put back for the tags in turn, has the text's length."""
    masker = Masker(SECTION)
    masked = masker.mask(text)
    tags = sum((len(tag) + 2) * number for tag, number in masker.counts.items())
    assert len(text) - sum(len(found) * number for (_, found), number in masker.found.items()) == len(masked) - tags


def test_nothing_is_masked_when_nothing_is_asked_for() -> None:
    text = "jane@example.com, 555-123-4567, 123-45-6789, 10.0.0.1"
    assert Masker(MaskingSection(kinds=())).mask(text) == text


def test_spans_are_counted_and_remembered_over_all_texts() -> None:
    masker = Masker(SECTION)
    assert masker.mask("a@b.example, EMP-12") == "[EMAIL], [EMPLOYEE]"
    assert masker.mask("a@b.example and c@d.example at Site B") == "[EMAIL] and [EMAIL] at [SITE]"
    assert masker.counts == {"EMAIL": 3, "EMPLOYEE": 1, "SITE": 1}
    assert masker.found["EMAIL", "a@b.example"] == 2
    assert masker.describe_found()[:2] == ["    [EMAIL]     2 x a@b.example", "    [EMAIL]     1 x c@d.example"]


def test_a_run_without_personal_data_says_so() -> None:
    masker = Masker(SECTION)
    masker.mask("The pump runs at 45 Nm.")
    assert masker.describe_found() == [] and not masker.counts


# -----------------------------------------------------------------------------
# Overlaps and tags


@pytest.mark.parametrize(
    ("patterns", "text", "expected"),
    [
        ({"NAME": "smith"}, "john.smith@example.com", "[EMAIL]"),  # inside a longer one
        ({"CODE": r"Account a@b\.ex"}, "Account a@b.example!", "[CODE]!"),  # partly over: nothing of either is left
        ({"A": "abc", "B": "abc"}, "abc", "[A]"),  # the very same: the first
        ({"TAG": "MAIL|A"}, "A [EMAIL] A", "[TAG] [EMAIL] [TAG]"),  # a tag is never looked into
        ({"REST": "met.*"}, "I met [SSN] today", "I [REST][SSN] today"),  # nor taken
        ({"WIDE": "x*y"}, "xxy xx", "[WIDE] xx"),
        ({"EMPTY": r"\b(?=z)|q"}, "zq", "z[EMPTY]"),  # an empty match masks nothing
    ],
)
def test_what_meets_another_span(patterns: dict[str, str], text: str, expected: str) -> None:
    assert Masker(MaskingSection(patterns=patterns)).mask(text) == expected


def test_a_neighbour_that_a_tag_uncovers_is_masked_too() -> None:
    assert Masker(MaskingSection()).mask("a@b.com555-123-4567") == "[EMAIL][PHONE]"


def test_overlapping_spans_become_one_under_the_longest() -> None:
    spans = [(0, 3, "A"), (2, 8, "B"), (7, 9, "C"), (9, 12, "D")]
    assert list(merge_spans(iter(spans))) == [(0, 9, "B"), (9, 12, "D")]


# -----------------------------------------------------------------------------
# Words


def test_words_and_names_are_masked_whole_in_any_case(tmp_path: Path) -> None:
    section = write_words(tmp_path, "# people\n\nJane Doe\nSmith\nM\u00fcller\n  O'Brien \nProject X-7\n")
    text = "JANE  doe met Smith's son, Smithers, m\u00fcller, mu\u0308ller, smith_report, o'brien on Project x-7 and X-70. "
    text += "Jane\nDoe"
    expected = "[WORD] met [WORD]'s son, Smithers, [WORD], [WORD], [WORD]_report, [WORD] on [WORD] and X-70. [WORD]"
    masker = Masker(section)
    assert masker.mask(text) == expected and masker.counts == {"WORD": 8}


def test_the_longer_name_wins(tmp_path: Path) -> None:
    assert Masker(write_words(tmp_path, "Ann\nAnn Lee\n")).mask("Ann Lee, Ann") == "[WORD], [WORD]"


def test_a_word_that_is_a_tag_s_own_leaves_the_tags_alone(tmp_path: Path) -> None:
    assert Masker(write_words(tmp_path, "email\nword")).mask("email [EMAIL] [WORD]") == "[WORD] [EMAIL] [WORD]"


def test_a_file_from_notepad_is_read(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xef\xbb\xbfJane\r\n# note\r\nDoe\r\n")
    assert load_words(tmp_path / "words.txt") == ["Jane", "Doe"]


def test_a_missing_file_of_words_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"config\.yaml generate\.masking\.words_file: .*gone\.txt is missing"):
        Masker(MaskingSection(words_file=tmp_path / "gone.txt"))


def test_a_line_without_a_word_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"words\.txt:2 holds no letter"):
        Masker(write_words(tmp_path, "Jane\n---\n"))


def test_ten_thousand_names_cost_no_more_than_one(tmp_path: Path) -> None:
    masker = Masker(write_words(tmp_path, "".join(f"Family{number} Name\n" for number in range(10_000))))
    started = time.process_time()
    assert masker.mask("family7 name and others " * 20_000).count("[WORD]") == 20_000
    assert time.process_time() - started < 20
