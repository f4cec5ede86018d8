"""A held-out set of a few questions with both models' answers, and a judge behind a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.cases.case_set import CaseSet, Question
from distill.config import Config
from distill.engines.models import Model, Side
from distill.judging.judge import Answers, check_judge, judge_answers
from distill.records import Answer
from tests.servers import TeacherServer

RIGHT, WRONG = "It is right: 45 degrees. [Source 1]", "It is wrong: 54 degrees. [Source 1]"
BOTH = re.compile(r"Answer A:\n(.*?)\n=+\nAnswer B:\n(.*?)\n=+\n", re.DOTALL)
Texts = tuple[str | None, str | None]  # base, tuned; None for a failed call


def make_config(folder: Path, url: str, encrypt: bool = False, generate: dict[str, Any] | None = None, **judge: Any) -> Config:
    """A config whose judge answers at `url`; work_dir is the folder."""
    section = {
        "enabled": True, "base_url": url, "model": "judge-1", "requests_per_minute": 600_000, "max_attempts": 2, **judge,
    }
    evaluate = {"judge": section, "bootstrap_samples": 200}
    return Config.model_validate({
        "work_dir": str(folder), "encrypt": encrypt, "evaluate": evaluate, "generate": generate or {},
    })


def make_heldout(count: int, source: str = "The limit is 45 degrees.") -> CaseSet:
    """Questions q0, q1 and so on, each of a document of its own."""
    questions = [
        Question(
            "heldout", f"q{number}", (
                {"role": "system", "content": "Be precise."},
                {"role": "user", "content": f"[Source 1] manual.pdf\n{source}\n\nQuestion: What is limit {number}?"},
            ), group=f"document {number}",
        )
        for number in range(count)
    ]
    return CaseSet("heldout", "Held-out questions", questions, {}, "", lambda answers: [])


def make_answers(heldout: CaseSet, texts: Sequence[Texts]) -> Answers:
    """Both sides' answers in the order of the questions."""
    sides: tuple[Side, ...] = ("base", "tuned")
    return {
        ("heldout", side): [
            Answer(question.id, side, text=both[place] or "", error="" if both[place] is not None else "timed out")
            for question, both in zip(heldout.questions, texts)
        ]
        for place, side in enumerate(sides)
    }


def make_models(**names: str) -> dict[Side, Model]:
    """The judged models; only their names count here."""
    found = {"base": "mine-base", "tuned": "mine", **names}
    return {side: Model(side, name, None, f"gguf/{name}.Q4_K_M.gguf", "", 0, None) for side, name in found.items()}


def run_judge(config: Config, texts: Sequence[Texts], **heldout: Any) -> dict[str, Any] | None:
    """The figures for these answers."""
    cases, folder = make_heldout(len(texts), **heldout), config.evaluation_dir
    return judge_answers(config, cases, make_answers(cases, texts), folder, check_judge(config, folder, make_models()))


def read_answers(body: Any) -> tuple[str, str]:
    """The two answers that a request shows, in its order."""
    found = BOTH.search(body["messages"][-1]["content"])
    assert found, body
    return found[1], found[2]


def prefer_right(body: Any) -> str:
    """A good judge."""
    first, second = ("right" in text for text in read_answers(body))
    return say("tie" if first == second else "A" if first else "B")


def say(winner: str) -> str:
    """A judge's reply."""
    return json.dumps({"reason": "The first source says so.", "winner": winner})


def make_server(text: Callable[[Any], str] = prefer_right, **more: Any) -> TeacherServer:
    """A server with the judge's model."""
    return TeacherServer(text=text, **{"models": ("judge-1",), **more})
