from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.errors import PipelineError
from distill.gguf.shards import BaseWeights, read_ahead


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(7, 5, generator=generator).bfloat16(), "b": torch.randn(3, generator=generator).half(),
        "c": torch.randn(4, 2, 3, generator=generator),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_every_dtype_and_slice_is_what_safetensors_reads(folder: Path) -> None:
    expected = load_file(folder / "model.safetensors")
    with BaseWeights(folder) as base:
        assert base.names == expected.keys()
        for name, tensor in expected.items():
            assert base.shape(name) == tuple(tensor.shape) and base.path(name) == folder / "model.safetensors"
            for start, stop in ((0, len(tensor)), (1, 3), (2, 2)):
                found = base.read(name, start, stop)
                assert found.dtype == tensor.dtype and torch.equal(found, tensor[start:stop])
                assert torch.equal(base.rows(name, start, stop), tensor[start:stop].float())


def test_all_shards_of_an_index_are_one_set(tiny_phi3: Path) -> None:
    expected = {name: tensor for shard in tiny_phi3.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    with BaseWeights(tiny_phi3) as base:
        assert len(base.shards) > 1 and base.names == expected.keys()
        assert all(torch.equal(base.read(name, 0, len(tensor)), tensor) for name, tensor in expected.items())


def test_reading_ahead_keeps_the_order(folder: Path) -> None:
    requests = [("a", row, row + 1) for row in (3, 0, 6, 2, 5)] + [("b", 0, 3)]
    with BaseWeights(folder) as base:
        for (name, start, stop), found in zip(requests, read_ahead(base, requests), strict=True):
            assert torch.equal(found, base.read(name, start, stop))


def test_an_error_ahead_comes_when_its_turn_comes(folder: Path) -> None:
    path = folder / "model.safetensors"
    with BaseWeights(folder) as base:
        path.write_bytes(path.read_bytes()[:-10])  # shortened by another program, after it was opened
        slices = read_ahead(base, [("a", 0, 7), ("b", 0, 3), ("c", 0, 4)])
        with pytest.raises(PipelineError, match=r"model\.safetensors ends within tensor"):
            list(slices)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def fill_with_text(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def change_header(path: Path, **entry: object) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["a"] |= entry
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(("damage", "words"), [
    (cut, "incomplete"),
    (cut_header, "damaged or no safetensors file"),
    (lambda path: path.write_bytes(b""), "damaged or no safetensors file"),
    (fill_with_text, "damaged or no safetensors file"),
    (lambda path: change_header(path, shape=[7, 6]), "a has 70 bytes, not 84"),
    (lambda path: change_header(path, data_offsets=None), "does not describe a"),
])
def test_a_damaged_shard_is_one_clear_line(folder: Path, damage: object, words: str) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(PipelineError, match=words) as error, BaseWeights(folder):
        pass
    assert "model.safetensors" in str(error.value) and "\n" not in str(error.value)


def test_a_tensor_that_holds_no_weights_is_refused_when_it_is_read(tmp_path: Path) -> None:
    save_file({"packed": torch.zeros(4, 4, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    with BaseWeights(tmp_path) as base, pytest.raises(PipelineError, match=r"packed is U8.*16 or 32 bits"):
        base.read("packed", 0, 4)


def test_a_shard_that_the_index_names_and_is_not_there(tiny_phi3: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    missing = sorted(folder.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(PipelineError, match=missing.name), BaseWeights(folder):
        pass


def test_files_are_closed_after_an_error_so_that_windows_can_delete_them(tiny_phi3: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_phi3, tmp_path / "base"))
    last = sorted(folder.glob("*.safetensors"))[-1]
    cut(last)
    with pytest.raises(PipelineError):
        BaseWeights(folder)
    shutil.rmtree(folder)
    assert not folder.exists()
