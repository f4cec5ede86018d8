"""The table of metrics: definitions, what may decide, bounds, and scores without a reference answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import EvaluateSection, PromptSection
from distill.errors import PipelineError
from distill.metrics.table import TABLE, list_unmeasured, require_metric, score_case, score_free
from distill.prompts import strip_citations
from tests.metrics.worlds import DECIDING, PROMPT, REFERENCE, REFUSAL, SOURCES, make_case


@pytest.mark.parametrize("name", TABLE)
def test_a_definition_is_one_short_paragraph(name: str) -> None:
    definition = TABLE[name].measure.definition
    assert 20 < len(definition) < 180 and definition.endswith(".") and "\n" not in definition


def test_only_wrong_refusals_are_better_when_low() -> None:
    assert [name for name, metric in TABLE.items() if not metric.measure.higher_is_better] == ["wrong_refusal"]


def test_the_default_of_the_config_may_decide() -> None:
    require_metric(EvaluateSection.model_fields["primary_metric"].default, PROMPT)


@pytest.mark.parametrize("name", DECIDING)
def test_accepts_every_deciding_metric(name: str) -> None:
    require_metric(name)
    require_metric(name, PROMPT)


@pytest.mark.parametrize(("name", "message"), [
    ("corectness", "did you mean correctness"), ("refusals", "did you mean refusal_right"),
    ("tutorial_score", "must not decide: take one of correctness"), ("reference_similarity", "must not decide"),
    ("wrong_refusal", "must not decide"), ("citation_recall", "must not decide"),
])
def test_refuses_a_primary_metric(name: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        require_metric(name)


BARE = PromptSection(citation="", refusal="")


def test_what_the_prompt_leaves_without_meaning_is_named_and_has_no_score() -> None:
    unmeasured = list_unmeasured(BARE)
    assert set(unmeasured.values()) == {"prompt.citation is empty", "prompt.refusal is empty"}
    scores = score_case(make_case("12.5 dBi [Source 1].", prompt=BARE))
    assert all(scores[name] is None for name in unmeasured)
    assert not list_unmeasured(PROMPT)


@pytest.mark.parametrize("name", sorted(set(list_unmeasured(BARE)) & set(DECIDING)))
def test_refuses_a_primary_metric_that_the_prompt_leaves_without_meaning(name: str) -> None:
    with pytest.raises(PipelineError, match=f"{name} cannot be measured, since prompt"):
        require_metric(name, BARE)


ODD = [REFUSAL, REFERENCE, "[Source 1]", "[Source 99] x", "I cannot. No.", "- a\n- 5 V\n| x | 3 |"]
TEXT = st.text(max_size=60) | st.sampled_from(ODD)
TEXTS = st.text(min_size=1, max_size=80).filter(lambda text: strip_citations(PROMPT, text))
SAID = TEXTS | st.sampled_from([REFERENCE, REFUSAL])


@settings(deadline=None, max_examples=200)
@given(
    answer=TEXT, reference=TEXT.filter(bool), question=TEXT, sources=st.booleans(), cosine=st.none() | st.floats(-1.01, 1.01)
)
def test_scores_stay_within_bounds(answer: str, reference: str, question: str, sources: bool, cosine: float | None) -> None:
    case = make_case(answer, reference, question, SOURCES if sources else (), similarity=cosine, relevance=cosine)
    assert all(value is None or 0 <= value <= 1 for value in score_case(case).values())


@settings(deadline=None, max_examples=100)
@given(reference=SAID)
def test_the_reference_answer_itself_scores_full_marks(reference: str) -> None:
    scores = score_case(make_case(reference, reference, "", similarity=1.0))
    for name in ("correctness", "citation_match", "citation_precision", "refusal_right", "reference_similarity"):
        assert scores[name] in (None, 1.0), name


def test_scores_without_a_reference_answer() -> None:
    free = score_free(PROMPT, "What is the gain?", SOURCES, "The antenna gain is 12.5 dBi [Source 1] [Source 7].")
    assert free == {"grounding": 1.0, "guard_passed": 1.0, "citation_validity": 0.5}
    assert score_free(PROMPT, "What is the gain?", SOURCES, "It is 99 dBi.")["grounding"] == 0.5
    assert score_free(PROMPT, "What is the gain?", SOURCES, "It is 12.5 dBi.")["citation_validity"] is None
    assert score_free(PROMPT, "What is the gain?", (), REFUSAL) == dict.fromkeys(free)
