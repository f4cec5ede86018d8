from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.curation.words import fold_number, fold_signs, fold_word, list_content_words, read_number_words


@pytest.mark.parametrize("forms", [
    ("calculate", "calculated", "calculates", "calculating", "calculation", "calculations"),
    ("frequency", "frequencies"), ("stop", "stops", "stopped", "stopping"), ("filter", "filters", "filtered", "filtering"),
    ("process", "processes", "processed", "processing"), ("install", "installs", "installed", "installing"),
    ("transmit", "transmitter", "transmitters", "transmitted"), ("operate", "operator", "operation", "operating"),
    ("Pump", "PUMPS", "pumping"),
])
def test_the_usual_forms_of_a_word_have_one_stem(forms: tuple[str, ...]) -> None:
    assert len({fold_word(form) for form in forms}) == 1


@pytest.mark.parametrize(("first", "second"), [
    ("pump", "valve"), ("band", "bandwidth"), ("antenna", "anode"), ("gain", "grain"), ("ring", "red"), ("pass", "past"),
])
def test_other_words_have_another(first: str, second: str) -> None:
    assert fold_word(first) != fold_word(second)


@pytest.mark.parametrize(("text", "folded"), [
    ("1,200 and 1,234,567", "1200 and 1234567"), ("1\u202f200 m", "1200 m"), ("1\u2019200", "1200"), ("1, 200", "1, 200"),
    ("\u221220 \u00b0C", "-20 \u00b0C"), ("minus 20", "-20"), ("10\u201320", "10-20"), ("X\u2011100", "X-100"),
    ("10\u207b\u2076", "10^-6"), ("m\u00b2", "m^2"), ("\u00bd", "1/2"), ("5 \u00b5s", "5 us"), ("\u2103", "\u00b0C"),
])
def test_signs_have_one_form(text: str, folded: str) -> None:
    assert fold_signs(text) == folded


@pytest.mark.parametrize(("digits", "folded"), [
    ("5", "5"), ("5.0", "5"), ("05", "5"), ("5.10", "5.1"), ("0.50", "0.5"), ("0", "0"), ("-5.0", "-5"), ("000", "0"),
    ("50", "50"),
])
def test_numbers_have_one_form(digits: str, folded: str) -> None:
    assert fold_number(digits) == folded


@pytest.mark.parametrize(("text", "digits"), [
    ("eighty five percent", "85 percent"), ("Twenty-One", "21"), ("two or three", "2 or 3"), ("three hundred", "300"),
    ("nineteen thousand", "19000"), ("ninety", "90"), ("zero", "0"), ("someone often", "someone often"),
    ("five-year", "5-year"),
])
def test_number_words_become_digits(text: str, digits: str) -> None:
    assert read_number_words(text) == digits


def test_small_number_words_may_stay() -> None:
    assert read_number_words("two of twelve of thirteen", above=12) == "two of twelve of 13"


@given(st.text(max_size=60))
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold_word(fold_word(text)) == fold_word(text)
    assert all(word == fold_word(word) for word in list_content_words(fold_signs(text)))
