from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import example, given
from hypothesis import strategies as st

from distill.config import Config, FinetuneSection
from distill.training.card import quote, render_card, write_model_card
from distill.training.provenance import describe_machine
from tests.machine_paths import reveals

LOSSES = {
    "first_loss": 2.34567, "last_loss": 0.5, "losses": [[1, 2.4]], "eval_losses": [[25, 1.5], [50, 1.25]],
    "best_eval": {"step": 50, "loss": 1.25}, "logged_steps": 50, "seconds": 61.4, "tokens_per_second": 1234.5, "peak_gb": 4.3,
}
SAMPLES = [{"question": "What is the limit?", "before": "```python\nno\n```", "after": "It is 20 degrees. [Source 1]"}]


def make_facts(**changes: Any) -> dict[str, Any]:
    facts = {
        "base_model": "unsloth/Phi-4-mini-instruct", "settings": Config().describe("finetune"), "losses": LOSSES,
        "base_commit": "c0ffee", "base_model_files": [{"path": "model.safetensors", "bytes": 7_000_000, "sha256": "a" * 64}],
        "data": [{"name": "training_data", "rows": 1_200, "train_sha256": "b" * 64, "manifest_sha256": "c" * 64}],
        "counts": {"rows": 1_200, "answer_tokens": 50_000},
        "plan": {"tokens_per_batch": 8_192, "in_4bit": True, "tried": [{"tokens": 1, "fits": None}]},
        "backend": "unsloth", "machine": describe_machine(), "versions": {"torch": "2.13.0"}, "samples": SAMPLES,
    }
    return {**facts, **changes}


def test_the_hub_reads_the_front_matter(tmp_path: Path) -> None:
    card = ModelCard.load(write_model_card(tmp_path, make_facts()))
    data = card.data.to_dict()
    assert data["base_model"] == "unsloth/Phi-4-mini-instruct" and data["library_name"] == "peft"
    assert data["pipeline_tag"] == "text-generation" and data["license"] == "other" and "language" not in data
    assert "lora" in data["tags"] and card.text.strip().startswith("# LoRA adapter")


@pytest.mark.parametrize("name", ["yes", "0123", "a: b", "- x", "'quoted'", "Mod\u00e8le", "#hash", "student"])
def test_any_name_of_a_base_model_is_valid_front_matter(tmp_path: Path, name: str) -> None:
    assert ModelCard.load(write_model_card(tmp_path, make_facts(base_model=name))).data.base_model == name


def test_everything_of_the_run_is_told() -> None:
    text = render_card(make_facts())
    told = (
        "commit c0ffee", "| training_data | 1,200 | bbbbbbbbbbbbbbbb | cccccccccccccccc |", "| answer tokens | 50,000 |",
        "2.3457", "1.2500 at step 50", "| 25 | 1.5000 |", "| tokens_per_batch | 8,192 |", "| lora_r | 16 |",
        "| tried | tokens 1, fits null |",
        "| learning_rate | 0.0002 |",
        "| max_steps | null |", "| torch | 2.13.0 |", "python export_gguf.py", "at most 4,096 tokens", "Backend: unsloth",
        "What is the limit?", "It is 20 degrees. [Source 1]", "| model.safetensors | 7,000,000 |",
    )
    assert [each for each in told if each not in text] == []
    assert "smoke run" not in text


def test_the_card_says_that_it_is_private_and_how_it_may_be_used() -> None:
    text = render_card(make_facts())
    assert "**Private.**" in text and "sample answers below are such text" in text and "Until then nothing here says" in text


def test_little_is_told_of_little() -> None:
    facts = {"base_model": "student", "settings": {}, "losses": {}}
    text = render_card(facts)
    assert "None" not in text and "## Sample" not in text and "## Trained on" not in text and "sample answers" not in text
    assert "by its files" in text


def test_a_smoke_run_says_so() -> None:
    assert "**A smoke run:**" in render_card(make_facts(smoke_run=True))


def test_encrypted_rows_leave_no_answer_in_the_card() -> None:
    text = render_card(make_facts(encrypt=True))
    assert "degrees" not in text and "What is the limit" not in text and "Left out: the rows are encrypted" in text
    assert "are such text" not in text


def test_no_machine_path_is_in_it(tmp_path: Path) -> None:
    config = Config(work_dir=tmp_path / "work", finetune=FinetuneSection(
        base_model=str(tmp_path / "models" / "student"), continue_from=tmp_path / "old" / "adapters",
        more_training_data=(tmp_path / "more" / "training_data",),
    ))
    facts = make_facts(base_model=config.value_of("finetune.base_model"), settings=config.describe("finetune"))
    card = write_model_card(tmp_path, facts)
    assert not reveals(card, tmp_path) and not reveals(card, Path.home())
    assert "| continue_from | adapters |" in card.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_the_card_is_private(tmp_path: Path) -> None:
    assert write_model_card(tmp_path, make_facts()).stat().st_mode & 0o777 == 0o600


@example("```python\nno\n```")
@example("``````")
@given(st.text(alphabet="`~a\n -#|", max_size=40))
def test_an_answer_cannot_break_out_of_its_fence(text: str) -> None:
    lines = quote(text).split("\n")
    fence = re.match(r"`+", lines[0])[0]
    assert lines[-1] == fence and not any(line.strip().startswith(fence) for line in lines[1:-1])
    assert "\n".join(lines[1:-1]) == (text.strip() or "(nothing)")
