from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

import generate_training_data
from distill.config import load_config
from distill.errors import PipelineError
from distill.manifest import require_manifest
from tests.servers import OllamaServer, TeacherServer, question_of
from tests.stage1 import DOCUMENTS, KEY_NAME, QUESTIONS, UNITS, World, answer_from_sources, call, edit, make_world

ROW_KEYS = {
    "id", "instruction", "output", "category", "timestamp", "teacher_model", "num_chunks", "question", "context", "origin",
    "golden", "answerable", "difficulty", "reasoning", "draft",
}
TOTAL = 2 * len(UNITS)
KEY = "sk-test-51d0c7aa93"
REFUSAL = "The provided documents do not answer this question."


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    """An embedder."""
    with OllamaServer() as server:
        yield server


@pytest.fixture
def teacher() -> Iterator[TeacherServer]:
    """A teacher that answers."""
    with TeacherServer(text=answer_from_sources, models=("teacher-1", "teacher-2")) as server:
        yield server


# -----------------------------------------------------------------------------
# A whole run


def check_rows(world: World, asked: bool = True) -> None:
    """What holds for the rows of every run of this world; `asked`: a teacher answered them, at a time."""
    texts = dict(DOCUMENTS)
    sources: dict[str, set[str]] = {}
    for side in ("train", "heldout"):
        rows = world.rows(f"{side}.jsonl")
        sources[side] = {span["source"] for row in rows for span in row["context"]}
        for row in rows:
            assert set(row) == ROW_KEYS and row["num_chunks"] == len(row["context"]) and row["question"] in row["instruction"]
            assert re.fullmatch(r"[0-9a-f]{16}", row["id"]) and row["timestamp"].endswith("+00:00") is asked
            for span in row["context"]:
                chunk = row["instruction"][span["start"] : span["end"]]
                assert chunk and chunk in texts[span["source"]]
    assert sources["train"] and sources["heldout"] and not sources["train"] & sources["heldout"]


def test_the_extractive_teacher_makes_a_whole_set(tmp_path: Path, ollama: OllamaServer) -> None:
    world = make_world(tmp_path, ollama)
    output = world.run()
    check_rows(world, asked=False)
    rows = world.all_rows()
    assert {row["question"] for row in rows} == {question for items in QUESTIONS.values() for question in items}
    assert all(row["num_chunks"] == 2 and row["teacher_model"] == "extractive (no model)" for row in rows)
    pump = next(row for row in rows if row["question"] == "What is the pump limit?")
    assert "The pump limit is 20 degrees. [Source 1]" in pump["output"] and pump["category"] == "Thermal"
    assert "Next:  python finetune.py" in output and "[FAIL]" not in output
    inputs = [text for request in ollama.requests for text in request["body"]["input"]]
    assert sum(text.startswith("search_query: ") for text in inputs) == TOTAL
    if os.name == "posix":
        assert all(path.stat().st_mode & 0o077 == 0 for path in world.training.glob("*.jsonl"))


def test_the_manifest_tells_the_next_stage_what_it_must_know(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama)
    call(monkeypatch, world)
    config = load_config(world.config)
    manifest = require_manifest(world.training, "generate_training_data.py", config)
    assert set(manifest["fixed"]) == {f"prompt.{key}" for key in generate_training_data.FIXED}
    assert all(config.value_of(key) == value for key, value in manifest["fixed"].items())
    counts = manifest["counts"]
    assert counts["rows"] == counts["train"] + counts["heldout"] == TOTAL == counts["asked"] and counts["failures"] == 0
    assert counts["per_category"] == {"Looks": 12, "Thermal": 12} and counts["per_teacher"] == {"extractive (no model)": 24}
    assert [entry["path"] for entry in manifest["inputs"]] == [
        "questions.yaml", "hybridrag.sqlite3", "embeddings.f16.dat", "embeddings_meta.json",
    ]
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_real_teacher_sees_what_the_student_will_see(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world)
    check_rows(world)
    asked = {question_of(request["body"]): request["body"] for request in teacher.requests}
    for row in world.all_rows():
        system, user = asked[row["question"]]["messages"]
        assert user == {"role": "user", "content": row["instruction"]}
        assert system["content"].startswith("You are a domain expert") and "five years of experience" in system["content"]
        assert row["output"] == answer_from_sources(asked[row["question"]]) and row["teacher_model"] == "teacher-1"


