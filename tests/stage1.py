"""A small world for stage 1: twelve documents in a real index, two dozen questions, a config, and the script as a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import generate_training_data
from demo.build_index import build_index
from tests.servers import OllamaServer, TeacherServer, embed_words, question_of

ROOT = Path(__file__).parents[1]
KEY_NAME = "TEST_TEACHER_KEY"
UNITS = ("pump", "valve", "antenna", "modem", "router", "sensor", "battery", "heater", "mixer", "filter", "cable", "laser")
ASPECTS = {"limit": "Thermal", "colour": "Looks"}


def write_document(unit: str, row: int) -> str:
    """A document of three paragraphs, one per chunk."""
    return "\n\n".join([
        f"The {unit} limit is {row + 20} degrees. Nobody may run the {unit} above its limit for longer.",
        f"The {unit} colour is shade {row}. The {unit} is painted in this colour on every side.",
        f"The {unit} log lists each {unit} check. It is kept for {row + 1} years by the {unit} crew.",
    ])


DOCUMENTS = [(rf"D:\docs\{unit}.md", write_document(unit, row)) for row, unit in enumerate(UNITS)]
SENTENCE = re.compile(r"[A-Z][^.\n]*\.")
QUESTIONS = {category: [f"What is the {unit} {aspect}?" for unit in UNITS] for aspect, category in ASPECTS.items()}


def answer_from_sources(body: Any) -> str:
    """A teacher that reads: the sentence on the question's unit and aspect, or else the first one, cited."""
    text = body["messages"][-1]["content"]
    asked = " ".join(question_of(body).rstrip("?").split()[-2:])
    sources = re.split(r"\[Source \d+\] ", text.rsplit("Question: ", 1)[0])[1:]
    cited = [
        f"{sentence} [Source {number}]" for number, source in enumerate(sources, 1) for sentence in SENTENCE.findall(source)
    ]
    return next((each for each in cited if each.startswith(f"The {asked} is")), [*cited, "Nothing is said of it."][0])


# Plain rows, for the tests of everything else: the sources as they were found, best first.
PLAIN = {"retrieval": "vector", "context": {"near_misses": 0, "shuffle": False, "golden_less_share": 0}}


@dataclass(frozen=True)
class World:
    """A folder with config.yaml, questions and index; work_dir is below it."""

    folder: Path

    @property
    def config(self) -> Path:
        """The config file."""
        return self.folder / "config.yaml"

    @property
    def training(self) -> Path:
        """Stage 1's output folder."""
        return self.folder / "work" / "training_data"

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A JSONL file of the output folder."""
        return [json.loads(line) for line in (self.training / name).read_text(encoding="utf-8").splitlines()]

    def all_rows(self) -> list[dict[str, Any]]:
        """Both sides, without what differs from run to run."""
        rows = [*self.rows("train.jsonl"), *self.rows("heldout.jsonl")]
        return [{key: value for key, value in row.items() if key != "timestamp"} for row in rows]

    def manifest(self) -> dict[str, Any]:
        """Stage 1's manifest."""
        return json.loads((self.training / "manifest.json").read_text(encoding="utf-8"))

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        """The script, as a user starts it."""
        command = [sys.executable, "generate_training_data.py", "--config", str(self.config), *options]
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, *options: str, **environment: str) -> str:
        """The script's output; fails the test unless it ends well."""
        process = self.start(*options, **environment)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        return output


def make_world(
    folder: Path, ollama: OllamaServer, teacher: TeacherServer | None = None, generate: dict[str, Any] | None = None,
    **changes: Any,
) -> World:
    """A world whose teacher is a server, or the extractive one; `changes` go to the teacher section, `generate` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    build_index(folder / "index", DOCUMENTS, embed_words, chunk_characters=110, overlap=0)
    questions = [{"category": category, "items": items} for category, items in QUESTIONS.items()]
    (folder / "questions.yaml").write_text(yaml.safe_dump({"questions": questions}), encoding="utf-8")
    kind = {"provider": "openai", "base_url": teacher.url} if teacher else {"provider": "extractive"}
    section = {
        "questions_file": "questions.yaml", "index_folder": "index", "top_k": 2, "min_score": 0.1, "heldout_share": 0.25,
        "embedder": {"base_url": ollama.base_url}, **PLAIN,
        "teacher": {**kind, "model": "teacher-1", "api_key_env": KEY_NAME, "requests_per_minute": 60_000, **changes},
        **(generate or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"work_dir": "work", "generate": section}), encoding="utf-8")
    return World(folder)


def call(monkeypatch: pytest.MonkeyPatch, world: World, *options: str) -> None:
    """The script's main in this process: as fast as the tests of its many endings want it."""
    monkeypatch.setattr(sys, "argv", ["generate_training_data.py", "--config", str(world.config), *options])
    generate_training_data.main()


def edit(world: World, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.yaml through a function on its values."""
    values = yaml.safe_load(world.config.read_text(encoding="utf-8"))
    change(values)
    world.config.write_text(yaml.safe_dump(values), encoding="utf-8")
