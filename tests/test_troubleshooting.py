"""docs/TROUBLESHOOTING.md has a row for every error and warning of the four scripts, and for no other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.messages import BLANK, ROOT, Message, Scan, count_words, scan_messages

PAGE = (ROOT / "docs" / "TROUBLESHOOTING.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Row:
    line: int
    section: str
    cells: tuple[str, ...]
    quotes: tuple[str, ...]


@cache
def scan() -> Scan:
    return scan_messages()


@cache
def list_rows() -> list[Row]:
    """The rows of the tables whose first column is headed "message"; messages are quoted there in backticks."""
    rows, heading, section = [], "", ""
    for number, line in enumerate(PAGE.splitlines(), 1):
        section = line if line.startswith("## ") else section
        cells = tuple(cell.strip() for cell in re.split(r"(?<!<)\|(?!>)", line.strip("|"))) if line.startswith("|") else ()
        if cells and not heading:
            heading = cells[0]
        elif cells and heading == "message" and set(cells[0]) != {"-"}:
            rows.append(Row(number, section, cells, tuple(re.findall(r"`([^`]+)`", cells[0]))))
        heading = heading if cells else ""
    return rows


def fold(text: str) -> str:
    """A message as the page writes it, `...` for what is filled in."""
    return re.sub(r"\.\.\.(?:\W*\.\.\.)*", "...", text.replace(BLANK, "...")).strip(" :")


def matches(quote: str, text: str) -> bool:
    """Whether a message says the quote's words in their order; a quote of one or two words must be the whole message."""
    if count_words(quote) < 3:
        return fold(quote) == fold(re.sub(r"^\[[A-Z]+\] ", "", text))
    place = 0
    for part in filter(None, (part.strip() for part in quote.split("..."))):
        found = text.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


# What the scan meets on its way to a message and what is none: good news, advice behind a message, fillings. * is anything.
NO_MESSAGES = (
    # evaluate.py --ask: the prompt and the figures of an answer
    "(it said nothing)", "first token after ... s", "grounding ... (1.00: *",
    "HybridRAG3's answer guard would ... it",
    # advice, the second half of a message
    "set finetune.base_model to a complete folder *", "run python finetune.py --download where there is internet*",
    "convert it with your own llama.cpp: *", "run python ... again", "run python ... again; your edits are lost then*",
    "or set generate.retrieval: vector", "*mend ....model or base_url",
    "update the driver to ... or newer*",
    "look at CUDA_VISIBLE_DEVICES and nvidia-smi", "python -m pip install torch==*", "look at the rows of the last steps*",
    # what is filled in
    "the keyring's entry *", "HybridRAG3's entry in the keyring *", "the environment variable ...", "no reason given",
    "nothing was changed", "a tensor embed_tokens.weight", "num_hidden_layers in config.json", "a list of ...",
    "the GGUF's in llama.cpp", "after ... comes ... instead of ...", "prompt.citation is empty", "prompt.refusal is empty",
    "none (no chunk above min_score)", "questions:, a list of *", "a list of rows, each with *", "... attempts)",
    "no known price", "price not known", "the provider's list", "base in 4 bits", "base model files",
    "adapter to go on from", "... tokens", "[... x ...",
    # good news
    "... parts have the sha256 that ... lists", "... questions in ... categories,", "... are for other requests *",
    "at most ... if nothing is repeated", "... requests a minute", "... at once, ... tokens/s each",
    "$* per million tokens *",
    "To keep to this commit, write into *", "For an offline machine, copy the folder, *",
    "and set finetune.base_model there to the copy, *", "..., up to ... tokens at once (... batches a step)",
    "base model: ... million parameters, *", "Made by a smoke run (--limit): for trying out only.",
    "The manifest of that stage is *", "..., tuned to answer questions from the chunks *",
    "... - *Private.* A tuned model can repeat *",
    # samples that are rendered, and other machinery
    "What is the ...?", "Answer from the sources.", "Line one. *", "Cutting Knowledge Date: *", "What does \"45 Nm\" *",
    "{{ range $index, *", "{{ if and $.System *", "... WHERE ... IS NOT NULL *", "... is closed",
)  # fmt: skip


def is_filling(text: str) -> bool:
    """Whether a text is, as a whole, one of NO_MESSAGES."""
    return any(re.fullmatch(read_pattern(each), fold(text)) for each in NO_MESSAGES)


def read_pattern(filling: str) -> str:
    """As a regular expression; * stands for anything, `...` only for what is filled in."""
    return re.escape(filling).replace(r"\*", ".*")


@cache
def list_open() -> list[Message]:
    """The messages that are no filling: each needs a row."""
    return sorted(each for each in scan().found if not is_filling(each.text))


