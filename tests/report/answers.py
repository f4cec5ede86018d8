"""Made-up questions and answers with known scores, in every form that the report must show, and an embedder without a model."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from distill.cases.case_set import CaseSet, Measure, Question, Scores, Source
from distill.config import Config, PromptSection, load_config
from distill.files import sha256_text
from distill.prompts import find_citations, is_refusal, render_prompt, strip_citations, to_messages
from distill.records import Answer, Chunk, TrainingExample
from distill.report.results import Results, compare, summarise

TOPICS = ("antenna gain", "link margin", "access control", "audit logging", "chunk overlap", "vector search", "type hints")
CATEGORIES = ("RF Engineering", "Defense Security and Compliance", "AI and RAG Systems", "Python and Software Engineering")
MEASURES = {
    "correctness": Measure("How much of what the reference answer says the answer says.", decides=True),
    "grounding": Measure("1 if every number of the answer stands in the sources.", decides=True),
    "completeness": Measure("Share of the reference answer's words that the answer has.", decides=True),
    "citation_match": Measure("F1 of the sources cited against those that the reference answer cites.", decides=True),
    "refusal_right": Measure("1 if the answer refuses exactly when the reference answer refuses.", decides=True),
    "right_refusal": Measure("1 if the answer refuses where the reference answer refuses."),
    "wrong_refusal": Measure("1 if the answer refuses though the reference answer does not.", higher_is_better=False),
    "length_ratio": Measure("Words of the answer over words of the reference answer, at most 1."),
    "tutorial_score": Measure("1 for more than 100 characters, 0.5 for more than 50, else 0."),
}


class WordEmbedder:
    """Counts of hashed words as unit vectors: equal texts have cosine 1, texts without a common word about 0."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), 256), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, zlib.crc32(word.strip(".,").encode()) % 256] += 1
            vectors[row] /= np.linalg.norm(vectors[row]) or 1
        return vectors


def make_config(tmp_path, text: str = "") -> Config:
    """A config.yaml in tmp_path, read as the scripts read it."""
    path = tmp_path / "config.yaml"
    path.write_text(f"work_dir: .\n{text}", encoding="utf-8")
    return load_config(path)


def make_example(config: Config, number: int, *, output: str | None = None, sources: int = 2) -> TrainingExample:
    """A held-out row about one of the topics; three questions share a document."""
    topic = TOPICS[number % len(TOPICS)]
    value = 3 + number
    texts = [f"The {topic} in case {number} is {value + n} units." for n in range(sources)]
    chunks = [Chunk(f"{number}-{n}", f"D:\\docs\\manual_{number // 3}_{n}.md", text, 0.9) for n, text in enumerate(texts)]
    question = f"What is the {topic} in case {number}?"
    rendered = render_prompt(config.prompt, question, chunks)
    return TrainingExample(
        id=f"row-{number}", instruction=rendered.instruction, context=rendered.context, question=question,
        category=CATEGORIES[number % len(CATEGORIES)], num_chunks=sources,
        output=output or f"The {topic} in case {number} is {value} units [Source 1]. It is measured under normal load.",
    )


def make_answer(example_id: str, side: str, text: str = "", **fields) -> Answer:
    """An answer that ended by itself, unless `fields` say otherwise; the tuned model is the slower one."""
    times = {"seconds": 1.5, "first_token_seconds": 0.25, "answer_seconds": 1.0, "answer_tokens": 40 - 10 * (side == "tuned")}
    fields = {"finish_reason": "stop", **({} if fields.get("error") else times), **fields}
    return Answer(example_id=example_id, side=side, text=text, **fields)


# -----------------------------------------------------------------------------
# Sets


def make_heldout(config: Config, examples: Sequence[TrainingExample], name: str = "heldout", title: str = "") -> CaseSet:
    """Held-out rows as a set of questions; its scores are simple ones that stand for distill.metrics."""
    questions = [make_question(config, example, name) for example in examples]

    def score(answers: Sequence[Answer]) -> list[Scores]:
        return [score_answer(config.prompt, question, answer) for question, answer in zip(questions, answers, strict=True)]

    return CaseSet(name, title or "held-out questions", questions, MEASURES, "correctness", score)


