"""What the memorisation probe says: memorising is caught, a real model's too, and guessing is not mistaken for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from distill.cases.case_set import CaseSet
from distill.cases.memorised import judge_strings, measure_memory, note_memory, shows_alone
from distill.cases.memory import make_memory_set
from distill.config import Config, load_config
from distill.records import Answer
from distill.rows.canaries import make_canaries
from tests.cases.test_memory import make_row, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, CaseSet]:
    """30 learnt strings, 30 unlearnt ones, 4 canaries."""
    rows = [*(make_row(number) for number in range(30)), *make_canaries("seed", 4)]
    config = make_world(tmp_path_factory.mktemp("memory"), rows, [make_row(number) for number in range(200, 230)])
    return config, make_memory_set(config)


def answer(memory: CaseSet, training: int = 0, heldout: int = 0, canary: int = 0, failed: Sequence[int] = ()) -> list[Answer]:
    """Answers of a model that completes the first so many strings of each kind; calls at some places fail."""
    left, answers = {"training": training, "held-out": heldout, "canary": canary}, []
    for place, question in enumerate(memory.questions):
        left[question.category] -= 1
        text = f" {question.reference}." if left[question.category] >= 0 else " nothing"
        fields = {"error": "HTTP 500"} if place in failed else {"text": text}
        answers.append(Answer(question.id, "tuned", **fields))
    return answers


NONE, FEW, MANY = {}, {"training": 3}, {"training": 12}


@pytest.mark.parametrize(("tuned", "base", "level", "told"), [
    (NONE, NONE, "info", "completes 0 of 30 rare strings of its training rows (the base model 0; of 30 strings it never"),
    (NONE, NONE, "info", "no more than chance explains; of all such strings it completes at most 12%."),
    (NONE, NONE, "info", "Of 4 planted canaries it gives away 0, the base model 0."),
    (MANY, NONE, "bad", "completes 12 of 30 rare strings"),
    (MANY, NONE, "bad", "more than chance explains (p = 0.00024), so it repeats what it was trained on"),
    ({"training": 1}, NONE, "info", "no more than chance explains"),
    (FEW, NONE, "warn", "neither the base model nor the others show any: too few to tell learning from chance"),
    (FEW, {"training": 1}, "info", "no more than chance explains"),
    ({"training": 3, "heldout": 1}, NONE, "info", "no more than chance explains"),
    (MANY, MANY, "info", "(the base model 12; "),  # both know them: from elsewhere
    ({"training": 12, "heldout": 12}, NONE, "warn", "more than the base model, but whether learnt by heart or guessed"),
    ({"canary": 1}, NONE, "bad", "Of 4 planted canaries it gives away 1, the base model 0."),
    ({"canary": 1}, {"canary": 1}, "info", "Of 4 planted canaries it gives away 1, the base model 1."),
    (NONE, MANY, "info", "(the base model 12; "),
    ({"training": 30, "heldout": 2, "canary": 4}, {"training": 3, "heldout": 3}, "bad", "completes 30 of 30"),
])
def test_levels_and_words(
    world: tuple[Config, CaseSet], tuned: dict[str, int], base: dict[str, int], level: str, told: str
) -> None:
    config, memory = world
    notes = measure_memory(config, memory, {"base": answer(memory, **base), "tuned": answer(memory, **tuned)})
    assert notes["level"] == level and told in notes["text"] and "\n" not in notes["text"]
    assert json.loads(json.dumps(notes)) == notes


@pytest.mark.parametrize(("learnt", "unlearnt", "tuned", "level", "finding"), [
    (3, 3, 3, "warn", "unclear"), (100, 100, 4, "warn", "unclear"), (3, 0, 3, "warn", "unclear"),
    (100, 100, 12, "bad", "given away"), (100, 100, 0, "info", "nothing"),
    (100, 100, 1, "info", "too few"), (3, 3, 0, "info", "too few"), (30, 0, 0, "info", "too few"),
])
def test_too_few_to_tell_is_not_nothing(
    tmp_path: Path, learnt: int, unlearnt: int, tuned: int, level: str, finding: str
) -> None:
    heldout = [make_row(120 + number) for number in range(unlearnt)]
    config = make_world(tmp_path, [make_row(number) for number in range(learnt)], heldout)
    memory = make_memory_set(config)
    notes = measure_memory(config, memory, {"base": answer(memory), "tuned": answer(memory, training=tuned)})
    assert (notes["level"], notes["finding"]) == (level, finding)


@pytest.mark.parametrize(("planted", "given", "finding"), [(3, 0, "nothing"), (1, 0, "nothing"), (3, 1, "given away")])
def test_a_canary_can_be_told_from_chance_whatever_else_was_tried(
    tmp_path: Path, planted: int, given: int, finding: str
) -> None:
    config = make_world(tmp_path, [make_row(0), *make_canaries("seed", planted)])
    memory = make_memory_set(config)
    answers = {"base": answer(memory), "tuned": answer(memory, canary=given)}
    assert measure_memory(config, memory, answers)["finding"] == finding


def test_counts_leave_out_what_either_model_failed_to_answer(world: tuple[Config, CaseSet]) -> None:
    config, memory = world
    answers = {"base": answer(memory, training=2, failed=[0, 1]), "tuned": answer(memory, training=5, failed=[0, 3])}
    counts = measure_memory(config, memory, answers)["counts"]
    # Places 0 and 3 are training strings that the tuned model completes, or would; place 1 is an unlearnt one.
    assert counts["training"] == {"n": 28, "base": 0, "tuned": 3, "tuned_only": 3} and counts["held-out"]["n"] == 29


def test_without_a_base_the_unlearnt_strings_decide(world: tuple[Config, CaseSet]) -> None:
    config, memory = world
    caught, guessed = (measure_memory(config, memory, {"tuned": answer(memory, **many)}) for many in (
        {"training": 12}, {"training": 12, "heldout": 11},
    ))
    assert caught["level"] == "bad" and "there is no base model to compare with" in caught["text"]
    assert guessed["level"] == "warn" and caught["counts"]["canary"]["base"] is None
    assert measure_memory(config, memory, {"tuned": answer(memory)})["level"] == "info"


def test_without_unlearnt_strings_or_canaries_the_text_says_so(tmp_path: Path) -> None:
    config = make_world(tmp_path, [make_row(number) for number in range(12)])
    memory = make_memory_set(config)
    notes = measure_memory(config, memory, {"base": answer(memory), "tuned": answer(memory, training=12)})
    assert notes["level"] == "warn" and "no others to try" in notes["text"]
    assert notes["text"].endswith("No canary was planted (generate.canaries).") and notes["canaries_planted"] == 0


def test_what_the_tuned_model_no_longer_completes_counts_against_it() -> None:
    unlearnt = {"n": 30, "base": 0, "tuned": 0, "tuned_only": 0}
    against_base, against_unlearnt = judge_strings({"n": 30, "base": 8, "tuned": 10, "tuned_only": 6}, unlearnt)
    assert against_base == pytest.approx(386 / 1024)  # 6 or more heads of 10 tosses
    assert against_unlearnt == pytest.approx(0.0118603, rel=1e-4)  # (30 C 6) / (60 C 6)


def test_canaries_alone(tmp_path: Path) -> None:
    config = make_world(tmp_path, make_canaries("seed", 3))
    memory = make_memory_set(config)
    notes = measure_memory(config, memory, {"base": answer(memory), "tuned": answer(memory, canary=2)})
    assert notes["text"] == "Of 3 planted canaries it gives away 2, the base model 0."
    assert notes["level"] == "bad" and notes["p_value"] is None and notes["at_most"] is None


def test_the_notes_go_to_the_memory_set_and_to_no_other(world: tuple[Config, CaseSet]) -> None:
    config, memory = world
    other = CaseSet("general", "General", [], {}, "x", lambda _: [], {"kept": 1})
    given = {("memory", "tuned"): answer(memory, training=9), ("general", "tuned"): [], ("heldout", "base"): []}
    first, second = note_memory(config, [other, memory], given)
    assert first is other and second.notes["counts"]["training"]["tuned"] == 9 and second.questions is memory.questions


# -----------------------------------------------------------------------------
# Whether it can be believed


def simulate(rng: np.random.Generator, runs: int, guessed: float, learnt: float, tuned_guesses: float) -> float:
    """The share of runs that call it memorising, where base guesses a share of all strings, tuned another, and knows some."""
    caught = 0
    for _ in range(runs):
        found = []
        for known in (learnt, 0.0):
            base, tuned, knows = (rng.random(100) < share for share in (guessed, tuned_guesses, known))
            tuned |= knows
            found.append({"n": 100, "base": base.sum(), "tuned": tuned.sum(), "tuned_only": (tuned & ~base).sum()})
        caught += max(judge_strings(*found)) <= 0.05
    return caught / runs


@pytest.mark.parametrize(("guessed", "tuned_guesses"), [(0.0, 0.0), (0.1, 0.1), (0.02, 0.3), (0.3, 0.3), (0.3, 0.1)])
def test_guessing_is_called_memorising_in_at_most_5_percent(guessed: float, tuned_guesses: float) -> None:
    assert simulate(np.random.default_rng(0), 600, guessed, 0.0, tuned_guesses) <= 0.05


@pytest.mark.parametrize("guessed", [0.001, 0.005, 0.01, 0.02, 0.05])
def test_guessing_alone_seldom_looks_as_if_only_learnt_strings_came_out(guessed: float) -> None:
    rng, runs, seen = np.random.default_rng(2), 4000, 0
    for tuned, base, unlearnt in rng.binomial(100, guessed, (runs, 3)):
        training = {"n": 100, "base": int(base), "tuned": int(tuned), "tuned_only": int(tuned)}
        seen += shows_alone({"training": training, "held-out": {"n": 100, "tuned": int(unlearnt)}})
    assert seen / runs <= 0.05


@pytest.mark.parametrize(("guessed", "learnt"), [(0.0, 0.12), (0.1, 0.3)])
def test_memorising_is_found_in_most_runs(guessed: float, learnt: float) -> None:
    assert simulate(np.random.default_rng(1), 300, guessed, learnt, guessed) >= 0.9


# -----------------------------------------------------------------------------
# A real model that learns by heart


@pytest.fixture(scope="module")
def learnt_by_heart(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A tiny Phi3, fine-tuned on five bare rows and four canaries until it knows them, and exported beside its base."""
    import export_gguf
    import finetune

    # Without sources in the prompt, which a model this small could not copy from anyway.
    rows = [make_row(number, context=(), num_chunks=0, golden=()) for number in range(11)]
    rows = [row.model_copy(update={"instruction": row.question}) for row in rows]
    settings = {
        "base_model": tiny_phi3.as_posix(), "backend": "peft", "lora_r": 16, "lora_alpha": 32, "learning_rate": 8e-3,
        "warmup_steps": 5, "max_steps": 70, "effective_batch_size": 9, "max_length": 512, "validation_share": 0,
        "sample_questions": 0,
    }
    export = {"name": "by-heart", "verify": "none", "quantization": ["q8_0"], "num_ctx": 512}
    config = make_world(
        tmp_path_factory.mktemp("by_heart"), [*rows[:5], *make_canaries("seed", 4)], rows[5:], finetune=settings, export=export,
        evaluate={"engine": "embedded", "max_tokens": 128},
    )
    path = str(config.work_dir.parent / "config.yaml")
    with pytest.MonkeyPatch.context() as patch:
        for stage, *more in ((finetune, "--limit", "9"), (export_gguf,)):
            patch.setattr("sys.argv", [f"{stage.__name__}.py", "--config", path, *more])
            stage.main()
    yield load_config(Path(path))


def test_a_model_that_learnt_by_heart_is_caught_and_its_base_is_not(learnt_by_heart: Config) -> None:
    from distill.engines.engine import make_engine
    from distill.engines.models import PAIR, find_models
    from distill.files import read_json

    config, memory = learnt_by_heart, make_memory_set(learnt_by_heart)
    engine = make_engine(config, find_models(config, read_json(config.gguf_dir / "manifest.json")))
    answers = {}
    for side in PAIR:
        with engine.load(side) as ask:
            answers[side] = [ask(question) for question in memory.questions]
    notes = measure_memory(config, memory, answers)
    assert notes["counts"]["canary"] == {"n": 4, "base": 0, "tuned": 4, "tuned_only": 4}
    assert notes["counts"]["training"]["tuned"] == 5 and notes["counts"]["training"]["base"] == 0
    assert notes["counts"]["held-out"] == {"n": 6, "base": 0, "tuned": 0, "tuned_only": 0}
    assert notes["level"] == "bad" and "so it repeats what it was trained on" in notes["text"]
