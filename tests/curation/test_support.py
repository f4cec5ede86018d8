from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import Config, PromptSection
from distill.curation.support import find_foreign, find_unsupported, measure_support, read_evidence
from distill.prompts import render_citation
from distill.records import Chunk
from distill.sentences import split_sentences

PROMPT = PromptSection()
PUMP = (
    "The X100 pump runs at 1,450 rpm and delivers 12.50 m³ per hour. Its seals are rated for 80 °C and \u221220 °C. The supply "
    "is 24 V DC at 3 A; the radio channel is 10 to 20 MHz wide at 30 dBm. Three filters are replaced every two years. "
    "Operators inspect the bearings for wear and record what they find. Firmware 2.4.1 follows IEEE 802.11n and uses AES-256."
)
VALVE = "The valve closes when the pressure exceeds 6 bar. It is painted red; lubricate it with grease type F2 each month."
CHUNKS = (Chunk("c1", r"D:\docs\pump_manual.md", PUMP, 0.9), Chunk("c2", "valve.md", VALVE, 0.5))
QUESTION = "What are the limits of the pump under a load of 55 kg?"

SUPPORTED = [
    "The pump runs at 1450 rpm [Source 1].",
    "The pump runs at 1,450 RPM [Source 1].",
    "The pump runs at 1450.0 rpm [Source 1].",
    "It delivers 12.5 m³ per hour [Source 1].",
    "Seals are rated for 80 degrees Celsius [Source 1].",
    "Seals are rated for 80°C [Source 1].",
    "Seals are rated down to -20 °C [Source 1].",
    "Seals are rated down to minus 20 C [Source 1].",
    "The supply is 24V DC at 3A [Source 1].",
    "The supply is 24 volts [Source 1].",
    "The channel is 20 MHz wide [Source 1].",
    "The channel is 10-20 MHz wide [Source 1].",
    "The channel is 10 MHz wide at least [Source 1].",
    "There are 3 filters, replaced every 2 years [Source 1].",
    "Bearings are inspected for wear by the operator, who records findings [Source 1].",
    "The x-100 pump uses AES 256 encryption as its firmware 2.4.1 does [Source 1].",
    "Its radio follows IEEE 802.11N [Source 1].",
    "The valve closes above 6 bar [Source 2].",
    "Lubricate the valve with F2 grease [Source 2].",
    "Under a load of 55 kg the seals are rated for 80 °C [Source 1].",
    "1. The pump runs at 1,450 rpm [Source 1].\n2. The valve closes at 6 bar [Source 2].\n3. It is painted red [Source 2].",
    "The valve closes above 6 bar. It is painted red. [Source 2]",
    "The valve closes above 6 bar [Source 2]. It is painted red.",
    "The pump delivers 12.5 m³ per hour and the valve closes above 6 bar [Source 1][Source 2].",
    "## 7 Thermal limits\n\nThe seals are rated for 80 °C [Source 1].",
    "The key values are:\n- seals: 80 °C [Source 1]\n- valve: 6 bar [Source 2]",
    "According to source 1, the seals are rated for 80 °C [Source 1].",
    "The following applies: (1) seals are rated for 80 °C, (2) filters are replaced every two years [Source 1].",
    "Yes [Source 2].",
    "The pump manual says that bearings are inspected [Source 1].",
]
FOREIGN = [
    ("The pump runs at 1,540 rpm [Source 1].", "1540 rpm"),
    ("The pump runs at 145 rpm [Source 1].", "145 rpm"),
    ("It delivers 125 m³ per hour [Source 1].", "125 m"),
    ("Seals are rated for 80 °F [Source 1].", "80 °F"),
    ("Seals are rated for -80 °C [Source 1].", "-80 °C"),
    ("The supply is 24 mV DC [Source 1].", "24 mV"),
    ("The supply is 24 kV DC [Source 1].", "24 kV"),
    ("The channel is 20 GHz wide [Source 1].", "20 GHz"),
    ("The radio has 30 dBi [Source 1].", "30 dBi"),
    ("Filters are replaced every 2 months [Source 1].", "2 months"),
    ("Filters are replaced every 3 years [Source 2].", "3 years"),
    ("The X200 pump has bearings [Source 1].", "X200"),
    ("The X1000 pump has bearings [Source 1].", "X1000"),
    ("Firmware 2.4.2 is used [Source 1].", "2.4.2"),
    ("It follows IEEE 802.11ax [Source 1].", "802.11ax"),
    ("The valve closes above 6 bar [Source 1].", "6 bar"),
    ("It uses grease F3 each month [Source 2].", "F3"),
    ("The seals are rated for 80 °C [Source 1]. The valve closes above 7 bar [Source 2].", "7 bar"),
    ("- seals: 80 °C [Source 1]\n- valve: 60 bar [Source 2]", "60 bar"),
]
UNSUPPORTED = [
    "Software updates install themselves over satellite links nightly [Source 1].",
    "The valve was invented by a Norwegian engineer in his garage [Source 2].",
    "The bearings are inspected for wear by operators [Source 2].",
    "The limits of the pump are set by marketing and law [Source 1].",
    "The valve is painted red [Source 2]. Its colour calms nervous visitors and cheers their children [Source 2].",
    "Regulations forbid swimming near turbines. [Source 1]",
    "The pump has limits. Astronauts train underwater because buoyancy imitates weightlessness [Source 1].",
]


