"""All sets of all models against a server that behaves as Ollama does."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.engines import collecting
from distill.engines.collecting import ask_together
from distill.errors import PipelineError
from distill.files import read_jsonl
from distill.records import Answer
from tests.engines.worlds import Stages, fail_for, text_of, with_questions
from tests.finished_stages import BASE, STOCK, TUNED, ModelServer, hash_models, write_gguf
from tests.leaks import make_surroundings

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries."""
    monkeypatch.setattr(collecting, "FIRST_PAUSE_SECONDS", 0.0)


def read_cache(stages: Stages) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(stages.config.evaluation_dir / "cache.jsonl", torn_end=True)]


# -----------------------------------------------------------------------------
# One load each


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("keep_alive", ["5m", 0])
def test_all_sets_of_a_model_are_asked_in_one_load(
    stages: Stages, server: ModelServer, concurrency: int, keep_alive: Any
) -> None:
    server.keep_alive = keep_alive
    stages.configure(f"concurrency: {concurrency}\n  stock_model: {STOCK}")
    memory = stages.make_set(2, "memory", opening="The code is", max_tokens=8)
    collected = stages.collect(stages.make_set(5), stages.make_set(4, "general"), memory)
    assert server.loads == [BASE, TUNED, STOCK]
    assert collected.loads == {"base": 1, "tuned": 1, "stock": 1} and collected.cached == 0
    models = [model for model, _ in stages.list_asked()]
    assert models == [BASE] * 11 + [TUNED] * 11 + [STOCK] * 9  # the stock model is never asked to go on from openings


def test_answers_stand_in_the_order_of_their_questions(stages: Stages, server: ModelServer) -> None:
    server.reply = lambda body: time.sleep(0.05 if "part 0" in text_of(body) else 0) or f"{body['model']}: {text_of(body)}"
    stages.configure("concurrency: 3")
    sets = (stages.make_set(4), stages.make_set(3, "own"))
    collected = stages.collect(*sets)
    assert list(collected.answers) == [("heldout", "base"), ("own", "base"), ("heldout", "tuned"), ("own", "tuned")]
    for cases in sets:
        for side, model in (("base", BASE), ("tuned", TUNED)):
            answers = collected.answers[cases.name, side]
            asked = [question.messages[-1]["content"] for question in cases.questions]
            assert [answer.text for answer in answers] == [f"{model}: {text}" for text in asked]
            assert [(answer.set, answer.example_id, answer.side) for answer in answers] == [
                (cases.name, question.id, side) for question in cases.questions
            ]


def test_without_a_control_the_tuned_model_is_asked_alone(stages: Stages, server: ModelServer) -> None:
    write_gguf(stages.config, {"tuned": TUNED})
    collected = stages.collect()
    assert list(collected.answers) == [("heldout", "tuned")] and collected.loads == {"tuned": 1} and server.loads == [TUNED]


def test_both_sides_are_asked_the_very_same(stages: Stages, server: ModelServer) -> None:
    stages.collect(stages.make_set(3), stages.make_set(2, "memory", opening="It is"))
    bodies = [{**body, "model": ""} for body in server.list_chats()]
    assert bodies[:5] == bodies[5:] and len(bodies) == 10


def test_answers_tell_the_times_that_ollama_told(stages: Stages) -> None:
    [answer] = stages.collect(stages.make_set(1)).answers["heldout", "tuned"]
    assert (answer.first_token_seconds, answer.answer_seconds) == (0.05, 0.05) and answer.seconds > 0
    assert len(answer.request_sha256) == 64 and answer.answer_tokens == 3


# -----------------------------------------------------------------------------
# Concurrency


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_questions_are_in_flight_as_the_config_says(stages: Stages, server: ModelServer, concurrency: int) -> None:
    stages.configure(f"concurrency: {concurrency}")
    server.reply = lambda body: time.sleep(0.05) or "x"
    stages.collect(stages.make_set(9))
    assert server.most_at_once == concurrency


