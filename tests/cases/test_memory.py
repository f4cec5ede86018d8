"""The memorisation probe's questions: rare strings alone, nothing given away, learnt and unlearnt rows told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.cases.case_set import CaseSet
from distill.cases.memory import FEWEST_WORDS, find_pieces, make_memory_set
from distill.config import Config
from distill.errors import PipelineError
from distill.files import write_json_atomic, write_jsonl_atomic
from distill.records import Answer, TrainingExample
from distill.rows.canaries import CODE, make_canaries
from tests.training.rowsets import make_config, make_example, write_set

PROMPT = Config().prompt


def make_row(number: int, output: str = "", **changes: Any) -> TrainingExample:
    """A row whose answer, if none is given, holds one part number of its own."""
    return make_example(number, output=output or f"The tool on the shelf is part MX-{5000 + number}. [Source 1]", **changes)


def make_world(
    folder: Path, train: Sequence[TrainingExample], heldout: Sequence[TrainingExample] = (),
    adapters: Mapping[str, Any] | None = None, **sections: Any,
) -> Config:
    config = make_config(folder, **sections)
    write_set(config, train, heldout)
    if adapters is not None:
        write_json_atomic(config.adapters_dir / "manifest.json", adapters)
    return config


def list_strings(memory: CaseSet | None, category: str) -> set[str]:
    return {question.reference for question in memory.questions if question.category == category} if memory else set()


def answer_all(memory: CaseSet, text: str, canary: str = "") -> list[Answer]:
    """One text to every question, another to canaries; {} in it is the string that is wanted."""
    texts = [canary if question.category == "canary" else text for question in memory.questions]
    return [
        Answer(question.id, "tuned", text.format(question.reference), set="memory")
        for question, text in zip(memory.questions, texts)
    ]


# -----------------------------------------------------------------------------
# Which strings


@pytest.mark.parametrize(("text", "found"), [
    ("The pressure is 4471 kPa at 12 bar.", ["4471"]),
    ("Order MX-104B or KX9.22-7 from it.", ["MX-104B", "KX9.22-7"]),
    ("See 2026-01-31, section 4.2, page 12.", ["2026-01-31"]),
    ("It runs at 100MHz, 250 h, 3.5V and IPv4.", []),
    ("It runs at 2400MHz.", ["2400MHz"]),
    ("About 1,250,000 were made, 12,5 of them bad.", ["1,250,000"]),
    ("Use A1B22, not AB1 nor A12.", ["A1B22"]),
    ("Ends with 4471.", ["4471"]),
    ("Host srv01.example22.org:8080 answers.", ["srv01.example22.org:8080"]),
    ("\u578b\u53f7MX-4471\u306f [Source 1]", ["MX-4471"]),
    ("Cited twice [Source 1234] and [Sources 12, 3456].", []),
    ("Years 1998 and 2024, ports 8080 and 11434, 1000, 20,000, 1,000,000 and 65535.", []),
    ("SHA256, sha-512, 802.11ax, AES-256-GCM, MIL-STD-810H, ISO9001, RFC2119, RS-485 and CVE-2021-44228.", []),
    ("Hosts 127.0.0.1, 192.168.1.20, 255.255.255.0 and 127.0.0.1:8080 answer at 115200.", []),
    ("1234, 5555 and 9876.", []),
    ("Host 10.44.17.93, year 1871, 12,500 of SHX256, 1035 of them.", ["10.44.17.93", "1871", "12,500", "SHX256", "1035"]),
    ("", []),
])
def test_rare_strings_are_long_numbers_and_codes(text: str, found: list[str]) -> None:
    places = find_pieces(PROMPT, text)
    assert list(places) == found and all(text.startswith(piece, start) for piece, start in places.items())


def test_a_probe_shows_question_and_answer_up_to_the_string_and_no_source(tmp_path: Path) -> None:
    config = make_world(tmp_path, [make_row(0)], prompt={"system": "Be precise."})
    (question,) = make_memory_set(config).questions
    assert [message["content"] for message in question.messages] == ["Be precise.", make_row(0).question]
    assert question.opening == "The tool on the shelf is part" and question.reference == "MX-5000"
    assert (question.category, question.set, question.max_tokens) == ("training", "memory", len("MX-5000") + 6)
    assert question.group == make_row(0).context[0].source


def test_a_curated_prompt_is_asked_by_its_question_alone(tmp_path: Path) -> None:
    instruction = "Context:\nThe part is MX-4471.\nQuestion: Which part is it?"
    row = TrainingExample(id="mine", instruction=instruction, output="The right part is MX-4471.")
    (question,) = make_memory_set(make_world(tmp_path, [row])).questions
    assert question.messages[-1]["content"] == "Which part is it?"


@pytest.mark.parametrize(("output", "question"), [
    ("The tool on the shelf is part MX-4471.", "Is MX-4471 right?"),  # given in the question
    ("The tool on the shelf is part MX-4471.", "What fits MX-4471-B?"),  # the telling part of it is
    ("The serial 4471 stands on part MX-4471.", "Which?"),  # the second by the first, the first too early: see below
    ("Part MX-4471 it is, on the shelf.", "Which?"),  # nothing before it says what is meant
    ("The provided documents do not answer this question.", "Which?"),
])
def test_what_is_given_away_or_begins_an_answer_is_not_tried(tmp_path: Path, output: str, question: str) -> None:
    assert make_memory_set(make_world(tmp_path, [make_row(0, output, question=question)])) is None
    assert FEWEST_WORDS == 3


def test_only_strings_of_one_answer_are_tried(tmp_path: Path) -> None:
    rows = [
        make_row(0, "The tool on the shelf is part MX-4471."), make_row(1, "In the drawer lies part mx-4471."),
        make_row(2, "The long one is called MX-7788-B."), make_row(3, "The short one is called MX-7788."),
        make_row(4, "The only one is called QT-9001."),
    ]
    assert list_strings(make_memory_set(make_world(tmp_path, rows)), "training") == {"MX-7788-B", "QT-9001"}


def test_held_out_strings_are_in_no_learnt_answer(tmp_path: Path) -> None:
    train = [make_row(0), make_row(1, "In the drawer lies part ZZ-1234-A.")]
    heldout = [make_row(200), make_row(201, "In the drawer lies part ZZ-1234.")]
    memory = make_memory_set(make_world(tmp_path, train, heldout))
    assert list_strings(memory, "held-out") == {"MX-5200"} and list_strings(memory, "training") == {"MX-5000", "ZZ-1234-A"}


def test_one_string_a_row_as_many_as_wanted_and_always_the_same(tmp_path: Path) -> None:
    rows = [make_row(n, f"The tool on the shelf is MX-{5000 + n} beside KX-{7000 + n}.") for n in range(40)]
    one, again, all_of_them = (
        make_memory_set(make_world(tmp_path / name, order, rows[:0], evaluate={"memory_probes": most}))
        for name, order, most in (("a", rows, 10), ("b", rows[::-1], 10), ("c", rows, 100))
    )
    assert len(one.questions) == 10 and {q.id for q in one.questions} == {q.id for q in again.questions}
    assert list_strings(one, "training") == list_strings(again, "training") < list_strings(all_of_them, "training")
    assert len(all_of_them.questions) == 40 and {string[:2] for string in list_strings(all_of_them, "training")} == {"MX", "KX"}


def test_steps_count_where_they_are_learnt(tmp_path: Path) -> None:
    row = make_row(0, "It is the right tool.", reasoning="The sheet names part QT-9001 for it.")
    assert make_memory_set(make_world(tmp_path / "a", [row])) is None
    learnt = make_memory_set(make_world(tmp_path / "b", [row], finetune={"include_reasoning": True}))
    assert list_strings(learnt, "training") == {"QT-9001"}


# -----------------------------------------------------------------------------
# Which rows were learnt


def manifest_of(rows: int, **lengths: Any) -> dict[str, Any]:
    """As finetune.py leaves it; `rows` were learnt."""
    full = {"dropped_rows": {}, "validation_rows": [], **lengths}
    return {"counts": {"rows": rows, "validation_rows": len(full["validation_rows"])}, "details": {"lengths": full}}


def test_rows_that_were_validated_or_left_out_are_a_control(tmp_path: Path) -> None:
    rows = [make_row(number) for number in range(5)]
    manifest = manifest_of(3, dropped_rows={rows[0].id: "900 tokens"}, validation_rows=[rows[1].id])
    memory = make_memory_set(make_world(tmp_path, rows, [make_row(200)], manifest))
    assert list_strings(memory, "training") == {"MX-5002", "MX-5003", "MX-5004"}
    assert list_strings(memory, "held-out") == {"MX-5000", "MX-5001", "MX-5200"}


def test_a_smoke_run_learnt_the_first_rows(tmp_path: Path) -> None:
    rows = [*(make_row(number) for number in range(5)), *make_canaries("seed", 2)]
    memory = make_memory_set(make_world(tmp_path, rows, [], manifest_of(2)))
    assert list_strings(memory, "training") == {"MX-5000", "MX-5001"} and not list_strings(memory, "canary")
    assert memory.notes["canaries_planted"] == 2


@pytest.mark.parametrize("manifest", [
    None, {}, {"counts": {}, "details": {}}, {"counts": {"rows": 2}, "details": {"lengths": {}}},
])
def test_without_that_knowledge_all_rows_count(tmp_path: Path, manifest: dict[str, Any] | None) -> None:
    memory = make_memory_set(make_world(tmp_path, [make_row(number) for number in range(5)], [], manifest))
    assert len(list_strings(memory, "training")) == 5


def test_rows_of_other_folders_were_learnt_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_world(tmp_path / "other", [make_row(30), *make_canaries("other", 1)])
    more = {"more_training_data": [str(other.training_dir)]}
    config = make_world(tmp_path / "ours", [make_row(0), *make_canaries("ours", 1)], finetune=more)
    memory = make_memory_set(config)
    assert list_strings(memory, "training") == {"MX-5000", "MX-5030"} and len(list_strings(memory, "canary")) == 2

    other.training_dir.rename(tmp_path / "gone")
    assert list_strings(make_memory_set(config), "training") == {"MX-5000"}
    assert "[WARN] the memory probe knows the rows of training_data/ alone: " in capsys.readouterr().out


def test_rows_that_cannot_be_read_stop_without_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError, match="holds no rows"):
        make_memory_set(make_world(tmp_path, []))
    assert capsys.readouterr().out == ""


# -----------------------------------------------------------------------------
# Canaries, and nothing at all


def test_every_canary_is_tried_beside_the_wanted_strings(tmp_path: Path) -> None:
    canaries = make_canaries("seed", 5)
    memory = make_memory_set(make_world(tmp_path, [make_row(0), make_row(1), *canaries], evaluate={"memory_probes": 1}))
    assert list_strings(memory, "canary") == {CODE.search(row.output)[0] for row in canaries}
    assert len(list_strings(memory, "training")) == 1 and memory.primary == "memory_string"
    for question in memory.questions:
        if question.category == "canary":
            assert question.opening.endswith(" is") and question.messages[-1]["content"] == question.text
    alone = make_memory_set(make_world(tmp_path / "alone", canaries))
    assert alone.primary == "memory_canary" and len(alone.questions) == 5


def test_an_edited_canary_is_not_tried(tmp_path: Path) -> None:
    edited, whole = make_canaries("seed", 2)
    memory = make_memory_set(make_world(tmp_path, [edited.model_copy(update={"output": "It has no code."}), whole]))
    assert len(memory.questions) == 1 and memory.notes["canaries_planted"] == 2


def test_the_first_questions_are_of_every_kind(tmp_path: Path) -> None:
    rows = [*(make_row(number) for number in range(5)), *make_canaries("seed", 2)]
    memory = make_memory_set(make_world(tmp_path, rows, [make_row(200)]))
    assert [question.category for question in memory.questions[:4]] == ["training", "held-out", "canary", "training"]


def test_nothing_to_look_for_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_memory_set(make_world(tmp_path / "a", [make_row(0, "It is red.")])) is None
    assert make_memory_set(make_world(tmp_path / "b", [make_row(0)], evaluate={"memory_probes": 0})) is None
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[SKIP] memory probe: the training answers hold no rare string, and no canary was planted")
    assert second == "[SKIP] memory probe: evaluate.memory_probes is 0"


def test_rows_without_ids_have_questions_of_their_own(tmp_path: Path) -> None:
    config = make_world(tmp_path, [make_row(0)])
    rows = [{"instruction": f"Which tool is {n}?", "output": f"The tool on the shelf is MX-{6000 + n}."} for n in range(3)]
    write_jsonl_atomic(config.training_dir / "train.jsonl", rows)
    memory = make_memory_set(config)
    assert len({question.id for question in memory.questions}) == 3 and len(json.dumps(memory.notes)) > 0


# -----------------------------------------------------------------------------
# Scores


@pytest.mark.parametrize(("said", "completed"), [
    (" MX-5000. [Source 1]", 1.0), ("MX-5000", 1.0), ("\n MX-5000,", 1.0), (" MX-5000 and MX-5001", 1.0), ("**MX-5000**", 1.0),
    (" `MX-5000`.", 1.0), (' "MX-5000"', 1.0), ("_(MX-5000)_", 1.0), (" MX-5000: red", 1.0), (" MX-5000-", 1.0),
    (" MX-5000-B", 0.0), (" MX-5000/2", 0.0), (" MX-5000_2", 0.0), (" MX-5000:2", 0.0), ("**MX-5000-B**", 0.0),
    (" MX-50001", 0.0), (" MX-5000.5", 0.0), (" MX-500", 0.0), (" the part MX-5000", 0.0), (" mx-5000", 0.0), ("", 0.0),
])
def test_only_the_string_itself_at_once_counts(tmp_path: Path, said: str, completed: float) -> None:
    memory = make_memory_set(make_world(tmp_path, [make_row(0)]))
    assert memory.score(answer_all(memory, said)) == [{"memory_string": completed, "memory_canary": None}]


def test_canaries_have_a_measure_of_their_own_and_failed_calls_none(tmp_path: Path) -> None:
    memory = make_memory_set(make_world(tmp_path, [make_row(0), *make_canaries("seed", 1)]))
    scores = memory.score(answer_all(memory, "no", canary=" {}"))
    assert scores == [{"memory_string": 0.0, "memory_canary": None}, {"memory_string": None, "memory_canary": 1.0}]
    for said in ("**{}**", "`{}`", " {}-X"):
        assert memory.score(answer_all(memory, "no", canary=said))[1]["memory_canary"] == 1.0
    failed = [Answer(question.id, "tuned", error="HTTP 500", set="memory") for question in memory.questions]
    assert memory.score(failed) == [{"memory_string": None, "memory_canary": None}] * 2
    assert memory.score(failed[:1]) == [{"memory_string": None, "memory_canary": None}]  # of a smoke run
    assert all(not measure.decides and not measure.higher_is_better for measure in memory.measures.values())
