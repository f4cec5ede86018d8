"""How long a text is for the student: in its own tokens where its tokenizer is on this machine, otherwise estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from distill.base_model import describe_download, find_snapshot
from distill.config import Config
from distill.errors import PipelineError

CHARACTERS_PER_TOKEN = 4  # English prose; tables and code have fewer


class TokenCounter:
    """Counts tokens; `exact` is whether they are the student's own."""

    def __init__(self, count_exactly: Callable[[str], int] | None = None) -> None:
        self._count_exactly = count_exactly
        self.exact = count_exactly is not None

    def count(self, text: str) -> int:
        """The tokens of a text, without any that a chat template adds."""
        return self._count_exactly(text) if self._count_exactly else math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def load_counter(config: Config) -> TokenCounter:
    """The counter of finetune.base_model, from the disk alone; without its tokenizer an estimate, and one warning."""
    student = config.finetune
    try:
        return TokenCounter(load_tokenizer(find_tokenizer(student.base_model, student.base_revision)))
    except PipelineError as error:
        print(f"[WARN] tokens are estimated at {CHARACTERS_PER_TOKEN} characters each: {error}")
        return TokenCounter()


def find_tokenizer(name_or_path: str, revision: str | None) -> Path:
    """The student's tokenizer.json; its weights need not be there yet. Raises PipelineError when it is not on this machine."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = find_snapshot(name_or_path, revision)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise PipelineError(f"{path} is missing: {describe_download(name_or_path)}")
    return path


def load_tokenizer(path: Path) -> Callable[[str], int]:
    """What counts a text's tokens. Raises PipelineError for a file that is no tokenizer."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception for a broken file
        raise PipelineError(f"{path} is no tokenizer that this program reads ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
