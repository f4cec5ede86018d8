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


def test_above_temperature_0_each_question_has_a_seed_of_its_own_the_same_for_every_model() -> None:
    warm = {**OPTIONS, "temperature": 0.7}
    others = [replace(QUESTION, id=f"another {number}") for number in range(50)]
    seeds = [options_for(question, warm)["seed"] for question in others]
    assert len(set(seeds)) == 50 and all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == [options_for(question, warm)["seed"] for question in others]
    assert seeds[0] != options_for(others[0], {**warm, "seed": 1})["seed"]
