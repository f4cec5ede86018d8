"""What each check of the general questions reads in an answer: the number it gives, the words it does not deny, its form."""

from __future__ import annotations

import pytest

from distill.cases.checks import Number, Words, drop_denied, find_number, gives_word, has_number, is_text, says


@pytest.mark.parametrize(("text", "number"), [
    ("42", 42), ("The answer is 42.", 42), ("17 + 25 = 42", 42), ("17 and 25 make\n42", 42), ("-3", -3), ("28cm", 28),
    ("1 + 2 = 3\n3 + 4 = 7", 7), ("First 12, then 30 and so 18", 18), ("twelve", 12), ("1.5 is 3/2", 2), ("none at all", None),
    ("7, not 42", 7), ("It is not 42 but 7.", 7), ("100 (212)", 100), ("(42)", 42), ("9, as 9^2 is its square", 9),
    ("two thousand four hundred", 2400), ("one hundred and thirty-two", 132), ("six hundred twenty-five", 625),
    ("a hundred", 100), ("five point seven five", 5.75), ("nineteen forty-five", 1945), ("2 400", 2400), ("= $24$", 24),
    (r"It is $\boxed{42}$, since 17 + 25 = \boxed{42}.", 42), ("6 = 3 x 2, and 2 x 5 = 10", 10),
    ("It was 2 m, that is 200 cm, so 200", 200),
    ("It is 8, as 2 x 4 = **8**", 8),
    ("42\n\nThe ones make 7 + 5 = 12.", 42), ("1 + 2 = 3, as 2 comes after 1", 3), ("H2O", None), ("", None),
])
def test_the_number_of_an_answer(text: str, number: float | None) -> None:
    assert find_number(text) == number


@pytest.mark.parametrize(("text", "right"), [
    ("105 minutes, which is 1 hour and 45 minutes", True), ("1 hour and 45 minutes, which is 105 minutes", True),
    ("45", False), ("1", False), ("9:15 to 11:00 is 105 minutes", True), ("1 hour and 45 minutes", False),
])
def test_other_ways_to_say_a_number_may_stand_beside_it_and_are_not_it(text: str, right: bool) -> None:
    assert has_number(text, Number(105, frozenset({1, 45, 9, 15, 11, 0}))) is right


@pytest.mark.parametrize(("text", "kept"), [
    ("Lyon, not Paris.", "Lyon, ."), ("It is not Lyon but Paris.", "but Paris."),
    ("It isn't Lyon; Paris it is.", "; Paris it is."),
    ("Paris is wrong. Lyon!", ". Lyon!"), ("It did not end until 1945.", "It did not end until 1945."),
    ("Use 2.5, not 3.5", "Use 2.5, "), ("It is not only Paris", "It is not only Paris"), ("a knot", "a knot"),
])
def test_what_an_answer_denies_is_left_out(text: str, kept: str) -> None:
    assert drop_denied(text).split() == kept.split()


def test_where_the_right_answer_denies_nothing_is_left_out() -> None:
    assert says("The lamp is not on.", Words(("the lamp is not on",)))


@pytest.mark.parametrize(("text", "right"), [
    ("leave", True), ("To leave or to depart", True),
    ("The opposite is to depart.", True), ("'leave'", True), ("Leave: go away", True),
    ("Leave is the opposite of arrive.", True), ("stay or leave", False), ("arrive/leave", False), ("We leave it open", False),
    ("You leave home, they arrive there", False), ("not leave", False), ("leaves", False), ("", False),
])
def test_a_word_is_given_as_an_answer_or_it_merely_occurs(text: str, right: bool) -> None:
    assert gives_word(text, Words(("leave", "depart"))) is right


@pytest.mark.parametrize("text", ["**stop**", "`**stop**`", "```\n**stop**\n```", '"**stop**"', "**stop**."])
def test_marks_that_are_asked_for_stay_and_those_around_them_go(text: str) -> None:
    assert is_text(text, "**stop**") and not is_text("stop", "**stop**") and not is_text("*stop*", "**stop**")
