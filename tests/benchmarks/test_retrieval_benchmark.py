"""benchmarks/retrieval.py at a size of seconds. (The name differs from tests/index/test_retrieval.py: pytest wants that.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = ["--chunks", "20000", "--dim", "64", "--questions", "40", "--sample", "10"]


def run(folder: Path, *sizes: str) -> str:
    """What the benchmark prints."""
    command = [sys.executable, "benchmarks/retrieval.py", "--folder", str(folder), *sizes]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8").stdout


def read_table(output: str) -> dict[str, tuple[str, str]]:
    """Measured and bar, by the first cell."""
    rows = [line.strip("|").split("|") for line in output.splitlines() if line.startswith("| ")]
    return {row[0].strip(): (row[1].strip(), row[2].strip()) for row in rows}


def test_the_same_chunks_are_found_and_the_index_is_used_again(tmp_path: Path) -> None:
    table = read_table(run(tmp_path, *SIZES))
    assert table["same 40 hits"] == ("10 of 10 questions", "all: met")
    assert table["top 5 shared with it, hybrid"][1] == "at least 0.98: met"
    assert table["top 5 shared with it, keywords alone"][1] == "at least 0.98: met"
    made = (tmp_path / "hybridrag.sqlite3").stat().st_mtime_ns
    assert "using the index" in run(tmp_path, *SIZES[:5], "5", "--sample", "2")
    assert (tmp_path / "hybridrag.sqlite3").stat().st_mtime_ns == made
