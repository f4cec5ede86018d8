"""Stage 1 as the user meets it: retrieval-aware rows, documents, recordings, masking, encryption, edits, the first look."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.errors import PipelineError
from distill.files import read_jsonl
from tests.servers import OllamaServer, TeacherServer, question_of
from tests.stage1 import QUESTIONS, UNITS, World, answer_from_sources, call, edit, make_world

REFUSAL = "The provided documents do not answer this question."
TOTAL = 2 * len(UNITS)
RAFT = {"retrieval": "hybrid", "context": {"near_misses": 1, "shuffle": True, "golden_less_share": 0.2}}


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    """An embedder."""
    with OllamaServer() as server:
        yield server


def answer_or_refuse(body: Any) -> str:
    """A teacher that refuses where no source tells of the question's unit and aspect."""
    asked = " ".join(question_of(body).rstrip("?").split()[-2:])
    found = answer_from_sources(body)
    return found if found.startswith(f"The {asked} is") else REFUSAL


@pytest.fixture
def teacher() -> Iterator[TeacherServer]:
    """A teacher that reads."""
    with TeacherServer(text=answer_or_refuse) as server:
        yield server


@pytest.fixture
def plain_teacher() -> Iterator[TeacherServer]:
    """A teacher that always answers."""
    with TeacherServer(text=answer_from_sources) as server:
        yield server


# -----------------------------------------------------------------------------
# Retrieval-aware rows


def test_rows_hold_near_misses_in_random_places_and_some_lack_their_document(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher, generate={**RAFT, "min_score": -1})
    call(monkeypatch, world)
    rows = world.all_rows()
    answered = [row for row in rows if row["answerable"]]
    assert all(len({span["source"] for span in row["context"]}) == 2 for row in answered), "one source is of another document"
    places = {[span["chunk_id"] for span in row["context"]].index(row["golden"][0]) for row in answered}
    assert places == {0, 1}
    lacking = [row for row in rows if row["answerable"] is False]
    assert lacking and all(row["output"] == REFUSAL and not row["golden"] and row["difficulty"] == 3 for row in lacking)
    for row in lacking:
        unit = row["question"].rstrip("?").split()[-2]
        assert unit not in row["instruction"].split("Question: ")[0], "the document that answers is not among the sources"
    asked = {row["question"] for row in answered}
    assert {row["question"] for row in lacking} <= asked, "each question is also answered from its document"


