"""Held-out rows as a set of questions: what is asked, what they share, and how their answers are scored."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from distill.cases.heldout import make_heldout_set
from distill.metrics.table import TABLE
from distill.prompts import render_prompt
from distill.records import Answer, Chunk, TrainingExample
from tests.report.answers import WordEmbedder, make_config

QUESTION, OUTPUT = "What is the gain?", "The gain is 12.5 dBi [Source 1]."


def make_rows(config, count: int = 2) -> list[TrainingExample]:
    rows = []
    for number in range(count):
        chunks = [
            Chunk(f"{number}-a", "D:\\docs\\radio.pdf", f"Radio {number}: gain is 12.5 dBi. It weighs {number + 1} kg.", 0.9),
            Chunk(f"{number}-b", "D:\\docs\\other.pdf", "The pump turns at 2,900 rpm.", 0.5),
        ]
        rendered = render_prompt(config.prompt, QUESTION, chunks)
        rows.append(TrainingExample(
            id=f"row-{number}", instruction=rendered.instruction, context=rendered.context, question=QUESTION, output=OUTPUT,
            category="RF", num_chunks=2,
        ))
    return rows


def test_a_question_is_the_row_as_it_was_trained_with(tmp_path) -> None:
    config = make_config(tmp_path)
    row = make_rows(config)[0]
    question = make_heldout_set(config, [row], WordEmbedder()).questions[0]
    assert question.messages == (
        {"role": "system", "content": config.prompt.system}, {"role": "user", "content": row.instruction}
    )
    assert (question.set, question.id, question.category, question.group) == ("heldout", "row-0", "RF", "D:\\docs\\radio.pdf")
    assert (question.text, question.reference) == (QUESTION, OUTPUT)
    assert [source.text for source in question.sources][1] == "The pump turns at 2,900 rpm."


@pytest.mark.parametrize(("golden", "group"), [
    ((), "D:\\docs\\radio.pdf"),  # the nearest, though the prompt shows it second
    (("0-a",), "D:\\docs\\radio.pdf"),
    (("0-b",), "D:\\docs\\other.pdf"),
    (("0-a", "0-b"), "D:\\docs\\radio.pdf"),  # the nearest of them
    (("elsewhere",), "D:\\docs\\radio.pdf"),  # taken away on purpose: the question is refused
])
def test_a_question_belongs_to_its_golden_chunks_document_wherever_that_stands(tmp_path, golden, group: str) -> None:
    config = make_config(tmp_path)
    row = make_rows(config)[0]
    shuffled = row.model_copy(update={"context": row.context[::-1], "golden": golden})
    assert make_heldout_set(config, [shuffled], None).questions[0].group == group


def test_a_bare_row_of_the_users_own_stands_for_itself(tmp_path) -> None:
    row = TrainingExample(id="mine", instruction="Which gain has the X100?", output="12.5 dBi")
    cases = make_heldout_set(make_config(tmp_path), [row], None, name="own", title="Your own cases")
    question = cases.questions[0]
    assert (cases.name, cases.title, question.set) == ("own", "Your own cases", "own")
    assert (question.text, question.group, question.sources) == (row.instruction, "row mine", ())
    scores = cases.score([Answer("mine", "tuned", "It has 12.5 dBi.", set="own")])[0]
    assert scores["correctness"] == 1.0
    assert scores["grounding"] is scores["citation_match"] is scores["relevance"] is None


def test_the_set_is_measured_by_every_metric_and_judged_by_the_primary_one(tmp_path) -> None:
    cases = make_heldout_set(make_config(tmp_path, "evaluate: {primary_metric: grounding}\n"), [], WordEmbedder())
    assert cases.primary == "grounding" and list(cases.measures) == list(TABLE)
    assert cases.score([]) == []


def test_scores_come_in_the_order_of_the_answers_and_failed_calls_have_none(tmp_path) -> None:
    config = make_config(tmp_path)
    cases = make_heldout_set(config, make_rows(config, 3), WordEmbedder())
    texts = [OUTPUT, "", "The gain is 99 dBi [Source 1]."]
    answers = [Answer(f"row-{n}", "base", text, error="" if text else "connection refused") for n, text in enumerate(texts)]
    good, failed, bad = cases.score(answers)
    assert set(failed.values()) == {None} and set(failed) == set(TABLE)
    assert (good["correctness"], good["grounding"], good["reference_similarity"]) == (1.0, 1.0, 1.0)
    assert (bad["correctness"], bad["grounding"]) == (0.0, 0.5)
    assert all(value is None or value == round(value, 6) for value in good.values())


class UnsteadyEmbedder(WordEmbedder):
    """A batch's place changes the last digits, as on a GPU; `calls` counts the texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return super().embed(texts) + 1e-3 * np.arange(len(self.texts), len(self.texts) + len(texts))[:, None]


def test_equal_answers_of_two_models_get_the_very_same_scores(tmp_path) -> None:
    config, embedder = make_config(tmp_path), UnsteadyEmbedder()
    cases = make_heldout_set(config, make_rows(config, 2), embedder)
    text = "The gain of the antenna is 12.5 dBi."
    base = cases.score([Answer("row-0", "base", "Something else."), Answer("row-1", "base", text)])
    tuned = cases.score([Answer("row-1", "tuned", text)])
    assert base[1] == tuned[0]
    assert len(embedder.texts) == len(set(embedder.texts)), "a text was embedded twice"


def test_an_empty_answer_is_scored_and_never_embedded(tmp_path) -> None:
    config, embedder = make_config(tmp_path), UnsteadyEmbedder()
    scores = make_heldout_set(config, make_rows(config, 1), embedder).score([Answer("row-0", "base", " ")])[0]
    assert scores["correctness"] == scores["reference_similarity"] == scores["relevance"] == 0.0
    assert all(text.strip() for text in embedder.texts)


def test_a_thousand_answers_are_scored_in_seconds(tmp_path) -> None:
    config = make_config(tmp_path)
    rows = make_rows(config, 1000)
    cases = make_heldout_set(config, rows, None)
    texts = (f"The gain of radio {n} is 12.5 dBi. It weighs {n + 1} kg [Source 1]." for n in range(len(rows)))
    answers = [Answer(row.id, "tuned", text) for row, text in zip(rows, texts)]
    started = time.process_time()
    scores = cases.score(answers)
    assert time.process_time() - started < 30
    assert np.mean([each["grounding"] for each in scores]) == 1.0


@pytest.mark.parametrize("text", ["x ", "1 ", "| a | 1 |\n", "A1-", ". ", "no ", "1. ", "*", "ab1 2 V, "])
def test_a_long_odd_answer_is_scored_in_seconds(tmp_path, text: str) -> None:
    config = make_config(tmp_path)
    cases = make_heldout_set(config, make_rows(config, 1), None)
    started = time.process_time()
    cases.score([Answer("row-0", "tuned", text * 2_000)])
    assert time.process_time() - started < 15