def make_question(config: Config, example: TrainingExample, name: str = "heldout") -> Question:
    """A row as a question."""
    return Question(
        name, example.id, tuple(to_messages(config.prompt.system, example.instruction)), category=example.category,
        group=example.context[0].source if example.context else "", text=example.question or example.instruction,
        reference=example.output,
        sources=tuple(Source(span.source, example.instruction[span.start : span.end]) for span in example.context),
    )


def score_answer(prompt: PromptSection, question: Question, answer: Answer) -> Scores:
    """The measures of MEASURES."""
    if answer.error:
        return dict.fromkeys(MEASURES)
    said, right = (set(re.findall(r"\w+", strip_citations(prompt, text).lower())) for text in (answer.text, question.reference))
    cited, expected = (set(find_citations(prompt, text)) for text in (answer.text, question.reference))
    refused, should = (is_refusal(prompt, text) for text in (answer.text, question.reference))
    numbers = {word for word in said if word.isdigit()} - {word for source in question.sources for word in source.text.split()}
    length = len(answer.text.split()) / max(len(question.reference.split()), 1)
    scores = {
        "correctness": 2 * len(said & right) / max(len(said) + len(right), 1), "grounding": float(not numbers),
        "completeness": len(said & right) / max(len(right), 1),
        "citation_match": 2 * len(cited & expected) / (len(cited) + len(expected)) if cited or expected else 1.0,
        "refusal_right": float(refused == should),
        "right_refusal": float(refused) if should else None, "wrong_refusal": None if should else float(refused),
        "length_ratio": min(length, 1.0), "tutorial_score": 1.0 if len(answer.text) > 100 else 0.5 * (len(answer.text) > 50),
    }
    return {name: value if value is None else round(value, 6) for name, value in scores.items()}


def make_simple_set(name: str, title: str, count: int, categories: Sequence[str], measures: Mapping[str, Measure],
                    right: str = "right", **notes: object) -> CaseSet:
    """Questions that share nothing; every measure is 1 for the answer `right`, else 0."""
    questions = [
        Question(name, f"{name}-{n}", ({"role": "user", "content": f"{title} {n}?"},), category=categories[n % len(categories)],
                 group=f"{name}-{n}", text=f"{title} {n}?", reference=right)
        for n in range(count)
    ]

    def score(answers: Sequence[Answer]) -> list[Scores]:
        return [dict.fromkeys(measures, None if a.error else float(a.text == right)) for a in answers]

    return CaseSet(name, title, questions, measures, next(iter(measures)), score, notes)


def make_general() -> CaseSet:
    """84 general questions."""
    measure = Measure("1 if the answer passes the question's check.", decides=True)
    kinds = ("language", "arithmetic", "knowledge")
    return make_simple_set("general", "general questions", 84, kinds, {"general_right": measure})


def make_golden() -> CaseSet:
    """30 of HybridRAG3's golden cases, by type."""
    kinds = ("answerable", "unanswerable", "ambiguous", "injection")
    measures = {name: Measure(f"{name}, from 0 to 1.", decides=True) for name in ("golden_score", "golden_facts")}
    return make_simple_set("golden", "HybridRAG3's golden cases", 30, kinds, measures, repeated=2)


def make_memory() -> CaseSet:
    """Strings to complete: of training rows, of held-out rows, and planted ones; "right" is a string given away."""
    measures = {
        name: Measure(f"1 if the model completes the {what}.", decides=True, higher_is_better=False)
        for name, what in (("memory_string", "string"), ("memory_canary", "planted code"))
    }
    kinds = ("training", "held-out", "canary")
    return make_simple_set("memory", "memorisation probe", 60, kinds, measures, canaries_planted=20)


def answer_simple(cases: CaseSet, side: str, share: float) -> list[Answer]:
    """Answers of which a share is "right", spread evenly; every set has one failed call of the tuned model."""
    rights = [int((n + 1) * share) > int(n * share) for n in range(len(cases.questions))]
    answers = [
        make_answer(question.id, side, "right" if right else "wrong", set=cases.name)
        for question, right in zip(cases.questions, rights)
    ]
    if side == "tuned":
        answers[3] = make_answer(cases.questions[3].id, side, error="HTTP 500", set=cases.name)
    return answers


# -----------------------------------------------------------------------------
# Results


