"""Both installers, run for real where there is a shell for them, against a program that stands in for ollama."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distill.bundle.pack import make_bundle
from distill.config import Config
from distill.files import sha256_file
from tests.bundle.finished import write_adapters, write_gguf
from tests.servers import OllamaServer

HERE, SOURCE = Path(__file__).parent, Path(__file__).parents[2] / "distill" / "bundle"
SHELLS = {
    "sh": ["sh", "install.sh"],
    "powershell": ["powershell", "-NoProfile", "-ExecutionPolicy", "Bypass", "-File", "install.ps1"],
    "pwsh": ["pwsh", "-NoProfile", "-File", "install.ps1"],
}
MODELS = {"student", "student-q8_0"}
OLD = "the model of last month"


@dataclass
class Machine:
    """Where the bundle arrives: a shell, and an Ollama whose models lie in a folder."""

    shell: str
    folder: Path
    url: str

    @property
    def models(self) -> dict[str, str]:
        """What Ollama holds."""
        path = self.folder / "models.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def calls(self) -> list[str]:
        """The calls of ollama, in order."""
        path = self.folder / "log.txt"
        return path.read_text().splitlines() if path.exists() else []

    def install(self, bundle: Path, fails: str = "", path: str | None = None) -> tuple[int, str]:
        """Exit code and output of the installer in a folder, started from another one."""
        search = os.pathsep.join([str(self.folder), os.environ["PATH"]]) if path is None else path
        found = {**os.environ, "PATH": search, "OLLAMA_HOST": self.url, "STAND_IN": str(self.folder), "STAND_IN_FAILS": fails}
        program, *options, script = SHELLS[self.shell]
        command = [shutil.which(program) or program, *options, str(bundle / script)]
        done = subprocess.run(
            command, cwd=self.folder, env=found, text=True, errors="replace", check=False, timeout=300,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        return done.returncode, done.stdout


@pytest.fixture(params=SHELLS)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A machine with this shell; skipped where there is none."""
    if shutil.which(SHELLS[request.param][0]) is None or (request.param == "sh" and sys.platform == "win32"):
        pytest.skip(f"no {request.param} for an installer here")
    folder = tmp_path / "machine"
    folder.mkdir()
    write_launcher(folder)
    with OllamaServer() as ollama:
        yield Machine(request.param, folder, ollama.base_url)


def write_launcher(folder: Path) -> None:
    """The program `ollama` for PATH."""
    script = HERE / "stand_in_ollama.py"
    if sys.platform == "win32":
        (folder / "ollama.cmd").write_text(f'@"{sys.executable}" "{script}" %*\n')
        return
    (folder / "ollama").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    (folder / "ollama").chmod(0o755)


def make_parts(config: Config, tmp_path: Path) -> Path:
    """A folder of parts, with a blank in its path."""
    make_bundle(config, target=tmp_path / "usb stick" / "student.zip", part_bytes=20_000)
    return tmp_path / "usb stick" / "student-parts"


def require_one_reason(code: int, output: str, reason: str) -> None:
    """Exit code 1 and one line that says why."""
    failures = [line for line in output.splitlines() if "[FAIL]" in line]
    assert code == 1 and len(failures) == 1 and reason in failures[0], output


