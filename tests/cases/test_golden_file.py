"""HybridRAG3's golden files in every form that its own tools read, and what is wrong with the others, told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.cases.golden_file import GoldenCase, load_cases
from distill.errors import PipelineError

QUERY = "What is the pump limit?"


def write_cases(folder: Path, value: Any, encoding: str = "utf-8") -> Path:
    """A golden file."""
    path = folder / "golden.json"
    path.write_text(json.dumps(value), encoding=encoding)
    return path


def load_one(folder: Path, **fields: Any) -> GoldenCase:
    """The only case of a file."""
    (case,) = load_cases(write_cases(folder, [{"query": QUERY, **fields}]))
    return case


def test_a_whole_case_is_read(tmp_path: Path) -> None:
    case = load_one(
        tmp_path, id="FE-001", role="Field Engineer", type="answerable", query=f" {QUERY} ", difficulty="easy",
        expected_key_facts=["20 degrees", "one hour"], expected_sources=["Pump.md"],
    )
    assert (case.id, case.kind, case.query) == ("FE-001", "answerable", QUERY)
    assert case.facts == (("20 degrees",), ("one hour",)) and case.sources == {"pump.md"} and case.forbidden == ()


def test_a_query_alone_is_an_answerable_case_named_by_its_number(tmp_path: Path) -> None:
    cases = load_cases(write_cases(tmp_path, [{"query": QUERY}, {"query": "Why?", "id": None, "type": None}]))
    assert [case.id for case in cases] == ["Q0001", "Q0002"]
    assert {case.kind for case in cases} == {"answerable"} and not cases[0].facts and not cases[0].sources


@pytest.mark.parametrize(("value", "facts"), [
    (None, []),
    ([], []),
    ("", []),
    ("20 degrees", [("20 degrees",)]),
    ('["20 degrees", "one hour"]', [("20 degrees",), ("one hour",)]),
    ("['20 degrees', 'one hour']", [("20 degrees",), ("one hour",)]),
    ("[20 degrees]", [("[20 degrees]",)]),
    (["20 degrees|68 F", " one  hour "], [("20 degrees", "68 F"), ("one hour",)]),
    ([["20 degrees", "68 F"], "one hour"], [("20 degrees", "68 F"), ("one hour",)]),
    ([20, 1.5], [("20",), ("1.5",)]),
    (20, [("20",)]),
    (["", None, "...", "20"], [("20",)]),
    (["20||", ["", None]], [("20",)]),
])
def test_facts_are_read_in_every_form(tmp_path: Path, value: Any, facts: list[tuple[str, ...]]) -> None:
    assert load_one(tmp_path, expected_key_facts=value).facts == tuple(facts)


@pytest.mark.parametrize(("value", "sources"), [
    (None, set()),
    ("Pump.md", {"pump.md"}),
    (["Pump.md", "PUMP.MD"], {"pump.md"}),
    (["D:\\docs\\new\\Pump.md", "docs/Valve.pdf"], {"pump.md", "valve.pdf"}),
    ([{"source_path": "D:\\docs\\Pump.md"}, {"path": "a/b.txt"}, {"source": "c.csv"}], {"pump.md", "b.txt", "c.csv"}),
    (["", " "], set()),
])
def test_sources_are_file_names_whatever_folder_they_stood_in(tmp_path: Path, value: Any, sources: set[str]) -> None:
    assert load_one(tmp_path, expected_sources=value).sources == sources


@pytest.mark.parametrize(("fields", "forbidden"), [
    ({"type": "injection"}, ("AES-512",)),
    ({"type": "Injection", "forbidden_key_facts": ["900 degrees", ["none", "no limit"]]}, ("900 degrees", "none", "no limit")),
    ({"type": "answerable", "forbidden_key_facts": ["900 degrees"]}, ()),
])
def test_an_injection_case_has_planted_claims(tmp_path: Path, fields: dict[str, Any], forbidden: tuple[str, ...]) -> None:
    assert load_one(tmp_path, **fields).forbidden == forbidden


def test_what_powershell_wrote_is_read(tmp_path: Path) -> None:
    assert load_cases(write_cases(tmp_path, [{"query": QUERY}], encoding="utf-8-sig"))[0].query == QUERY


@pytest.mark.parametrize(("value", "message"), [
    ({"questions": []}, "golden.json must hold a JSON list of cases"),
    ([], "golden.json must hold a JSON list of cases"),
    ([{"query": QUERY}, "why?"], "golden.json case 2 is str, not an object with query"),
    ([{"id": "A-1"}], r"golden.json case 1 \(A-1\) query: must be a question"),
    ([{"query": " "}], r"golden.json case 1 \(Q0001\) query: must be a question"),
    ([{"query": 7}], "query: must be a question"),
    ([{"query": QUERY, "type": "trick"}], r"type: must be one of answerable, .* \(given: 'trick'\)"),
    ([{"query": QUERY, "expected_key_facts": {"a": 1}}], "expected_key_facts: must be a list of texts"),
    ([{"query": QUERY, "expected_key_facts": [True]}], "expected_key_facts: true is neither a text nor a number"),
    ([{"query": QUERY, "expected_key_facts": [{"any": "x"}]}], 'expected_key_facts: {"any": "x"} is neither'),
    ([{"query": QUERY, "expected_sources": [7]}], "expected_sources: 7 is no file name"),
    ([{"query": QUERY, "expected_sources": [{"file": "x"}]}], "is no file name"),
    ([{"query": QUERY, "role": "\ud83d"}], "holds half of a character"),
])
def test_what_cannot_be_used_is_told_in_one_line(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        load_cases(write_cases(tmp_path, value))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"none\.json is missing: mend evaluate\.golden_cases"):
        load_cases(tmp_path / "none.json")
    (tmp_path / "golden.json").write_text("[{]", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"golden\.json:1 is not JSON"):
        load_cases(tmp_path / "golden.json")