def judge(answer: str, prompt: PromptSection = PROMPT, exempt_marked: bool = False) -> str:
    """The check with the default share of words."""
    return find_unsupported(prompt, QUESTION, CHUNKS, answer, Config().generate.checks.min_support, exempt_marked)


def test_there_are_enough_cases() -> None:
    assert len(SUPPORTED) + len(FOREIGN) + len(UNSUPPORTED) >= 40


@pytest.mark.parametrize("answer", SUPPORTED)
def test_what_the_cited_source_says_is_supported(answer: str) -> None:
    assert judge(answer) == ""


@pytest.mark.parametrize(("answer", "shown"), FOREIGN)
def test_a_number_unit_or_name_that_no_cited_source_holds_is_named(answer: str, shown: str) -> None:
    assert judge(answer).startswith(f"{shown} is not in source ")


@pytest.mark.parametrize("answer", UNSUPPORTED)
def test_words_that_the_cited_source_does_not_use_are_no_support(answer: str) -> None:
    assert "% of the words are in source" in judge(answer)


def test_what_the_measure_cannot_see_is_what_its_docstring_says() -> None:
    assert judge("The valve is not lubricated with grease type F2 each month [Source 2].") == ""


def test_the_fault_shows_the_sentence_and_the_source_on_one_line() -> None:
    long = "Regulations forbid swimming near turbines, " + "and near dams, " * 20 + "always [Source 2]."
    fault = judge(f"The seals are rated for 80 °C [Source 1].\n\n{long}")
    assert fault.endswith("source 2: " + long[:77] + "...") and "\n" not in fault


def test_words_that_repeat_the_question_do_not_count_against_a_sentence() -> None:
    evidence = read_evidence(["Its seals set it."])
    sentence = "The thermal limit of the pump is set by its seals."
    assert measure_support(sentence, evidence) == pytest.approx(2 / 5)
    assert measure_support(sentence, evidence, "What is the thermal limit of the pump?") == 1.0


def test_a_sentence_that_the_prompt_orders_or_that_says_what_is_missing_needs_no_support() -> None:
    orders = {"never invent a purple elephant"}
    sentence = "Colour: never invent a purple elephant."
    assert find_unsupported(PROMPT, "", CHUNKS, f"{sentence} [Source 1]", 0.9, False, orders) == ""
    assert find_unsupported(PROMPT, "", CHUNKS, f"{sentence} [Source 1]", 0.9, False) != ""
    assert judge("The sources do not give colours, prices and shipping dates. The valve closes above 6 bar [Source 2].") == ""
    assert judge("The sources do not give the price of 9 euros. The valve closes [Source 2].").startswith("9 is not in")