def test_the_next_question_waits_until_an_answer_was_taken(stages: Stages) -> None:
    """So that a run that stops for its failures asks nothing more, and no answer is lost to a stop."""
    asked: list[str] = []

    def ask(question: Any) -> Answer:
        asked.append(question.id)
        return Answer(question.id, "base", text="x")

    requests = collecting.plan(stages.config, FakeWay(), stages.find_models()["base"], stages.make_set(6))
    replies = ask_together(stages.config, ask, requests, 2)
    next(replies)
    time.sleep(0.1)
    assert sorted(asked) == ["row-0", "row-1"]
    replies.close()
    time.sleep(0.1)
    assert sorted(asked) == ["row-0", "row-1"]


def test_an_error_that_is_ours_is_not_swallowed_by_a_thread(stages: Stages) -> None:
    def ask(question: Any) -> Answer:
        raise ZeroDivisionError

    requests = collecting.plan(stages.config, FakeWay(), stages.find_models()["base"], stages.make_set(2))
    with pytest.raises(ZeroDivisionError):
        list(ask_together(stages.config, ask, requests, 2))


class FakeWay:
    """What `plan` needs of an engine."""

    def describe_call(self, _: Any) -> str:
        return "somehow"


# -----------------------------------------------------------------------------
# Failures


def test_a_failed_call_is_tried_again_as_often_as_the_config_says(stages: Stages, server: ModelServer) -> None:
    stages.configure("max_attempts: 3\n  max_failed_share: 0.5")
    server.reply = fail_for(lambda body: "part 1" in text_of(body))
    answers = stages.collect().answers["heldout", "tuned"]
    assert Counter(stages.list_asked())[TUNED, "heldout: what is part 1?"] == 3 and len(stages.list_asked()) == 2 * (1 + 3 + 1)
    assert [bool(answer.error) for answer in answers] == [False, True, False]
    assert "out of memory" in answers[1].error and answers[1].text == ""


def test_a_later_try_can_succeed(stages: Stages, server: ModelServer) -> None:
    tries: Counter[str] = Counter()

    def reply(body: Any) -> Any:
        tries[body["model"] + text_of(body)] += 1
        return "x" if tries[body["model"] + text_of(body)] == 2 else (503, {"error": "busy"})

    server.reply = reply
    collected = stages.collect()
    assert [answer.text for answers in collected.answers.values() for answer in answers] == ["x"] * 6


def test_pauses_between_tries_grow(stages: Stages, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "FIRST_PAUSE_SECONDS", 0.05)
    stages.configure("max_attempts: 4\n  max_failed_share: 0.9")
    server.reply = fail_for(lambda body: body["model"] == TUNED and "part 0" in text_of(body))
    stages.collect()
    asked = [each for each in server.requests if each["body"] in server.list_chats()]
    times = [each["time"] for each in asked if each["body"]["model"] == TUNED][:4]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] >= 0.05 and pauses[1] >= 0.1 and pauses[2] >= 0.2


def test_a_cut_prompt_is_a_failure(stages: Stages, server: ModelServer) -> None:
    stages.configure("max_failed_share: 0.9")
    cut = {"message": {"content": "x"}, "done": True, "prompt_eval_count": 4096, "eval_count": 1}
    server.reply = fail_for(lambda body: "part 2" in text_of(body), (200, cut))
    assert "num_ctx 4096 leaves 3584" in stages.collect().answers["heldout", "base"][2].error


def test_too_many_failures_stop_at_once_and_keep_what_was_answered(stages: Stages, server: ModelServer) -> None:
    server.reply = fail_for(lambda body: body["model"] == TUNED and "part 12" in text_of(body))
    message = r"1 of 19 held-out questions to the tuned model failed, more than .*max_failed_share 0\.05.*out of memory"
    with pytest.raises(PipelineError, match=message):
        stages.collect(stages.make_set(19))
    assert len(read_cache(stages)) == 19 + 12 and server.held == {}
    server.requests.clear()
    server.reply = lambda body: "x"
    collected = stages.collect(stages.make_set(19))
    assert stages.list_asked() == [(TUNED, f"heldout: what is part {number}?") for number in range(12, 19)]
    assert collected.cached == 31 and collected.loads == {"base": 0, "tuned": 1}


