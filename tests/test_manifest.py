"""The contract between stages: complete, unchanged, and agreed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from distill.config import Config, load_config
from distill.errors import PipelineError
from distill.files import sha256_file
from distill.manifest import inherit, require_manifest, show_difference, write_manifest
from tests.machine_paths import reveals


def make_config(folder: Path, text: str = "") -> Config:
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return load_config(folder / "config.yaml")


def finish_stage_1(config: Config) -> Path:
    """What generate_training_data.py leaves, in small."""
    folder = config.training_dir
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    return write_manifest(
        folder, made_by="generate_training_data.py", config=config, sections=["generate", "prompt"],
        inputs=[config.work_dir / "config.yaml"], outputs=[folder / "train.jsonl"],
        fixed={"prompt.system": config.prompt.system, "prompt.citation": config.prompt.citation},
        counts={"rows": 1}, started=time.time(),
    )


def test_manifest_records_what_went_in_and_out(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    path = finish_stage_1(config)
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert manifest["outputs"] == [
        {"path": "training_data/train.jsonl", "bytes": 9, "sha256": sha256_file(tmp_path / "training_data" / "train.jsonl")}
    ]
    assert manifest["inputs"][0]["path"] == "config.yaml"
    assert manifest["config"]["generate"]["top_k"] == 5
    assert manifest["versions"]["pydantic"] and manifest["versions"]["python"]
    assert not reveals(path, tmp_path)


def test_next_stage_accepts_a_finished_one(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    finish_stage_1(config)
    manifest = require_manifest(config.training_dir, "generate_training_data.py", config)
    assert inherit(manifest, config.training_dir, config)["prompt.citation"] == "[Source {number}]"


def test_missing_manifest_names_the_script_to_run(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(PipelineError, match=r"training_data/manifest.json is missing: run  python generate_training_data.py"):
        require_manifest(config.training_dir, "generate_training_data.py", config)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.write_text('{"a": 2}\n'), "training_data/train.jsonl has changed since its manifest"),
        (lambda path: path.write_text('{"a": 1}\n\n'), "training_data/train.jsonl has changed since its manifest"),
        (lambda path: path.unlink(), "training_data/train.jsonl is missing"),
    ],
)
def test_changed_file_stops_the_next_stage(tmp_path: Path, damage, expected: str) -> None:
    config = make_config(tmp_path)
    finish_stage_1(config)
    damage(config.training_dir / "train.jsonl")
    with pytest.raises(PipelineError, match=expected):
        require_manifest(config.training_dir, "generate_training_data.py", config)


def test_manifest_of_another_stage_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    finish_stage_1(config)
    with pytest.raises(PipelineError, match=r"was made by generate_training_data.py, not finetune.py"):
        require_manifest(config.training_dir, "finetune.py", config)


def test_edited_prompt_stops_the_next_stage_and_names_both_values(tmp_path: Path) -> None:
    config = make_config(tmp_path, "prompt:\n  system: You are an engineer.\n")
    manifest = json.loads(finish_stage_1(config).read_text(encoding="utf-8"))
    edited = make_config(tmp_path, "prompt:\n  system: You are a pirate.\n")
    with pytest.raises(PipelineError) as problem:
        inherit(manifest, config.training_dir, edited)
    message = str(problem.value)
    assert "You are a pirate." in message and "You are an engineer." in message and "prompt.system" in message
    assert "\n" not in message


def test_difference_of_long_texts_shows_where_they_part() -> None:
    same = "word " * 100
    old, new = show_difference(same + "yes", same + "no")
    assert "yes" in old and "no" in new and len(old) < 80


def test_announced_values_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(tmp_path)
    manifest = json.loads(finish_stage_1(config).read_text(encoding="utf-8"))
    inherit(manifest, config.training_dir, config, announce=["prompt.citation"])
    assert capsys.readouterr().out == "[OK] Inherited citation=[Source {number}] from training_data/manifest.json\n"


@pytest.mark.parametrize("content", ["[]", "{}", '{"made_by": "finetune.py"}', '"text"'])
def test_what_is_no_manifest_is_one_line(tmp_path: Path, content: str) -> None:
    config = make_config(tmp_path)
    folder = config.adapters_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"adapters/manifest.json is damaged: make it anew, run  python finetune.py"):
        require_manifest(folder, "finetune.py", config)
