"""Made-up questions and answers with known scores, and an embedder without a model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from distill.config import Config, load_config
from distill.files import sha256_text
from distill.prompts import render_prompt
from distill.records import Answer, Chunk, TrainingExample
from distill.report.results import Results, compare_answers, summarise

TOPICS = ("antenna gain", "link margin", "access control", "audit logging", "chunk overlap", "vector search", "type hints")
CATEGORIES = ("RF Engineering", "Defense Security and Compliance", "AI and RAG Systems", "Python and Software Engineering")


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
    """An answer that ended by itself, unless `fields` say otherwise."""
    return Answer(example_id=example_id, side=side, text=text, finish_reason=fields.pop("finish_reason", "stop"), **fields)


def make_results(config: Config, count: int = 36, *, same: bool = False) -> Results:
    """Tuned says what the reference says in two of three rows; base rambles. `same`: both sides answer alike."""
    examples = [make_example(config, number) for number in range(count)]
    base, tuned = [], []
    for number, example in enumerate(examples):
        rambling = f"In general the {TOPICS[number % len(TOPICS)]} depends on many things, please ask the supplier. [Source 7]"
        good = example.output if number % 3 else f"The {TOPICS[number % len(TOPICS)]} is {3 + number} units [Source 1]."
        if number % 11 == 5:
            rambling = config.prompt.refusal
        if number % 17 == 6:
            good = rambling
        base.append(make_answer(example.id, "base", rambling))
        tuned.append(make_answer(example.id, "tuned", rambling if same else good))
    return compare_answers(config, examples, {"base": base, "tuned": tuned}, WordEmbedder())


def make_conditions() -> dict:
    """As evaluate.py writes them."""
    models = {
        side: {"name": name, "file": f"gguf/{name}-q4_k_m.gguf", "sha256": sha256_text(name), "bytes": 2_491_874_272}
        for side, name in (("base", "hybridrag-phi4mini-base"), ("tuned", "hybridrag-phi4mini"))
    }
    options = {"temperature": 0.0, "top_p": 0.9, "top_k": 40, "seed": 42, "num_ctx": 4096, "num_predict": 512}
    return {"made_at": "2026-11-23T10:15:00+00:00", "engine": "ollama", "options": options, "models": models,
            "verification": "../gguf/verification.json"}


def make_summary(config: Config, results: Results) -> dict:
    """summary.json of made-up results."""
    return summarise(config, results, make_conditions())
