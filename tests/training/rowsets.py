"""Finished training_data/ folders, made by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.config import Config, load_config
from distill.files import write_jsonl_atomic
from distill.manifest import write_manifest
from distill.prompts import render_prompt
from distill.records import Chunk, TrainingExample

PROMPT_KEYS = ("system", "template", "source_format", "source_separator", "citation", "refusal", "general_knowledge")
SUBJECTS = (
    "pump", "valve", "gauge", "filter", "antenna", "relay", "turbine", "boiler", "sensor", "cable", "motor", "flange", "seal",
    "router", "battery", "compressor", "ladder", "crane", "tank", "hose",
)
TASKS = ("inspect", "replace", "clean", "store", "label", "ground", "calibrate", "paint", "weigh", "order", "count", "lift")


def make_example(number: int, source: str = "", **changes: Any) -> TrainingExample:
    """Row `number`: a question unlike that of any other below 240, with two chunks of `source`, or of a document of its own."""
    subject, task = SUBJECTS[number % len(SUBJECTS)], TASKS[number // len(SUBJECTS)]
    source = source or f"docs/{task}_{subject}.md"
    question = f"{task.capitalize()} the {subject}: which tool?"
    chunks = [Chunk(f"{source}#{part}", source, f"Part {part} on the {subject}.", 0.9 - part / 10) for part in (1, 2)]
    rendered = render_prompt(Config().prompt, question, chunks)
    row = TrainingExample(
        id=f"{task}-{subject}", instruction=rendered.instruction, context=rendered.context, question=question,
        output=f"Tool {number}. [Source 1]", category=task, golden=(f"{source}#1",), num_chunks=2, answerable=True,
    )
    return row.model_copy(update=changes)


def make_config(folder: Path, encrypt: bool = False, **sections: Any) -> Config:
    """config.yaml in a new folder, its work_dir work/ beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps({"work_dir": "work", "encrypt": encrypt, **sections}), encoding="utf-8")
    return load_config(path)


def write_set(config: Config, train: Sequence[TrainingExample], heldout: Sequence[TrainingExample] = ()) -> Path:
    """training_data/ as generate_training_data.py leaves it; returns the folder."""
    outputs = [config.training_dir / name for name in ("train.jsonl", "heldout.jsonl")]
    for path, rows in zip(outputs, (train, heldout)):
        write_jsonl_atomic(path, (row.model_dump(mode="json") for row in rows), private=True, encrypt=config.encrypt)
    write_manifest(
        config.training_dir, made_by="generate_training_data.py", config=config, sections=[], inputs=[], outputs=outputs,
        fixed={f"prompt.{key}": getattr(config.prompt, key) for key in PROMPT_KEYS}, counts={}, started=time.time(),
    )
    return config.training_dir
