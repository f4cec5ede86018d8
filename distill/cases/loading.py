"""Every set of questions that one evaluation asks, and the answers of a finished one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.cases.case_set import CaseSet, SetName
from distill.cases.general import make_general_set
from distill.cases.golden import make_golden_set
from distill.cases.heldout import make_heldout_set
from distill.cases.memory import make_memory_set
from distill.cases.own import make_own_set
from distill.cases.retrieving import Retriever
from distill.config import Config, name_path
from distill.errors import PipelineError
from distill.files import read_json, read_jsonl, sha256_file
from distill.manifest import FILE_NAME
from distill.records import Answer, ModelSide, TrainingExample, load_examples

if TYPE_CHECKING:
    from distill.index.embedders import Embedder

Answers = dict[tuple[SetName, ModelSide], list[Answer]]


def load_heldout(path: Path) -> list[TrainingExample]:
    """The held-out rows. Raises PipelineError when there are none, or two with one id."""
    examples = load_examples(path)
    if not examples:
        raise PipelineError(f"{path} holds no rows: raise generate.heldout_share, run  python generate_training_data.py  again")
    if len({example.id for example in examples}) != len(examples):
        raise PipelineError(f"{path} holds two rows with one id: run  python generate_training_data.py  again")
    return examples


def require_unseen(config: Config, training: Mapping[str, Any], gguf: Mapping[str, Any]) -> bool:
    """Whether the tuned model is known to be trained on this train.jsonl; where nobody knows, a [WARN].

    Raises PipelineError when the tuned model saw another train.jsonl: held-out rows may have been in it.
    """
    path = config.adapters_dir / FILE_NAME
    name, data = name_path(path, config.work_dir), name_path(config.training_dir / "train.jsonl", config.work_dir)
    if not path.is_file() or sha256_file(path) != gguf["manifests"].get(name):
        print(f"[WARN] {name} is not the one that gguf/ was made from: nobody can tell whether the model saw held-out rows")
        return False
    adapters = read_json(path)
    trained, present = ({file["path"]: file["sha256"] for file in files} for files in (adapters["inputs"], training["outputs"]))
    if trained.get(data) != present.get(data):
        raise PipelineError(
            f"gguf/ was trained on another {data} and may have seen held-out questions: "
            "run  python finetune.py --overwrite  and  python export_gguf.py --overwrite"
        )
    return True


# -----------------------------------------------------------------------------
# Questions


def load_sets(config: Config, embedder: Embedder, limit: int | None) -> list[CaseSet]:
    """The held-out questions, and the other sets that config.evaluate asks for; at most `limit` questions of each.

    Raises PipelineError from rows, cases and index.
    """
    heldout, trained = load_heldout(config.training_dir / "heldout.jsonl"), load_examples(config.training_dir / "train.jsonl")
    sets = [
        make_heldout_set(config, heldout, embedder),
        make_own_set(config, [text for row in trained for text in (row.instruction, row.question)], embedder),
        make_golden_set(config, Retriever(config)),
        make_general_set(config) if config.evaluate.general_questions else None,
        make_memory_set(config),
    ]
    return [replace(cases, questions=cases.questions[:limit]) for cases in sets if cases and cases.questions]


def describe_sets(sets: Sequence[CaseSet]) -> str:
    """One line for the console."""
    return "[OK] " + ", ".join(f"{cases.title}: {len(cases.questions)}" for cases in sets)


# -----------------------------------------------------------------------------
# Answers of a finished evaluation


def load_answers(path: Path, sets: Sequence[CaseSet]) -> Answers:
    """What answers.jsonl holds, in the order of the questions. Raises PipelineError when it is about other questions."""
    found = {(row["set"], row["side"], row["example_id"]): Answer(**row) for _, row in read_jsonl(path)}
    sides = {(name, side) for name, side, _ in found}
    try:
        return {
            (cases.name, side): [found[cases.name, side, question.id] for question in cases.questions]
            for cases in sets for name, side in sorted(sides) if name == cases.name
        }
    except KeyError:
        raise PipelineError(f"{path} holds answers to other questions: evaluate again with --overwrite") from None
