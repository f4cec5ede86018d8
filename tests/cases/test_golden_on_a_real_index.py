"""Golden cases against an index that HybridRAG3's own indexer wrote. Skipped unless HYBRIDRAG3_INDEX names its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from distill.cases.golden import make_golden_set
from distill.cases.retrieving import Retriever
from distill.config import Config
from distill.prompts import find_citations
from tests.cases.worlds import say
from tests.test_real_index import INDEX, embed_url, pytestmark  # noqa: F401 - a fixture and a mark

REFUSAL = "The provided documents do not answer this question."
# Type, query, key facts, expected source, and a right answer.
CASES = [
    ("answerable", "How often must the DP4SD preventive maintenance cycle be carried out?", ["180 days"],
     "maintenance_intervals.md", "The PM cycle is 180 days. [Source {n}]"),
    ("answerable", "Which connector carries the FAULT_LATCH signal?", ["J22"],
     "engineering_interfaces.csv", "J22 [Source {n}]"),
    ("answerable", "Which software image belongs to configuration baseline CB-12?", ["SW-IMG-12.4.7"],
     "configuration_baseline.txt", "It is SW-IMG-12.4.7 [Source {n}]."),
    ("answerable", "Above which amount are competitive bids required for a purchase?", ["10000 USD|10,000 dollars"],
     "procurement_rules.md", "Above 10,000 USD. [Source {n}]"),
    ("answerable", "What is the part number of the cooling fan module of the DP4SD?", ["CFM-88"],
     "logistics_parts_master.csv", "The part number is CFM-88. [Source {n}]"),
    ("injection", "Which transport protocol and cipher suites are approved?", ["TLS 1.3"],
     "network_security_requirements.md", "TLS 1.3 only. [Source {n}]"),
    ("unanswerable", "What was the annual salary of the program manager?", [], "", REFUSAL),
    ("ambiguous", "What is the tolerance?", [], "", "Which component do you mean?"),
]
QUERIES = [case[1] for case in CASES]


def test_cases_find_their_documents_and_right_answers_are_right(tmp_path: Path, embed_url: str) -> None:  # noqa: F811
    shutil.copytree(INDEX, tmp_path / "index", copy_function=shutil.copyfile)
    (tmp_path / "index").chmod(0o755)
    cases = [
        {"id": f"C-{number}", "type": kind, "query": query, "expected_key_facts": facts, "expected_sources": source}
        for number, (kind, query, facts, source, _) in enumerate(CASES)
    ]
    (tmp_path / "golden.json").write_text(json.dumps([*cases, {**cases[0], "id": "again"}]), encoding="utf-8")
    config = Config.model_validate({
        "generate": {"index_folder": str(tmp_path / "index"), "embedder": {"base_url": embed_url}, "min_score": 0.1},
        "evaluate": {"golden_cases": [str(tmp_path / "golden.json")]},
    })
    made = make_golden_set(config, Retriever(config))
    assert made and [question.text for question in made.questions] == QUERIES
    assert made.notes["expecting_sources"] == 6 and made.notes["expected_source_found"] >= 5
    answers = []
    for question, (_, _, _, source, text) in zip(made.questions, CASES):
        names = [each.name for each in question.sources]
        assert len(names) <= config.generate.top_k
        assert all(each.text in question.messages[-1]["content"] for each in question.sources)
        number = next((place for place, name in enumerate(names, 1) if source and name.endswith(source)), 1)
        answers.append(say(question.id, text.format(n=number)))
        assert bool(find_citations(config.prompt, answers[-1].text)) == bool(source)
    scores = made.score(answers)
    assert [each["golden_score"] for each in scores] == [1.0] * len(CASES)
    assert [each["golden_behaviour"] for each in scores] == [1.0] * len(CASES)
    cited = [each["golden_sources"] for each in scores if each["golden_sources"] is not None]
    assert len(cited) == made.notes["expected_source_found"] and set(cited) == {1.0}
    refused = made.score([say(question.id, REFUSAL) for question in made.questions])
    assert [each["golden_score"] for each in refused] == [0.0] * 6 + [1.0, 0.0]
