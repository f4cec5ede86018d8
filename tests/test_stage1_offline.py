"""Stage 1 contacts its teacher's host and loopback, nobody else: every socket of a whole run is watched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.build_index import build_index
from demo.minilm import find_minilm
from distill.config import EmbedderSection
from distill.index.embedders import make_embedder
from tests.servers import OllamaServer, TeacherServer
from tests.stage1 import DOCUMENTS, World, answer_from_sources, make_world

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# Loaded by Python before the script: writes every host that is looked up or spoken to into a file, and lets none but loopback
# through. The file tells of those too that a library tries and gives up in silence.
WATCH = '''
import os, sys
EVENTS = {"connect", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr"}

def watch(event, arguments):
    module, _, name = event.partition(".")
    if module != "socket" or name not in EVENTS:
        return
    host = arguments[0]
    if name in ("connect", "sendto", "sendmsg"):
        if not isinstance(arguments[1], tuple):
            return  # a socket of this machine's file system
        host = arguments[1][0]
    host = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    descriptor = os.open(os.environ["WATCHED_HOSTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (host + chr(10)).encode())
    os.close(descriptor)
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise PermissionError("no network here: " + host)

sys.addaudithook(watch)
'''
# What would look for something on the network if it were left to itself.
GREEDY = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "0"}


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose hosts are written down."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    (tmp_path / "hosts.txt").touch()
    return {"PYTHONPATH": str(tmp_path / "watch"), "WATCHED_HOSTS": str(tmp_path / "hosts.txt"), **GREEDY}


def read_hosts(watched: dict[str, str]) -> set[str]:
    """Every host so far."""
    return set(Path(watched["WATCHED_HOSTS"]).read_text(encoding="utf-8").split())


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


@pytest.fixture
def teacher() -> Iterator[TeacherServer]:
    with TeacherServer(text=answer_from_sources) as server:
        yield server


def require_finished(world: World, teacher: TeacherServer) -> None:
    """The run asked and wrote: else that nobody was called would say nothing."""
    assert teacher.requests and world.rows("train.jsonl") and world.manifest()


@pytest.mark.parametrize("program", [
    "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
    "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=1)",
    "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "import socket; socket.gethostbyname('192.0.2.1')",
    "import httpx; httpx.get('http://192.0.2.1/', timeout=1)",
])
def test_the_watch_sees_every_way_out(watched: dict[str, str], program: str) -> None:
    """Else the tests below could not fail."""
    code = f"try:\n    {program}\nexcept Exception:\n    pass"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **watched}, check=True)
    assert "192.0.2.1" in read_hosts(watched)


def test_a_whole_run_contacts_loopback_alone(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, watched: dict[str, str]
) -> None:
    more = {"retrieval": "hybrid", "documents": {"sets": 2, "chunks_per_set": 2, "questions_per_set": 1}}
    world = make_world(tmp_path / "world", ollama, teacher, more)
    for options in (["--dry-run"], ["--show", "1"], ["--show-redactions"], ["--yes"], ["--yes"]):
        world.run(*options, **watched)
    require_finished(world, teacher)
    assert ollama.requests and read_hosts(watched) <= LOOPBACK and "127.0.0.1" in read_hosts(watched)


def test_a_whole_run_with_a_model_in_the_process_contacts_loopback_alone(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, watched: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    section = {"provider": "sentence-transformers", "model": str(find_minilm()), "query_prefix": ""}
    world = make_world(tmp_path / "world", ollama, teacher, {"embedder": section})
    embed = make_embedder(EmbedderSection.model_validate(section)).embed
    build_index(world.folder / "index", DOCUMENTS, embed, chunk_characters=110, overlap=0)
    world.run("--yes", **watched)
    require_finished(world, teacher)
    assert not ollama.requests and read_hosts(watched) <= LOOPBACK and "127.0.0.1" in read_hosts(watched)


def test_an_embedder_on_another_host_is_refused_before_anything_is_sent(
    tmp_path: Path, ollama: OllamaServer, teacher: TeacherServer, watched: dict[str, str]
) -> None:
    """Not through a proxy either: chunks would go there in clear, nothing masked."""
    world = make_world(tmp_path / "world", ollama, teacher, {"embedder": {"base_url": "http://gpu.example:11434"}})
    proxies = {"http_proxy": ollama.base_url, "no_proxy": "127.0.0.1"}
    process = world.start("--dry-run", **watched, **proxies)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1 and "[FAIL] embedder.base_url" in output and "Traceback" not in output
    assert not ollama.requests and not teacher.requests and not read_hosts(watched)
