"""Stage 1 against an index that HybridRAG3's own indexer wrote. Skipped unless HYBRIDRAG3_INDEX names its folder.

The server of the matching vectors, embed_server.py, is looked for beside that folder, or named by HYBRIDRAG3_EMBED_SERVER;
index_after_deletes is looked for beside it too. The index is copied first: nothing is opened where it stands.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import TeacherServer
from tests.stage1 import World

INDEX = os.environ.get("HYBRIDRAG3_INDEX", "")
pytestmark = pytest.mark.skipif(not INDEX, reason="HYBRIDRAG3_INDEX names no index")

# Each with a part of the name of a document that answers it, or "" where several do.
QUESTIONS = {
    "Engineering": {
        "What is the operating frequency and its tolerance in the RF system specification?": "Engineer_System_Spec",
        "What is the nominal output power of the RF system?": "Engineer_System_Spec",
        "Which spectrum analyzer does the calibration guide require?": "Engineer_Calibration_Guide",
        "What should be done if the RF output deviates by more than 5 MHz?": "Field_Troubleshooting",
        "What is the bracket tolerance and which aluminum is used?": "CAD_Tolerance_Spec",
        "How often must the DP4SD preventive maintenance cycle be carried out?": "maintenance_intervals",
        "What is the lead time of spare part RF-2450-A?": "Logistics_Spare_Parts",
        "At which temperatures may lithium batteries be shipped?": "Logistics_Shipping_Constraints",
        "Which connector carries the FAULT_LATCH signal?": "engineering_interfaces",
        "Which software image belongs to configuration baseline CB-12?": "configuration_baseline",
    },
    "Security": {
        "How long are logs retained under the incident response plan?": "Cyber_Incident_Response",
        "Which TLS protocol versions and cipher suites are approved for transport?": "network_security_requirements",
        "Which CVE was identified in the legacy module?": "Cyber_Vulnerability_Report",
        "Which port does the application server use?": "SysAdmin_Network_Config",
        "Above which amount are competitive bids required for a purchase?": "procurement_rules",
        "How does HybridRAG3 map its controls to NIST 800-171?": "",
        "How are API keys stored on a Windows workstation?": "",
    },
    "Retrieval": {
        "How does hybrid search combine vector similarity and keyword search with reciprocal rank fusion?": "",
        "How are embeddings stored on disk as a float16 memmap?": "",
        "How many chunks and gigabytes does the measured baseline index hold?": "PRODUCTION_SCALE_ESTIMATE",
        "What do the acronyms RRF and BM25 stand for?": "GLOSSARY",
        "How do I bundle the dependencies for an offline installation?": "",
    },
    "Programming": {
        "Why do tkinter programs crash when widgets are updated from another thread?": "TKINTER_THREADING",
        "How do hooks and permissions work in the settings.json of the Claude command line?": "",
    },
}
COUNT = sum(len(items) for items in QUESTIONS.values())


@pytest.fixture(scope="module")
def embed_url() -> Iterator[str]:
    """The base URL of embed_server.py, running."""
    script = Path(os.environ.get("HYBRIDRAG3_EMBED_SERVER") or Path(INDEX).resolve().parent / "embed_server.py")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # -B: no __pycache__ beside the original.
    command = [sys.executable, "-B", str(script), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    """Wait until the embedding model is loaded."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return get(f"{url}/counts") and None
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, "embed_server.py did not start"
            time.sleep(0.2)


def get(url: str) -> Any:
    """JSON from loopback, past any proxy."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as response:
        return json.load(response)


def make_world(folder: Path, index: Path, embed_url: str, teacher: TeacherServer, **generate: Any) -> World:
    """A copy of the index, the questions above, and a config."""
    shutil.copytree(index, folder / "index", copy_function=shutil.copyfile)
    (folder / "index").chmod(0o755)
    questions = [{"category": category, "items": list(items)} for category, items in QUESTIONS.items()]
    (folder / "questions.yaml").write_text(yaml.safe_dump({"questions": questions}), encoding="utf-8")
    section = {
        "questions_file": "questions.yaml", "index_folder": "index", "heldout_share": 0.2, "embedder": {"base_url": embed_url},
        "teacher": {"base_url": teacher.url, "model": "teacher-1", "api_key_env": "NO_KEY", "requests_per_minute": 60_000},
        "context": {"golden_less_share": 0}, **generate,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"work_dir": "work", "generate": section}), encoding="utf-8")
    return World(folder)


def read_chunks(world: World) -> dict[str, tuple[str, str]]:
    """Source and text by chunk_id, straight from SQLite."""
    with closing(sqlite3.connect(world.folder / "index" / "hybridrag.sqlite3")) as database:
        rows = database.execute("SELECT chunk_id, source_path, text FROM chunks").fetchall()
    return {chunk_id: (source, text) for chunk_id, source, text in rows}


def test_generates_rows_from_the_index(tmp_path: Path, embed_url: str) -> None:
    before = get(f"{embed_url}/counts")
    with TeacherServer() as teacher:
        world = make_world(tmp_path, Path(INDEX), embed_url, teacher)
        world.run()
    assert get(f"{embed_url}/counts")["query"] - before["query"] == COUNT
    train, heldout = world.rows("train.jsonl"), world.rows("heldout.jsonl")
    assert len(train) + len(heldout) == COUNT >= 20 and train and heldout and not world.rows("failures.jsonl")
    chunks = read_chunks(world)
    for row in [*train, *heldout]:
        assert row["context"]
        for span in row["context"]:
            assert (span["source"], row["instruction"][span["start"] : span["end"]]) == chunks[span["chunk_id"]]
            assert 0.3 <= span["score"] <= 1
    sources = [{span["source"] for row in rows for span in row["context"]} for rows in (train, heldout)]
    assert not sources[0] & sources[1]


def test_finds_the_documents_that_answer(tmp_path: Path, embed_url: str) -> None:
    with TeacherServer() as teacher:
        world = make_world(tmp_path, Path(INDEX), embed_url, teacher)
        world.run()
    found = {row["question"]: {span["source"] for span in row["context"]} for row in world.all_rows()}
    expected = {question: part for items in QUESTIONS.values() for question, part in items.items() if part}
    missed = [question for question, part in expected.items() if not any(part in source for source in found[question])]
    assert len(missed) <= len(expected) // 5, missed


def test_after_deletes_every_question_still_gets_top_k_live_chunks(tmp_path: Path, embed_url: str) -> None:
    index = Path(INDEX).resolve().parent / "index_after_deletes"
    if not index.is_dir():
        pytest.skip("no index_after_deletes beside the index")
    with TeacherServer() as teacher:
        world = make_world(tmp_path, index, embed_url, teacher, min_score=0)
        world.run()
    live = read_chunks(world)
    rows = world.all_rows()
    assert len(rows) == COUNT and {row["num_chunks"] for row in rows} == {5}
    assert {span["chunk_id"] for row in rows for span in row["context"]} <= set(live)
