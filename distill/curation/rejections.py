"""What was left out, and why: counted by check in the manifest, row by row in training_data/rejected.jsonl."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from distill.files import write_jsonl_atomic


class Rejections:
    """Everything that one run left out."""

    def __init__(self) -> None:
        self._rows: list[dict[str, str]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self, check: str, detail: str, *, id: str = "", question: str, category: str = "", side: str = "", output: str = ""
    ) -> None:
        """Remember one: `check` is the name of what refused it, `detail` one line, `output` the answer if there was one."""
        row = {"check": check, "detail": detail, "id": id, "side": side, "category": category, "question": question}
        self._rows.append({**row, "output": output})

    def counts(self) -> dict[str, int]:
        """How many each check refused, by its name."""
        return dict(sorted(Counter(row["check"] for row in self._rows).items()))

    def write(self, path: Path, encrypt: bool = False) -> None:
        """All of them by check, in an order that does not hang on which answer came first; readable by the user alone."""
        rows = sorted(self._rows, key=lambda row: (row["check"], row["question"], row["id"], row["output"]))
        write_jsonl_atomic(path, rows, private=True, encrypt=encrypt)
