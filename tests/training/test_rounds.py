"""What an adapter to go on from must be, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.files import sha256_file, write_json_atomic
from distill.training.rounds import describe_round

MINE = [{"name": "training_data", "train_sha256": "b" * 64}]


def make_round(folder: Path, **changes: Any) -> Path:
    """A finished adapters/ folder, as far as this module looks."""
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    outputs = [{"path": f"adapters/{path.name}", "bytes": 7, "sha256": sha256_file(path)} for path in folder.iterdir()]
    manifest = {
        "made_by": "finetune.py", "outputs": outputs, "fixed": {"finetune.base_model": "phi"},
        "details": {"data": [{"name": "earlier", "train_sha256": "a" * 64}]}, **changes,
    }
    write_json_atomic(folder / "manifest.json", manifest)
    return folder


def test_no_earlier_round_is_nothing(tmp_path: Path) -> None:
    assert describe_round(None, tmp_path, MINE, "phi", tmp_path) is None


def test_earlier_round_is_named_by_its_hashes_alone(tmp_path: Path) -> None:
    folder = make_round(tmp_path / "first")
    found = describe_round(folder, tmp_path / "adapters", MINE, "phi", tmp_path)
    assert found is not None and found["name"] == "first"
    assert found["adapter_sha256"] == sha256_file(folder / "adapter_model.safetensors")
    assert found["manifest_sha256"] == sha256_file(folder / "manifest.json")
    assert str(tmp_path) not in str(found)


@pytest.mark.parametrize(("known", "warned"), [("a" * 64, False), ("b" * 64, True)])
def test_rows_that_nobody_compared_are_a_warning(
    known: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_round(tmp_path / "first")
    describe_round(folder, tmp_path / "adapters", [{"name": "training_data", "train_sha256": known}], "phi", tmp_path)
    assert ("[WARN] The earlier round learnt earlier" in capsys.readouterr().out) == warned


@pytest.mark.parametrize(
    ("changes", "base", "said"),
    [
        ({"made_by": "export_gguf.py"}, "phi", "holds no finished run"),
        ({}, "mistral", "was trained on phi, not on mistral: set finetune.base_model"),
        ({"outputs": []}, "phi", "is missing or has changed since its manifest was written"),
    ],
)
def test_folder_that_cannot_be_gone_on_from_is_one_line(changes: dict[str, Any], base: str, said: str, tmp_path: Path) -> None:
    folder = make_round(tmp_path / "first", **changes)
    with pytest.raises(PipelineError, match=said) as problem:
        describe_round(folder, tmp_path / "adapters", MINE, base, tmp_path)
    assert "\n" not in str(problem.value)


def test_own_folder_would_be_deleted_before_it_is_read(tmp_path: Path) -> None:
    folder = make_round(tmp_path / "adapters")
    with pytest.raises(PipelineError, match="this run's own adapters/: copy or rename that folder first"):
        describe_round(folder, folder, MINE, "phi", tmp_path)


def test_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="holds no finished run"):
        describe_round(tmp_path / "nothing", tmp_path / "adapters", MINE, "phi", tmp_path)


@pytest.mark.parametrize(("size", "digest"), [(5, "0" * 64), (6, None)])
def test_base_of_the_same_name_with_other_files_is_refused(size: int, digest: str | None, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("12345", encoding="utf-8")
    files = [{"path": "config.json", "bytes": size, "sha256": digest or sha256_file(config)}]
    folder = make_round(tmp_path / "first", details={"data": [], "base_model_files": files})
    with pytest.raises(PipelineError, match=r"trained on a base model with another config\.json"):
        describe_round(folder, tmp_path / "adapters", MINE, "phi", tmp_path)
