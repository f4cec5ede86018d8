from __future__ import annotations

from dataclasses import replace

from distill.engines.options import make_options, options_for
from tests.engines.worlds import OPTIONS, QUESTION, Stages


def test_options_are_the_configs_and_num_ctx_is_the_exports(stages: Stages) -> None:
    stages.configure("temperature: 0.5\n  top_p: 0.8\n  top_k: 7\n  seed: 3\n  max_tokens: 99")
    assert make_options(stages.config) == {
        "temperature": 0.5, "top_p": 0.8, "top_k": 7, "seed": 3, "num_ctx": stages.config.export.num_ctx, "num_predict": 99
    }


def test_a_question_may_have_a_shorter_answer_of_its_own() -> None:
    assert options_for(QUESTION, OPTIONS) == OPTIONS
    assert options_for(replace(QUESTION, max_tokens=5), OPTIONS) == {**OPTIONS, "num_predict": 5}
