"""Numbers with their units in running text: 80 C, 2.4GHz, 10 dBm, five-year, 3 percent.

Symbols are told apart by their case (mW and MW), words are not. What stands behind a number and is no unit known here is none.
"""

from __future__ import annotations

import re
from fractions import Fraction

PREFIXES = {
    "": "", "T": "tera", "G": "giga", "M": "mega", "k": "kilo", "d": "deci", "c": "centi", "m": "milli", "u": "micro",
    "n": "nano", "p": "pico",
}
BASES = {
    "Hz": "hertz", "W": "watt", "V": "volt", "A": "ampere", "m": "metre", "s": "second", "g": "gram", "B": "byte", "bit": "bit",
    "F": "farad", "H": "henry", "\u03a9": "ohm", "J": "joule", "N": "newton", "Pa": "pascal", "eV": "electronvolt",
    "bit/s": "bit per second", "B/s": "byte per second", "Wh": "watthour", "VA": "voltampere", "l": "litre",
    "l/s": "litre per second", "l/min": "litre per minute", "l/h": "litre per hour", "m/s": "metre per second",
    "m/h": "metre per hour", "g/l": "gram per litre", "g/ml": "gram per millilitre",
}
# One name for each unit, then the symbols (as they are) and words (in any case, with or without s) that mean it.
OTHERS = {
    "dB": "dB decibel", "dBm": "dBm", "dBi": "dBi", "dBd": "dBd", "dBc": "dBc", "dBW": "dBW", "dBuV": "dBuV",
    "%": "% percent", "C": "C celsius", "F": "F fahrenheit", "K": "kelvin", "min": "min minute", "h": "h hr hrs hour",
    "day": "day", "week": "week", "month": "month", "year": "yr yrs year", "inch": "inch inches", "ft": "ft foot feet",
    "mile": "mi mile", "lb": "lb lbs pound", "psi": "psi", "bar": "bar", "rpm": "rpm", "mph": "mph", "knot": "kn knot",
    "Nm": "Nm", "USD": "USD", "EUR": "EUR", "l": "liter L", "l/min": "L/min lpm", "l/h": "L/h", "l/s": "L/s",
    "rad": "rad radian", "m": "meter", "s": "sec secs", "A": "amp", "\u03a9": "ohm", "bit/s": "bps b/s",
    "kbit/s": "kbps kb/s", "Mbit/s": "Mbps Mb/s", "Gbit/s": "Gbps Gb/s", "kB": "KB", "km": "kilometer", "cm": "centimeter",
    "mm": "millimeter", "um": "micron micrometer", "nm": "nanometer", "million": "million M", "billion": "billion",
    "thousand": "thousand",
}
# How many of the unit a prefix means; and what else can be told in another unit: the unit, and how many of it.
FACTORS = {
    "": 1, "T": 10**12, "G": 10**9, "M": 10**6, "k": 1000, "d": Fraction(1, 10), "c": Fraction(1, 100), "m": Fraction(1, 1000),
    "u": Fraction(1, 10**6), "n": Fraction(1, 10**9), "p": Fraction(1, 10**12),
}
SAME = {
    "%": ("", Fraction(1, 100)), "thousand": ("", 1000), "million": ("", 10**6), "billion": ("", 10**9), "min": ("s", 60),
    "h": ("s", 3600), "day": ("s", 86400), "week": ("s", 7 * 86400),
}
SCALES = {f"{prefix}{base}": (base, factor) for prefix, factor in FACTORS.items() for base in BASES} | SAME
del SCALES["dB"]  # a decibel, and no tenth of a byte
DEGREES = r"(?:\u00b0|deg(?:rees?|\.)?(?![^\W_]))?"


def list_units() -> dict[str, str]:
    """From each symbol, and each word in lower case, to the unit's name."""
    units = {}
    for prefix, prefix_word in PREFIXES.items():
        for base, base_word in BASES.items():
            first, _, per = base_word.partition(" ")
            plural = f"{first}s {per}".strip()
            names = {f"{prefix}{base}", f"{prefix_word}{base_word}", f"{prefix_word}{plural}"}
            units |= dict.fromkeys(names, f"{prefix}{base}")
    for unit, names in OTHERS.items():
        units |= dict.fromkeys(names.split(), unit)
        units |= {f"{name}s": unit for name in names.split() if len(name) > 2 and name.islower() and not name.endswith("s")}
    return units


UNITS = list_units()
SYMBOLS = {name for name in UNITS if len(name) <= 4 or "/" in name or " " in name}
LISTED = "|".join(re.escape(name) for name in sorted(UNITS, key=lambda name: (-len(name), name)))
WORDS = "|".join(re.escape(name) for name in sorted(set(UNITS) - SYMBOLS, key=lambda name: (-len(name), name)))
UNIT = rf"(?P<unit>{LISTED}|(?i:{WORDS}))"
# A number that is no part of a name (X100, 1.2.3), and its unit, with or without a blank or a hyphen between.
NUMBER_WITH_UNIT = re.compile(
    rf"(?<![^\W_])(?<!\d\.)(?P<number>(?:(?<![\w)\].%-])-)?\d+(?:\.\d+)?)(?:[ -]?{DEGREES}[ -]?{UNIT})?(?![^\W_]|\.\d)"
)
# Any digits at all: what a source says is read more generously than what an answer says.
ANY_NUMBER = re.compile(rf"(?P<number>(?:(?<![\w)\].%-])-)?\d+(?:\.\d+)?)(?:[ -]?{DEGREES}[ -]?{UNIT}(?![^\W_]))?")


def name_unit(text: str | None) -> str:
    """One name for each unit, "" for none: percent and % are %."""
    return "" if not text else UNITS.get(text) or UNITS[text.lower()]


def scale_unit(unit: str) -> tuple[str, Fraction]:
    """What a unit's name is without its prefix, and how many of that it is: mm is (m, 1/1000), % is ("", 1/100)."""
    base, factor = SCALES.get(unit, (unit, 1))
    return base, Fraction(factor)
