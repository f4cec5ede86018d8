"""What is personal data and what only looks like it: a table of both, and that no text takes long."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import MaskingSection
from distill.masking import Masker
from distill.personal import DETECTORS, find_emails, has_check_digit, to_plain

# A text, and what it becomes.
MASKED = {
    "card": [
        ("4111 1111 1111 1111", "[CARD]"),
        ("Visa 4111-1111-1111-1111, thanks", "Visa [CARD], thanks"),
        ("4111111111111111", "[CARD]"),
        ("4222222222222", "[CARD]"),  # the old Visa of 13 digits
        ("Amex 378282246310005.", "Amex [CARD]."),
        ("3782 822463 10005", "[CARD]"),
        ("5555555555554444", "[CARD]"),
        ("2223003122003222", "[CARD]"),
        ("6011111111111117", "[CARD]"),
        ("30569309025904", "[CARD]"),
        ("3530111333300000", "[CARD]"),
        ("card:4012888888881881,123", "card:[CARD],123"),
        ("4111 1111 1111 1111 12/27", "[CARD] 12/27"),
        ("5555 4111 1111 1111 1111", "5555 [CARD]"),
        ("4111\u00a01111\u00a01111\u00a01111", "[CARD]"),
        ("4111\u20131111\u20131111\u20131111", "[CARD]"),
    ],
    "ssn": [
        ("123-45-6789", "[SSN]"),
        ("(078-05-1120)", "([SSN])"),
        ("SSN 123 45 6789", "SSN [SSN]"),
        ("SSN: 123456789", "SSN: [SSN]"),
        ("Social Security Number: 123-45-6789.", "Social Security Number: [SSN]."),
        ("123\u201145\u20116789", "[SSN]"),
    ],
    "email": [
        ("Write to jane.doe+x@example.co.uk.", "Write to [EMAIL]."),
        ("O'Brien@example.com", "[EMAIL]"),
        ("<john@sub.example.org>", "<[EMAIL]>"),
        ("mailto:a_b@x.io", "mailto:[EMAIL]"),
        ("j\u00f6rg@m\u00fcller.de", "[EMAIL]"),
        ("john@example.com5", "[EMAIL]5"),
        ("contact....john@example.com", "[EMAIL]"),
        ("x@y.xn--p1ai", "[EMAIL]"),
        ("Contact john.smith@exam", "Contact [EMAIL]"),  # the chunk ends here
        ("Contact O'Brien_2@", "Contact [EMAIL]"),
        ("(j\u00f6rg@m\u00fcll", "([EMAIL]"),
        ("john\uff20sub-3.", "[EMAIL]"),
        ("a@b.example, c@d", "[EMAIL], [EMAIL]"),
        ("smith@example.com rest", "[EMAIL] rest"),  # the chunk begins here
    ],
    "phone": [
        ("555-123-4567", "[PHONE]"),
        ("(555) 123-4567", "[PHONE]"),
        ("555.123.4567", "[PHONE]"),
        ("+1 555 123 4567", "[PHONE]"),
        ("1-800-555-1234", "[PHONE]"),
        ("001-555-123-4567", "[PHONE]"),
        ("+1 (555) 123-4567 ext. 22", "[PHONE]"),
        ("555-123-4567 x12 or later", "[PHONE] or later"),
        ("+1.555.123.4567", "[PHONE]"),
        ("+44 20 7946 0958.", "[PHONE]."),
        ("+49 (0)30 123456", "[PHONE]"),
        ("+4915112345678", "[PHONE]"),
        ("+33 6 12 34 56 78", "[PHONE]"),
        ("+1 555 123 4567 2026", "[PHONE] 2026"),
        ("call 5551234567", "call [PHONE]"),
        ("Tel. 555-0123", "Tel. [PHONE]"),
        ("phone: 555 123 4567", "phone: [PHONE]"),
        ("Mobile no. 0171 2345678", "Mobile no. [PHONE]"),
        ("tel:+15551234567", "tel:[PHONE]"),
        ("Fax 030/1234567", "Fax [PHONE]"),
        ("555-123-4567 A. Smith", "[PHONE] A. Smith"),
        ("to order: 555-123-4567", "to order: [PHONE]"),
    ],
    "ip": [
        ("192.168.1.10", "[IP]"),
        ("host 10.0.0.5:8080", "host [IP]:8080"),
        ("DNS is 8.8.8.8.", "DNS is [IP]."),
        ("firmware 192.168.1.10", "firmware [IP]"),  # an address of a private network is no version
        ("10.0.0.0/8", "[IP]/8"),
        ("It binds to 127.0.0.1:8000, or 0.0.0.0; the mask is 255.255.255.0; ask 10.1.2.3", (
            "It binds to 127.0.0.1:8000, or 0.0.0.0; the mask is 255.255.255.0; ask [IP]"
        )),
        ("198.51.100.1-198.51.100.9", "[IP]-[IP]"),
        ("10.0.0.5 fileserver", "[IP] fileserver"),
        ("routing table: 203.0.113.7", "routing table: [IP]"),
        ("2001:db8::1", "[IP]"),
        ("fe80::1%eth0", "[IP]%eth0"),
        ("[2001:0db8:85a3:0000:0000:8a2e:0370:7334]:443", "[[IP]]:443"),
        ("Received: IPv6:2606:4700:4700::1111", "Received: IPv6:[IP]"),
        ("::ffff:192.0.2.1", "[IP]"),
        ("2001:db8::1: unreachable", "[IP]: unreachable"),
    ],
}
# Every one of these is left as it is.
KEPT = {
    "stock and part numbers": [
        "NSN 5962-01-234-5678", "5962-01-234-5678", "P/N 123-45-6789", "part number 555-123-4567", "P/N: 342-118-0042",
        "ABC-555-123-4567", "A-123-45-6789", "123-45-6789-01", "S/N 4111111111111111", "IMEI 490154203237518",
        "1234567890123452", "9041001122334451", "555-123-45678", "555-123-4567-01", "555.123.4567.8", "(555) 123-45678",
        "978-0-306-40615-7", "9780306406157", "NSN 4222222222222", "MIL-STD-810G", "RFC 2616", "ISO 8601:2004",
    ],
    "frequencies and other measures": [
        "2400-2483.5 MHz", "5180 5200 5220 5240 MHz", "146.520 MHz", "call on 146.520 MHz", "mobile 1710-1785 MHz",
        "Telephone band 300-3400 Hz", "300-400-1000 mm", "+5 V", "+12 dBm", "+125 -55 C", "+28 22 15 10 5 dB", "5V@3.3A",
        "10mA@25C", "1,234,567", "1 000 000 000", "3.14159265358979", "0.4111111111111111", "Cell 1 3.65 3.66 3.67 V",
    ],
    "versions and sections": [
        "firmware 1.2.3.4", "version 4.2.1.0", "v1.2.3.4", "Version: 4.19.0.1", "upgraded to 2.0.1.7",
        "versions 1.2.3.4 and 1.2.3.5", "from version 1.2.3.4 to 1.2.3.9", ">=1.2.3.4", "1.2.3.4-beta",
        "see section 3.1.2.4", "3.1.2.4 Grounding",
        "text\n## 3.1.2.4 Grounding", "\u00a7 4.3.2.1", "1.3.6.1.4.1.9", "1.2.3", "999.1.2.3",
    ],
    "dates and times": [
        "2024-11-23", "23.11.2024", "2026-11-23T10:20:30Z", "20261123102030", "12:34:56", "12:34:56:78", "12::30",
        "call 2026-11-23 10:00", "run of-dials-20260312-1120",
    ],
    "coordinates": ["40.7128, -74.0060", "+40.20361-075.00417/", "+37.7749295, -122.4194155"],
    "hardware addresses": ["00:1A:2B:3C:4D:5E", "00-1A-2B-3C-4D-5E", "0011.2233.4455", "00:1A:2B:FF:FE:3C:4D:5E"],
    "code": ["std::vector", "a::b", "face::bad", "x[::2]", "@param.name"],
    "signs around the end of a chunk": [
        "user@host in a log", "user@host\n", "git@server:path", "3 A @", "5V@3", "10 dBm @ 2 GHz", "see @param", "-@",
        "x = a @ b", "user@host[SSN]",
    ],
    "numbers that cannot be given out": [
        "000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "4111 1111 1111 1112", "1234567890123456",
        "123 45 6789", "123456789",
    ],
}
MASKED_CASES = [(kind, *case) for kind, cases in MASKED.items() for case in cases]
KEPT_CASES = [(kind, text) for kind, texts in KEPT.items() for text in texts]


@pytest.mark.parametrize(("kind", "text", "expected"), MASKED_CASES, ids=[text for _, text, _ in MASKED_CASES])
def test_personal_data_is_masked(kind: str, text: str, expected: str) -> None:
    masker = Masker(MaskingSection())
    assert masker.mask(text) == expected
    assert set(masker.counts) == {kind.upper()}


@pytest.mark.parametrize(("kind", "text", "expected"), MASKED_CASES, ids=[text for _, text, _ in MASKED_CASES])
def test_a_kind_that_is_left_out_is_not_masked(kind: str, text: str, expected: str) -> None:
    others = Masker(MaskingSection(kinds=tuple(each for each in DETECTORS if each != kind)))
    assert f"[{kind.upper()}]" not in others.mask(text)


@pytest.mark.parametrize(("kind", "text"), KEPT_CASES, ids=[text for _, text in KEPT_CASES])
def test_what_only_looks_like_it_is_kept(kind: str, text: str) -> None:
    assert Masker(MaskingSection()).mask(text) == text


def test_the_table_is_as_long_as_promised() -> None:
    assert len(MASKED_CASES) >= 60 and len(KEPT_CASES) >= 60


@given(digits=st.text(string.digits, min_size=12, max_size=18))
def test_one_check_digit_of_ten_is_right(digits: str) -> None:
    assert [has_check_digit(digits + last) for last in string.digits].count(True) == 1


@given(text=st.text() | st.text("\u00a0\u2013\uff14\u2212 -.0"))
def test_plain_text_keeps_every_place(text: str) -> None:
    plain = to_plain(text)
    assert len(plain) == len(text) and all(a == b or not a.isascii() or a == "\t" for a, b in zip(text, plain))


def test_an_address_is_found_wherever_the_search_begins() -> None:
    text = "a@b.example, c@d.example"
    assert [text[slice(*span)] for span in find_emails(text, 5, len(text))] == ["c@d.example"]


HOSTILE = [
    "1", "1 ", "1.", "1-", "1.2.3.4 ", "1.2.3.4 and ", "4111 ", "4111-", "555-", "+1 ", "+1.", "(1)", "@", "a@",
    "a@b.", "a.", "a_@", "::", "a:", "2001:db8::", "call 1", "call 1 2 3 4 ",
    "version ", "P/N ", " ", "\n", "a@b.com555-123-4567", "[EMAIL]1",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_megabyte_made_to_be_slow_takes_seconds(unit: str) -> None:
    """A pattern that tries every end for every beginning would take hours."""
    text = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    started = time.process_time()
    Masker(MaskingSection()).mask(text)
    assert time.process_time() - started < 40
