from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config import Config, PromptSection
from distill.curation.card import CHECKS, write_card
from distill.curation.checks import find_fault
from distill.curation.counts import count_rows
from distill.curation.lengths import TokenCounter
from tests.curation.test_counts import make_rows

PNG = b"\x89PNG\r\n\x1a\n"


def make_facts(**changes: Any) -> dict[str, Any]:
    """What the script knows at the end of a run."""
    return {
        "counts": count_rows(PromptSection(), make_rows()), "teacher": "mistral-large at openrouter.ai",
        "licence": {"name": "apache-2.0", "trainable": "yes"}, "checks": {"support": 3, "near-duplicate question": 2},
        "masking": {"EMAIL": 4, "IP": 1}, "failures": 2, "config": Config().describe("generate"), **changes,
    }


def test_the_card_says_what_the_rows_are_and_how_they_were_made(tmp_path: Path) -> None:
    paths = write_card(tmp_path, make_rows(), make_facts(), counter=TokenCounter(len))
    assert [path.name for path in paths] == ["README.md", "lengths.png"]
    text = paths[0].read_text(encoding="utf-8")
    for expected in (
        "5 rows: 4 to train on, 1 held out", "Teacher: mistral-large at openrouter.ai", "name apache-2.0, trainable yes",
        "| RF | 4 |", "| document | 1 | questions and answers that the teacher wrote", "| they do not | 1 |",
        "| refusals among them | 1 |", "| support | 3 | a sentence", "| near-duplicate question | 2 |", "| EMAIL | 4 |",
        "2 rows got no answer.", "| answer | 5.2 | 1 | 13 | 13 |", "![lengths](lengths.png)", "sha256 ", "heldout_share: 0.1",
        "2 behind training rows", "estimated at 4 characters each",
    ):
        assert expected in text
    assert "encrypted" not in text.split("## How it was made")[0]


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    card, _ = write_card(tmp_path, make_rows(), make_facts())
    matter = yaml.safe_load(card.read_text(encoding="utf-8").split("---\n")[1])
    assert matter["size_categories"] == ["n<1K"] and matter["license"] == "other"
    assert {each["path"] for each in matter["configs"][0]["data_files"]} == {"train.jsonl", "heldout.jsonl"}


def test_it_holds_no_text_of_a_row(tmp_path: Path) -> None:
    rows = make_rows()
    rows["train"][0] = rows["train"][0].model_copy(update={"instruction": "rarest words", "output": "rarer words"})
    card, _ = write_card(tmp_path, rows, make_facts())
    assert "words" not in card.read_text(encoding="utf-8").split("## Filters")[0]


def test_patterns_are_named_and_not_shown(tmp_path: Path) -> None:
    config = Config.model_validate({"generate": {"masking": {"patterns": {"PROJECT": "Blue ?Heron", "BADGE": "B[0-9]{5}"}}}})
    text = write_card(tmp_path, make_rows(), make_facts(config=config.describe("generate")))[0].read_text(encoding="utf-8")
    assert "  patterns:\n  - BADGE\n  - PROJECT\n" in text and "Heron" not in text and "[0-9]" not in text
    assert "No document, and none of its near-duplicates, is on both sides" in text


def test_both_files_are_the_users_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    paths = write_card(tmp_path, make_rows(), make_facts())
    assert paths[1].read_bytes().startswith(PNG) and paths[1].stat().st_size > 5000
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "lengths.png"}
    assert sys.platform == "win32" or all(path.stat().st_mode & 0o077 == 0 for path in paths)


def test_the_same_rows_make_the_same_files(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_card(tmp_path, make_rows(), make_facts())]
    assert first == [path.read_bytes() for path in write_card(tmp_path, make_rows(), make_facts())]


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    facts = {"counts": count_rows(PromptSection(), {"train": [], "heldout": []})}
    card, _ = write_card(tmp_path, {"train": [], "heldout": []}, facts, encrypt=True)
    text = card.read_text(encoding="utf-8")
    for expected in (
        "Licence of the answers: not known", "No row was left out by a check.", "No personal data was found to mask.",
        "train.jsonl and heldout.jsonl are encrypted", "Teacher: none",
    ):
        assert expected in text
    assert "How it was made" not in text


def test_edits_and_odd_names_stand_in_it(tmp_path: Path) -> None:
    counts = {**count_rows(PromptSection(), make_rows()), "per_category": {"": 1, "a|b\nc": 4}}
    facts = make_facts(counts=counts, edits={"changed": 1, "deleted": 2, "added": 0, "accepted_at": "2026-01-01"})
    text = write_card(tmp_path, make_rows(), facts)[0].read_text(encoding="utf-8")
    assert "| (none) | 1 |" in text and "| a\\|b c | 4 |" in text
    assert "Edited by hand afterwards: changed 1, deleted 2, added 0" in text


def test_every_check_of_an_answer_is_explained() -> None:
    assert set(re.findall(r'"([a-z ]+)"', find_fault.__doc__ or "")) <= set(CHECKS)


@pytest.mark.parametrize(("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (2_000_000, "n>1M")])
def test_the_size_is_told_in_the_hubs_steps(tmp_path: Path, rows: int, size: str) -> None:
    facts = make_facts(counts={**count_rows(PromptSection(), make_rows()), "rows": rows})
    assert f"- {size}\n" in write_card(tmp_path, make_rows(), facts)[0].read_text(encoding="utf-8")
