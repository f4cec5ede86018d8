"""domain_questions.yaml: the questions, by category."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from distill.config import explain_yaml
from distill.errors import PipelineError
from distill.files import read_text
from distill.prompts import normalise

FORMAT = "questions:, a list of  - category: NAME  with  items:, a list of questions in double quotes"
Problem = tuple[int, str]


@dataclass(frozen=True)
class Question:
    """One question and where it stands."""

    text: str
    category: str
    line: int


def load_questions(path: Path) -> list[Question]:
    """The questions in the file's order. Raises one PipelineError that names every problem with its line."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: write your questions there, or mend generate.questions_file")
    problems: list[Problem] = []
    questions = [
        question
        for category in read_categories(compose(path), path)
        for question in read_category(category, problems)
    ]
    problems += find_duplicates(questions)
    if problems:
        problems.sort(key=lambda problem: problem[0])
        raise PipelineError("\n       ".join(f"{path}:{line} {text}" for line, text in problems))
    if not questions:
        raise PipelineError(f"{path} holds no question: it needs {FORMAT}")
    return questions


def compose(path: Path) -> yaml.Node | None:
    """The file as YAML nodes, which know their lines."""
    try:
        return yaml.compose(read_text(path), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PipelineError(f"{path}:{line} {explain_yaml(error)}") from None
    except yaml.YAMLError as error:
        raise PipelineError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def read_categories(root: yaml.Node | None, path: Path) -> list[yaml.Node]:
    """The nodes below `questions:`. Raises PipelineError when the file has another shape."""
    keys = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    categories = keys.get("questions")
    if list(keys) != ["questions"] or not isinstance(categories, yaml.SequenceNode):
        raise PipelineError(f"{path} must hold {FORMAT}")
    return categories.value


def read_category(node: yaml.Node, problems: list[Problem]) -> Iterator[Question]:
    """The questions of one category; what is wrong with it is added to `problems`."""
    fields = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
    name, items = fields.get("category"), fields.get("items")
    if set(fields) != {"category", "items"}:
        return problems.append((line_of(node), f"a category must hold category and items only (given: {', '.join(fields)})"))
    if not is_text(name):
        return problems.append((line_of(name), "category must be a name"))
    if not isinstance(items, yaml.SequenceNode) or not items.value:
        return problems.append((line_of(items), f"items of {name.value} must be a list of questions"))
    for item in items.value:
        if is_text(item):
            yield Question(" ".join(item.value.split()), name.value.strip(), line_of(item))
        else:
            problems.append((line_of(item), "a question must be text in double quotes"))


def is_text(node: yaml.Node | None) -> bool:
    """Whether a node is a scalar that YAML reads as text, and not blank."""
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str" and bool(node.value.strip())


def line_of(node: yaml.Node) -> int:
    """Where a node begins, counted from 1."""
    return node.start_mark.line + 1


def find_duplicates(questions: list[Question]) -> list[Problem]:
    """A problem for each question that repeats an earlier one, whatever its case and spacing."""
    first: dict[str, int] = {}
    return [
        (question.line, f"repeats the question of line {first[normalise(question.text)]}: {question.text[:60]}")
        for question in questions
        if first.setdefault(normalise(question.text), question.line) != question.line
    ]
