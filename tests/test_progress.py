"""Progress in a file is plain lines with rate and time left."""

from __future__ import annotations

import pytest

from distill import progress
from distill.progress import show_progress


def test_redirected_progress_is_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with show_progress(4, "training", "step", done=2) as bar:
        bar.advance(note="loss 1.0")
        bar.advance()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("training: 3/4 step, ") and first.endswith("s left, loss 1.0")
    assert second.startswith("training: 4/4 step, ") and " 0 s left" in second
    assert "\r" not in first


def test_last_line_is_printed_however_fast(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(2, "asking", "row") as bar:
        bar.advance()
        bar.advance()
    assert capsys.readouterr().err.startswith("asking: 2/2 row, ")
