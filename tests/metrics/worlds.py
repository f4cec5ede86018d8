"""One answer's scores, made as evaluate.py makes them."""

from __future__ import annotations

from distill.cases.case_set import Source
from distill.config import PromptSection
from distill.metrics.case import Case, Row
from distill.metrics.table import TABLE, score_case

PROMPT = PromptSection()
REFUSAL = PROMPT.refusal
DECIDING = [name for name, metric in TABLE.items() if metric.measure.decides]

QUESTION = "What is the antenna gain of the X100, and how does it change over the band?"
REFERENCE = "The antenna gain is 12.5 dBi at 2.4 GHz [Source 1]. It falls by 3 dB at the edges of the band [Source 2]."
SOURCES = (
    Source("D:\\docs\\X100.pdf",
           "The X100 transmits 5 W. Its antenna gain is 12.5 dBi at 2.4 GHz. The unit meets MIL-STD-810H. It weighs 3.2 kg."),
    Source("D:\\docs\\antenna.pdf",
           "At the edges of the band the gain falls by 3 dB. The radome is made of glass fibre. Paint must hold no metal."),
)


def make_case(
    answer: str, reference: str = REFERENCE, question: str = QUESTION, sources: tuple[Source, ...] = SOURCES,
    prompt: PromptSection = PROMPT, **fields,
) -> Case:
    return Case(Row(prompt, question, question, reference, sources), answer, **fields)


def score(metric: str, answer: str, *rest, **fields) -> float | None:
    return score_case(make_case(answer, *rest, **fields))[metric]


def show(ordered: list[str], *rest, metric: str, **fields) -> list[float | None]:
    """The scores of several answers, for a test that they fall."""
    return [score(metric, answer, *rest, **fields) for answer in ordered]
