"""
Where a text holds a payment card, a social security number, an e-mail address, a telephone number or an IP address.

Engineers' documents are full of numbers that look like these: part numbers, frequencies, versions, dates, coordinates. Each
rule says what it takes and what it leaves; where both readings are possible it takes, because a masked frequency costs a row
and a sent number cannot be called back. Every pattern is bounded, so that time grows with the length of the text alone.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

Span = tuple[int, int]  # first character and end

# One character for one, so that places stay: blanks and hyphens as PDFs have them, full-width digits and signs.
PLAIN = {
    **dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2007\u2009\u202f\t"), " "),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-"),
    **{0xFF10 + digit: str(digit) for digit in range(10)}, 0xFF20: "@", 0xFF0E: ".", 0xFF0B: "+", 0xFF0D: "-",
}


def to_plain(text: str) -> str:
    """The text with typographic blanks, hyphens and digits as their ASCII forms; every character keeps its place."""
    return text.translate(PLAIN)


def follows(label: re.Pattern[str], text: str, place: int) -> bool:
    """Whether a label stands right before a place."""
    return label.search(text[max(0, place - 40) : place]) is not None


# A number after one of these is a part's, not a person's.
PART_LABEL = re.compile(
    r"(?<![A-Za-z])(?:P/?N|S/?N|NSN|NIIN|IMEI(?:SV)?|ISBN|EAN|UPC|GTIN|ICCID|CAGE|part|serial|stock|catalog(?:ue)?|drawing|dwg"
    r"|model|asset|lot|batch)s?\.?(?: ?(?:no|nr|num|number|code|id)\.?)?[ .:#=]*$",
    re.IGNORECASE,
)

# -----------------------------------------------------------------------------
# Payment cards

CARD_START = re.compile(r"(?<![0-9A-Za-z])(?<![0-9]\.)[0-9]{4}")
CARD_SHAPES = [
    re.compile(shape + r"(?![0-9A-Za-z])(?!\.[0-9])")
    for shape in (
        r"[0-9]{13,19}",
        r"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}\1[0-9]{3}",
        r"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}",
        r"[0-9]{4}([ -])[0-9]{6}\1[0-9]{4,5}",
    )
]
# First digits and lengths that issuers use: Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay, Maestro.
ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    r"|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12,15}|62[0-9]{14,17}|(?:5018|5020|5038|5893|6304|6759|676[1-3])[0-9]{9,15}"
)


def find_cards(text: str, start: int, end: int) -> Iterator[Span]:
    """13 to 19 digits of an issuer with a right check digit, in one piece or in the groups that are printed on a card."""
    for first in CARD_START.finditer(text, start, end):
        for shape in CARD_SHAPES:
            found = shape.match(text, first.start(), end)
            if found and is_card(found.group()) and not (found.group().isdigit() and follows(PART_LABEL, text, found.start())):
                yield found.span()
                break


def is_card(number: str) -> bool:
    """An issuer's number, and no list of channels or years in equal steps, which may have a right check digit as well."""
    digits = re.sub("[ -]", "", number)
    groups = [int(group) for group in re.split("[ -]", number)]
    steps = {later - earlier for earlier, later in pairwise(groups)}
    is_list = len(groups) > 3 and len(steps) == 1 and 0 not in steps
    return ISSUERS.fullmatch(digits) is not None and has_check_digit(digits) and not is_list


