"""What holds for the repository as a whole: it runs on Windows, it tells the truth about itself, it reveals nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distill.config import Config, FinetuneSection, load_config

ROOT = Path(__file__).parent.parent
SCRIPTS = ("generate_training_data.py", "finetune.py", "export_gguf.py", "evaluate.py")
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SOURCES = sorted(path for path in [*ROOT.glob("*.py"), *ROOT.glob("distill/**/*.py"), *ROOT.glob("demo/*.py")])
UNIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}


def name_source(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def list_imports(tree: ast.AST) -> set[str]:
    """Top-level names of every module that is imported anywhere in a file."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in names}


# -----------------------------------------------------------------------------
# Windows


@pytest.mark.parametrize("path", SOURCES, ids=name_source)
def test_source_runs_on_windows(path: Path) -> None:
    text = path.read_bytes().decode("ascii")  # a Windows console shows nothing else reliably
    assert "\r" not in text
    assert not list_imports(ast.parse(text)) & UNIX_ONLY
    assert "os.rename(" not in text and "shell=True" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_can_be_imported_by_a_worker_process(script: str) -> None:
    """Windows starts worker processes by importing the script again: that must run nothing."""
    program = f"import {Path(script).stem} as script; print(callable(script.main))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_powershell_blocks_hold_one_command_a_line() -> None:
    blocks = [line for line in README.splitlines() if line.startswith("    ")]
    assert blocks and not any("&&" in line for line in blocks)


# -----------------------------------------------------------------------------
# The README


def test_readme_names_every_part() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in {path.split("/")[0] for path in tracked if not path.startswith(".")}:
        assert name in README, name
    for path in ROOT.glob("distill/*"):
        if path.name != "__pycache__" and path.name != "__init__.py":
            assert path.name in README, path.name


def list_commands(text: str) -> list[tuple[str, str]]:
    """The scripts that a text types in its blocks, each with its options."""
    return re.findall(r"^ +python (\S+\.py)((?: --?[a-z-]+)*)", text, flags=re.MULTILINE)


def test_readme_types_every_script() -> None:
    assert {name for name, _ in list_commands(README)} >= {*SCRIPTS, "demo/set_up.py"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_source)
def test_commands_that_are_typed_exist(path: Path) -> None:
    for name, options in list_commands(path.read_text(encoding="utf-8")):
        source = (ROOT / name).read_text(encoding="utf-8")
        for option in options.split():
            assert f'"{option}"' in source, f"{name} {option}"


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "config.yaml"], ids=name_source)
def test_files_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"\b(?:docs|tests|benchmarks)/[A-Za-z0-9_/]+\.(?:md|png|py)\b", path.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_source)
def test_settings_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for key in re.findall(r"(?<![\w./])((?:prompt|generate|finetune|export|evaluate)\.(?!py\b)[a-z_0-9.]*[a-z_0-9])", text):
        Config().value_of(key)  # a KeyError names what no longer exists


def test_every_setting_of_training_is_explained() -> None:
    section = (ROOT / "docs" / "TRAINING.md").read_text(encoding="utf-8").split("## Settings")[1].split("##")[0]
    named = {key.strip() for line in section.splitlines() if line.startswith("|") for key in line.split("|")[1].split(",")}
    assert set(FinetuneSection.model_fields) <= named


# -----------------------------------------------------------------------------
# Style that a reader relies on


@pytest.mark.parametrize("path", SOURCES, ids=name_source)
def test_every_signature_is_typed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = [each.arg for each in arguments if each.annotation is None and each.arg not in ("self", "cls")]
            assert node.returns is not None and not untyped, f"{path.name}:{node.lineno} {node.name} {untyped}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_can_be_read_in_one_sitting(script: str) -> None:
    assert len((ROOT / script).read_text(encoding="utf-8").splitlines()) < 250


def test_scripts_do_not_import_each_other() -> None:
    stems = {Path(script).stem for script in SCRIPTS}
    for path in SOURCES:
        assert not list_imports(ast.parse(path.read_text(encoding="utf-8"))) & stems, path


@pytest.mark.parametrize("name", ["config.yaml", "demo/config.yaml"])
def test_shipped_configs_load(name: str) -> None:
    load_config(ROOT / name)
