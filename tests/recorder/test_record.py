"""The recorder as HybridRAG3 meets it: real requests, a real server behind it, every prompt on disk before its reply."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distill.config import PromptSection
from distill.errors import PipelineError
from distill.files import read_jsonl
from distill.ollama import OllamaClient, OllamaError
from distill.recorder.record import Recorder, record_prompts
from distill.rows.recordings import load_recordings
from tests.recorded import write_numbered
from tests.servers import Handler, OllamaServer, Server

ROOT = Path(__file__).parents[2]
BODY = {"model": "phi4-mini", "prompt": "why? \u00e9\u2028\r\n ", "stream": False, "options": {"num_ctx": 4096}}


@contextmanager
def recording(path: Path, forward: str | None = None, **fields: Any) -> Iterator[Recorder]:
    """A recorder at work in a thread."""
    with Recorder(path, port=0, forward=forward, **fields) as recorder:
        thread = threading.Thread(target=recorder.serve, daemon=True)
        thread.start()
        yield recorder
        recorder.stop()
        thread.join()


def post(url: str, path: str, body: Any) -> tuple[int, bytes]:
    """Status and body of one POST."""
    import urllib.error
    import urllib.request

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url + path, data), timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


# -----------------------------------------------------------------------------
# What is written down


def test_a_prompt_is_written_down_to_the_byte(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "r.jsonl"
    with recording(path) as recorder:
        post(recorder.url, "/api/generate", {**BODY, "system": "be kind"})
    row, = read_rows(path)
    assert (row["prompt"], row["model"], row["path"]) == (BODY["prompt"], "phi4-mini", "/api/generate")
    assert (row["system"], row["options"]) == ("be kind", {"num_ctx": 4096})
    assert len(row["sha256"]) == 64 and row["time"].endswith("+00:00")
    assert capsys.readouterr().out == f"[OK] prompt 1: {len(BODY['prompt'])} characters\n"


def test_a_chat_is_written_down_with_all_its_messages(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "why?"}]
    with recording(tmp_path / "r.jsonl") as recorder:
        post(recorder.url, "/api/chat/", {"model": "m", "messages": messages, "stream": False})
    assert read_rows(tmp_path / "r.jsonl")[0]["messages"] == messages


@pytest.mark.parametrize(("path", "body"), [
    ("/api/generate", {"model": "m", "keep_alive": 0}),
    ("/api/generate", {"model": "m", "prompt": "", "keep_alive": -1}),
    ("/api/generate", {"model": "m", "prompt": 5}),
    ("/api/generate", b"no json"),
    ("/api/generate", b"[" * 100_000),
    ("/api/generate", b'{"model": "m", "prompt": "half \\ud83d"}'),
    ("/api/generate", b""),
    ("/api/chat", {"model": "m", "messages": []}),
    ("/api/chat", {"model": "m", "messages": ["x"]}),
    ("/api/embed", {"model": "m", "input": "search_query: why?"}),
    ("/api/embeddings", {"model": "m", "prompt": "why?"}),
    ("/api/show", {"model": "m", "prompt": "why?"}),
])
def test_what_is_no_prompt_is_not_written_down(tmp_path: Path, path: str, body: Any) -> None:
    with recording(tmp_path / "r.jsonl") as recorder:
        post(recorder.url, path, body)
        assert recorder.count == 0
        assert post(recorder.url, "/api/generate", BODY)[0] == 200  # and the recorder goes on
    assert len(read_rows(tmp_path / "r.jsonl")) == 1


@pytest.mark.parametrize(("path", "body", "kept"), [
    ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "why?"}]}, {"messages": [
        {"role": "user", "content": "why?"}
    ]}),
    ("/v1/completions", {"model": "m", "prompt": "why?"}, {"prompt": "why?"}),
    ("//api//generate", BODY, {"prompt": BODY["prompt"]}),
    ("/api/%67enerate/", BODY, {"prompt": BODY["prompt"]}),
])
def test_prompts_are_recorded_by_every_way_in(tmp_path: Path, path: str, body: Any, kept: dict[str, Any]) -> None:
    with recording(tmp_path / "r.jsonl") as recorder:
        post(recorder.url, path, body)
    row, = read_rows(tmp_path / "r.jsonl")
    assert {**row, **kept} == row
    loaded, = load_recordings(tmp_path / "r.jsonl", PromptSection(citation="", refusal="", general_knowledge=""))
    assert loaded.prompt in (BODY["prompt"], "why?")


PARTS = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "why?"}]}]}


@pytest.mark.parametrize(("path", "body", "named"), [
    ("/api/generate", gzip.compress(json.dumps(BODY).encode()), "no JSON object that can be read"),
    ("/api/generate", b'{"prompt": "why?", "options": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON object"),
    ("/api/generate", {"model": "m", "prompt": 5}, "not plain text"),
    ("/v1/completions", {"model": "m", "prompt": ["why?"]}, "not plain text"),
    ("/v1/chat/completions", PARTS, "not plain text"),
    ("/v1/responses", {"model": "m", "input": "why?"}, "not known"),
    ("/API/generate", BODY, "not known"),
    ("/api/new%0A%1b[2J\u00e9", BODY, "not known"),
])
def test_what_may_be_a_prompt_and_is_not_recorded_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture, path: str, body: Any, named: str
) -> None:
    with recording(tmp_path / "r.jsonl") as recorder:
        for _ in range(3):
            post(recorder.url, path.encode("ascii", "ignore").decode(), body)
        assert recorder.count == 0
    printed = capsys.readouterr().out
    assert printed.startswith("[WARN] a request to '/") and named in printed and printed.count("\n") == 1
    assert printed.isascii() and "why" not in printed and "\x1b" not in printed


@pytest.mark.parametrize(("path", "body"), [
    ("/api/embed", {"model": "m", "input": "search_query: why?"}), ("/v1/embeddings", {"model": "m", "input": "why?"}),
    ("/api/show", {"model": "m"}), ("/api/pull", {"model": "m"}), ("/api/blobs/sha256:00", b"\x00\x01"),
    ("/api/generate", {"model": "m", "keep_alive": 0}), ("/api/generate", b""), ("/api/other", b""),
])
def test_what_holds_no_prompt_for_sure_is_passed_over_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture, path: str, body: Any
) -> None:
    with recording(tmp_path / "r.jsonl") as recorder:
        post(recorder.url, path, body)
    assert not capsys.readouterr().out and not read_rows(tmp_path / "r.jsonl")


def test_a_new_start_appends_and_all_repeats_are_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with recording(tmp_path / "r.jsonl") as recorder:
            post(recorder.url, "/api/generate", BODY)
            post(recorder.url, "/api/generate", BODY)
    assert len(read_rows(tmp_path / "r.jsonl")) == 4


def test_prompts_at_the_same_time_are_all_there_and_whole(tmp_path: Path) -> None:
    prompts = {f"question {number} " + "x" * 20_000 for number in range(24)}
    with recording(tmp_path / "r.jsonl") as recorder, ThreadPoolExecutor(24) as callers:
        sent = callers.map(lambda prompt: post(recorder.url, "/api/generate", {**BODY, "prompt": prompt}), prompts)
        assert {status for status, _ in sent} == {200}
    assert {row["prompt"] for row in read_rows(tmp_path / "r.jsonl")} == prompts


@pytest.mark.skipif(os.name == "nt", reason="Windows has access lists instead")
def test_the_file_is_private(tmp_path: Path) -> None:
    with recording(tmp_path / "r.jsonl") as recorder:
        post(recorder.url, "/api/generate", BODY)
    assert stat.S_IMODE((tmp_path / "r.jsonl").stat().st_mode) == 0o600


def test_encrypted_prompts_are_read_back_and_stand_nowhere_in_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    path, prompt = tmp_path / "r.jsonl", write_numbered("What is the rarest word?")
    with recording(path, encrypt=True) as recorder:
        post(recorder.url, "/api/generate", {**BODY, "prompt": prompt})
    assert b"rarest" not in path.read_bytes()
    loaded, = load_recordings(path, PromptSection(citation="", refusal="", general_knowledge="[Own Knowledge]"))
    assert loaded.prompt == prompt


def test_a_prompt_that_cannot_be_written_down_is_not_answered(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with OllamaServer(["phi4-mini:latest"]) as ollama, recording(tmp_path / "r.jsonl", ollama.base_url) as recorder:
        recorder._appender.close()
        recorder._appender._file = open("/dev/full", "a") if os.path.exists("/dev/full") else None  # noqa: SIM115
        if recorder._appender._file is None:
            pytest.skip("no /dev/full here")
        status, body = post(recorder.url, "/api/generate", BODY)
        assert status == 500 and b"could not write" in body and not ollama.requests
        recorder._appender._file = open(os.devnull, "a")  # noqa: SIM115 - the full one cannot be closed in peace
    assert "[FAIL] a prompt could not be written down" in capsys.readouterr().err


# -----------------------------------------------------------------------------
# With Ollama behind it


class CheckingServer(Server):
    """Asks, before it answers, whether the prompt is on disk already."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.seen = path, []

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        self.seen.append([row["prompt"] for row in read_rows(self.path)])
        handler.reply({"model": body["model"], "response": "real", "done": True})