def test_an_answer_without_its_document_is_left_out(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TeacherServer(text=answer_from_sources) as teacher:
        world = make_world(tmp_path, ollama, teacher, generate={**RAFT, "min_score": -1})
        call(monkeypatch, world)
    assert not [row for row in world.all_rows() if row["answerable"] is False]
    assert {row["check"] for row in world.rows("rejected.jsonl")} == {"refusal"}


def test_no_row_lacks_its_document_where_the_template_says_nothing_of_it(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = make_world(tmp_path, ollama, teacher, generate={**RAFT, "min_score": -1})
    edit(world, lambda values: values.update(prompt={"template": "Cite [Source N].\n\n{context}\n\nQuestion: {question}"}))
    call(monkeypatch, world)
    assert {row["answerable"] for row in world.all_rows()} == {True}
    assert "[WARN] the template asks for another prompt.refusal" in capsys.readouterr().out


def test_general_knowledge_is_marked_or_left_out(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shape that HybridRAG3 ships: no refusal, a mark for what goes beyond the sources."""
    prompt = {
        "template": "Cite [Source: chunk_N]. Begin what you know yourself with prefix [General Knowledge].\n"
                    "{context}\nQuestion: {question}",
        "source_format": "--- CHUNK {number} ---\n{text}", "citation": "[Source: chunk_{number}]", "refusal": "",
        "general_knowledge": "[General Knowledge]",
    }

    def answer(body: Any) -> str:
        text = body["messages"][-1]["content"]
        unit, aspect = question_of(body).rstrip("?").split()[-2:]
        found = re.search(rf"The {unit} {aspect} is [^.]*\.", text)
        number = len(re.findall(r"--- CHUNK", text[: found.start()])) if found else 0
        if found:
            return f"{found[0]} [Source: chunk_{number}]"
        return f"[General Knowledge] The {unit} has some {aspect}." if aspect == "limit" else f"The {unit} has some {aspect}."

    with TeacherServer(text=answer) as teacher:
        world = make_world(tmp_path, ollama, teacher, generate={**RAFT, "min_score": -1})
        edit(world, lambda values: values.update(prompt=prompt))
        call(monkeypatch, world)
    lacking = [row for row in world.all_rows() if row["answerable"] is False]
    assert lacking and all(row["output"].startswith("[General Knowledge] ") for row in lacking)
    assert all("limit" in row["question"] for row in lacking) and world.manifest()["counts"]["refusals"] == 0
    left_out = [row for row in world.rows("rejected.jsonl") if "colour" in row["question"]]
    assert left_out and all(row["check"] == "refusal" for row in left_out)


# -----------------------------------------------------------------------------
# Rows from documents


def write_questions(body: Any) -> str:
    """A teacher that writes one question for each chunk of a set, and answers all others plainly."""
    if "response_format" not in body:
        return answer_or_refuse(body)
    text = body["messages"][-1]["content"]
    found = [
        (number, match) for number, source in enumerate(re.split(r"\[Source \d+\] ", text)[1:], 1)
        for match in re.findall(r"The (\w+) log lists each \w+ check\.|The (\w+) limit is (\d+) degrees\.", source)
    ]
    asked = [
        {"question": f"Which record lists every {log} check?", "answer": f"The {log} log lists each {log} check. [Source {n}]",
         "difficulty": 1} if log else
        {"question": f"Up to how many degrees may the {unit} run?", "difficulty": 2,
         "answer": f"The {unit} limit is {limit} degrees. [Source {n}]"}
        for n, (log, unit, limit) in found
    ]
    return json.dumps({"questions": asked[:2] or [
        {"question": "Which colour do the crew paint it in all over?", "answer": "It is painted. [Source 1]", "difficulty": 1}
    ]})


def test_documents_alone_make_rows_that_share_their_sources(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TeacherServer(text=write_questions) as teacher:
        world = make_world(tmp_path, ollama, teacher, generate={"documents": {"sets": 8, "questions_per_set": 2}, "top_k": 3})
        edit(world, lambda values: values["generate"].update(questions_file=None))
        call(monkeypatch, world)
        assert len([r for r in teacher.requests if "response_format" in r["body"]]) == len(teacher.requests) > 4
    rows = world.all_rows()
    assert rows and {row["origin"] for row in rows} == {"document"} and {row["category"] for row in rows} == {"Documents"}
    heads: dict[str, set[str]] = {}
    for row in rows:
        heads.setdefault(row["instruction"].split("Question: ")[0], set()).add(row["question"])
        assert row["golden"] and row["difficulty"] in (1, 2)
    assert max(map(len, heads.values())) == 2, "questions of one set share every byte before the question"


# -----------------------------------------------------------------------------
# Recorded prompts


def record(world: World, number: int, source: str, text: str, question: str) -> dict[str, Any]:
    """A prompt in the form in which HybridRAG3 sends one."""
    prompt = (
        f"Cite as [Source N]. If nothing is found, respond: \"{REFUSAL}\"\n\nContext:\n"
        f"[Source 1] {source} (chunk {number}, score=0.912)\n{text}\n\nQuestion: {question}\n\nAnswer:"
    )
    return {"path": "/api/generate", "model": "phi4-mini", "prompt": prompt, "options": {"num_ctx": 4096}}


def test_recorded_prompts_become_rows_byte_for_byte_but_for_what_is_masked(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(body: Any) -> str:
        found = re.search(r"The \w+ limit is \d+ degrees\.", body["messages"][-1]["content"])
        return f"{found[0]} [Source 1]" if found else REFUSAL

    with TeacherServer(text=answer) as teacher:
        world = make_world(tmp_path, ollama, teacher)
        recordings = [
            record(world, 0, rf"D:\docs\{unit}.md", f"The {unit} limit is {row} degrees. Ask {unit}@plant.example now.",
                   f"What does the {unit} withstand?")
            for row, unit in enumerate(UNITS, 30)
        ]
        (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in recordings), encoding="utf-8")
        edit(world, lambda values: values["generate"].update(recordings_file="recorded.jsonl"))
        call(monkeypatch, world)
        sent = [request["body"]["messages"][-1]["content"] for request in teacher.requests]
    rows = world.all_rows()
    assert len(rows) == len(UNITS) and {row["origin"] for row in rows} == {"recording"}
    masked = {re.sub(r"\w+@plant\.example", "[EMAIL]", row["prompt"]) for row in recordings}
    assert {row["instruction"] for row in rows} == masked == set(sent)
    assert not ollama.requests, "no index, no embedder"
    for row in rows:
        (span,) = row["context"]
        assert row["instruction"][span["start"] : span["end"]].startswith("The ") and span["source"].startswith("D:\\docs\\")
    train, heldout = (
        {span["source"] for row in world.rows(f"{side}.jsonl") for span in row["context"]} for side in ("train", "heldout")
    )
    assert train and heldout and not train & heldout
    assert world.manifest()["details"]["card"]["masking"] == {"EMAIL": len(UNITS)}


# -----------------------------------------------------------------------------
# What leaves the machine


def add_question(world: World, text: str) -> None:
    """One more question."""
    path = world.folder / "questions.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["questions"].append({"category": "More", "items": [text]})
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def test_personal_data_is_neither_sent_nor_learnt(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = plain_teacher
    world = make_world(tmp_path, ollama, teacher, generate={"masking": {"patterns": {"UNIT": "antenna"}}})
    add_question(world, "Does jane.roe@plant.example know the pump limit?")
    call(monkeypatch, world, "--show-redactions")
    assert "[EMAIL]     1 x jane.roe@plant.example" in capsys.readouterr().out and not teacher.requests
    call(monkeypatch, world)
    sent = json.dumps([request["body"] for request in [*teacher.requests, *ollama.requests[-1:]]])
    everything = sent + "".join(path.read_text(errors="replace") for path in world.training.glob("*.json*"))
    assert "jane.roe" not in everything and "[EMAIL]" in sent and "antenna" not in sent and "[UNIT]" in sent
    assert world.manifest()["details"]["card"]["masking"]["EMAIL"] == 1


def test_every_request_stands_in_the_audit_log_with_the_hash_of_its_body(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    teacher = plain_teacher
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world)
    logged = [row for row in world.rows("audit.jsonl") if row["path"].endswith("/chat/completions")]
    assert sorted(row["sha256"] for row in logged) == sorted(hashlib.sha256(body).hexdigest() for body in teacher.bodies)
    assert {row["host"] for row in logged} == {"127.0.0.1"}
    assert {row_id for row in logged for row_id in row["rows"]} == {row["id"] for row in world.all_rows()}


def test_encrypted_files_hold_no_text_and_the_run_goes_on_from_them(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", "A" * 43 + "=")
    teacher = plain_teacher
    plain, secret = make_world(tmp_path / "plain", ollama, teacher), make_world(tmp_path / "secret", ollama, teacher)
    edit(secret, lambda values: values.update(encrypt=True))
    teacher.text = lambda body: "A refusal, not." if "modem limit" in question_of(body) else answer_from_sources(body)
    call(monkeypatch, plain)
    call(monkeypatch, secret)
    asked = len(teacher.requests)
    call(monkeypatch, secret)
    assert len(teacher.requests) == asked, "the journal is read back"
    for path in (secret.folder / "work").rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert b"degrees" not in text and b"What is the" not in text and b"not." not in text, path.name
    for name in ("train.jsonl", "heldout.jsonl", "rejected.jsonl"):
        rows = [[row for _, row in read_jsonl(world.training / name)] for world in (plain, secret)]
        for row in [*rows[0], *rows[1]]:
            row.pop("timestamp", None)
        assert rows[0] == rows[1] and rows[0]
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", "B" * 43 + "=")
    with pytest.raises(PipelineError, match=r"answers\.jsonl:1"):
        call(monkeypatch, secret)


# -----------------------------------------------------------------------------
# Looking, and editing


def test_show_prints_rows_as_the_student_will_see_them_and_sends_nothing(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = plain_teacher
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world, "--show", "2")
    shown = capsys.readouterr().out
    assert shown.count("--- user ---") == 2 and "You are a domain expert" in shown
    assert "Question: What is the pump limit?" in shown
    assert not teacher.requests and not teacher.lookups and not world.training.exists()


def test_a_long_paid_run_shows_its_first_rows_and_asks(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = plain_teacher
    world = make_world(tmp_path, ollama, teacher, prompt_usd_per_million=1, answer_usd_per_million=1, budget_usd=0.001)
    call(monkeypatch, world, "--dry-run")
    assert "[WARN] generate.teacher.budget_usd 0.001 will end this run before its last row" in capsys.readouterr().out
    edit(world, lambda values: values["generate"]["teacher"].update(budget_usd=5))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    call(monkeypatch, world)
    shown = capsys.readouterr().out
    assert len(teacher.requests) == 3 and shown.count("--- answer ---") == 3 and "[OK] stopped" in shown
    assert asked == ["Go on with 21 more requests? [y/N] "] and not (world.training / "manifest.json").exists()
    call(monkeypatch, world, "--yes")
    assert len(teacher.requests) == TOTAL and world.manifest()["counts"]["rows"] == TOTAL and len(asked) == 1


def test_edits_by_hand_are_checked_and_recorded(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = plain_teacher
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world)
    path = world.training / "train.jsonl"
    rows = world.rows("train.jsonl")
    rows[1]["output"] = "It is 20 degrees. [Source 1]"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]), encoding="utf-8")
    call(monkeypatch, world, "--accept-edits")
    assert "accepted: 1 changed, 1 deleted, 0 added" in capsys.readouterr().out
    manifest = world.manifest()
    assert manifest["details"]["edits"]["changed"] == 1 and manifest["counts"]["train"] == len(rows) - 1
    rows[2]["output"] = "It is 20 degrees. [Source 7]"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]), encoding="utf-8")
    with pytest.raises(PipelineError, match=r"train\.jsonl:2 output cites source 7 of 2"):
        call(monkeypatch, world, "--accept-edits")


def test_edited_rows_are_not_written_over(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, plain_teacher)
    call(monkeypatch, world)
    path = world.training / "train.jsonl"
    kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    path.write_text("".join(kept), encoding="utf-8")
    for accept in (False, True):
        if accept:
            call(monkeypatch, world, "--accept-edits")
        with pytest.raises(PipelineError, match=r"holds rows that were edited by hand.*--discard-edits"):
            call(monkeypatch, world)
        assert path.read_text(encoding="utf-8") == "".join(kept)
    call(monkeypatch, world, "--show", "1")
    call(monkeypatch, world, "--discard-edits")
    assert len(world.rows("train.jsonl")) == len(kept) + 1 and len(plain_teacher.requests) == TOTAL


def test_personal_data_in_an_answer_is_not_learnt(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TeacherServer(text=lambda body: answer_from_sources(body) + " Ask j.roe@plant.example. [Source 1]") as teacher:
        world = make_world(tmp_path, ollama, teacher, generate={"checks": {"min_support": 0}})
        call(monkeypatch, world)
    rows = world.all_rows()
    assert rows and all("[EMAIL]" in row["output"] for row in rows) and "j.roe" not in json.dumps(rows)


def test_overwrite_asks_only_this_runs_rows_again(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, plain_teacher)
    call(monkeypatch, world)
    call(monkeypatch, world, "--limit", "2", "--overwrite")
    call(monkeypatch, world)
    assert sorted(plain_teacher.count_questions().values()) == [1] * (TOTAL - 2) + [2, 2]


def test_the_card_tells_what_was_made_and_holds_no_document_text(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = plain_teacher
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world)
    card = (world.training / "README.md").read_text(encoding="utf-8")
    assert f"{TOTAL} rows" in card and "teacher-1 at 127.0.0.1" in card and "Thermal" in card
    assert "degrees" not in card and "What is the" not in card
    assert (world.training / "lengths.png").read_bytes().startswith(b"\x89PNG")
    if os.name == "posix":
        assert all(path.stat().st_mode & 0o077 == 0 for path in world.training.iterdir() if path.name != "manifest.json")


def test_questions_that_repeat_one_another_are_paid_once(
    tmp_path: Path, ollama: OllamaServer, plain_teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = plain_teacher
    world = make_world(tmp_path, ollama, teacher)
    add_question(world, "What is the pump limit, please?")
    call(monkeypatch, world)
    assert len(teacher.requests) == TOTAL == sum(len(items) for items in QUESTIONS.values())
    assert [row["check"] for row in world.rows("rejected.jsonl")] == ["near-duplicate question"]


def test_true_refusals_are_learnt_but_not_more_than_their_share(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TeacherServer(text=lambda body: REFUSAL if "colour" in question_of(body) else answer_from_sources(body)) as teacher:
        world = make_world(tmp_path, ollama, teacher, generate={"checks": {"refusal_share": 0.2}})
        call(monkeypatch, world)
    refused = [row for row in world.all_rows() if row["output"] == REFUSAL]
    assert refused and all(row["answerable"] is False and not row["golden"] for row in refused)
    for side in ("train", "heldout"):
        rows = world.rows(f"{side}.jsonl")
        assert sum(row["output"] == REFUSAL for row in rows) <= 0.2 * len(rows) + 1
    assert {row["check"] for row in world.rows("rejected.jsonl")} == {"refusal"}