def has_check_digit(digits: str) -> bool:
    """Luhn's formula (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


# -----------------------------------------------------------------------------
# Social security numbers

SSN = re.compile(
    r"(?<![0-9A-Za-z])(?<![0-9]\.)(?!000|666|9)[0-9]{3}(?P<by>[ -]?)(?!00)[0-9]{2}(?P=by)(?!0000)[0-9]{4}"
    r"(?![0-9A-Za-z])(?!-[0-9A-Za-z])(?!\.[0-9])"
)
SSN_LABEL = re.compile(r"(?<![A-Za-z])(?:SSN|social security)(?: ?(?:no|nr|number)\.?)?(?: is)?[ .:#=-]*$", re.IGNORECASE)
IN_PART_NUMBER = re.compile(r"[0-9A-Za-z][-.]$")


def find_ssns(text: str, start: int, end: int) -> Iterator[Span]:
    """123-45-6789 with an area, group and serial that can exist; with blanks or in one piece only after the words for it."""
    for found in SSN.finditer(text, start, end):
        labelled = follows(SSN_LABEL, text, found.start())
        looks_like = found["by"] == "-" and not follows(IN_PART_NUMBER, text, found.start())
        if labelled or (looks_like and not follows(PART_LABEL, text, found.start())):
            yield found.span()


# -----------------------------------------------------------------------------
# E-mail addresses

EMAIL = re.compile(
    r"(?<![^\W_])(?=\w)[\w.%+'-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:xn--[a-zA-Z0-9-]{2,59}|[^\W\d_]{2,24})"
)


# Cut by the end of a chunk: "john.smith@exam", but not 5V@3.3A.
TORN_EMAIL = re.compile(r"(?<![^\W_])(?=\w)[\w.%+'-]{1,64}@(?:[^\W\d_][\w.-]{0,253})?\Z")
LONGEST_NAME, LONGEST_HOST = 64, 254


def find_emails(text: str, start: int, end: int) -> Iterator[Span]:
    """name@host.domain, the last part of letters alone (so 5V@3.3A is none); also where a letter or digit follows at once.

    At the very end of the text also name@ and the beginning of a host: the rest may stand in the next chunk.
    """
    done = start
    for found in EMAIL.finditer(text, start, end) if "@" in text else ():
        yield found.span()
        done = found.end()
    sign = text.rfind("@", max(done, end - LONGEST_HOST - 1), end) if end == len(text) else -1
    torn = TORN_EMAIL.search(text, max(done, sign - LONGEST_NAME), end) if sign >= 0 else None
    if torn:
        yield torn.span()


# -----------------------------------------------------------------------------
# Telephone numbers

EXTENSION = r"(?:,? ?(?:x|ext\.?|extension) ?[0-9]{1,6})?"
NO_MORE_DIGITS = r"(?![0-9A-Za-z])(?!-[0-9])(?!\.[0-9])"
# What is measured is no telephone. Units of one letter are left out: "555-123-4567 A. Smith".
NO_UNIT = (
    r"(?! ?(?:[kMGT]?Hz|d[Bb][a-zA-Z]*|[kmMu][VWA]|[cmknu]m|[kMGT]i?B|[kMG]?bps|[kM]Pa|rpm|psi|ppm|[kM]?ohms?|[pnu]F|[mnu]s)\b)"
)
PHONE_END = EXTENSION + NO_MORE_DIGITS + NO_UNIT
AMERICAN = [
    re.compile(r"(?<![0-9A-Za-z+])(?<![0-9A-Za-z][-.])(?:(?:\+|00)?1[-. ]?)?[1-9][0-9]{2}([-.])[0-9]{3}\1[0-9]{4}" + PHONE_END),
    re.compile(r"(?<![0-9A-Za-z+])(?:\+?1[-. ]?)?\([1-9][0-9]{2}\)[ .-]?[0-9]{3}[ .-][0-9]{4}" + PHONE_END),
]
INTERNATIONAL = re.compile(
    r"(?<![0-9A-Za-z+])(?P<number>\+[1-9][0-9]{0,14}+(?:[ /-]?\([0-9]{1,4}\))?+(?:(?:[ /-]|(?<=\))[ ]?)[0-9]{1,12}+){0,6}+"
    r"|\+[1-9][0-9]{0,2}(?:\.[0-9]{2,8}){3,5}+)" + PHONE_END
)
PHONE_LABEL = re.compile(
    r"(?<![A-Za-z])(?<![A-Za-z][-_])(?:(?:tele|cell|mobile |cell )?phone|tel|fax|hotline|whatsapp|call|dial"
    r"|(?:mobile|cell)(?= ?(?:no|number|:)))s?(?: ?(?:no|nr|number|line|is|us|me|at|on)\b)?[ .:#=-]{0,4}(?=[+(0-9])",
    re.IGNORECASE,
)
LABELLED = re.compile(r"(?>\+?\(?[0-9][0-9 ()./-]{5,22}[0-9])" + PHONE_END)
# A date, an IPv4 address (which has a tag of its own), a list of decimal numbers.
NO_TELEPHONE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\b.*|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|.*[0-9]\.[0-9].*[ /-].*")


def find_phones(text: str, start: int, end: int) -> Iterator[Span]:
    """
    American numbers in groups of 3, 3 and 4; + and 9 to 15 digits (E.164); 7 to 15 digits after a word such as "tel".

    Left alone are groups that go on before or after (stock numbers), that a unit follows, or that are called a part's.
    """
    for shape in AMERICAN:
        for found in shape.finditer(text, start, end):
            if not follows(PART_LABEL, text, found.start()):
                yield found.span()
    for found in INTERNATIONAL.finditer(text, start, end):
        if length := measure_international(found["number"]):
            whole = length == len(found["number"])
            yield found.start(), found.end() if whole else found.start() + length
    for label in PHONE_LABEL.finditer(text, start, end):
        found = LABELLED.match(text, label.end(), end)
        if found and count_digits(found.group()) >= 7 and not NO_TELEPHONE.fullmatch(found.group()):
            yield found.span()


def measure_international(number: str) -> int:
    """How many characters of "+1 5551234567 2026" are the number: ten digits after +1, elsewhere 9 to 15 in all; 0 for none."""
    least, most = (11, 11) if number.startswith("+1") else (9, 15)
    length = 0
    for place, group in enumerate(re.finditer("[0-9]+", number)):
        if count_digits(number[: group.end()]) > most or (place > 1 and len(group.group()) == 1):
            break  # what follows is another number, or a list of single digits
        length = group.end()
    return length if count_digits(number[:length]) >= least else 0


def count_digits(text: str) -> int:
    """How many of a text's characters are digits."""
    return sum(map(str.isdigit, text))


