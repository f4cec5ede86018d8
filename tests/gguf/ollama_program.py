"""
A stand-in for the `ollama` executable: `ollama create NAME -f FILE` does over the API what Ollama's own does.

It reads the Modelfile as Ollama's parser does, brings the file that FROM names unless the server has it, and creates the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def put_on_path(folder: Path) -> Path:
    """Write an executable `ollama` into a folder that is to stand on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        (folder / "ollama.cmd").write_text(f'@"{sys.executable}" "{__file__}" %*\n', encoding="utf-8")
    else:
        program = folder / "ollama"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return folder


def create(url: str, name: str, modelfile: Path) -> None:
    """Create the model of a Modelfile."""
    sys.path.insert(0, str(ROOT))
    from tests.gguf.modelfile_parser import parse_modelfile

    body: dict[str, Any] = {"model": name, "files": {}, "template": "", "system": "", "parameters": {}, "stream": False}
    for command, value in parse_modelfile(modelfile.read_bytes().decode()):
        if command == "FROM":
            path = modelfile.parent / value
            body["files"][path.name] = f"sha256:{bring(url, path)}"
        elif command == "PARAMETER":
            key, _, setting = value.partition(" ")
            parsed = json.loads(setting)
            body["parameters"][key] = [*body["parameters"].get(key, []), parsed] if isinstance(parsed, str) else parsed
        else:
            body[command.lower()] = value
    ask(url, "/api/create", json.dumps(body).encode())


def bring(url: str, path: Path) -> str:
    """The sha256 of a file that the server then has."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        ask(url, f"/api/blobs/sha256:{sha256}", method="HEAD")
    except urllib.error.HTTPError:
        ask(url, f"/api/blobs/sha256:{sha256}", data, "application/octet-stream")
    return sha256


def ask(url: str, path: str, data: bytes | None = None, kind: str = "application/json", method: str | None = None) -> None:
    """One call; raises HTTPError for a refusal."""
    request = urllib.request.Request(url + path, data, {"Content-Type": kind}, method=method)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()


if __name__ == "__main__":
    _, verb, model, _, file = sys.argv
    assert verb == "create"
    print("\x1b[?25lgathering model components \x1b[K", file=sys.stderr)
    try:
        create(os.environ["OLLAMA_HOST"], model, Path(file))
    except urllib.error.HTTPError as refused:
        sys.exit(f"\x1b[?25hError: {json.loads(refused.read())['error']}")
