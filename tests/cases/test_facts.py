"""Key facts: found however they are spelled, and never in a number or word that is another one."""

from __future__ import annotations

import pytest

from distill.cases.facts import WINDOW_WORDS, holds_fact, measure_facts

HELD = [
    ("180 days", "The cycle is 180 days."),
    ("180 days", "It is a 180-day cycle."),
    ("180 days", "every 180\u00a0DAYS"),
    ("30 days", "every thirty days"),
    ("5V", "It needs 5 V."),
    ("5 V", "**5V** at J14"),
    ("\u00b1 5 MHz", "within \u00b15 MHz"),
    ("\u00b15 MHz", "within +/- 5 MHz"),
    ("42 N*m", "Tighten to 42 N\u00b7m."),
    ("42 Nm", "Tighten to 42 N*m."),
    ("25000 USD", "above 25,000 USD"),
    ("25,000 USD", "above 25000 USD"),
    ("TLS 1.3", "TLSv1.3 only"),
    ("TLS_AES_256_GCM_SHA384", "use `TLS_AES_256_GCM_SHA384`"),
    ("-10C", "from -10 \u00b0C to 45 \u00b0C"),
    ("-10 C", "from \u221210\u00a0\u00b0C"),
    ("45C", "10-45C"),
    ("+12 days", "a variance of 12 days"),
    ("1.8 percent", "by 1.8%"),
    ("SW-IMG-12.4.7", "image SW-IMG-12.4.7."),
    ("2026-11-14", "on 2026-11-14"),
    ("encrypt", "The files are encrypted."),
    ("dual-source qualification", "Dual source qualification is planned."),
    ("calibration", "CALIBRATION"),
]
NOT_HELD = [
    ("12", "112"),
    ("12", "1.12"),
    ("12 days", "-12 days"),
    ("-10C", "10 C"),
    ("\u00b15 MHz", "5 MHz"),
    ("180 days", "180 hours"),
    ("180 days", "days 180"),
    ("5 V", "5 W"),
    ("R-017", "R-0170"),
    ("TLS 1.3", "TLS 1.2"),
    ("SW-IMG-12.4.7", "SW-IMG-12.4"),
    ("low", "a slow pump"),
    ("red", "redundant"),
    ("cat", "category"),
    ("encrypt", "decrypt"),
    ("", "anything"),
    ("...", "anything ..."),
    ("180 days", ""),
]


@pytest.mark.parametrize(("fact", "text"), HELD)
def test_a_fact_is_held_in_any_spelling(fact: str, text: str) -> None:
    assert holds_fact(text, fact)


@pytest.mark.parametrize(("fact", "text"), NOT_HELD)
def test_another_value_is_another_fact(fact: str, text: str) -> None:
    assert not holds_fact(text, fact)


def test_the_share_counts_each_fact_once_by_any_of_its_alternatives() -> None:
    facts = [("180 days", "six months"), ("30 days",), ("90 days",)]
    assert measure_facts("Every six months, and every 90 days. Every 180 days.", facts) == pytest.approx(2 / 3)
    assert measure_facts("Every year.", facts) == 0 and measure_facts("anything", []) is None


def test_a_fact_that_comes_after_the_first_words_does_not_count() -> None:
    assert measure_facts("word " * (WINDOW_WORDS - 1) + "180 days", [("180",)]) == 1
    assert measure_facts("word " * WINDOW_WORDS + "180 days", [("180",)]) == 0
