"""What is shown and never decides: similarity with the real MiniLM, overlap, length, and the tutorial's heuristics."""

from __future__ import annotations

from itertools import pairwise

import pytest

from demo.minilm import find_minilm
from distill.cases.heldout import make_heldout_set
from distill.config import load_config
from distill.errors import PipelineError
from distill.index.embedders import SentenceTransformersEmbedder
from distill.records import Answer, TrainingExample
from tests.metrics.worlds import QUESTION, REFERENCE, REFUSAL, score, show

ORDERED = {
    "reference_overlap": [
        REFERENCE, "The antenna gain is 12.5 dBi at 2.4 GHz.", "The antenna gain is 11.5 dBi at 5.8 GHz.", "Bread rises."
    ],
    "length_ratio": [REFERENCE, "The antenna gain is 12.5 dBi at 2.4 GHz.", REFERENCE * 9],
    "tutorial_length": ["x" * 101, "x" * 100, "x" * 50],
    "tutorial_terminology": ["The antenna gain is 12.5 dBi.", "bread"],
    "tutorial_no_refusal": ["12.5 dBi.", "As an AI I do not know."],
    "tutorial_structure": ["Yes. It is.", "Yes."],
    "tutorial_score": ["What is the antenna gain of it. " * 5, "The antenna gain is 12.5 dBi.", "i cannot"],
}


@pytest.mark.parametrize("metric", ORDERED)
def test_orders_answers(metric: str) -> None:
    scores = show(ORDERED[metric], metric=metric)
    assert all(better > worse for better, worse in pairwise(scores)), scores


@pytest.mark.parametrize(("metric", "answer", "reference", "expected"), [
    ("reference_overlap", "[Source 1] [Source 2]", REFERENCE, 0.0),
    # 3 of the answer's 3 tokens and of the reference's 6
    ("reference_overlap", "gain is 12.5", "The gain is 12.5 dBi here.", 2 * 3 / 9),
    ("reference_overlap", "Gain: 12.5", "12.5 gain [Source 1]", 1.0),
    ("reference_overlap", "anything", "[Source 1]", None),
    ("length_ratio", "one two", "one two three four", 0.5),
    ("length_ratio", "one two three four", "one two [Source 1]", 0.5),
    ("length_ratio", "", "one", 0.0),
    ("tutorial_no_refusal", REFUSAL, REFUSAL, 1.0),  # its list does not know our sentence
    ("tutorial_structure", "3.5 and 4.5", REFERENCE, 1.0),  # nor what a sentence is
])
def test_exact_value(metric: str, answer: str, reference: str, expected: float | None) -> None:
    found = score(metric, answer, reference)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-6))


def test_tutorial_score_equals_the_tutorials_formula() -> None:
    answer = "The antenna gain is 12.5 dBi at most."
    words, used = set(QUESTION.lower().split()), set(answer.lower().split())
    expected = (0.0 + min(len(words & used) / max(len(words), 1) * 5, 1.0) + 1.0 + 1.0) / 4
    assert score("tutorial_score", answer) == pytest.approx(expected, abs=1e-6)


def test_a_cut_off_answer_is_not_finished() -> None:
    assert score("finished", "The gain is", finish_reason="length") == 0.0
    assert score("finished", "The gain is 12.5 dBi.") == 1.0


@pytest.mark.parametrize(("metric", "answers"), [
    ("reference_similarity", [
        REFERENCE, "At 2.4 GHz the gain of the antenna is 12.5 dBi.", "The X100 is a radio.", "Bread rises overnight."
    ]),
    ("relevance", [
        "The antenna gain of the X100 changes little over the band.", "The X100 is a radio.", "Bread rises overnight."
    ]),
])
def test_the_real_embedder_orders_answers(tmp_path, metric: str, answers: list[str]) -> None:
    try:
        embedder = SentenceTransformersEmbedder(str(find_minilm()))
    except PipelineError:
        pytest.skip("all-MiniLM-L6-v2 is not installed")
    (tmp_path / "config.yaml").write_text("work_dir: .\n", encoding="utf-8")
    rows = [TrainingExample(id=str(n), instruction=QUESTION, question=QUESTION, output=REFERENCE) for n in range(len(answers))]
    cases = make_heldout_set(load_config(tmp_path / "config.yaml"), rows, embedder)
    scores = [each[metric] for each in cases.score([Answer(str(n), "base", text) for n, text in enumerate(answers)])]
    assert all(better > worse for better, worse in pairwise(scores)), scores
