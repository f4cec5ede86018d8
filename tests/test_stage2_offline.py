"""Stage 2 opens no socket once the base model is on the disk: all of a run's sockets, and of what it starts, are watched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.config import load_config
from distill.files import write_jsonl_atomic
from distill.manifest import write_manifest
from tests.test_stage1_offline import GREEDY

ROOT = Path(__file__).parent.parent
ROWS = 24
PROMPT_KEYS = ("system", "template", "source_format", "source_separator", "citation", "refusal")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Loaded by Python before the script: writes down every socket that could leave the machine and every name that is looked up,
# and lets none through. The file tells of those too that a library tries and gives up in silence.
WATCH = '''
import os, sys
LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}

def watch(event, arguments):
    if event == "socket.__new__":
        # urllib3, which others import, asks the system for an IPv6 socket to know whether it has them; it goes nowhere.
        known = sys._getframe(2).f_code
        probe = known.co_name == "_has_ipv6" and known.co_filename.replace(os.sep, "/").endswith("urllib3/util/connection.py")
        if not probe and arguments[1] in (2, 10, 23, 30):  # AF_INET, and AF_INET6 of Linux, Windows and macOS
            note("socket of family %d" % arguments[1])
    elif event in LOOK_UPS:
        note("look-up of %s" % (arguments[0],))

def note(what):
    descriptor = os.open(os.environ["WATCHED_SOCKETS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (what + chr(10)).encode())
    os.close(descriptor)
    raise PermissionError("no network here: " + what)

sys.addaudithook(watch)
'''


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose sockets are written down, and whose libraries look for updates if they are let."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    (tmp_path / "sockets.txt").touch()
    return {
        "PYTHONPATH": str(tmp_path / "watch"), "WATCHED_SOCKETS": str(tmp_path / "sockets.txt"),
        "HF_HOME": str(tmp_path / "hf"), **GREEDY,
    }


def read_sockets(watched: dict[str, str]) -> list[str]:
    """Every socket and look-up so far."""
    return Path(watched["WATCHED_SOCKETS"]).read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(("program", "expected"), [
    ("import socket; socket.socket()", "socket of family 2"),
    ("import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)", "socket of family"),
    ("import socket; socket.getaddrinfo('hub.example', 443)", "look-up of hub.example"),
    ("import httpx; httpx.get('http://192.0.2.1/', timeout=1, trust_env=False)", "look-up of 192.0.2.1"),
    ("from huggingface_hub import HfApi; HfApi().model_info('owner/tiny')", "look-up of huggingface.co"),
    ("import subprocess, sys; subprocess.run([sys.executable, '-c', 'import socket; socket.socket()'])", "socket of family 2"),
])
def test_the_watch_sees_every_way_out(watched: dict[str, str], program: str, expected: str) -> None:
    """Else the test below could not fail."""
    code = f"try:\n    {program}\nexcept Exception:\n    pass"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **watched}, check=True)
    assert any(line.startswith(expected) for line in read_sockets(watched))


def put_in_cache(base: Path, home: Path) -> str:
    """The base model as the hub's library keeps it; returns its hub id."""
    repository = home / "hub" / "models--owner--tiny"
    shutil.copytree(base, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return "owner/tiny"


def make_stage(folder: Path, base_model: str) -> Path:
    """A config, and training_data/ as generate_training_data.py leaves it; returns the config's path."""
    folder.mkdir()
    path = folder / "config.yaml"
    section = {
        "base_model": base_model, "backend": "peft", "lora_r": 4, "max_steps": 2, "save_steps": 1, "warmup_steps": 0,
        "effective_batch_size": 4, "sample_questions": 1,
    }
    path.write_text(json.dumps({"work_dir": "work", "finetune": section}), encoding="utf-8")
    config = load_config(path)
    outputs = [config.training_dir / f"{side}.jsonl" for side in ("train", "heldout")]
    for output in outputs:
        asked = f"Question: which {output.stem} pump has so many valves:"
        write_jsonl_atomic(output, [
            {"id": f"{output.stem}{i}", "instruction": f"{asked} {i}?", "output": f"Number {i * 7} has."} for i in range(ROWS)
        ])
    write_manifest(
        config.training_dir, made_by="generate_training_data.py", config=config, sections=[], inputs=[], outputs=outputs,
        fixed={f"prompt.{key}": getattr(config.prompt, key) for key in PROMPT_KEYS}, counts={}, started=time.time(),
    )
    return path


def finetune(config: Path, *arguments: str, **environment: str) -> str:
    """The script as a process, to its good end."""
    done = subprocess.run(
        [sys.executable, "finetune.py", "--config", str(config), "--limit", str(ROWS), *arguments], cwd=ROOT, text=True,
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_whole_run_opens_no_socket(tmp_path: Path, tiny_phi3: Path, watched: dict[str, str], where: str) -> None:
    """With a base model in a folder, and with a hub id that libraries would look up."""
    base_model = tiny_phi3.as_posix() if where == "folder" else put_in_cache(tiny_phi3, Path(watched["HF_HOME"]))
    config = make_stage(tmp_path / "run", base_model)
    finetune(config, "--dry-run", **watched)
    finetune(config, **watched)
    assert (config.parent / "work" / "adapters" / "manifest.json").exists()
    assert read_sockets(watched) == []
