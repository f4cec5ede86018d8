"""A user's mistake is one line and exit code 1; a mistake of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

# A folder that cannot be made or written, a full disk: the user's to mend, wherever it strikes.
UNUSABLE = (
    errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EFBIG,
    getattr(errno, "EDQUOT", errno.ENOSPC),  # Windows has none
)

# Read by Hugging Face's libraries when they are imported: our own lines and progress say what a user wants to know.
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class PipelineError(Exception):
    """Something the user can mend. The message says what is wrong, where (file, line, key) and what to do."""


def run(main: Callable[[], None]) -> None:
    """Call a script's main; print a PipelineError as one [FAIL] line and exit 1.

    Ctrl-C exits with 130, the shell's convention; everything on disk is complete by then, so the same command resumes.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # A document may hold characters that a Windows console in code page 1252 cannot show; printing must not fail on them.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace", line_buffering=True)
    try:
        main()
    except PipelineError as error:
        from distill.config import name_place

        print(f"[FAIL] {name_place(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\n[WARN] stopped: run the same command again to go on from what is saved", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        place = error.filename or "the disk"
        print(f"[FAIL] {place}: {error.strerror}: make room, or mend work_dir in config.yaml", file=sys.stderr)
        sys.exit(1)
