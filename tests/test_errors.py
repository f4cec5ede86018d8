"""A user's mistake is one line; ours keeps its traceback. Run as real processes, since exit codes are the contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("body", "code", "present", "absent"),
    [
        ("raise PipelineError('x.yaml:3 is wrong: mend it')", 1, "[FAIL] x.yaml:3 is wrong: mend it\n", "Traceback"),
        ("raise PipelineError('config.yaml x.y is odd: mend it')", 1, "[FAIL] config.yaml x.y is odd: mend it\n", "Traceback"),
        ("raise KeyboardInterrupt", 130, "[WARN] stopped: run the same command again", "Traceback"),
        ("raise OSError(28, 'No space left', 'x')", 1, "[FAIL] x: No space left: make room, or mend work_dir", "Traceback"),
        ("raise OSError(27, 'File too large', 'x')", 1, "[FAIL] x: File too large: make room", "Traceback"),
        ("import errno; raise OSError(getattr(errno, 'EDQUOT', 28), 'Quota', 'x')", 1, "[FAIL] x: Quota: make", "Traceback"),
        ("raise FileNotFoundError(2, 'ours')", 1, "Traceback", "[FAIL]"),
        ("raise KeyError('ours')", 1, "Traceback", "[FAIL]"),
        ("print('\\u4e2d')", 0, "", "Traceback"),
    ],
)
def test_ending(body: str, code: int, present: str, absent: str) -> None:
    program = f"from distill.errors import PipelineError, run\ndef main():\n    {body}\nrun(main)"
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "SYSTEMROOT": "C:\\Windows", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert present in done.stderr and absent not in done.stderr
