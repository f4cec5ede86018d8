"""What requirements*.txt promise. Whether an index can give it is tried by hand: docs/TROUBLESHOOTING.md."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from distill.training.machine import read_lines

ROOT = Path(__file__).parent.parent
CPU, CUDA = (
    [Requirement(line) for line in read_lines(ROOT / name)] for name in ("requirements-cpu.txt", "requirements.txt")
)
RANGES = {"unsloth", "unsloth_zoo"}


def test_every_package_has_one_exact_version() -> None:
    """Two machines must train alike; Unsloth, whose version depends on the index, gives the same losses in each."""
    loose = {each.name for each in [*CPU, *CUDA] if [clause.operator for clause in each.specifier] != ["=="]}
    assert loose == RANGES
    names = [each.name.lower() for each in [*CPU, *CUDA]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("version", "allowed"), [
    ("2026.10.6", False), ("2026.10.7", True), ("2026.10.9", True), ("2026.10.10", False), ("2026.11.1", False),
])
def test_both_halves_of_unsloth_have_the_measured_range(version: str, allowed: bool) -> None:
    found = {each.name for each in CUDA if each.name in RANGES and each.specifier.contains(version)}
    assert found == (RANGES if allowed else set())


def test_the_cuda_file_is_the_other_one_and_more() -> None:
    assert "-r requirements-cpu.txt" in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert not {"unsloth", "bitsandbytes", "triton-windows"} & {each.name for each in CPU}


def test_these_tests_run_on_the_pinned_versions() -> None:
    other = {each.name: importlib.metadata.version(each.name) for each in CPU if not each.specifier.contains(installed(each))}
    assert not other


def installed(requirement: Requirement) -> str:
    """The version that is here."""
    return importlib.metadata.version(requirement.name)
