"""Whether a file tells where something lies on this machine."""

from __future__ import annotations

import json
from pathlib import Path


def reveals(file: Path, path: Path) -> bool:
    """Whether `file` holds `path` in any spelling: JSON doubles the backslashes of Windows."""
    text = file.read_text(encoding="utf-8")
    return any(form in text for form in (str(path), path.as_posix(), json.dumps(str(path))[1:-1]))