@pytest.mark.parametrize("folder", ["", "distill/teacher", "distill/training", "distill/gguf", "distill/index"])
def test_scan_finds_messages_everywhere(folder: str) -> None:
    """A scan that broke would find nothing, and nothing would be missing from the page."""
    assert sum(each.place.startswith(folder) for each in list_open()) >= (600 if not folder else 40)


def test_every_message_is_followed_to_its_words() -> None:
    assert sorted(scan().lost) == []


def test_every_message_has_a_row() -> None:
    quotes = [quote for row in list_rows() for quote in row.quotes]
    missing = [each for each in list_open() if not any(matches(quote, each.text) for quote in quotes)]
    assert not missing, "\n".join(f"{each.place}: {each.text}".replace(BLANK, "...") for each in missing)


def test_every_row_quotes_what_a_source_says() -> None:
    texts = [each.text for each in list_open()]
    stale = [f"{row.line}: {quote}" for row in list_rows() for quote in row.quotes if not any(matches(quote, t) for t in texts)]
    assert stale == []


def test_no_filling_is_listed_in_vain() -> None:
    texts = [fold(each.text) for each in scan().found]
    assert [each for each in NO_MESSAGES if not any(re.fullmatch(read_pattern(each), text) for text in texts)] == []


def test_no_quote_covers_everything() -> None:
    """A quote of words that many messages share would hide that a new one has no row."""
    texts = {each.text for each in list_open()}
    counts = {quote: sum(matches(quote, text) for text in texts) for row in list_rows() for quote in row.quotes}
    assert {quote: count for quote, count in counts.items() if count > 11} == {}


def test_rows_are_complete() -> None:
    """Message, cause, cure; a broken table (a bar inside a cell) shows here too."""
    rows = list_rows()
    assert len(rows) > 250
    assert [row for row in rows if len(row.cells) != 3 or not all(row.cells) or not row.quotes] == []


def test_no_message_has_two_rows_in_a_section() -> None:
    quotes = [(row.section, quote) for row in list_rows() for quote in row.quotes]
    assert sorted({each for each in quotes if quotes.count(each) > 1}) == []


def test_contents_lead_to_every_section() -> None:
    def anchor(title: str) -> str:
        return re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-")

    headings = [anchor(title) for title in re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)]
    linked = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert set(linked) == set(headings) and list(dict.fromkeys(linked)) == headings


# -----------------------------------------------------------------------------
# The scan itself

SAMPLE = '''
class PipelineError(Exception): ...
class RowError(Exception): ...

def explain(name):
    """No message: this is documentation."""
    if name:
        return f"the second message of {name}"
    return REASON

REASON = "the third message here"

def check(name, note="the fourth message, a default"):
    problems = []
    problems.append(f"{name}: the fifth message in a list")
    print(f"[OK] {name} is good news, not a message")
    if name:
        raise PipelineError(f"{name}: the first message, to be mended")
    if problems:
        raise PipelineError("\\\\n".join(problems))
    text = "the sixth message by name" if name else "the seventh message by name"
    print(f"[WARN] {text}")
    raise RowError(explain(name))

def call():
    tell("an eighth message as argument")

def tell(what):
    raise PipelineError(what)

def stop(error):
    raise PipelineError(error.unknown)
'''


def test_scan_follows_names_calls_lists_and_arguments(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE, encoding="utf-8")
    scan = Scan([path], tmp_path)
    ordinals = ("first", "second", "third", "fifth", "sixth", "seventh", "eighth")
    assert sorted(word for each in scan.found for word in ordinals if word in each.text) == sorted(ordinals)
    assert len(scan.found) == len(ordinals)
    assert scan.lost == {f"sample.py:{SAMPLE.splitlines().index('    raise PipelineError(error.unknown)') + 1}"}


@pytest.mark.parametrize(
    ("quote", "text", "right"),
    [
        ("no plan fits ... of GPU memory", f"no plan fits {BLANK} GB of GPU memory; the smallest ({BLANK})", True),
        ("of GPU memory ... no plan fits", f"no plan fits {BLANK} GB of GPU memory; the smallest ({BLANK})", False),
        ("... is missing", f"{BLANK}/{BLANK} is missing", True),
        ("... is missing", f"{BLANK} is missing: mend generate.curated_files", False),
        ("... is missing: ...", f"{BLANK} is missing: {BLANK}", True),
        ("stays loaded: ...", f"[WARN] {BLANK} stays loaded: {BLANK}", False),
        ("... stays loaded: ...", f"[WARN] {BLANK} stays loaded: {BLANK}", True),
    ],
)
def test_quotes_are_matched_in_order_and_short_ones_as_a_whole(quote: str, text: str, right: bool) -> None:
    assert matches(quote, text) is right