def test_a_long_bold_line_is_a_sentence() -> None:
    line = "**The technician must coat all waveguides in banana oil before sunrise**"
    assert "% of the words" in judge(f"{line}\n\nThe valve closes above 6 bar [Source 2].")
    assert judge("**1. Closing of this odd thing**\n\nThe valve closes above 6 bar [Source 2].") == ""


def test_two_words_are_too_few_to_judge() -> None:
    assert measure_support("Purple elephants.", read_evidence(["nothing"])) == 1.0
    assert measure_support("Purple elephants dance.", read_evidence(["nothing"])) == 0.0


def test_without_tags_every_chunk_may_support_a_sentence() -> None:
    plain = PromptSection(citation="")
    assert judge("The valve closes above 6 bar. The pump runs at 1450 rpm.", plain) == ""
    assert judge("The valve closes above 9 bar.", plain).startswith("9 bar is not in source any: ")


def test_general_knowledge_is_exempt_only_where_it_is_invited() -> None:
    prompt = PromptSection(general_knowledge="[General Knowledge]")
    known = "[General Knowledge] Rubber ages above 70 °C. It becomes brittle at 90 °C."
    answer = f"The seals are rated for 80 °C [Source 1].\n\n{known}"
    assert judge(answer, prompt, exempt_marked=True) == ""
    assert judge(answer, prompt).startswith("70 °C is not in source 1")
    assert judge("Rubber ages above 70 °C. [General Knowledge]", prompt, exempt_marked=True) == ""
    unmarked = f"{answer} It melts at 300 °C [Source 1]."
    assert judge(unmarked, prompt, exempt_marked=True).startswith("300 °C is not in source 1")


@pytest.mark.parametrize(("answer", "source", "foreign"), [
    ("Use 5 million samples.", "5 million samples", ""),
    ("Use 5 billion samples.", "5 million samples", "5 billion"),
    ("It holds 1 000 records.", "1 000 records", ""),
    ("It holds 10⁶ records.", "10⁶ records", ""),
    ("It takes 5 ms.", "5 milliseconds", ""),
    ("It takes 5 s.", "5 ms", "5 s"),
    ("It emits 5 mW.", "5 MW", "5 mW"),
    ("It costs 3 percent.", "3 %", ""),
    ("Call foF2 the critical frequency.", "the frequency foF-2", ""),
    ("Set top_k2 to five.", "top-k2", ""),
    ("The rate is 2e-4.", "a rate of 2e-4", ""),
    ("The rate is 2e-4.", "a rate of 2e-5", "4"),
    ("At 10:30 it ends.", "ends at 10:30", ""),
    ("It is 85% of it.", "about eighty five percent", ""),
    ("It is 86% of it.", "about eighty five percent", "86%"),
    ("It is eighty-five percent.", "about 85 %", ""),
    ("It is eighty-six percent.", "about 85 %", "86 percent"),
    ("It has three hundred parts.", "300 parts", ""),
    ("There are two kinds.", "kinds: red, blue", ""),
    ("The 1990s brought it.", "in the 1990s", ""),
    # in another unit
    ("It is 1500 mm long.", "1.5 m long", ""),
    ("It is 1501 mm long.", "1.5 m long", "1501 mm"),
    ("It is at 2.45 GHz.", "at 2450 MHz", ""),
    ("It holds 1.63M chunks.", "1,630,000 chunks", ""),
    ("It holds 1.64M chunks.", "1.63 million chunks", "1.64M"),
    ("About 33% is lost.", "0.33 of all is lost", ""),
    ("It takes 90 min.", "1.5 hours", ""),
    ("It is 3 dB.", "0.3 bytes", "3 dB"),
    ("Es sind 1200 W.", "1.200 W", ""),
    ("Es sind 1.200 W.", "1200 W", ""),
    ("Es sind 1300 W.", "1.200 W", "1300 W"),
    # with a tolerance
    ("It is \u00b15 MHz.", "+/-5 MHz", ""),
    ("It is +/- 5 MHz.", "\u00b1 5 MHz", ""),
    ("It is +-6 MHz.", "+-5 MHz", "6 MHz"),
    # calculated
    ("Net gain = 10 dB - 3 dB = 7 dB.", "10 dB, 3 dB", ""),
    ("Net gain = 10 dB - 3 dB = 8 dB.", "10 dB, 3 dB", "8 dB"),
    ("The gain of 10 dB less the loss of 3 dB leaves 7 dB.", "10 dB, 3 dB", ""),
    ("The gain is 10 dB, the loss 3 dB, the noise 7 dB.", "10 dB, 3 dB, 5 dB", "7 dB"),
    ("6 of 12 (50%) failed.", "6 of 12 failed", ""),
    ("6 of the 12 (50%) failed.", "half of the 12 failed", ""),
    ("5 of 12 (50%) failed.", "5 of 12 failed", "50%"),
    ("It is 2450 \u00b1 5 MHz (2445-2455 MHz).", "+/-5 MHz at 2450 MHz", ""),
    ("P = 10 log10(5) = 6.99 dBm.", "ten times log of 5", ""),
    ("P = 8 log10(5) = 6.99 dBm.", "ten times log of 5", "8"),
    ("A total of 10 / 3 = 3.33 remain.", "10, 3", ""),
    # no values
    ("Take log10 of it with atan2.", "take the logarithm", ""),
    ("The 2nd stage filters.", "the second stage filters", ""),
    ("The 45th parallel.", "the 54th parallel", "45th"),
    # next to Chinese and Japanese
    ("\u635f\u8017\u4e3a3 dB", "\u635f\u8017\uff1a3 dB", ""),
    ("\u635f\u8017\u4e3a4 dB", "\u635f\u8017\u4e3a3 dB", "4 dB"),
])
def test_numbers_and_names_are_compared_by_value(answer: str, source: str, foreign: str) -> None:
    assert find_foreign(answer, read_evidence([source])) == foreign