# -----------------------------------------------------------------------------
# IP addresses

IPV4 = re.compile(
    r"(?<![0-9A-Za-z])(?<![0-9]\.)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z])(?!\.[0-9])(?!-(?:alpha|beta|rc|dev|final|release))"
)
VERSION_LABEL = re.compile(
    r"(?:(?<![A-Za-z])(?:version|ver|v|firmware|fw|software|release|rel|rev|revision|build|section|sect|sec|clause|chapter|chap"
    r"|paragraph|para|(?:sub-?)(?:section|clause|paragraph)|figure|fig|step|appendix|annex|article|requirement|req|oid"
    r"|upgraded? to)s?(?: (?:no|number|is|was|to)\b)?[ .:#=(]*|\u00a7+ ?|(?:>=|<=|~=) ?)$",
    re.IGNORECASE,
)
VERSION_CHAIN = re.compile(r" ?(?:,|-|/|to|and|or|,? and|,? or|through) ?")
HEADING = re.compile(r"[1-9](?:\.(?:[1-9]|[1-3][0-9])){3} +[A-Z]")
PRIVATE = [
    ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
]
EVERYWHERE = ipaddress.ip_network("255.0.0.0/8")  # broadcast, and the masks of networks
IPV6 = re.compile(r"(?<![0-9A-Fa-f:.])(?=[0-9A-Fa-f.]{0,40}+:[0-9A-Fa-f.]{0,40}+:)[0-9A-Fa-f:.]{4,46}+(?![0-9A-Fa-f:.])")
# Where addresses are given out: global, local, link and multicast. 12::30 and the hardware address 00:1A:...:5E lie outside.
ASSIGNED = [
    ipaddress.ip_network(net) for net in ("2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96", "::ffff:0:0/96")
]


def find_ips(text: str, start: int, end: int) -> Iterator[Span]:
    """IPv4 and IPv6 addresses."""
    yield from find_ipv4(text, start, end)
    yield from find_ipv6(text, start, end)


def find_ipv4(text: str, start: int, end: int) -> Iterator[Span]:
    """
    Four numbers up to 255, unless they are a version or a section.

    They are when a word for one stands right before ("firmware 1.2.3.4", "see section 3.1.2.4") or they open a line as a
    heading does ("3.1.2.4 Grounding"). Addresses of private networks are always taken: "firmware 192.168.1.10". Those that are
    the same on every machine (127.0.0.1, 0.0.0.0, 255.255.255.0) name nobody's.
    """
    version_end = -12
    for found in IPV4.finditer(text, start, end):
        try:
            address = ipaddress.ip_address(re.sub(r"\b0+(?=[0-9])", "", found.group()))
        except ValueError:
            continue
        if address.is_loopback or address.is_unspecified or address in EVERYWHERE:
            continue
        continues = found.start() - version_end < 12 and VERSION_CHAIN.fullmatch(text[version_end : found.start()])
        is_version = continues or follows(VERSION_LABEL, text, found.start()) or is_heading(text, found.start(), end)
        if is_version and not any(address in network for network in PRIVATE):
            version_end = found.end()
        else:
            yield found.span()


def is_heading(text: str, place: int, end: int) -> bool:
    """Small numbers at the beginning of a line, then a word with a capital letter."""
    line = text[max(0, place - 12) : place].rpartition("\n")
    opens = bool(line[1] or place <= 12) and not line[2].strip(" #")
    return opens and HEADING.match(text, place, end) is not None


def find_ipv6(text: str, start: int, end: int) -> Iterator[Span]:
    """Addresses that can be given out, also right after a label such as IPv6: with its colon. Times are none, nor is a MAC."""
    for found in IPV6.finditer(text, start, end):
        run = found.group().rstrip(".")
        for candidate in (run, run.removesuffix(":"), run.partition(":")[2], run.partition(":")[2].removesuffix(":")):
            if is_ipv6(candidate):
                first = found.start() + run.index(candidate)
                yield first, first + len(candidate)
                break


def is_ipv6(text: str) -> bool:
    """Whether a text is an address in one of the assigned ranges."""
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return any(address in network for network in ASSIGNED)


# In the order in which they win where two find the very same span.
DETECTORS: dict[str, Callable[[str, int, int], Iterator[Span]]] = {
    "card": find_cards, "ssn": find_ssns, "email": find_emails, "ip": find_ips, "phone": find_phones,
}
