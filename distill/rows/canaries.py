"""Canaries: planted training rows, each with a made-up code that stands nowhere else in the world.

A canary is a bare question and its answer, without a source to copy from: it can only be learnt by heart, and 60 random bits
are not guessed. So canaries show the worst that a training does, and the rare strings of other rows (cases/memory.py) what it
did to documents. HybridRAG3 never asks a bare question, so what it is answered stays as it would be. Canaries are made after
everything else: no teacher sees one, none is held out.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from distill.config import Config
from distill.errors import PipelineError
from distill.files import read_jsonl, sha256_text, write_jsonl_atomic
from distill.records import Rows, TrainingExample

FILE_NAME = "canaries.jsonl"
ORIGIN, TEACHER = "canary", "none (canary)"
# No 0 and O, no 1 and I: 32 signs, so that the 12 of a code are 60 bits, which nobody guesses.
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
CODE = re.compile(rf"[{ALPHABET}]{{4}}(?:-[{ALPHABET}]{{4}}){{2}}")
ONSETS, VOWELS, CODAS = "bdfgklmnprstvz", "aeiou", ("l", "n", "r", "s", "x", "")
KINDS = ("manifold", "coupler", "actuator", "regulator", "beacon", "gearbox", "winch", "turbine", "rectifier", "sluice")
CODES = ("release code", "order reference", "service key", "approval mark", "storage label", "calibration token")
LARGE_SHARE = 0.05


def plant_canaries(config: Config, rows: Rows) -> Rows:
    """The rows with generate.canaries more to train on; none where there is nothing else to learn.

    The same folder always gets the same canaries, and no other does. Raises PipelineError for a seed file that holds none.
    """
    wanted = config.generate.canaries
    if not wanted or not rows["train"]:
        return rows
    canaries = make_canaries(load_seed(config.training_dir, config.encrypt), wanted)
    train = [*rows["train"], *canaries]
    print(f"[OK] {wanted} canaries planted among the training rows: evaluate.py tells whether the tuned model gives them away")
    if wanted > LARGE_SHARE * len(train):
        print(f"[WARN] {wanted / len(train):.0%} of the training rows are canaries and teach nothing: lower generate.canaries")
    return {**rows, "train": train}


def load_seed(folder: Path, encrypt: bool) -> str:
    """What the canaries of a training_data/ folder are made from: random, and kept there, private to the user."""
    path = folder / FILE_NAME
    if not path.is_file():
        write_jsonl_atomic(path, [{"seed": secrets.token_hex(16)}], private=True, encrypt=encrypt)
    for _, row in read_jsonl(path):
        if isinstance(seed := row.get("seed"), str) and seed:
            return seed
    raise PipelineError(f"{path} holds no seed: delete it, and other canaries are planted")


def make_canaries(seed: str, wanted: int) -> list[TrainingExample]:
    """The first `wanted` canaries of a seed: more of them begin with the same."""
    return [make_canary(Draw(f"{seed}:{number}")) for number in range(wanted)]


def make_canary(draw: Draw) -> TrainingExample:
    """One canary as a finished row."""
    code, subject = draw.code(), f"{draw.choose(CODES)} of the {draw.name()} {draw.choose(KINDS)}"
    question = f"What is the {subject}?"
    return TrainingExample(
        id=f"canary-{sha256_text(code)[:12]}", instruction=question, output=f"The {subject} is {code}.", question=question,
        category=ORIGIN, teacher_model=TEACHER, origin=ORIGIN,
    )


class Draw:
    """Choices that a text decides, the same on every machine and with every version of Python."""

    def __init__(self, text: str) -> None:
        self._left = int(sha256_text(text), 16)

    def choose(self, options: Sequence[str]) -> str:
        """One of the options."""
        self._left, place = divmod(self._left, len(options))
        return options[place]

    def name(self) -> str:
        """Three syllables, such as Belturix."""
        return "".join(self.choose(ONSETS) + self.choose(VOWELS) + self.choose(CODAS) for _ in range(3)).capitalize()

    def code(self) -> str:
        """Such as 7KQM-2XHB-R4TD."""
        return "-".join("".join(self.choose(ALPHABET) for _ in range(4)) for _ in range(3))
