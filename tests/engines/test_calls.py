"""One call of either engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.cases.case_set import Question, Source
from distill.engines.calls import Reply, describe_wrapping, hash_request, make_ask
from distill.errors import PipelineError
from distill.gguf.chat import FORMATS
from distill.gguf.modelfile import render_modelfile
from distill.records import Answer
from tests.engines.worlds import MESSAGES, MODEL, OPTIONS, QUESTION

OPENED = replace(QUESTION, opening="It is", max_tokens=8)


def ask_once(reply: Reply | Exception, question: Question = QUESTION) -> Answer:
    def complete(*_: Any) -> Reply:
        if isinstance(reply, Exception):
            raise reply
        return reply

    return make_ask("tuned", OPTIONS, complete)(question)


def test_answer_carries_what_the_report_needs() -> None:
    answer = ask_once(Reply(" A valve.\n", "stop", 30, 4, 0.25, 0.5))
    assert (answer.text, answer.error, answer.finish_reason) == ("A valve.", "", "stop")
    assert (answer.set, answer.example_id, answer.side) == ("heldout", "row-1", "tuned")
    assert (answer.prompt_tokens, answer.answer_tokens) == (30, 4)
    assert (answer.first_token_seconds, answer.answer_seconds) == (0.25, 0.5)
    assert answer.options == OPTIONS


def test_the_engine_gets_the_questions_own_options() -> None:
    seen: list[Any] = []
    ask = make_ask("base", OPTIONS, lambda question, options: seen.append((question, options)) or Reply("x", "stop", 9, 1))
    assert ask(OPENED).options == {**OPTIONS, "num_predict": 8}
    assert seen == [(OPENED, {**OPTIONS, "num_predict": 8})]


@pytest.mark.parametrize(("reply", "message"), [
    (PipelineError("llama.cpp with a.gguf: too long"), "llama.cpp with a.gguf: too long"),
    (TimeoutError("timed\nout"), "TimeoutError: timed out"),
    (KeyError("choices"), "KeyError: 'choices'"),
    (Reply("", "stop", 30, 0), "empty answer"),
    (Reply(" \n", "stop", 30, 0), "empty answer"),
    (Reply("A valve.", "stop", 489, 4), "the prompt has 489 tokens, but num_ctx 512 leaves 488 beside max_tokens 24"),
    (Reply("A valve.", "stop", 0, 4), "no prompt_eval_count"),
])
def test_whatever_goes_wrong_is_an_error_without_text(reply: Any, message: str) -> None:
    answer = ask_once(reply)
    assert message in answer.error and "\n" not in answer.error and answer.text == ""


def test_the_longest_prompt_that_fits_is_answered() -> None:
    assert ask_once(Reply("A valve.", "stop", 488, 4)).error == ""
    assert ask_once(Reply("A valve.", "stop", 504, 4), OPENED).error == ""
    assert "leaves 504" in ask_once(Reply("A valve.", "stop", 505, 4), OPENED).error


@pytest.mark.parametrize("reply", [Reply("", "stop", 30, 1), Reply(" \n", "length", 30, 1)])
def test_a_model_that_says_nothing_has_answered_nothing(reply: Reply) -> None:
    answer = ask_once(reply)
    assert (answer.text, answer.error, answer.answer_tokens) == ("", "", 1)


def test_what_goes_on_from_an_opening_keeps_its_first_space_and_may_be_nothing() -> None:
    assert ask_once(Reply(" 45 Nm.\n", "stop", 30, 4), OPENED).text == " 45 Nm."
    ended = ask_once(Reply("", "stop", 30, 0), OPENED)
    assert (ended.text, ended.error) == ("", "")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_no_failed_call(kind: type[BaseException]) -> None:
    def stop(*_: Any) -> Reply:
        raise kind

    with pytest.raises(kind):
        make_ask("base", OPTIONS, stop)(QUESTION)


def test_text_that_utf8_cannot_hold_can_be_written() -> None:
    assert ask_once(Reply("a \ud800 b", "stop", 30, 4)).text == "a ? b"


# -----------------------------------------------------------------------------
# What an answer depends on

WRAPPING = {"template": "T", "system": "S", "stops": ["<|end|>"]}
CALL = ("ollama chat", MODEL, WRAPPING, QUESTION, OPTIONS)


@pytest.mark.parametrize(("place", "value"), [
    (0, "ollama generate"),
    (0, "embedded"),
    (1, replace(MODEL, sha256="cd" * 32)),
    (1, replace(MODEL, runtime="ollama 0.30.2")),
    (2, {**WRAPPING, "template": "U"}),
    (2, {**WRAPPING, "system": ""}),
    (2, {**WRAPPING, "stops": []}),
    (3, replace(QUESTION, messages=MESSAGES[1:])),
    (3, replace(QUESTION, opening="It")),
    (3, replace(QUESTION, max_tokens=8)),
    (4, {**OPTIONS, "seed": 43}),
    (4, {**OPTIONS, "num_ctx": 1024}),
])
def test_request_hash_sees_every_condition(place: int, value: Any) -> None:
    changed = [*CALL[:place], value, *CALL[place + 1 :]]
    assert hash_request(*changed) != hash_request(*CALL)


@pytest.mark.parametrize(("place", "value"), [
    (1, replace(MODEL, name="other", path=Path("elsewhere.gguf"), side="base")),
    (3, replace(QUESTION, id="x", set="own", reference="r", sources=(Source("a", "b"),), text="t")),
    (3, replace(QUESTION, max_tokens=24)),
])
def test_request_hash_does_not_see_what_makes_no_difference(place: int, value: Any) -> None:
    changed = [*CALL[:place], value, *CALL[place + 1 :]]
    assert hash_request(*changed) == hash_request(*CALL)


def test_a_model_whose_bytes_nobody_tells_is_known_by_its_name() -> None:
    stock = replace(MODEL, side="stock", name="phi4-mini", sha256="", modelfile=None)

    def hash_of(name: str) -> str:
        return hash_request("ollama chat", replace(stock, name=name), {}, QUESTION, OPTIONS)

    assert hash_of("phi4-mini") == hash_of("phi4-mini:latest") != hash_of("phi4-mini:3.8b")


def test_wrapping_is_what_the_modelfile_says_and_nothing_for_a_stock_model(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    text = render_modelfile("a.gguf", format=FORMATS[0], system="Be brief.", temperature=0, top_p=1, top_k=40, num_ctx=512)
    path.write_text(f"# made today\n{text}", encoding="utf-8")
    made = describe_wrapping(replace(MODEL, modelfile=path))
    assert made == {"template": FORMATS[0].template, "system": "Be brief.", "stops": list(FORMATS[0].stops)}
    assert describe_wrapping(replace(MODEL, modelfile=None)) == {}
