"""Key facts: found however they are spelled, and never in a number or word that is another one."""

from __future__ import annotations

import pytest

from distill.cases.facts import WINDOW_WORDS, holds_fact, measure_facts, names_fact

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
    ("5 V", "It needs 5 volts."),
    ("5 volts", "It needs 5V."),
    ("5 V", "a 5 Vdc supply"),
    ("24 V DC", "24VDC"),
    ("40 C", "40 degrees Celsius"),
    ("40 degrees C", "40 \u00b0C"),
    ("40 C", "40 deg C"),
    ("40 degrees", "up to 40 degrees Celsius"),
    ("100 F", "100 degrees Fahrenheit"),
    ("30 minutes", "30 min"),
    ("hours", "It runs for 24 h."),
    ("42 Nm", "42 newton metres"),
    ("2.4 GHz", "2.4 gigahertz"),
    ("\u00b15 MHz", "+/- 5 mhz"),
    ("port", "All ports are open."),
    ("ship", "It is shipped."),
    ("calibrat", "after calibration"),
    ("authoriz", "An authorization is needed."),
    ("30 days", "30 days, not 90 days"),
    ("30 days", "not 90 days but 30 days"),
    ("30 days", "No, 30 days."),
    ("30 days", "Is it monthly? No. 30 days."),
    ("30 days", "no later than 30 days"),
    ("5 V", "It must not exceed 5 V."),
    ("5 V", "not more than 5 V"),
    ("5 V", "not only 5 V but 12 V"),
    ("no calibration", "It needs no calibration."),
    ("not rated for class B", "It isn't rated for class B."),
    ("not encrypted", "The log is not encrypted."),
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
    ("rated for class B", "It is not rated for class B."),
    ("rated for class B", "It isn\u2019t rated for class B."),
    ("90 days", "30 days, not 90 days"),
    ("90 days", "not every 90 days"),
    ("calibration", "It runs without calibration."),
    ("encryption", "There is no encryption."),
    ("class B", "neither for class A nor for class B"),
    ("not encrypted", "The log is encrypted."),
    ("port", "a portable unit"),
    ("port", "Portugal"),
    ("test", "a testament"),
    ("plan", "a plane"),
    ("import", "an important one"),
    ("5 V", "5 W"),
    ("40 C", "40 F"),
    ("40 C", "40 degrees Fahrenheit"),
    ("5 m", "5 mm"),
]


@pytest.mark.parametrize(("fact", "text"), HELD)
def test_a_fact_is_held_in_any_spelling(fact: str, text: str) -> None:
    assert holds_fact(text, fact)


@pytest.mark.parametrize(("fact", "text"), NOT_HELD)
def test_another_value_is_another_fact(fact: str, text: str) -> None:
    assert not holds_fact(text, fact)


@pytest.mark.parametrize("text", ["It is AES-512.", "AES-256, not AES-512", "There is no AES-512."])
def test_a_claim_is_named_even_where_it_is_denied(text: str) -> None:
    assert names_fact(text, "AES-512") and not names_fact("AES-256", "AES-512")


def test_the_share_counts_each_fact_once_by_any_of_its_alternatives() -> None:
    facts = [("180 days", "six months"), ("30 days",), ("90 days",)]
    assert measure_facts("Every six months, and every 90 days. Every 180 days.", facts) == pytest.approx(2 / 3)
    assert measure_facts("Every year.", facts) == 0 and measure_facts("anything", []) is None


def test_a_fact_that_comes_after_the_first_words_does_not_count() -> None:
    assert measure_facts("word " * (WINDOW_WORDS - 1) + "180 days", [("180",)]) == 1
    assert measure_facts("word " * WINDOW_WORDS + "180 days", [("180",)]) == 0
