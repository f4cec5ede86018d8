"""What a passage states: values that are equal in any unit, names however they are joined, words that a negation turns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.metrics.passages import list_passages
from distill.metrics.reading import Value, contradicts, is_misplaced, read_facts

SAME = [
    ("2.4 GHz", "2400 MHz"), ("5 V", "5000 mV"), ("1,200 m", "1.2 km"), ("1200", "1,200"), ("50%", "50 percent"),
    ("80 \u00b0C", "80 C"),
    ("5.0 V", "5 V"), ("2.4GHz", "2.4 GHz"),
    ("two hours", "120 minutes"), ("36 000 km", "36,000 km"), ("-20 C", "\u221220 \u00b0C"),
    ("**12** V", "12 V"), ("$12\\,\\text{V}$", "12 V"), ("28VDC", "28 V DC"), ("2,000 operating hours", "2000 hours"),
    ("5-10 V", "5 V to 10 V"), ("5 V +/- 0.1 V", "5 \u00b1 0.1 V"), ("three thousand rpm", "3000 rpm"),
    ("10 Mbit/s", "10 Mbps"), ("45 N m", "45 Nm"), ("45 N\u00b7m", "45 Nm"), ("40,000 VA", "40 kVA"), ("100,000 Wh", "100 kWh"),
    ("12 litres per minute", "12 l/min"), ("12 L/min", "12 l/min"), ("36 km/h", "36,000 m/h"), ("0.5 l", "500 ml"),
]
DIFFERENT = [
    ("5 V", "5 mV"), ("5 V", "5 A"), ("5 V", "6 V"), ("-20 C", "20 C"), ("2.4 GHz", "2.4 MHz"), ("10 dBm", "10 dBi"),
    ("80 C", "80 F"),
    ("12.5", "125"), ("1,200", "1.2"), ("5 mW", "5 MW"), ("8 kB", "8 kbit"), ("15 minutes", "15 hours"),
    ("12 l/min", "12 l/h"), ("100 kWh", "100 MWh"), ("5 mg/l", "5 mg/ml"), ("20 m/s", "20 m"), ("40 kVA", "40 kW"),
    ("5 USD", "5 EUR"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same_value_in_another_form(first: str, second: str) -> None:
    left, right = (read_facts(list_passages(text)[0]).values for text in (first, second))
    assert left and len(left) == len(right)
    assert all(any(one.equals(other) == 1 for other in right) for one in left)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_another_value(first: str, second: str) -> None:
    left, right = (read_facts(text).values[0] for text in (first, second))
    assert left.equals(right) == 0


def test_a_number_without_its_unit_is_half_the_value() -> None:
    assert Value("5", "V").equals(Value("5", "")) == 0.5


@pytest.mark.parametrize(("text", "names", "values"), [
    ("It meets MIL-STD-810H.", {"mil-std-810-h"}, 0), ("Use the X-100.", {"x-100"}, 0), ("Use the x100.", {"x-100"}, 0),
    ("A TDMA burst", {"tdma"}, 0), ("The ACLs are kept.", {"acl"}, 0), ("Set `max_size` first.", {"max-size"}, 0),
    ("Only Class B areas", {"class-b"}, 0), ("NIST SP 800-53", {"nist", "sp"}, 2), ("AES-256 protects it", {"aes-256"}, 0),
    ("1. Open the lid", set(), 0), ("(2) Close it", set(), 0), ("the 2nd step", set(), 0), ("It MUST NOT open", set(), 0),
    ("sub-6 GHz bands", set(), 1), ("192.168.1.10 answers", {"192-168-1-10"}, 0), ("See Source 2 for 5 V", set(), 1),
    ("two main reasons", set(), 0), ("two antennas", set(), 1),
])
def test_names_and_values(text: str, names: set[str], values: int) -> None:
    facts = read_facts(list_passages(text)[0])
    assert facts.names == names and len(facts.values) == values


@pytest.mark.parametrize(("first", "second", "expected"), [
    ("The unit is rated for rain.", "The unit is not rated for rain.", True),
    ("It can't be opened.", "It cannot be opened.", False),
    ("It can be opened.", "It can't be opened.", True),
    ("Yes, it is.", "No, it is not.", True),
    ("It never exceeds 5 V.", "It does not exceed 5 V.", False),
    ("It is not only light but strong.", "It is light and strong.", False),
    ("It opens, it does not close.", "It does not close; it opens.", False),
])
def test_contradictions(first: str, second: str, expected: bool) -> None:
    left, right = map(read_facts, (first, second))
    assert contradicts(left, right) == contradicts(right, left) == expected


TABLE = """
| Model | Gain (dBi) | Weight |
|:------|-----------:|--------|
| X100  | 12.5       | 3.2 kg |
| X200  | 14         | 5 kg   |
"""


def test_table_cells_stand_with_their_headers_and_rows() -> None:
    assert list_passages(TABLE) == [
        "Model X100: Gain 12.5 dBi", "Model X100: Weight 3.2 kg", "Model X200: Gain 14 dBi", "Model X200: Weight 5 kg"
    ]


@pytest.mark.parametrize(("text", "passages"), [
    ("# Title\n\nOne is 1. Two is 2.", ["Title", "One is 1.", "Two is 2."]),
    ("- First: 5 V\n- Second: 6 V", ["First: 5 V", "Second: 6 V"]),
    ("timeout = 30\nretries = 5", ["timeout = 30", "retries = 5"]),
    ("A line that goes\non here.", ["A line that goes on here."]),
    ("Sky Waves\nThey bend at night.", ["Sky Waves", "They bend at night."]),
    ("```\nport = 80\n```", ["port = 80"]),
    ("a | b | c", ["a ; b ; c"]),
    ("", []), ("\n\n", []),
])
def test_passages(text: str, passages: list[str]) -> None:
    assert list_passages(text) == passages


SWAPS = [
    # source, right, wrong
    ("It sends 5 W in normal mode and 20 W in boost mode.", "It sends 20 W in boost mode.", "It sends 5 W in boost mode."),
    ("The fan takes 5 W and the pump takes 20 W.", "The pump takes 20 W.", "The fan takes 20 W."),
    ("The receiver draws 1 A, the transmitter 3 A.", "The transmitter draws 3 A.", "The receiver draws 3 A."),
    ("At 10 MHz the loss is 2 dB; at 40 MHz it is 6 dB.", "The loss is 6 dB at 40 MHz.", "The loss is 2 dB at 40 MHz."),
]


@pytest.mark.parametrize(("source", "right", "wrong"), SWAPS)
def test_finds_swapped_numbers(source: str, right: str, wrong: str) -> None:
    places = read_facts(source).occurrences
    assert not any(is_misplaced(each, places) for each in read_facts(right).occurrences)
    assert any(is_misplaced(each, places) for each in read_facts(wrong).occurrences)


@settings(deadline=None, max_examples=150)
@given(st.text(alphabet="ab5.,|-# \n*$\\`=:%VkHz1X(/)\u00b1\u4e2d\u0663", max_size=80))
def test_any_text_is_read(text: str) -> None:
    for passage in list_passages(text):
        facts = read_facts(passage)
        assert len(facts.occurrences) >= len(facts.values)
