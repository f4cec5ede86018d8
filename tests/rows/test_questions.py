from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.rows.questions import load_questions

GOOD = """\
# a comment
questions:
  - category: RF Engineering
    items:
      - "What is foF2?"
      - >-
        A question over
        two lines?
  - category: Security
    items: ["Who may read the log?"]
"""


def write(folder: Path, text: str) -> Path:
    """A questions file with this text."""
    path = folder / "questions.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_questions_come_in_order_with_category_and_line(tmp_path: Path) -> None:
    questions = load_questions(write(tmp_path, GOOD))
    assert [(question.text, question.category) for question in questions] == [
        ("What is foF2?", "RF Engineering"),
        ("A question over two lines?", "RF Engineering"),
        ("Who may read the log?", "Security"),
    ]
    assert [question.line for question in questions] == [5, 6, 10]


def test_powershells_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "questions.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert len(load_questions(path)) == 3


@pytest.mark.parametrize(("text", "message"), [
    ("", "must hold questions:"),
    ("- a\n- b\n", "must hold questions:"),
    ("questions: 3\n", "must hold questions:"),
    ("questions: []\n", "holds no question"),
    ("question:\n  - category: a\n", "must hold questions:"),
    ("questions:\n  - just text\n", r":2 a category must hold category and items only \(given: \)"),
    ("questions:\n  - category: a\n    item: [b]\n", r":2 a category must hold .* \(given: category, item\)"),
    ("questions:\n  - category: a\n    items: []\n", ":3 items of a must be a list"),
    ("questions:\n  - category: a\n    items: one?\n", ":3 items of a must be a list"),
    ("questions:\n  - category: 5\n    items: [a]\n", ":2 category must be a name"),
    ("questions:\n  - category: a\n    items:\n      - What is it: a bird?\n", ":4 a question must be text in double quotes"),
    ("questions:\n  - category: a\n    items:\n      - \"ok?\"\n      - 12\n", ":5 a question must be text"),
    ("questions:\n  - category: a\n    items:\n      - \"  \"\n", ":4 a question must be text"),
    ("questions:\n  - category: a\n    items:\n      - \"D:\\Files?\"\n", ":4 .*forward slashes"),
    ("questions:\n\t- category: a\n", ":2 a tab"),
    ("questions: [", ":1 is not YAML"),
])
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=rf"questions\.yaml.*{message}"):
        load_questions(write(tmp_path, text))


def test_duplicates_are_all_named_whatever_their_case_and_category(tmp_path: Path) -> None:
    text = GOOD + '      # again\n' + '  - category: Again\n    items: ["what  is FOF2?", "who may read the log?"]\n'
    with pytest.raises(PipelineError) as caught:
        load_questions(write(tmp_path, text))
    first, second = str(caught.value).splitlines()
    assert "repeats the question of line 5: what is FOF2?" in first and "repeats the question of line 10" in second


def test_a_missing_file_says_which_key_names_it(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"absent\.yaml is missing: .*generate\.questions_file"):
        load_questions(tmp_path / "absent.yaml")


def test_the_projects_own_questions_load() -> None:
    questions = load_questions(Path(__file__).parents[2] / "domain_questions.yaml")
    counts = Counter(question.category for question in questions)
    assert set(counts) == {
        "RF Engineering", "Defense Security and Compliance", "AI and RAG Systems", "Python and Software Engineering"
    }
    assert min(counts.values()) >= 60