def flip(path: Path) -> None:
    """One bit of a file's last byte."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


# -----------------------------------------------------------------------------
# What goes right


def test_an_unpacked_bundle_is_installed_asked_and_explained(machine: Machine, unpacked: Path) -> None:
    code, output = machine.install(unpacked)
    assert code == 0 and "[FAIL]" not in output, output
    assert machine.models == {
        "student": sha256_file(unpacked / "student-q4_k_m.gguf"), "student-q8_0": sha256_file(unpacked / "student-q8_0.gguf")
    }
    assert "answers: It runs at 24 volts. (asked: Source: the test pump runs at 24 volts. Question: at how many" in output
    for expected in ("model: student", "user_modes.yaml", "ollama rm student"):
        assert expected in output
    assert "smoke" not in output
    assert [call.split()[0] for call in machine.calls] == ["list", "create", "create", "run", "cp", "cp", "rm", "rm"]


def test_parts_are_joined_and_installed_and_an_unpacked_folder_beside_them_is_never_taken_for_them(
    machine: Machine, config: Config, tmp_path: Path
) -> None:
    parts = make_parts(config, tmp_path)
    (parts / "student.zip.099").write_bytes(b"a part of an older, larger bundle")
    before = {path.name for path in parts.iterdir()}
    code, output = machine.install(parts)
    assert code == 0 and "[OK] joined the parts" in output, output
    assert set(machine.models) == MODELS and {path.name for path in parts.iterdir()} == before | {"student"}
    assert machine.models["student"] == sha256_file(config.gguf_dir / "student-q4_k_m.gguf")
    code, output = machine.install(parts)
    assert code == 1 and "is there already: delete it, or run install.sh in it" in output, output


def test_a_smoke_run_is_said(machine: Machine, config: Config, tmp_path: Path) -> None:
    write_adapters(config, smoke_run=True)
    write_gguf(config, smoke_run=True)
    code, output = machine.install(make_parts(config, tmp_path))
    assert code == 0 and "[WARN] Made by a smoke run (--limit): for trying out only." in output


def test_an_older_model_of_that_name_is_replaced(machine: Machine, unpacked: Path) -> None:
    (machine.folder / "models.json").write_text(json.dumps({"student": OLD, "phi4-mini": OLD}))
    assert machine.install(unpacked)[0] == 0
    assert set(machine.models) == {*MODELS, "phi4-mini"} and machine.models["phi4-mini"] == OLD
    assert machine.models["student"] == sha256_file(unpacked / "student-q4_k_m.gguf")


@pytest.mark.parametrize("fails", ["", "run"])
def test_a_model_of_the_users_called_trial_stays(machine: Machine, unpacked: Path, fails: str) -> None:
    (machine.folder / "models.json").write_text(json.dumps({"student-trial": OLD}))
    machine.install(unpacked, fails)
    assert machine.models["student-trial"] == OLD
    digest = sha256_file(unpacked / "student-q4_k_m.gguf")
    assert f"rm student-trial-{digest[:8]}" in machine.calls


# -----------------------------------------------------------------------------
# What goes wrong: one line, exit code 1, nothing half done


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda folder: flip(folder / "student-q8_0.gguf"), "student-q8_0.gguf is damaged: copy it again"),
    (lambda folder: (folder / "Modelfile").unlink(), "Modelfile is missing: copy the whole bundle again"),
    (lambda folder: flip(folder / "manifests" / "gguf.json"), "gguf.json is damaged"),
    (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    (lambda folder: (folder / "SHA256SUMS").write_text(""), "SHA256SUMS is empty"),
])  # fmt: skip
def test_a_damaged_bundle_is_not_installed(
    machine: Machine, unpacked: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(unpacked)
    require_one_reason(*machine.install(unpacked), reason)
    assert machine.models == {} and machine.calls == ["list"]


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda folder: flip(folder / "student.zip.002"), "student.zip.002 is damaged: copy it again"),
    (lambda folder: (folder / "student.zip.002").unlink(), "student.zip.002 is missing"),
])  # fmt: skip
def test_damaged_parts_are_not_joined(
    machine: Machine, config: Config, tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    parts = make_parts(config, tmp_path)
    damage(parts)
    before = {path.name for path in parts.iterdir()}
    require_one_reason(*machine.install(parts), reason)
    assert {path.name for path in parts.iterdir()} == before and machine.models == {}


@pytest.mark.parametrize(("fails", "reason"), [
    ("list", "Ollama does not answer at http://127.0.0.1:"), ("create", "ollama create student did not work"),
    ("run", "student gave no answer"), ("answer", "student gave an empty answer"),
    ("cp", "ollama cp student-trial-"),
])  # fmt: skip
def test_when_ollama_fails_the_old_models_stay_and_no_trial_is_left(
    machine: Machine, unpacked: Path, fails: str, reason: str
) -> None:
    (machine.folder / "models.json").write_text(json.dumps({"student": OLD}))
    require_one_reason(*machine.install(unpacked, fails), reason)
    assert machine.models == {"student": OLD}


def test_an_ollama_that_is_not_running_is_one_line(machine: Machine, unpacked: Path) -> None:
    machine.url = "http://127.0.0.1:9"
    require_one_reason(*machine.install(unpacked), "Ollama does not answer at http://127.0.0.1:9: start it")


def test_no_ollama_on_the_path_is_one_line(machine: Machine, unpacked: Path) -> None:
    folders = [each for each in os.environ["PATH"].split(os.pathsep) if shutil.which("ollama", path=each) is None]
    require_one_reason(*machine.install(unpacked, path=os.pathsep.join(folders)), "ollama is not on PATH: install Ollama")


# -----------------------------------------------------------------------------
# The two are the same, and install.ps1 is what Windows PowerShell 5.1 reads


def read_steps(text: str) -> list[str]:
    """The numbered comments."""
    return re.findall(r"^\s*# (\d\. .+)$", text, re.MULTILINE)


def test_both_installers_take_the_same_steps_and_say_the_same(unpacked: Path) -> None:
    shell, power = ((unpacked / name).read_text(encoding="ascii") for name in ("install.sh", "install.ps1"))
    assert read_steps(shell) == read_steps(power) and len(read_steps(shell)) == 7
    calls, question = r"ollama(?:Silently)? (list|create|run|cp|rm)\b", r"question ?= ?'(.+)'"
    for pattern in (calls, question, r"\[(?:OK|WARN|SKIP)\] \w+"):
        assert set(re.findall(pattern, shell, re.IGNORECASE)) == set(re.findall(pattern, power, re.IGNORECASE)) != set()
    for reason in ("is missing: copy the whole bundle again", "is damaged: copy it again", "is not on PATH: install Ollama"):
        assert reason in shell and reason in power


def test_the_powershell_script_is_ascii_and_balanced(unpacked: Path) -> None:
    text = (unpacked / "install.ps1").read_bytes().decode("ascii")
    code = "\n".join(re.sub(r"(^|\s)#.*$", "", line) for line in text.splitlines())
    for line in code.splitlines():
        assert line.count('"') % 2 == 0 and line.count("'") % 2 == 0, line
    bare = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "", code)
    for opening, closing in ("{}", "()", "[]"):
        assert bare.count(opening) == bare.count(closing)
    assert "&&" not in code and "||" not in code and " ?? " not in code and "`" not in code  # 5.1 knows none of the first three


@pytest.mark.skipif(shutil.which("sh") is None or sys.platform == "win32", reason="no sh")
def test_the_shell_script_is_plain_posix() -> None:
    for shell in filter(shutil.which, ("sh", "dash", "bash")):
        subprocess.run([shell, "-n", str(SOURCE / "install.sh")], check=True)
    assert not re.search(r"\[\[|<<<|function |\blocal\b|\$'", (SOURCE / "install.sh").read_text(encoding="ascii"))
