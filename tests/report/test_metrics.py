"""Each metric against hand-made cases that it must order rightly, and within its bounds for any text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import PromptSection
from distill.errors import PipelineError
from distill.prompts import strip_citations
from distill.records import ContextSpan, TrainingExample
from distill.report.metrics import (
    METRICS,
    Case,
    count_refusals,
    list_unmeasured,
    measure_similarities,
    require_metric,
    score_answers,
)
from tests.report.answers import WordEmbedder, make_answer

PROMPT = PromptSection()
REFUSAL = PROMPT.refusal
REFERENCE = "The antenna gain is 12.5 dBi at 2.4 GHz [Source 1]. It falls by 3 dB at the edge [Source 2]."
INSTRUCTION = "[Source 1] a.md\nThe antenna gain is 12.5 dBi.\n\n[Source 2] b.md\nIt falls by 3 dB.\n\nQuestion: Which gain?"


def make_row(reference: str = REFERENCE, sources: int = 2) -> TrainingExample:
    spans = tuple(ContextSpan(chunk_id=str(n), source=f"{n}.md", score=0.5, start=0, end=5) for n in range(sources))
    return TrainingExample(id="row", instruction=INSTRUCTION, output=reference, context=spans)


def score(metric: str, answer: str, reference: str = REFERENCE, sources: int = 2, **fields: str) -> float | None:
    row = make_row(reference, sources)
    return score_answers(PROMPT, {"row": row}, [make_answer("row", "tuned", answer, **fields)], WordEmbedder())[0][metric]


# Answers from the best to the worst: each must score higher than the next.
ORDERED = {
    "reference_similarity": [
        REFERENCE, "The antenna gain is 12.5 dBi at 2.4 GHz.", "The antenna has some gain.", "Bread rises overnight."
    ],
    "reference_overlap": [
        REFERENCE, "The antenna gain is 12.5 dBi at 2.4 GHz.", "The antenna gain is 11.5 dBi at 5.8 GHz.", "Bread rises."
    ],
    "citation_validity": ["12.5 dBi [Source 1].", "12.5 dBi [Source 1] [Source 3].", "12.5 dBi [Source 9]."],
    "citation_match": ["[Source 1] [Source 2]", "12.5 dBi [Source 1].", "12.5 dBi [Source 3]."],
    "refusal_right": ["12.5 dBi.", REFUSAL],
    "tutorial_length": ["x" * 101, "x" * 100, "x" * 50],
    "tutorial_terminology": ["The antenna gain is 12.5 dBi.", "antenna", "bread"],
    "tutorial_no_refusal": ["12.5 dBi.", "As an AI I do not know."],
    "tutorial_structure": ["Yes. It is.", "Yes."],
    "tutorial_score": ["The antenna gain is 12.5 dBi. " * 5, "The antenna gain is 12.5 dBi.", "bread", "i cannot"],
}


@pytest.mark.parametrize("metric", ORDERED)
def test_orders_answers(metric: str) -> None:
    scores = [score(metric, answer) for answer in ORDERED[metric]]
    assert all(better > worse for better, worse in pairwise(scores)), scores


EXACT = [
    ("reference_similarity", REFERENCE, REFERENCE, 2, 1.0),
    ("reference_similarity", "[Source 1]", REFERENCE, 2, 0.0),
    ("reference_overlap", "[Source 1] [Source 2]", REFERENCE, 2, 0.0),
    # 3 of the answer's 3 tokens and of the reference's 6
    ("reference_overlap", "gain is 12.5", "The gain is 12.5 dBi here.", 2, 2 * 3 / 9),
    ("reference_overlap", "Gain: 12.5", "12.5 gain [Source 1]", 2, 1.0),
    ("reference_overlap", "anything", "[Source 1]", 2, None),
    ("citation_validity", "12.5 dBi", REFERENCE, 2, 0.0),
    ("citation_validity", "no tag", "no tag either", 2, 1.0),
    ("citation_validity", "[Source 2] [Source 2] [Source 3]", "no tag", 2, 2 / 3),
    ("citation_validity", "[Source 0]", REFERENCE, 2, 0.0),
    ("citation_validity", "[Source 1]", REFERENCE, 0, None),
    ("citation_match", "no tag", "no tag either", 2, 1.0),
    ("citation_match", "no tag", REFERENCE, 2, 0.0),
    ("citation_match", "[Source 1] [Source 1]", REFERENCE, 2, 2 / 3),
    ("citation_match", "[Source 1]", REFERENCE, 0, None),
    ("refusal_right", f"  {REFUSAL.upper()} ", f"{REFUSAL}", 2, 1.0),
    ("refusal_right", "12.5 dBi", REFUSAL, 2, 0.0),
    ("tutorial_no_refusal", REFUSAL, REFUSAL, 2, 1.0),  # its list does not know our sentence
    ("tutorial_structure", "3.5 and 4.5", REFERENCE, 2, 1.0),  # nor what a sentence is
]


@pytest.mark.parametrize(("metric", "answer", "reference", "sources", "expected"), EXACT)
def test_exact_value(metric: str, answer: str, reference: str, sources: int, expected: float | None) -> None:
    found = score(metric, answer, reference, sources)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-6))


def test_tutorial_score_equals_the_tutorials_formula() -> None:
    answer = "The antenna gain is 12.5 dBi at most."
    words, used = set(INSTRUCTION.lower().split()), set(answer.lower().split())
    overlap = len(words & used) / max(len(words), 1)
    expected = (0.0 + min(overlap * 5, 1.0) + 1.0 + 1.0) / 4
    assert score("tutorial_score", answer) == pytest.approx(expected, abs=1e-6)


def test_cut_off_answer_is_not_finished() -> None:
    assert score("finished", "The gain is", finish_reason="length") == 0.0
    assert score("finished", "The gain is 12.5 dBi.") == 1.0


def test_failed_call_has_no_score_even_for_the_tutorial() -> None:
    failed = make_answer("row", "tuned", error="connection refused")
    assert set(score_answers(PROMPT, {"row": make_row()}, [failed], WordEmbedder())[0].values()) == {None}


def test_equal_texts_get_the_very_same_similarity() -> None:
    class UnsteadyEmbedder(WordEmbedder):
        """A batch's place changes the last digits, as on a GPU."""

        def embed(self, texts):
            vectors = super().embed(texts)
            return vectors + 1e-4 * (1 + vectors[:1, :1] * 0 + [[row] for row in range(len(texts))])

    same = "The gain is 12.5 dBi."
    base, tuned, _ = measure_similarities([(same, "ref"), (same, "ref"), ("other", "ref")], UnsteadyEmbedder())
    assert base == tuned