def test_the_prompt_is_on_disk_before_ollama_hears_of_it(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with CheckingServer(path) as ollama, recording(path, ollama.base_url) as recorder:
        status, body = post(recorder.url, "/api/generate", BODY)
    assert (status, json.loads(body)["response"]) == (200, "real")
    assert ollama.seen == [[BODY["prompt"]]] and ollama.requests[0]["body"] == BODY


def test_our_own_client_works_through_it(tmp_path: Path) -> None:
    with OllamaServer(["phi4-mini:latest", "nomic-embed-text:latest"]) as ollama, recording(
        tmp_path / "r.jsonl", ollama.base_url
    ) as recorder:
        client = OllamaClient(recorder.url)
        assert client.version() == "0.30.1" and client.has_model("phi4-mini")
        assert client.chat("phi4-mini", [{"role": "user", "content": "why?"}], {}).text == "pong"
        assert len(client.embed("nomic-embed-text", ["a", "b"])) == 2
        with pytest.raises(OllamaError, match="has no model other"):
            client.chat("other", [{"role": "user", "content": "why?"}], {})
        client.unload("phi4-mini")
    assert [row["messages"][0]["content"] for row in read_rows(tmp_path / "r.jsonl")] == ["why?", "why?"]


def test_prompts_may_be_answered_here_while_the_rest_is_passed_on(tmp_path: Path) -> None:
    with OllamaServer(["nomic-embed-text:latest"]) as ollama, recording(
        tmp_path / "r.jsonl", ollama.base_url, answer_here=True
    ) as recorder:
        client = OllamaClient(recorder.url)
        assert "recorded" in client.chat("phi4-mini", [{"role": "user", "content": "why?"}], {}).text
        assert len(client.embed("nomic-embed-text", ["a"])) == 1
    assert [request["path"] for request in ollama.requests] == ["/api/embed"]
    assert len(read_rows(tmp_path / "r.jsonl")) == 1


# -----------------------------------------------------------------------------
# Starting and stopping


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PipelineError, match=f"port {port} of 127.0.0.1 cannot be used"):
            Recorder(tmp_path / "r.jsonl", port=port, forward=None)
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_is_none_is_named(tmp_path: Path, port: int) -> None:
    with pytest.raises(PipelineError, match="cannot be used"):
        Recorder(tmp_path / "r.jsonl", port=port, forward=None)