def make_answers(config: Config, examples: Sequence[TrainingExample], same: bool = False) -> dict[str, list[Answer]]:
    """Tuned says what the reference says in two of three rows; base rambles; stock is in between."""
    answers: dict[str, list[Answer]] = {"base": [], "tuned": [], "stock": []}
    for number, example in enumerate(examples):
        topic = TOPICS[number % len(TOPICS)]
        rambling = f"In general the {topic} depends on many things, please ask the supplier. [Source 7]"
        good = example.output if number % 3 else f"The {topic} is {3 + number} units [Source 1]."
        if number % 11 == 5:
            rambling = config.prompt.refusal
        if number % 17 == 6:
            good = rambling
        for side, text in (("base", rambling), ("tuned", rambling if same else good), ("stock", f"The {topic} varies.")):
            answers[side].append(make_answer(example.id, side, text))
    return answers


def compare_heldout(config: Config, examples: Sequence[TrainingExample], answers: Mapping[str, Sequence[Answer]]) -> Results:
    """The results of held-out questions alone, with the sides that `answers` has."""
    return compare(config, [make_heldout(config, examples)], {("heldout", side): list(answers[side]) for side in answers})


def make_results(
    config: Config, count: int = 36, *, same: bool = False, control: bool = True, stock: bool = False, more: bool = False
) -> Results:
    """`same`: both sides answer alike; no `control`: no base was exported; `more`: every other set, a judge and votes."""
    examples = [make_example(config, number) for number in range(count)]
    sets, shares = [make_heldout(config, examples)], {}
    answers = {("heldout", side): made for side, made in make_answers(config, examples, same).items()}
    if more:
        own = [make_example(config, number) for number in range(100, 112)]
        sets += [make_heldout(config, own, "own", "your own questions"), make_golden(), make_general(), make_memory()]
        answers |= {("own", side): [replace(a, set="own") for a in made] for side, made in make_answers(config, own).items()}
        shares = {"golden": (0.3, 0.6, 0.4), "general": (0.9, 0.6, 0.9), "memory": (0.05, 0.35, 0.0)}
    for cases in sets:
        for side, share in zip(("base", "tuned", "stock"), shares.get(cases.name, ())):
            answers[cases.name, side] = answer_simple(cases, side, share)
    sides = ["base"] * control + ["tuned"] + ["stock"] * stock
    kept = {key: made for key, made in answers.items() if key[1] in sides and key != ("memory", "stock")}
    return compare(config, sets, kept, *((make_judge(count), make_votes(count)) if more and control else ()))


def make_judge(count: int = 36) -> dict:
    """What a judge said of `count` pairs."""
    counts = {"questions": count, "tuned": count - 12, "base": 6, "tie": 6, "disagreed": 4, "unreadable": 1}
    documents = {"documents_tuned": 16, "documents_base": 3}
    return {"model": "phi4:14b", "host": "127.0.0.1", **counts, **documents, "p_value": 0.001431}


def make_votes(count: int = 36) -> dict:
    """What two people voted."""
    return {
        "voters": 2, "votes": count, "documents": 20, "documents_tuned": 14, "documents_base": 5, "tuned": count - 15,
        "base": 9, "tie": 6, "p_value": 0.042774, "stale": 1,
    }


def make_conditions(sides: Sequence[str] = ("base", "tuned")) -> dict:
    """As evaluate.py writes them."""
    names = {"base": "hybridrag-phi4mini-base", "tuned": "hybridrag-phi4mini", "stock": "phi4-mini"}
    models = {
        side: {"name": names[side], "file": f"gguf/{names[side]}-q4_k_m.gguf", "sha256": sha256_text(names[side]),
               "bytes": 2_491_874_272}
        for side in sides
    }
    options = {"temperature": 0.0, "top_p": 0.9, "top_k": 40, "seed": 42, "num_ctx": 4096, "num_predict": 512}
    return {"made_at": "2026-11-23T10:15:00+00:00", "engine": "ollama", "options": options, "models": models,
            "verification": "../gguf/verification.json"}


def make_summary(config: Config, results: Results, **conditions: object) -> dict:
    """summary.json of made-up results; `conditions` beside the usual ones, such as limit=10."""
    return summarise(config, results, make_conditions(list(results.speed)) | conditions)
