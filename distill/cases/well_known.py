"""Numbers and codes that many texts share: whoever says one need not have learnt it from a training row."""

from __future__ import annotations

import re

# What names of standards, algorithms and public registers begin with: SHA256, 802.11ax, ISO9001, MIL-STD-810H, CVE-2021-44228.
PUBLIC_NAMES = """
aes ansi ascii astm cve cwe din en fips iec ieee ipv iso itu jis md mil nema nist pci rfc rs rsa
sae sha ssl stanag tls ul usb utf vde
"""
ADDRESS = re.compile(
    r"(?:127(?:\.\d+){3}|0\.0\.0\.0|255(?:\.\d+){3}|192\.168\.[01]\.\d+|10\.0\.0\.\d+|172\.16\.0\.\d+|8\.8\.[48]\.[48]|1\.1\.1\.1)"
    r"(?:[:/]\d+)?"
)
WIRELESS = re.compile(r"802\.\d+[A-Za-z]*")
YEAR = re.compile(r"(?:19|20)\d\d")
ROUND = re.compile(r"[1-9]0{3,}")
REPEATED = re.compile(r"(\d)\1{3,}")
RUNS = ("0123456789", "9876543210")
# Ports that servers listen to by default, and rates of serial lines.
COMMON_NUMBERS = """
1433 1521 1812 1883 2049 3306 3389 4443 5060 5432 5672 5900 6379 8008 8080 8081 8443 8883 9090 9200 11211 11434 27017
1200 2400 4800 9600 14400 19200 38400 57600 115200 230400 921600 1080 1440 1920 3840
"""
POWERS_OF_TWO = frozenset(str(2**power + more) for power in range(10, 33) for more in (-1, 0))


def is_well_known(piece: str) -> bool:
    """Whether a number or code is one that many texts share: a year, a standard's name, a default port, a round number."""
    digits = piece.replace(",", "")
    if digits.isdigit():
        shapes = YEAR, ROUND, REPEATED
        common = digits in COMMON_NUMBERS.split() or digits in POWERS_OF_TWO or any(digits in run for run in RUNS)
        return common or any(shape.fullmatch(digits) for shape in shapes)
    letters = re.match(r"[A-Za-z]*", piece)
    named = letters is not None and letters[0].lower() in PUBLIC_NAMES.split()
    return named or bool(ADDRESS.fullmatch(piece) or WIRELESS.fullmatch(piece))
