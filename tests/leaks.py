"""Where a text, or its tokens, lies on the disk; for tests that nothing is left in plain."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def make_surroundings(folder: Path) -> dict[str, str]:
    """Environment variables that send a process's home, temporary and cache files into `folder`, and hold an encryption key."""
    folder.mkdir()
    places = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE")
    return {**dict.fromkeys(places, str(folder)), "HYBRIDRAG_DISTILL_KEY": base64.b64encode(bytes(range(32))).decode("ascii")}


def spell_tokens(ids: Sequence[int]) -> list[bytes]:
    """Token ids as a cache could hold them: 16, 32 or 64 bits each, or as JSON."""
    return [np.array(ids, dtype).tobytes() for dtype in ("<i2", "<i4", "<i8")] + [str(list(ids)).strip("[]").encode()]


def find_traces(folder: Path, traces: Sequence[bytes]) -> list[str]:
    """The files below a folder in which one of the byte strings stands."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path.relative_to(folder).as_posix() for path in files if any(trace in path.read_bytes() for trace in traces)]
