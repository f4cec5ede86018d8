from __future__ import annotations

from fractions import Fraction

import pytest

from distill.curation.units import NUMBER_WITH_UNIT, UNITS, name_unit, scale_unit
from distill.curation.words import fold_signs


@pytest.mark.parametrize(("text", "found"), [
    ("80 \u00b0C", [("80", "C")]), ("80 degrees Celsius", [("80", "C")]), ("80C", [("80", "C")]),
    ("80 deg. F", [("80", "F")]), ("2.4GHz", [("2.4", "GHz")]), ("2.4 gigahertz", [("2.4", "GHz")]),
    ("24 Volts", [("24", "V")]), ("5-year", [("5", "year")]), ("10-20 MHz", [("10", ""), ("20", "MHz")]),
    ("3 %", [("3", "%")]), ("3 percent", [("3", "%")]), ("3 mW", [("3", "mW")]), ("3 MW", [("3", "MW")]),
    ("100 kbps", [("100", "kbit/s")]), ("100 kilobits per second", [("100", "kbit/s")]), ("5 bit", [("5", "bit")]),
    ("50 \u2126", [("50", "\u03a9")]), ("50 ohms", [("50", "\u03a9")]), ("7 feet", [("7", "ft")]),
    ("80 in total", [("80", "")]), ("-20 C", [("-20", "C")]), ("(5 ms)", [("5", "ms")]), ("30 dBm.", [("30", "dBm")]),
    ("30 dB", [("30", "dB")]), ("X100", []), ("1.2.3", []), ("802.11n", []), ("AES-256", [("256", "")]),
    ("80 Celery", [("80", "")]), ("5 Meter", [("5", "m")]),
])
def test_numbers_and_their_units_in_text(text: str, found: list[tuple[str, str]]) -> None:
    matches = NUMBER_WITH_UNIT.finditer(fold_signs(text))
    assert [(match["number"], name_unit(match["unit"])) for match in matches] == found


def test_every_unit_is_found_behind_a_number_under_its_name() -> None:
    for text, unit in UNITS.items():
        match = NUMBER_WITH_UNIT.search(fold_signs(f"7 {text} of it"))
        assert match and match["number"] == "7" and name_unit(match["unit"]) == unit, text


@pytest.mark.parametrize(("unit", "base", "factor"), [
    ("mm", "m", Fraction(1, 1000)), ("GHz", "Hz", 10**9), ("%", "", Fraction(1, 100)), ("million", "", 10**6), ("h", "s", 3600),
    ("dB", "dB", 1), ("C", "C", 1), ("", "", 1), ("min", "s", 60), ("kg", "g", 1000), ("m", "m", 1),
])
def test_units_without_their_prefixes(unit: str, base: str, factor: Fraction) -> None:
    assert scale_unit(unit) == (base, factor)
