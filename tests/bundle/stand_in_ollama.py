"""
Stands in for the program ollama in tests of the installers: the commands that they use, on a folder instead of a server.

STAND_IN: the folder, with models.json (the GGUF's sha256 by model) and log.txt (a line per call). STAND_IN_FAILS: a command
that fails, or "answer" for one that answers nothing. `list` asks the server at OLLAMA_HOST, as the real one does.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import urllib.request
from pathlib import Path

FOLDER, FAILS = Path(os.environ["STAND_IN"]), os.environ.get("STAND_IN_FAILS", "")


def load_models() -> dict[str, str]:
    """What was created so far."""
    path = FOLDER / "models.json"
    return json.loads(path.read_text()) if path.exists() else {}


def hash_source(modelfile: Path) -> str:
    """The sha256 of the GGUF that a Modelfile is made from."""
    line = next(line for line in modelfile.read_text(encoding="utf-8").splitlines() if line.startswith("FROM "))
    return hashlib.sha256((modelfile.parent / line.removeprefix("FROM ")).read_bytes()).hexdigest()


def main(command: str, *arguments: str) -> None:
    """One call."""
    with open(FOLDER / "log.txt", "a") as log:
        log.write(" ".join([command, *arguments]) + "\n")
    print(f"working on {command} ...", file=sys.stderr)  # the real one shows its progress there
    if command == FAILS:
        sys.exit(f"Error: {command} failed")
    models = load_models()
    if command == "list":
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(f"{os.environ['OLLAMA_HOST']}/api/tags", timeout=10).read()
    elif command == "create":
        models[arguments[0]] = hash_source(Path(arguments[arguments.index("-f") + 1]))
    elif command == "run":
        assert models[arguments[0]]
        print("" if FAILS == "answer" else f"It runs at 24 volts. (asked: {arguments[1]})")
    elif command == "cp":
        models[arguments[1]] = models[arguments[0]]
    elif command == "rm":
        del models[arguments[0]]
    (FOLDER / "models.json").write_text(json.dumps(models))


main(*sys.argv[1:])