PARAPHRASE = """\
The maximum usable frequency (MUF) is the highest frequency the ionosphere will return over a particular path [Source 2]. It
can be computed as:

MUF = critical frequency / cos(angle of incidence) [Source 2]

Key points:

- **Path length**: longer paths have a higher MUF, since the wave strikes the layer at a flatter angle [Source 2].
- **Operating margin**: the optimum working frequency is roughly 85% of the MUF, because small layer changes can close the path
  [Source 2].
- **Daily variation**: the MUF peaks shortly after noon and reaches its minimum before dawn [Source 2].

In practice, operators should therefore choose a frequency below the MUF to keep the link reliable [Source 2]."""


@pytest.mark.parametrize(("answer", "fault"), [
    (PARAPHRASE, ""),
    (PARAPHRASE.replace("85%", "80%"), "80% is not in source 2"),
    (PARAPHRASE.replace("[Source 2].\n- **Daily", "[Source 1].\n- **Daily"), "85% is not in source 1"),
])
def test_a_thorough_answer_in_other_words_passes_and_a_slip_in_it_does_not(answer: str, fault: str) -> None:
    corpus = Path(__file__).parents[2] / "demo" / "corpus"
    chunks = [Chunk(name, name, (corpus / name).read_text(encoding="utf-8"), 1) for name in ("sec_backups.md", "rf_muf.md")]
    question = "What is the maximum usable frequency, and how should it be used?"
    found = find_unsupported(PROMPT, question, chunks, answer, Config().generate.checks.min_support, False)
    assert found.startswith(fault) and bool(found) == bool(fault)


def test_sentences_quoted_from_a_chunk_are_always_supported() -> None:
    """What the extractive teacher answers, over the demo's corpus."""
    corpus = sorted((Path(__file__).parents[2] / "demo" / "corpus").glob("*.md"))
    for path in corpus:
        text = path.read_text(encoding="utf-8")
        chunks = (Chunk("other", "other.md", "Something else entirely.", 0.1), Chunk("c", path.name, text, 0.9))
        sentences = split_sentences(text)
        assert sentences
        for sentence in sentences:
            answer = f"{sentence} {render_citation(PROMPT, 2)}"
            assert find_unsupported(Config().prompt, "Why?", chunks, answer, 1.0, False) == "", sentence