def test_one_failure_in_twenty_is_allowed(stages: Stages, server: ModelServer) -> None:
    server.reply = fail_for(lambda body: "part 7?" in text_of(body))
    collected = stages.collect(stages.make_set(20))
    assert [sum(bool(answer.error) for answer in answers) for answers in collected.answers.values()] == [1, 1]


def test_failures_among_the_other_sets_stop_too(stages: Stages, server: ModelServer) -> None:
    server.reply = fail_for(lambda body: "general" in text_of(body))
    with pytest.raises(PipelineError, match=r"4 of 60 questions to the base model failed"):
        stages.collect(stages.make_set(20), stages.make_set(40, "general"))


def test_held_out_questions_that_fail_are_not_outweighed_by_the_other_sets(stages: Stages, server: ModelServer) -> None:
    server.reply = fail_for(lambda body: "heldout" in text_of(body))
    with pytest.raises(PipelineError, match=r"2 of 20 held-out questions to the base model failed"):
        stages.collect(stages.make_set(20), stages.make_set(400, "general"))


def test_one_sides_failures_are_not_counted_with_the_others(stages: Stages, server: ModelServer) -> None:
    server.reply = fail_for(lambda body: f"part {1 if body['model'] == BASE else 2}?" in text_of(body))
    stages.collect(stages.make_set(20))


# -----------------------------------------------------------------------------
# The cache