def test_counts_refusals_both_ways() -> None:
    rows = {name: TrainingExample(id=name, instruction="x", output=text) for name, text in
            {"a": "12 dBi", "b": "3 dB", "c": REFUSAL, "d": REFUSAL, "e": "7 W"}.items()}
    texts = {"a": "12 dBi", "b": REFUSAL, "c": REFUSAL, "d": "9 dBi"}
    answers = [*(make_answer(name, "base", text) for name, text in texts.items()), make_answer("e", "base", error="down")]
    assert count_refusals(PROMPT, rows, answers) == {
        "right_refusals": 1, "wrong_refusals": 1, "right_answers": 1, "missed_refusals": 1
    }


@pytest.mark.parametrize(("text", "expected"), [
    ("The gain [Source 1] is 12 dBi [Source 22].", "The gain is 12 dBi."),
    ("[Source 1] first", "first"),
    ("[Source x] and [Sources 1, 2]", "[Source x] and"),
])
def test_strips_citations(text: str, expected: str) -> None:
    assert strip_citations(PROMPT, text) == expected


TEXT = st.text(max_size=60) | st.sampled_from([REFUSAL, "[Source 1]", "[Source 99] x", "I cannot. No."])


@settings(deadline=None, max_examples=150)
@given(answer=TEXT, reference=TEXT.filter(bool), sources=st.integers(0, 3), similarity=st.none() | st.floats(-1.01, 1.01))
def test_scores_stay_within_bounds(answer: str, reference: str, sources: int, similarity: float | None) -> None:
    case = Case(PROMPT, make_row(reference, sources), make_answer("row", "base", answer), similarity)
    for metric in METRICS.values():
        value = metric.score(case)
        assert value is None or 0 <= value <= 1, metric.name


@settings(deadline=None, max_examples=60)
@given(reference=st.text(min_size=1, max_size=60).filter(lambda text: strip_citations(PROMPT, text)))
def test_reference_answer_scores_full_marks(reference: str) -> None:
    case = Case(PROMPT, make_row(reference), make_answer("row", "base", reference), 1.0)
    for name in ("reference_similarity", "reference_overlap", "citation_match", "refusal_right"):
        assert METRICS[name].score(case) in (None, 1.0), name


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_definition_is_one_line(metric) -> None:
    assert 20 < len(metric.definition) < 160 and metric.definition.endswith(".")


@pytest.mark.parametrize(("name", "message"), [
    ("refference_similarity", "did you mean reference_similarity"),
    ("refusals", "did you mean refusal_right"),
    ("tutorial_score", "must not decide: take one of reference_similarity"),
])
def test_refuses_a_primary_metric(name: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        require_metric(name)


def test_accepts_every_deciding_metric() -> None:
    for metric in METRICS.values():
        if metric.decides:
            require_metric(metric.name)
            require_metric(metric.name, PROMPT)


BARE = PromptSection(citation="", refusal="")
UNMEASURED = {
    "citation_validity": "prompt.citation is empty", "citation_match": "prompt.citation is empty",
    "refusal_right": "prompt.refusal is empty",
}


@pytest.mark.parametrize("name", UNMEASURED)
def test_refuses_a_primary_metric_that_the_prompt_leaves_without_meaning(name: str) -> None:
    with pytest.raises(PipelineError, match=f"{name} cannot be measured, since {UNMEASURED[name]}"):
        require_metric(name, BARE)


def test_accepts_what_can_be_measured_without_tag_and_refusal() -> None:
    for name in ("reference_similarity", "reference_overlap", "finished"):
        require_metric(name, BARE)


@pytest.mark.parametrize("answer", ["12.5 dBi [Source 1].", REFUSAL, ""])
def test_without_tag_and_refusal_these_are_not_measured_rather_than_0(answer: str) -> None:
    found = score_answers(BARE, {"row": make_row()}, [make_answer("row", "tuned", answer)], WordEmbedder())[0]
    assert {name for name, value in found.items() if value is None} == set(UNMEASURED) == set(list_unmeasured(BARE))
    assert not list_unmeasured(PROMPT)


def test_without_a_tag_its_letters_are_words_like_others() -> None:
    case = Case(BARE, make_row("gain [Source 1]"), make_answer("row", "tuned", "gain"))
    assert METRICS["reference_overlap"].score(case) == pytest.approx(2 * 1 / 4)