@pytest.mark.parametrize("forward", ["http://127.0.0.1:11999", "http://localhost:11999/"])
def test_it_does_not_pass_on_to_itself(tmp_path: Path, forward: str) -> None:
    with pytest.raises(PipelineError, match="to itself"):
        Recorder(tmp_path / "r.jsonl", port=11999, forward=forward)


@pytest.mark.parametrize("forward", ["localhost:11434", "11434", "http://", "http://host:port", "http://me:secret@127.0.0.1"])
def test_an_address_that_is_none_is_named(tmp_path: Path, forward: str) -> None:
    with pytest.raises(PipelineError, match="prompts cannot be passed on to"):
        Recorder(tmp_path / "r.jsonl", port=0, forward=forward)


def test_another_host_is_not_called_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_OFFLINE", "1")
    with pytest.raises(PipelineError, match="HYBRIDRAG_OFFLINE is set"):
        Recorder(tmp_path / "r.jsonl", port=0, forward="http://ollama.example:11434")


def test_two_recorders_do_not_write_one_file(tmp_path: Path) -> None:
    from distill.files import hold_lock

    with hold_lock(tmp_path / "r.jsonl"), pytest.raises(PipelineError, match="another run is at work"):
        record_prompts(tmp_path / "r.jsonl", port=0, forward=None, encrypt=False)


def wait_for(found: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.05)
    return value


@pytest.mark.skipif(os.name == "nt", reason="a console's Ctrl-C cannot be sent to one process there")
def test_ctrl_c_ends_it_well_and_the_prompts_are_there(tmp_path: Path) -> None:
    path, log = tmp_path / "r.jsonl", tmp_path / "log.txt"
    program = (
        "import sys; from pathlib import Path; from distill.recorder.record import record_prompts;"
        "record_prompts(Path(sys.argv[1]), port=0, forward=None, encrypt=False)"
    )
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, "-u", "-c", program, str(path)], cwd=ROOT, stdout=file, stderr=file)
    url = wait_for(lambda: re.search(r"base_url: (\S+)", log.read_text(encoding="utf-8")))[1]
    assert post(url, "/api/generate", BODY)[0] == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    said = log.read_text(encoding="utf-8")
    assert "1 prompts recorded" in said and "Traceback" not in said and "why?" not in said
    assert len(read_rows(path)) == 1