def test_what_is_known_is_not_asked_again(stages: Stages, server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    first = stages.collect()
    server.requests.clear()
    server.loads.clear()
    capsys.readouterr()
    again = stages.collect()
    assert stages.list_asked() == [] and server.loads == []
    assert again.answers == first.answers and (again.cached, again.loads) == (6, {"base": 0, "tuned": 0})
    assert "[OK] 6 of 6 answers are known from an earlier run (evaluation/cache.jsonl)" in capsys.readouterr().out


def test_after_another_training_the_control_is_not_asked_again(stages: Stages, server: ModelServer) -> None:
    stages.collect()
    (stages.config.gguf_dir / f"{TUNED}-q4_k_m.gguf").write_bytes(b"GGUF of another student")
    write_gguf(stages.config, {"tuned": TUNED, "base": BASE})
    server.blobs = hash_models(stages.config)
    server.requests.clear()
    server.loads.clear()
    collected = stages.collect()
    assert {model for model, _ in stages.list_asked()} == {TUNED} and server.loads == [TUNED] and collected.cached == 3


@pytest.mark.parametrize("change", ["max_tokens: 256", "seed: 7", "endpoint: generate", "temperature: 0.5"])
def test_other_conditions_make_other_answers(stages: Stages, server: ModelServer, change: str) -> None:
    stages.collect()
    server.requests.clear()
    stages.configure(change)
    assert stages.collect().cached == 0 and len(stages.list_asked()) == 6


def test_a_stock_model_that_was_pulled_anew_is_asked_again(
    stages: Stages, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.configure(f"stock_model: {STOCK}")
    stages.collect()
    server.requests.clear()
    monkeypatch.setattr("tests.finished_stages.sha256_text", lambda name: f"newer {name}")
    assert stages.collect().cached == 6 and {model for model, _ in stages.list_asked()} == {STOCK}


def test_a_failure_is_never_kept(stages: Stages, server: ModelServer) -> None:
    stages.configure("max_failed_share: 0.9")
    server.reply = fail_for(lambda body: "part 1" in text_of(body))
    stages.collect()
    assert len(read_cache(stages)) == 4 and not [row for row in read_cache(stages) if row["error"]]
    server.requests.clear()
    server.reply = lambda body: "x"
    assert stages.collect().cached == 4
    assert stages.list_asked() == [(BASE, "heldout: what is part 1?"), (TUNED, "heldout: what is part 1?")]


def test_a_question_that_stands_in_two_sets_is_asked_once(stages: Stages, server: ModelServer) -> None:
    heldout = stages.make_set(3)
    own = with_questions(stages.make_set(0, "own"), [replace(heldout.questions[1], set="own", id="mine")])
    collected = stages.collect(heldout, own)
    assert len(stages.list_asked()) == 6
    [answer] = collected.answers["own", "tuned"]
    assert (answer.set, answer.example_id, answer.text) == ("own", "mine", collected.answers["heldout", "tuned"][1].text)
    assert collected.answers["heldout", "tuned"][1].example_id == "row-1"


def test_an_answer_of_a_newer_version_is_read_as_far_as_it_is_known(stages: Stages, server: ModelServer) -> None:
    stages.collect(stages.make_set(1))
    path = stages.config.evaluation_dir / "cache.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"text"', '"later": 1, "text"'), encoding="utf-8")
    assert stages.collect(stages.make_set(1)).cached == 2


def test_the_cache_is_encrypted_with_the_rest(stages: Stages, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    around = make_surroundings(stages.folder / "around")
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", around["HYBRIDRAG_DISTILL_KEY"])
    stages.collect()
    path = stages.config.evaluation_dir / "cache.jsonl"
    assert b"I am student" in path.read_bytes()
    stages.config = stages.config.model_copy(update={"encrypt": True})
    assert stages.collect().cached == 6
    assert b"I am student" not in path.read_bytes() and {row["text"] for row in read_cache(stages)} == {
        f"I am {BASE}.", f"I am {TUNED}."
    }


@pytest.mark.skipif(sys.platform == "win32", reason="file modes")
def test_the_cache_is_the_users_alone(stages: Stages) -> None:
    stages.collect()
    assert (stages.config.evaluation_dir / "cache.jsonl").stat().st_mode & 0o077 == 0


# -----------------------------------------------------------------------------
# Stopping

PROGRAM = """
import sys
from pathlib import Path
from tests.engines.worlds import Stages
from tests.finished_stages import ModelServer

class Elsewhere:
    base_url = sys.argv[2]

stages = Stages.__new__(Stages)
stages.folder, stages.server = Path(sys.argv[1]), Elsewhere
stages.configure("concurrency: " + sys.argv[3])
stages.collect(stages.make_set(12))
"""


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_killed_run_asks_nothing_twice(stages: Stages, server: ModelServer, concurrency: int) -> None:
    reached, gate = threading.Event(), threading.Event()

    def reply(body: Any) -> str:
        if body["model"] == TUNED and "part 5?" in text_of(body):
            time.sleep(0.3)  # what was answered before is on disk by then
            reached.set()
            gate.wait(60)
        return "x"

    server.reply = reply
    command = [sys.executable, "-c", PROGRAM, str(stages.folder), server.base_url, str(concurrency)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert reached.wait(60)
    process.kill()
    process.wait()
    gate.set()
    path = stages.config.evaluation_dir / "cache.jsonl"
    kept = len(read_cache(stages))
    assert kept >= 12 + 5
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"example_id": "row-5", "side": "tun')  # a kill in the middle of a write
    server.requests.clear()
    server.loads.clear()
    collected = stages.collect(stages.make_set(12))
    assert collected.cached == kept and len(stages.list_asked()) == 24 - kept
    assert server.loads == []  # nobody told the server to let go of the model: it is still there
    assert len(collected.answers["heldout", "tuned"]) == 12


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_does_not_wait_for_the_answer_in_flight(stages: Stages, server: ModelServer) -> None:
    import signal

    reached, gate = threading.Event(), threading.Event()

    def reply(body: Any) -> str:
        if "part 3?" in text_of(body):
            reached.set()
            gate.wait(60)
        return "x"

    server.reply = reply
    command = [sys.executable, "-c", PROGRAM, str(stages.folder), server.base_url, "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert reached.wait(60)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(15)
    finally:
        process.kill()
        gate.set()
    assert len(read_cache(stages)) == 3 and server.held == {}  # the model was told to go
