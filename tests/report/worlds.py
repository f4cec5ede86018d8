"""Whole evaluations, made up: every set, every side, known scores. What the page shows is told by these."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from distill.cases.case_set import CaseSet, Measure, Question, Scores, Source
from distill.cases.memory import MEASURES as MEMORY
from distill.config import Config
from distill.files import sha256_text
from distill.metrics.table import TABLE
from distill.records import Answer
from distill.report.page import render_page
from distill.report.results import Results, compare, summarise
from tests.report.answers import make_answer, make_config

PARTS = ("radome", "duplexer", "waveguide flange", "phase shifter", "low-noise amplifier", "circulator", "bias tee")
CATEGORIES = ("RF Engineering", "Security and Compliance", "Retrieval Systems", "Software Engineering")
MEASURES = {name: metric.measure for name, metric in TABLE.items()}
JUDGE = {
    "model": "phi4:14b", "host": "127.0.0.1", "questions": 59, "tuned": 27, "base": 14, "tie": 18, "disagreed": 9,
    "unreadable": 1, "documents_tuned": 20, "documents_base": 9, "p_value": 0.0596,
}
VOTES = {
    "voters": 2, "votes": 41, "questions": 30, "documents": 12, "documents_tuned": 9,
    "documents_base": 1, "tuned": 22, "base": 8, "tie": 11, "p_value": 0.016, "stale": 3,
}


def ask(text: str) -> tuple[dict[str, str], ...]:
    """One user message."""
    return ({"role": "user", "content": text},)


def make_question(number: int) -> Question:
    """About one value that stands in the second of three sources; three questions share a document."""
    part, unit, value = PARTS[number % len(PARTS)], 100 + number, 12 + number
    texts = (
        f"Section 4.{number}: general notes on handling. Store the {part} dry, between 10 and 35 degrees C.",
        f"Table {number}: the {part} of unit {unit} is rated for {value}.5 dB at 9.4 GHz.\nThe limit holds over its life.",
        f"Appendix: replaced units of the {part} go back to the depot within {value + 3} days.",
    )
    question = f"What is the {part} of unit {unit} rated for, and how long does the limit hold?"
    return Question(
        set="heldout", id=f"row-{number}", messages=ask("\n\n".join([*texts, question])), text=question,
        category=CATEGORIES[number % len(CATEGORIES)], group=f"manual {number // 3}",
        reference=f"The {part} of unit {unit} is rated for {value}.5 dB at 9.4 GHz [Source 2]. The limit holds for life.",
        sources=tuple(Source(f"D:\\manuals\\manual_{number // 3}.pdf", text) for text in texts),
    )


def make_set(
    name: str, title: str, questions: Sequence[Question], scores: Callable[[int, Answer], Scores],
    measures: dict[str, Measure], **notes: object,
) -> CaseSet:
    """A set whose scores are given by question number and answer; all None for a failed call."""
    questions = [replace(question, set=name) for question in questions]

    def score(answers: Sequence[Answer]) -> list[Scores]:
        empty = dict.fromkeys(measures)
        return [empty if answer.error else {**empty, **scores(n, answer)} for n, answer in enumerate(answers)]

    return CaseSet(name, title, questions, measures, next(iter(measures)), score, notes)


def write_answer(question: Question, number: int, side: str, skill: float, dice: random.Random, refusal: str) -> str:
    """What a model of that skill says: right, with a wrong number, or a refusal."""
    right, value = question.reference, f"{12 + number}.5 dB"
    if number % 13 == 5 and side == "base":
        return refusal
    if dice.random() < skill:
        return right if side == "tuned" else right.replace("is rated for", "has a rating of")
    wrong = right.replace(value, f"{20 + number}.1 dB").replace("[Source 2]", "[Source 3]")
    return f"{wrong} In general, please check the manual of your unit [Source 9]."


def make_score(dice: random.Random, lift: float) -> Callable[[int, Answer], Scores]:
    """Scores around the middle; tuned's are higher by `lift`."""

    def score(number: int, answer: Answer) -> Scores:
        level = 0.45 + 0.3 * ((number * 7) % 10) / 10 + dice.gauss(0, 0.12) + (lift if answer.side == "tuned" else 0)
        level = min(1.0, max(0.0, level))
        odd = {
            "grounding": min(1.0, level + 0.2), "citation_match": float(dice.random() < level), "right_refusal": None,
            "wrong_refusal": float(number % 13 == 5 and answer.side == "base"), "guard_passed": 1.0,
            "tutorial_score": 1 - level,
        }
        return dict.fromkeys(MEASURES, level) | odd

    return score


