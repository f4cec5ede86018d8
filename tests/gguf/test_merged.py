from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from distill.gguf.convert import Output, convert
from distill.gguf.external import write_merged
from distill.gguf.merged import MergedFolder
from distill.gguf.shards import BaseWeights
from tests.gguf.test_merge import train_at_random
from tests.tiny_models import write_tiny_phi3


@pytest.fixture(scope="module")
def expected(tiny_phi3: Path, tiny_lora: Path) -> dict[str, torch.Tensor]:
    """What PEFT merges in float32, rounded to the base's bfloat16 once."""
    base = AutoModelForCausalLM.from_pretrained(tiny_phi3, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tiny_lora).merge_and_unload()
    return {name: weight.detach().bfloat16() for name, weight in merged.named_parameters()}


def require_same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {name for name, _ in found.named_parameters()} == expected.keys()
    # One unit in the last place: PEFT and this package add in another order.
    for name, weight in found.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=2**-7, atol=1e-6)


def load_folder(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every shard."""
    return {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}


def test_save_merged_is_what_peft_merges(
    tiny_phi3: Path, tiny_lora: Path, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    convert(tiny_phi3, tiny_lora, [Output(tmp_path / "a.gguf", "q8_0", "tiny", True)], merged=tmp_path / "merged")
    require_same(tmp_path / "merged", expected)
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (tiny_phi3 / "tokenizer.json").read_bytes()
    if os.name == "posix":
        assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "merged").glob("*.safetensors"))


def test_without_the_exporter_it_is_the_same(
    tiny_phi3: Path, tiny_lora: Path, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    assert len(write_merged(tiny_phi3, tiny_lora, tmp_path / "merged")) == 8
    require_same(tmp_path / "merged", expected)


def test_the_base_alone_stays_byte_for_byte(tiny_phi3: Path, tmp_path: Path) -> None:
    write_merged(tiny_phi3, None, tmp_path / "merged")
    for shard in tiny_phi3.glob("*.safetensors"):
        assert (tmp_path / "merged" / shard.name).read_bytes() == shard.read_bytes()


def test_an_earlier_folder_is_replaced_and_an_error_leaves_it(tiny_phi3: Path, tmp_path: Path) -> None:
    target = tmp_path / "merged"
    write_merged(tiny_phi3, None, target)
    (target / "old.txt").write_text("x")
    with pytest.raises(RuntimeError), BaseWeights(tiny_phi3) as base, MergedFolder(target, tiny_phi3, base):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["merged"] and (target / "old.txt").exists()
    write_merged(tiny_phi3, None, target)
    assert not (target / "old.txt").exists() and [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_a_scalar_beside_the_weights_is_copied(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    save_file({"scale": torch.tensor(3.5), "w": torch.ones(2, 2)}, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({}))
    write_merged(base, None, tmp_path / "merged")
    assert load_file(tmp_path / "merged" / "model.safetensors")["scale"].item() == 3.5


@pytest.mark.filterwarnings("ignore:.*tie")
@pytest.mark.parametrize("external", [False, True])
def test_an_output_beside_its_tied_embedding_stays_the_same_matrix(tiny_phi3: Path, tmp_path: Path, external: bool) -> None:
    base = Path(shutil.copytree(tiny_phi3, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors*")))
    before = load_folder(tiny_phi3)
    twice = {**before, "lm_head.weight": before["model.embed_tokens.weight"].clone()}
    save_file(twice, base / "model.safetensors", {"format": "pt"})
    both = ["embed_tokens", "lm_head"]
    adapter = train_at_random(tiny_phi3, tmp_path / "adapter", modules_to_save=both, ensure_weight_tying=True)
    if external:
        write_merged(base, adapter, tmp_path / "merged")
    else:
        convert(base, adapter, [Output(tmp_path / "a.gguf", "q8_0", "tiny", True)], merged=tmp_path / "merged")
    merged = load_folder(tmp_path / "merged")
    assert torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    assert not torch.equal(merged["lm_head.weight"], before["model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_untied_output_is_no_copy_of_the_embedding(tmp_path: Path) -> None:
    base = write_tiny_phi3(tmp_path / "base", layers=1, vocab_size=400, tied=False)
    adapter = train_at_random(base, tmp_path / "adapter", modules_to_save=["embed_tokens"])
    write_merged(base, adapter, tmp_path / "merged")
    before, after = load_folder(base), load_folder(tmp_path / "merged")
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
