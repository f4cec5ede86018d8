from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from distill.base_model import copy_tokenizer_files, find_base_model, hash_base_model
from distill.errors import PipelineError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture()
def base(tiny_phi3: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_phi3, tmp_path / "base"))


@pytest.fixture()
def cache(tiny_phi3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache that holds owner/tiny at one commit."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(tiny_phi3, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / COMMIT


def test_a_folder_is_itself(base: Path) -> None:
    assert find_base_model(str(base), None) == base


def test_a_hub_id_is_found_in_the_cache(cache: Path) -> None:
    assert find_base_model("owner/tiny") == cache
    assert find_base_model("owner/tiny", COMMIT) == cache


@pytest.mark.parametrize(("name", "revision", "expected"), [
    ("owner/other", None, "base model owner/other is not on this machine: run  python finetune.py --download"),
    ("owner/tiny", "v2", "base model owner/tiny at revision v2 is not on this machine: run  python finetune.py --download"),
])
def test_an_absent_model_names_the_command(cache: Path, name: str, revision: str | None, expected: str) -> None:
    with pytest.raises(PipelineError) as error:
        find_base_model(name, revision)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_folder_is_no_download(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"set finetune\.base_model") as error:
        find_base_model(str(tmp_path / "nowhere"))
    assert "hf download" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_an_incomplete_folder_names_the_file(base: Path, name: str) -> None:
    (base / name).unlink()
    with pytest.raises(PipelineError, match=f"lacks {name}: "):
        find_base_model(str(base))


def test_a_shard_that_was_not_copied_is_named(base: Path) -> None:
    shard = sorted(base.glob("*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(PipelineError, match=f"lacks {shard.name}: set finetune.base_model"):
        find_base_model(str(base))


def test_weights_must_be_safetensors(base: Path) -> None:
    for shard in base.glob("*.safetensors*"):
        shard.unlink()
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(PipelineError, match=r"holds no \*\.safetensors"):
        find_base_model(str(base))


def test_a_quantised_base_is_refused(base: Path) -> None:
    config = json.loads((base / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(PipelineError, match="use the 16-bit model"):
        find_base_model(str(base))


def test_hashes_cover_weights_and_tokenizer_and_name_no_folder(base: Path) -> None:
    (base / "README.md").write_text("not hashed", encoding="utf-8")
    files = {file["path"]: file for file in hash_base_model(base)}
    assert set(files) == {path.name for path in base.iterdir()} - {"README.md"}
    data = (base / "config.json").read_bytes()
    assert files["config.json"] == {
        "path": "config.json", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()
    }


def test_tokenizer_files_are_copied_byte_for_byte(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "adapters"
    target.mkdir()
    (target / "tokenizer.json").write_text("altered by a library", encoding="utf-8")
    (target / "special_tokens_map.json").write_text("added by a library", encoding="utf-8")
    copied = copy_tokenizer_files(base, target)
    assert [path.name for path in copied] == ["tokenizer.json", "tokenizer_config.json"]
    assert all(path.read_bytes() == (base / path.name).read_bytes() for path in copied)
    assert sorted(target.iterdir()) == sorted(copied)