def test_rows_keep_the_order_of_the_questions(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher, concurrency=8)
    call(monkeypatch, world)
    order = [question for items in QUESTIONS.values() for question in items]
    for side in ("train", "heldout"):
        places = [order.index(row["question"]) for row in world.rows(f"{side}.jsonl")]
        assert places == sorted(places)


# -----------------------------------------------------------------------------
# Going on


def read_files(world: World) -> dict[str, bytes]:
    """What a run wrote, less what tells when it looked at the provider's list of models."""
    kept = (path for path in world.training.iterdir() if path.name not in ("audit.jsonl", "manifest.json"))
    return {path.name: path.read_bytes() for path in kept}


def test_a_second_run_asks_nothing_and_writes_the_same(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world)
    before = read_files(world)
    call(monkeypatch, world)
    assert read_files(world) == before
    assert len(teacher.requests) == TOTAL and world.manifest()["counts"]["asked"] == 0


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, ollama: OllamaServer) -> None:
    gate = threading.Event()

    def hold(number: int, question: str) -> None:
        """From the ninth request on the teacher is silent, so that the kill falls into the run on any machine."""
        if number >= 8:
            gate.wait(120)

    with TeacherServer(answer_from_sources, hold, 0.05) as slow, TeacherServer(answer_from_sources) as quick:
        priced = {"prompt_usd_per_million": 1, "answer_usd_per_million": 1}
        killed = make_world(tmp_path / "killed", ollama, slow, concurrency=2, **priced)
        process = killed.start()
        answers = killed.training / "answers.jsonl"
        wait_for(lambda: answers.exists() and answers.read_bytes().count(b"\n") >= 5, process)
        process.kill()
        process.communicate()
        gate.set()
        on_disk = answers.read_bytes().splitlines(keepends=True)
        known = {row_id for line in on_disk if line.endswith(b"\n") for row_id in json.loads(line)["rows"]}
        assert 5 <= len(known) < TOTAL and not (killed.training / "manifest.json").exists()
        assert not (killed.training / "train.jsonl").exists()
        # Power may also fail in the middle of a character.
        with open(answers, "ab") as file:
            file.write('{"request": "0123", "text": "20 \u00b0'.encode()[:-1])
        printed = killed.run()
        assert "calls were cut off and possibly paid" in printed
        counts = slow.count_questions()
        asked = {row["id"]: counts[row["question"]] for row in killed.all_rows()}
        assert {asked[row_id] for row_id in known} == {1}, "a row on disk is never asked for again"
        assert set(counts) == {question for items in QUESTIONS.values() for question in items}

        whole = make_world(tmp_path / "whole", ollama, quick, concurrency=2)
        whole.run()
    assert killed.all_rows() == whole.all_rows()
    assert killed.manifest()["counts"] == {**whole.manifest()["counts"], "asked": TOTAL - len(known)}


