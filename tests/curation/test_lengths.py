from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distill.config import Config
from distill.curation.lengths import TokenCounter, load_counter


def make_config(base_model: str) -> Config:
    """A config with this student."""
    return Config.model_validate({"finetune": {"base_model": base_model}})


def test_tokens_are_the_students_own(tiny_phi3: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import Tokenizer

    counter = load_counter(make_config(str(tiny_phi3)))
    text = "The pump runs at 80 °C, and nobody may run it above."
    tokenizer = Tokenizer.from_file(str(tiny_phi3 / "tokenizer.json"))
    assert counter.exact and counter.count(text) == len(tokenizer.encode(text, add_special_tokens=False).ids) > 5
    assert counter.count("") == 0 and capsys.readouterr().out == ""


def test_the_tokenizer_alone_is_enough_and_its_truncation_does_not_count(tiny_phi3: Path, tmp_path: Path) -> None:
    fields = json.loads((tiny_phi3 / "tokenizer.json").read_text(encoding="utf-8"))
    fields["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    counter = load_counter(make_config(str(tmp_path)))
    assert counter.exact and counter.count("one two three four five six seven eight") > 3


@pytest.mark.parametrize("name", ["absent-owner/absent-model", "/absent/folder"])
def test_without_a_tokenizer_lengths_are_estimated_with_one_warning(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    counter = load_counter(make_config(name))
    assert not counter.exact and counter.count("12345678") == 2 and counter.count("123456789") == 3
    output = capsys.readouterr().out
    assert output.count("[WARN]") == 1 and "estimated at 4 characters" in output and len(output.splitlines()) == 1


def test_a_broken_tokenizer_is_named(tiny_phi3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(tiny_phi3 / "config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert not load_counter(make_config(str(tmp_path))).exact
    assert "tokenizer.json is no tokenizer" in capsys.readouterr().out


def test_an_empty_folder_says_how_to_get_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not load_counter(make_config(str(tmp_path))).exact
    assert "tokenizer.json is missing: set finetune.base_model" in capsys.readouterr().out


def test_the_estimate_rounds_up() -> None:
    assert [TokenCounter().count("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]
