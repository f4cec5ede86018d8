"""
All set-up in one command: makes .venv, installs requirements-cpu.txt into it, then runs the demo or the tests.

    python demo/set_up.py demo
    python demo/set_up.py tests
    python demo/set_up.py tests -m "not slow"    # what follows is passed on, here to pytest

Needs Python 3.11 or 3.12 and a package index; nothing is installed outside .venv. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"demo": ["-m", "demo"], "tests": ["-m", "pytest", "-n", "2", "--dist", "loadfile"]}
VERSIONS = ((3, 11), (3, 12))


def find_python(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def install(environment: Path) -> Path:
    """Make the environment where it is missing, install the requirements, return its interpreter."""
    python = find_python(environment)
    if not python.exists():
        print(f"[OK] Making {environment}", flush=True)
        venv.create(environment, with_pip=True)
    print("[OK] Installing requirements-cpu.txt", flush=True)
    packages = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements-cpu.txt"]
    subprocess.run([python, *packages], cwd=ROOT, check=True)
    return python


def main() -> int:
    """Exit code of what was run; 1 for a wrong call or a failed installation."""
    name, *rest = sys.argv[1:] or [""]
    if name not in COMMANDS:
        print(f"[FAIL] python demo/set_up.py takes one of: {', '.join(COMMANDS)}", file=sys.stderr)
        return 1
    if sys.version_info[:2] not in VERSIONS:
        found = sys.version.split()[0]
        print(f"[FAIL] this is Python {found}: use 3.11 or 3.12, as in  py -3.11 demo/set_up.py {name}", file=sys.stderr)
        return 1
    try:
        python = install(ROOT / ".venv")
    except subprocess.CalledProcessError as error:
        print(f"[FAIL] pip ended with exit code {error.returncode}: see its message above", file=sys.stderr)
        return 1
    return subprocess.run([python, *COMMANDS[name], *rest], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