def wait_for(condition: Any, process: Any, seconds: float = 90) -> None:
    """Poll until the condition holds; the process must be running all the while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("change", [
    lambda values: values.update(prompt={"system": "Answer in one sentence."}),
    lambda values: values["generate"]["teacher"].update(instructions="Be brief."),
    lambda values: values["generate"]["teacher"].update(model="teacher-2"),
    lambda values: values["generate"]["teacher"].update(temperature=0.9),
    lambda values: values["generate"]["teacher"].update(max_tokens=99),
    lambda values: values["generate"].update(top_k=1),
])
def test_what_changes_the_request_makes_new_rows(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world, "--limit", "3")
    before = world.config.read_bytes()
    edit(world, change)
    call(monkeypatch, world, "--limit", "3")
    assert set(teacher.count_questions().values()) == {2}
    world.config.write_bytes(before)
    call(monkeypatch, world, "--limit", "3")
    assert len(teacher.requests) == 6, "the first answers were kept"


def test_what_does_not_change_the_request_keeps_the_rows(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world, "--limit", "3")
    edit(world, lambda values: values["generate"]["teacher"].update(concurrency=1, timeout_seconds=9, max_attempts=2))
    call(monkeypatch, world)
    assert set(teacher.count_questions().values()) == {1} and len(teacher.requests) == TOTAL


def test_overwrite_asks_again_and_keeps_the_old_answers(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world, "--limit", "3")
    before = (world.training / "answers.jsonl").read_bytes()
    call(monkeypatch, world, "--limit", "3", "--overwrite")
    assert set(teacher.count_questions().values()) == {2}
    kept = list(world.training.glob("answers-*.jsonl"))
    assert [path.read_bytes() for path in kept] == [before] and len(world.rows("answers.jsonl")) == 3


def test_two_runs_cannot_work_on_one_folder(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    world.training.mkdir(parents=True)
    with FileLock(world.training.parent / ".training_data.lock"), pytest.raises(PipelineError, match="is at work on"):
        call(monkeypatch, world)
    assert not teacher.requests


# -----------------------------------------------------------------------------
# Failures and refusals


def test_failures_are_no_rows_and_are_asked_again(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults = {"What is the valve limit?": "400"}
    teacher.fault = lambda number, question: faults.get(question)
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world)
    assert [(row["question"], row["reason"]) for row in world.rows("failures.jsonl")] == [
        ("What is the valve limit?", "refused with 400: bad request")
    ]
    assert len(world.all_rows()) == TOTAL - 1
    assert "[WARN] 1 rows failed: refused with 400: bad request" in capsys.readouterr().out

    faults.clear()
    call(monkeypatch, world)
    assert world.rows("failures.jsonl") == [] and len(world.all_rows()) == TOTAL
    assert Counter(teacher.count_questions().values()) == {1: TOTAL - 1, 2: 1}


def test_answers_that_fail_a_check_are_no_rows_and_are_not_paid_twice(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = {
        "What is the modem limit?": "As [Source 9] says in its table.",
        "What is the pump limit?": "The pump limit is 99 degrees. [Source 1]",
        "What is the cable limit?": "N/A [Source 1]",
    }
    teacher.text = lambda body: wrong.get(question_of(body)) or answer_from_sources(body)
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world)
    rejected = {row["question"]: row for row in world.rows("rejected.jsonl")}
    assert {question: row["check"] for question, row in rejected.items()} == {
        "What is the modem limit?": "citation", "What is the pump limit?": "support", "What is the cable limit?": "too short",
    }
    assert all(rejected[question]["output"] == text for question, text in wrong.items())
    assert "99" in rejected["What is the pump limit?"]["detail"]
    assert not {row["question"] for row in world.all_rows()} & set(wrong) and len(world.all_rows()) == TOTAL - 3
    assert world.manifest()["details"]["card"]["checks"] == {"citation": 1, "support": 1, "too short": 1}
    assert "[WARN] 1 left out: citation" in capsys.readouterr().out
    call(monkeypatch, world)
    assert len(teacher.requests) == TOTAL and len(world.rows("rejected.jsonl")) == 3


@pytest.mark.parametrize(("shorter", "kept"), [("The pump limit is 20 degrees. [Source 1]", True), ("words " * 600, False)])
def test_an_answer_that_is_too_long_is_asked_for_once_more_shorter(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch, shorter: str, kept: bool
) -> None:
    def answer(body: Any) -> str:
        first = [message["content"] for message in body["messages"]]
        if "What is the pump limit?" not in "".join(first):
            return answer_from_sources(body)
        return "The pump limit is 20 degrees. [Source 1] " * 80 if len(first) == 2 else shorter

    with TeacherServer(text=answer) as teacher:
        world = make_world(tmp_path, ollama, teacher)
        call(monkeypatch, world)
    assert len(teacher.requests) == TOTAL + 1
    outputs = [row["output"] for row in world.all_rows() if row["question"] == "What is the pump limit?"]
    assert outputs == ([shorter] if kept else [])
    assert [row["check"] for row in world.rows("rejected.jsonl")] == ([] if kept else ["too long"])


def test_a_stop_leaves_answers_and_failures_but_no_complete_set(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher, concurrency=1)
    call(monkeypatch, world, "--limit", "2")
    assert world.manifest()
    faults = {"What is the modem limit?": "400", "What is the sensor limit?": "402"}
    teacher.fault = lambda number, question: faults.get(question)
    with pytest.raises(PipelineError, match="402"):
        call(monkeypatch, world)
    assert not (world.training / "manifest.json").exists()
    assert len(world.rows("answers.jsonl")) == 4
    assert [failure["question"] for failure in world.rows("failures.jsonl")] == ["What is the modem limit?"]


def add_unanswerable(world: World) -> None:
    """A question whose words no document has."""
    path = world.folder / "questions.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["questions"].append({"category": "Nowhere", "items": ["Which moons circle Jupiter?"]})
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


@pytest.mark.parametrize("extractive", [True, False])
def test_nothing_found_teaches_the_refusal_the_template_demands(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch, extractive: bool
) -> None:
    world = make_world(tmp_path, ollama, None if extractive else teacher, generate={"min_score": 0.6})
    add_unanswerable(world)
    call(monkeypatch, world)
    row = next(row for row in world.all_rows() if row["category"] == "Nowhere")
    assert row["output"] == REFUSAL and row["teacher_model"] == "none (no chunk above min_score)"
    assert row["num_chunks"] == 0 and row["context"] == [] and "[Source 1]" not in row["instruction"]
    assert world.manifest()["counts"]["refusals"] >= 1
    assert "Which moons circle Jupiter?" not in teacher.count_questions()
    before = (world.training / "train.jsonl").read_bytes()
    call(monkeypatch, world)
    assert (world.training / "train.jsonl").read_bytes() == before


def test_nothing_found_is_a_failure_where_the_template_demands_no_refusal(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher, generate={"min_score": 0.6})
    add_unanswerable(world)
    edit(world, lambda values: values.update(prompt={"template": "{context}\n\nQuestion: {question}"}))
    call(monkeypatch, world)
    assert {failure["reason"] for failure in world.rows("failures.jsonl")} == {"no chunk above min_score"}
    assert "Nowhere" not in {row["category"] for row in world.all_rows()}


# -----------------------------------------------------------------------------
# Without a teacher


def test_a_dry_run_counts_and_leaves_nothing_behind(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world, "--dry-run")
    shown = capsys.readouterr().out
    counted = re.search(r"to send: about 24 requests, ([\d,]+) tokens", shown)
    assert counted and "24 of 24 requests, by teacher-1 at 127.0.0.1" in shown and not teacher.requests
    assert [path.name for path in world.training.iterdir()] == ["audit.jsonl"], "one look at the list of models"
    call(monkeypatch, world)
    sent = sum(len(message["content"]) for request in teacher.requests for message in request["body"]["messages"])
    assert int(counted[1].replace(",", "")) == pytest.approx(sent / 4, rel=0.2)


def test_a_disabled_teacher_leaves_what_would_be_sent(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = make_world(tmp_path, ollama, teacher, enabled=False)
    call(monkeypatch, world)
    assert "asked nobody" in capsys.readouterr().out and not teacher.requests
    assert [path.name for path in world.training.glob("*.json*")] == ["requests.jsonl"]
    would = {question_of(row): row["messages"] for row in world.rows("requests.jsonl")}
    edit(world, lambda values: values["generate"]["teacher"].update(enabled=True))
    call(monkeypatch, world)
    assert {question_of(request["body"]): request["body"]["messages"] for request in teacher.requests} == would


# -----------------------------------------------------------------------------
# Curated rows


def add_curated(world: World, *rows: dict[str, Any]) -> None:
    """Name a curated file in the config."""
    (world.folder / "curated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    edit(world, lambda values: values["generate"].update(curated_files=["curated.jsonl"]))


def test_curated_rows_are_kept_as_they_are_and_sent_nowhere(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    add_curated(world, *({"instruction": f"Secret question {number}?", "output": f"Answer {number}."} for number in range(40)))
    call(monkeypatch, world, "--limit", "3")
    train, heldout = (
        [row for row in world.rows(f"{side}.jsonl") if row["teacher_model"] == "curated"] for side in ("train", "heldout")
    )
    assert len(train) + len(heldout) == 40 and 0 < len(heldout) < 20
    assert all(set(row) == ROW_KEYS for row in [*train, *heldout])
    assert {row["instruction"]: row["output"] for row in [*train, *heldout]} == {
        f"Secret question {number}?": f"Answer {number}." for number in range(40)
    }
    everything = json.dumps([request["body"] for request in [*teacher.requests, *ollama.requests]])
    assert "Secret" not in everything and len(teacher.requests) == 3


def test_curated_rows_alone_need_no_index_no_embedder_and_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(json.dumps({"instruction": f"Question {number}?", "output": "Yes."}) + "\n" for number in range(60))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    settings = {
        "questions_file": None, "curated_files": ["rows.jsonl"], "index_folder": "absent",
        "teacher": {"provider": "openai", "api_key_env": "NOT_SET"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"work_dir": "work", "generate": settings}), encoding="utf-8")
    world = World(tmp_path)
    call(monkeypatch, world)
    assert world.manifest()["counts"]["rows"] == 60 and world.rows("heldout.jsonl")


def test_a_curated_row_that_straddles_stops_before_anything_is_sent(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    spans = [{"chunk_id": "1", "source": source, "score": 1, "start": 0, "end": 4} for source, _ in DOCUMENTS]
    add_curated(world, {"instruction": "text", "output": "answer", "context": spans})
    with pytest.raises(PipelineError, match=r"curated\.jsonl:1 holds documents of both"):
        call(monkeypatch, world)
    assert not teacher.requests


def test_rows_of_an_earlier_run_beside_its_questions_are_refused(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama)
    call(monkeypatch, world)
    earlier = world.rows("heldout.jsonl")
    add_curated(world, *earlier)
    question = re.escape(earlier[0]["question"])
    with pytest.raises(PipelineError, match=rf"curated\.jsonl:1 repeats the instruction of question {question}: delete one"):
        call(monkeypatch, world)
    add_curated(world, {"instruction": "Something else?", "output": "Yes.", "id": earlier[0]["id"]})
    with pytest.raises(PipelineError, match=rf"curated\.jsonl:1 repeats the id of question {question}: delete one"):
        call(monkeypatch, world)


@pytest.mark.parametrize("name", ["questions.yaml", "curated.jsonl"])
def test_an_input_that_changes_during_the_run_leaves_no_manifest(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    world = make_world(tmp_path, ollama, teacher)
    add_curated(world, {"instruction": "Which?", "output": "This."})

    def change(body: dict[str, Any]) -> str:
        with open(world.folder / name, "a", encoding="utf-8") as file:
            file.write("\n")
        return answer_from_sources(body)

    teacher.text = change
    with pytest.raises(PipelineError, match=rf"{name} changed while this ran: run again; answers are kept"):
        call(monkeypatch, world, "--limit", "2")
    assert not (world.training / "manifest.json").exists() and len(world.rows("answers.jsonl")) == 2
    call(monkeypatch, world, "--limit", "2")
    assert world.manifest()["counts"]["asked"] == 0


# -----------------------------------------------------------------------------
# Keys and the network


def test_the_key_appears_nowhere(tmp_path: Path, ollama: OllamaServer) -> None:
    faults = {0: "echo-key", 1: "500", 2: "429", 3: "length"}
    with TeacherServer(fault=lambda number, question: faults.get(number)) as teacher:
        world = make_world(tmp_path, ollama, teacher, concurrency=1)
        output = world.run(**{KEY_NAME: KEY, "OPENAI_LOG": "debug"})
        assert {request["headers"]["authorization"] for request in teacher.requests} == {f"Bearer {KEY}"}
        teacher.fault = lambda number, question: "401"
        process = world.start("--overwrite", **{KEY_NAME: KEY})
        output += process.communicate(timeout=120)[0]
    assert process.returncode == 1 and f"[FAIL] 127.0.0.1 refuses the key (401): set {KEY_NAME}" in output
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 8
    for part in (KEY, KEY[-6:], KEY[:9]):
        assert part not in output
        assert not [path for path in written if part.encode() in path.read_bytes()]


def test_a_missing_key_stops_before_the_index_is_touched(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_NAME, raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    world = make_world(tmp_path, ollama, provider="openai", base_url="https://teacher.invalid/v1")
    process = world.start()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and not ollama.requests
    line = output.strip().splitlines()[-1]
    assert line.startswith(f"[FAIL] no key for teacher.invalid: set the environment variable {KEY_NAME}")
    printed = world.start("--dry-run").communicate(timeout=60)[0]
    assert "[WARN] no key for teacher.invalid" in printed and "[OK] 24 rows planned" in printed
    assert "[FAIL] the teacher at https://teacher.invalid/v1 cannot be reached" in printed and "Traceback" not in printed


def test_the_offline_switch_refuses_another_host_without_a_connection(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any connection to the outside would have to go through this proxy, and be seen.
    monkeypatch.setenv("HTTP_PROXY", teacher.base_url)
    monkeypatch.setenv("HTTPS_PROXY", teacher.base_url)
    monkeypatch.setenv("HYBRIDRAG_OFFLINE", "1")
    monkeypatch.setenv(KEY_NAME, KEY)
    world = make_world(tmp_path, ollama, provider="openai", base_url="http://teacher.invalid/v1")
    with pytest.raises(PipelineError, match=r"HYBRIDRAG_OFFLINE is set, so teacher\.invalid is not called"):
        call(monkeypatch, world)
    assert not teacher.requests and not ollama.requests


def test_another_host_without_tls_is_refused_before_anything_is_read(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)
    world = make_world(tmp_path, ollama, provider="openai", base_url="http://teacher.invalid/v1")
    with pytest.raises(PipelineError, match="in clear: use https://"):
        call(monkeypatch, world, "--dry-run")
    assert not ollama.requests


def test_a_loopback_teacher_works_offline_and_without_a_key(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRIDRAG_OFFLINE", "1")
    monkeypatch.delenv(KEY_NAME, raising=False)
    world = make_world(tmp_path, ollama, teacher)
    call(monkeypatch, world, "--limit", "2")
    assert len(teacher.requests) == 2


# -----------------------------------------------------------------------------
# Mistakes of the user


def test_top_k_from_the_live_chunks_after_deletes(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path, ollama, teacher, generate={"min_score": 0, "top_k": 5})
    with sqlite3.connect(world.folder / "index" / "hybridrag.sqlite3") as database:
        database.execute("DELETE FROM chunks WHERE source_path IN (?, ?)", (DOCUMENTS[0][0], DOCUMENTS[5][0]))
    database.close()
    call(monkeypatch, world)
    assert {row["num_chunks"] for row in world.all_rows()} == {5}
    gone = {DOCUMENTS[0][0], DOCUMENTS[5][0]}
    assert not gone & {span["source"] for row in world.all_rows() for span in row["context"]}


def test_an_embedder_that_is_not_there_is_one_line(tmp_path: Path, teacher: TeacherServer) -> None:
    with OllamaServer() as ollama:
        world = make_world(tmp_path, ollama, teacher)
    process = world.start()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("[FAIL] nothing answers at http://127.0.0.1:")


def test_nothing_to_do_is_said(tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, ollama, generate={"questions_file": None})
    with pytest.raises(PipelineError, match="nothing to do"):
        call(monkeypatch, world)


def test_an_empty_side_is_warned_of(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = make_world(tmp_path, ollama)
    call(monkeypatch, world, "--limit", "1")
    assert re.search(r"\[WARN\] (train|heldout)\.jsonl is empty", capsys.readouterr().out)


def test_a_limit_below_one_is_refused(tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, World(tmp_path), "--limit", "0")
