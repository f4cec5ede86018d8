"""Stage 1 as a process, on documents with personal data: what the teacher is sent, and what is left on the disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.build_index import build_index
from distill.files import read_jsonl
from tests.leaks import find_traces, make_surroundings
from tests.servers import OllamaServer, TeacherServer, embed_words
from tests.stage1 import DOCUMENTS, KEY_NAME, World, answer_from_sources, make_world

MAIL, PHONE, HOST, NAME = "jane.doe@example.com", "555-123-4567", "192.168.7.31", "Quentin Farnsworth"
EXPECTED = {"EMAIL": MAIL, "PHONE": PHONE, "IP": HOST, "WORD": NAME}
PERSONAL = [each.encode() for each in (MAIL, PHONE, HOST, NAME)]
TEXTS = [b"degrees", b"shade", b"painted"]  # of documents and answers
ADDED = f" Ask {MAIL}, {PHONE}, {NAME} or {HOST}."


@pytest.fixture
def teacher() -> Iterator[TeacherServer]:
    """A teacher that copies the sentence it was asked for."""
    with TeacherServer(text=answer_from_sources) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, teacher: TeacherServer) -> Iterator[World]:
    """Documents that name people in each of their paragraphs."""
    with OllamaServer() as ollama:
        (tmp_path / "people.txt").write_text("# people\nQuentin Farnsworth\n", encoding="utf-8")
        made = make_world(tmp_path / "world", ollama, teacher, {"masking": {"words_file": str(tmp_path / "people.txt")}})
        documents = [(path, text.replace("\n\n", ADDED + "\n\n") + ADDED) for path, text in DOCUMENTS]
        build_index(tmp_path / "index", documents, embed_words, chunk_characters=200, overlap=0)
        edit(made, lambda values: values["generate"].update(index_folder=str(tmp_path / "index")))
        yield made


def edit(world: World, change: Any) -> None:
    """Change config.yaml through a function on its values."""
    values = yaml.safe_load(world.config.read_text(encoding="utf-8"))
    change(values)
    world.config.write_text(yaml.safe_dump(values), encoding="utf-8")


def read_rows(world: World) -> list[dict[str, Any]]:
    return [row for side in ("train", "heldout") for _, row in read_jsonl(world.training / f"{side}.jsonl")]


def test_nothing_personal_is_sent_or_learnt(world: World, teacher: TeacherServer) -> None:
    printed = world.run("--yes", **{KEY_NAME: "sk-test"})
    sent = json.dumps([request["body"] for request in teacher.requests]).encode()
    assert sent.count(b"[EMAIL], [PHONE], [WORD] or [IP].") > 12 and not any(each in sent for each in PERSONAL)
    assert all("[EMAIL], [PHONE], [WORD] or [IP]." in row["instruction"] for row in read_rows(world))
    assert find_traces(world.folder / "work", PERSONAL) == []
    masked = json.loads((world.training / "manifest.json").read_text(encoding="utf-8"))["details"]["card"]["masking"]
    assert set(masked) == set(EXPECTED) and min(masked.values()) > 12
    assert "masked before anything is sent" in printed and MAIL not in printed


def test_what_was_masked_is_listed_on_request_and_nothing_is_written(world: World, teacher: TeacherServer) -> None:
    printed = world.run("--show-redactions")
    assert all(re.search(rf"^    \[{tag}\] +\d+ x {text}$", printed, re.MULTILINE) for tag, text in EXPECTED.items()), printed
    assert not teacher.requests and find_traces(world.folder / "work", PERSONAL) == []


def test_encrypted_rows_leave_no_plain_copy(
    world: World, teacher: TeacherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do rejected rows, the answers, a run that goes on, or one that began in plain."""
    around = {**make_surroundings(tmp_path / "around"), KEY_NAME: "sk-test"}
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", around["HYBRIDRAG_DISTILL_KEY"])
    world.run("--yes", **around)
    plain, asked = [{**row, "timestamp": ""} for row in read_rows(world)], len(teacher.requests)
    assert {"training_data/train.jsonl", "training_data/answers.jsonl"} <= set(find_traces(world.folder / "work", TEXTS))

    edit(world, lambda values: values.update(encrypt=True))
    printed = world.run("--yes", **around)
    assert len(teacher.requests) == asked and "degrees" not in printed
    assert find_traces(world.folder / "work", TEXTS) == find_traces(tmp_path / "around", TEXTS) == []
    assert [{**row, "timestamp": ""} for row in read_rows(world)] == plain

    before = (world.training / "train.jsonl").read_bytes()
    world.run("--yes", **around)
    assert (world.training / "train.jsonl").read_bytes() == before  # so that adapters trained on it stay valid