def make_sets(count: int, lift: float) -> list[CaseSet]:
    """Held-out rows, golden cases, general questions and a memory probe."""
    dice = random.Random(3)
    held = [make_question(number) for number in range(count)]
    kinds = ("answerable", "answerable", "unanswerable", "ambiguous", "injection") * 4
    golden = [replace(make_question(n), id=f"case-{n}", category=kind) for n, kind in enumerate(kinds)]
    general = [
        Question("general", f"sum-{n}", ask(f"What is {n} + {n}?"), category="arithmetic" if n % 2 else "language",
                 group=f"sum-{n}", text=f"What is {n} + {n}?", reference=str(2 * n))
        for n in range(30)
    ]
    memory = [
        Question("memory", f"{kind}-{n}", ask("What is the code?"), category=kind, group=f"{kind}-{n}", opening="The code is ")
        for kind in ("training", "held-out", "canary") for n in range(12)
    ]
    one = Measure("1 for a right answer.", decides=True)

    def score_golden(number: int, answer: Answer) -> Scores:
        return {"golden_score": float(dice.random() < 0.6)}

    def score_general(number: int, answer: Answer) -> Scores:
        return {"general_right": float(number % 9 != 2)}

    def score_memory(number: int, answer: Answer) -> Scores:
        name = "memory_canary" if number >= 24 else "memory_string"
        return {name: float(number % 11 == 1 and answer.side == "tuned")}

    return [
        make_set("heldout", "Held-out questions", held, make_score(dice, lift), MEASURES),
        make_set("golden", "HybridRAG3's golden cases", golden, score_golden, {"golden_score": one}, repeated=2),
        make_set("general", "General questions", general, score_general, {"general_right": one}),
        make_set("memory", "What it learnt by heart", memory, score_memory, MEMORY, canaries_planted=12),
    ]


def answer_set(cases: CaseSet, side: str, skill: float, refusal: str) -> list[Answer]:
    """One model's answers, with what an engine tells of each call."""
    dice = random.Random(f"{cases.name} {side}")
    told = {"answer_tokens": 60, "answer_seconds": 1.5, "first_token_seconds": 0.4, "seconds": 2.0, "set": cases.name}
    return [
        make_answer(question.id, side, write_answer(question, n, side, skill, dice, refusal), **told)
        for n, question in enumerate(cases.questions)
    ]


def answer_all(config: Config, sets: Sequence[CaseSet], sides: Sequence[str]) -> dict:
    """Every side's answers to every set; the stock model is not asked what it learnt by heart."""
    skills = {"base": 0.4, "tuned": 0.75, "stock": 0.3}
    return {
        (cases.name, side): answer_set(cases, side, skills[side], config.prompt.refusal)
        for cases in sets for side in sides if (cases.name, side) != ("memory", "stock")
    }


def make_world(
    config: Config, count: int = 60, lift: float = 0.15, *, sides: Sequence[str] = ("base", "tuned", "stock"),
    failed: Sequence[int] = (2,), opinions: bool = True, change: Callable[[CaseSet], CaseSet] = lambda cases: cases,
    say: Callable[[int, Answer], Answer] = lambda number, answer: answer,
) -> tuple[Results, dict]:
    """Results and summary.json of an evaluation; the base fails on the `failed` questions.

    `change` may change a set before it is asked, `say` a held-out answer.
    """
    sets = [change(cases) for cases in make_sets(count, lift)]
    answers = answer_all(config, sets, sides)
    for side in sides:
        answers["heldout", side] = [say(number, answer) for number, answer in enumerate(answers["heldout", side])]
    for number in failed if "base" in sides else ():
        answers["heldout", "base"][number] = make_answer(f"row-{number}", "base", error="HTTP 500: out of memory")
    told = (JUDGE, VOTES) if opinions and "base" in sides else ()
    results = compare(config, sets, answers, *told)
    return results, summarise(config, results, make_conditions(sides))


def make_conditions(sides: Sequence[str]) -> dict:
    """As evaluate.py writes them."""
    names = {"base": "hybridrag-phi4mini-base", "tuned": "hybridrag-phi4mini", "stock": "phi4-mini"}
    models = {
        side: {"name": names[side], "file": f"gguf/{names[side]}.gguf", "sha256": sha256_text(side), "bytes": 2_491_874_272}
        for side in sides
    }
    options = {"temperature": 0.0, "top_p": 0.9, "top_k": 40, "seed": 42, "num_ctx": 4096, "num_predict": 512}
    return {
        "made_at": "2026-11-23T10:15:00+00:00", "engine": "ollama", "endpoint": "chat", "options": options, "models": models,
        "verification": "../gguf/verification.json",
    }


def write_world(folder: Path, name: str = "report.html", *, texts: bool = True, **fields: object) -> Path:
    """report.html of a made-up evaluation."""
    config = make_config(folder, "evaluate:\n  bootstrap_samples: 500\n")
    results, summary = make_world(config, **fields)
    path = folder / name
    path.write_text(render_page(config.prompt, results, summary, texts=texts), encoding="utf-8", newline="\n")
    return path
