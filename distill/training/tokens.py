"""Rows as tokens, kept beside an unfinished run: a run that goes on after a stop need not tokenise again.

A cache file is private to the user: tokens are the rows' text in another form. With `encrypt: true` none is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from distill.base_model import TOKENIZER_FILES
from distill.errors import PipelineError
from distill.files import create_private, flush_to_disk, make_private, replace_file, sha256_file
from distill.records import TrainingExample
from distill.training.encode import IGNORE, EncodedExample

FORMAT = "1"  # of the file, and of what encode.py makes of a row: another number leaves all older files aside
DIGEST_BYTES = 32
NAME_DIGITS = 32


def load_or_encode(
    cache_dir: Path | None, key_parts: Iterable[str], make: Callable[[], list[EncodedExample]], encrypt: bool = False
) -> list[EncodedExample]:
    """The rows that `make` returns, from cache_dir where an earlier run left them under the same key, otherwise left there.

    `key_parts` are all that the tokens hang on, see list_key_parts. Without a cache_dir nothing is read or written; with
    `encrypt` nothing either, and what stands there is deleted. A damaged file is made anew. The caller deletes cache_dir once
    the run is finished.
    """
    if cache_dir is None:
        return make()
    if encrypt:
        shutil.rmtree(cache_dir, ignore_errors=True)
        return make()
    path = cache_dir / f"{hash_parts(key_parts)}.tokens"
    known = read_tokens(path)
    if known is not None:
        print(f"[OK] {len(known):,} rows as tokens from {cache_dir.parent.name}/{cache_dir.name}/")
        return known
    rows = make()
    try:
        write_tokens(path, rows)
    except (OSError, PipelineError) as error:
        print(f"[WARN] the tokens could not be kept for the next start: {error}")
    return rows


def list_key_parts(
    base: Path, tokenizer: Any, system: str, examples: Sequence[TrainingExample], include_reasoning: bool
) -> list[str]:
    """What the tokens of `examples` hang on: the tokenizer's files in `base`, chat template, system prompt, rows, this code.

    Neither max_length nor over_length is among them: they choose among the rows afterwards.
    """
    files = [f"{name} {sha256_file(base / name)}" for name in TOKENIZER_FILES if (base / name).is_file()]
    said = [json.dumps([row.id, row.instruction, row.reasoning if include_reasoning else "", row.output]) for row in examples]
    return [*files, str(tokenizer.chat_template), system, str(include_reasoning), *said]


def hash_parts(parts: Iterable[str]) -> str:
    """Hex digits over the parts; where one ends counts."""
    digest = hashlib.sha256(FORMAT.encode())
    for part in parts:
        digest.update(hashlib.sha256(part.encode("utf-8")).digest())
    return digest.hexdigest()[:NAME_DIGITS]


# -----------------------------------------------------------------------------
# The file: sha256 of the rest, then NumPy arrays


def read_tokens(path: Path) -> list[EncodedExample] | None:
    """The rows of a whole file; None where there is none, or it is torn or damaged."""
    import numpy as np

    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        return None
    with np.load(io.BytesIO(data[DIGEST_BYTES:]), allow_pickle=False) as arrays:
        ids, ends, prompts, names = (arrays[name].tolist() for name in ("ids", "ends", "prompts", "names"))
    rows = [ids[start:end] for start, end in zip([0, *ends], ends)]
    return [
        EncodedExample(name, row, [IGNORE] * prompt + row[prompt:]) for name, row, prompt in zip(names, rows, prompts)
    ]


def write_tokens(path: Path, rows: Sequence[EncodedExample]) -> None:
    """Write a file that appears whole or not at all, private to the user, in place of all others in its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make_private(path.parent)
    temporary, data = path.with_name(f".{path.name}.{os.getpid()}.tmp"), pack(rows)
    try:
        create_private(temporary)
        with open(temporary, "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
            flush_to_disk(file)
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for old in path.parent.glob("*.tokens"):
        if old != path:
            old.unlink(missing_ok=True)


def pack(rows: Sequence[EncodedExample]) -> bytes:
    """All rows' ids end to end, where each row and its prompt ends, and the rows' names."""
    import numpy as np

    target = io.BytesIO()
    np.savez(
        target,
        ids=np.array([token for row in rows for token in row.input_ids], np.int32),
        ends=np.cumsum([len(row.input_ids) for row in rows], dtype=np.int64),
        prompts=np.array([len(row.labels) - row.answer_tokens for row in rows], np.int32),
        names=np.array([row.example_id for row in rows], np.str_),
    )
    return target.getvalue()
