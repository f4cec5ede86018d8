from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

import export_gguf
from distill.base_model import hash_base_model
from distill.config import load_config
from distill.errors import PipelineError
from distill.files import read_json, sha256_file
from distill.gguf import convert as convert_module
from distill.gguf import making
from distill.gguf.families import read_model
from distill.gguf.verification import logits, structure
from distill.llamacpp import LlamaModel
from distill.manifest import require_manifest, write_manifest
from tests.finished_stages import list_spellings
from tests.gguf.ollama_program import put_on_path
from tests.gguf.ollama_registry import RegistryServer
from tests.tiny_models import write_random_lora

Export = Callable[..., None]


@pytest.fixture(scope="module")
def lora(tiny_phi3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_lora(tiny_phi3, tmp_path_factory.mktemp("lora"))


@pytest.fixture()
def world(tiny_phi3: Path, lora: Path, tmp_path: Path) -> Path:
    """A work_dir as finetune.py leaves it."""
    write_config(tmp_path, tiny_phi3)
    shutil.copytree(lora, tmp_path / "adapters", ignore=shutil.ignore_patterns("README.md"))
    finish_training(tmp_path)
    return tmp_path


def write_config(folder: Path, base: Path, *, export: str = "", system: str = "Be precise.") -> None:
    (folder / "config.yaml").write_text(
        f"prompt: {{system: {json.dumps(system)}}}\nfinetune: {{base_model: '{base.as_posix()}'}}\n"
        f"export: {{name: pump-expert, {export}}}\n",
        encoding="utf-8",
    )


def finish_training(folder: Path, **details: bool) -> None:
    config = load_config(folder / "config.yaml")
    write_manifest(
        config.adapters_dir, made_by="finetune.py", config=config, sections=["finetune"], inputs=[], counts={},
        outputs=[path for path in config.adapters_dir.iterdir() if path.name != "manifest.json"], started=time.time(),
        fixed={"prompt.system": config.prompt.system, "finetune.base_model": config.value_of("finetune.base_model")},
        details={"base_model_files": hash_base_model(Path(config.finetune.base_model)), **details},
    )


@pytest.fixture()
def export(world: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["export_gguf.py", "--config", str(world / "config.yaml"), *arguments])
        export_gguf.main()

    return run


def list_files(world: Path) -> list[str]:
    return sorted(path.name for path in (world / "gguf").iterdir())


def test_the_whole_stage(world: Path, export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    export()
    assert list_files(world) == [
        "Modelfile", "Modelfile.base", "SHA256SUMS", "manifest.json", "pump-expert-base-q4_k_m.gguf", "pump-expert-q4_k_m.gguf",
        "verification.json",
    ]
    printed = capsys.readouterr().out
    assert "    ollama create pump-expert -f Modelfile\n    ollama create pump-expert-base -f Modelfile.base\n" in printed
    assert printed.isascii()

    config = load_config(world / "config.yaml")
    manifest = require_manifest(world / "gguf", "export_gguf.py", config)
    assert manifest["details"]["models"]["tuned"] == {
        "ollama_name": "pump-expert", "file": "gguf/pump-expert-q4_k_m.gguf", "modelfile": "gguf/Modelfile"
    }
    assert manifest["fixed"] == read_json(world / "adapters" / "manifest.json")["fixed"]
    assert manifest["details"]["smoke_run"] is False and "smoke run" not in printed
    for name in ("manifest.json", "verification.json"):
        text = (world / "gguf" / name).read_text("utf-8")
        assert not [spelling for spelling in list_spellings(world) if spelling in text]

    checks = read_json(world / "gguf" / "verification.json")
    tuned, base = checks["pump-expert-q4_k_m.gguf"], checks["pump-expert-base-q4_k_m.gguf"]
    for checks in (tuned, base):
        assert {"structure", "tokenization", "chat_template", "logits"} <= checks.keys()
        assert checks["logits"]["mean_kl"] < 2e-3 and set(checks["seconds"]) == {"convert", "verify"}
    assert (len(tuned["merged"]), len(base["merged"])) == (8, 0)
    assert tuned["types"] == base["types"]
    assert tuned["sha256"] != base["sha256"]

    for line in (world / "gguf" / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((world / "gguf" / name).read_bytes()).hexdigest() == digest
    with LlamaModel(world / "gguf" / "pump-expert-q4_k_m.gguf", n_ctx=128, n_threads=1) as llama:
        assert llama.complete("<|user|>Hi<|end|><|assistant|>", max_tokens=3).generated_tokens == 3

    with pytest.raises(PipelineError, match="holds a finished export"):
        export()


def test_dry_run_writes_nothing(world: Path, export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    export("--dry-run")
    assert not (world / "gguf").exists()
    printed = capsys.readouterr().out
    assert "8 tensors of" in printed
    assert "pump-expert-base-q4_k_m.gguf: 1.0 MB" in printed


def test_without_the_base_and_without_verification(world: Path, tiny_phi3: Path, export: Export, capsys) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    export("--skip-base")
    assert "Modelfile.base" not in list_files(world)
    assert "base" not in read_json(world / "gguf" / "manifest.json")["details"]["models"]
    assert "logits" not in read_json(world / "gguf" / "verification.json")["pump-expert-q4_k_m.gguf"]


def test_a_failed_verification_leaves_no_gguf(world: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_factors(folder: Path) -> Any:
        model = read_model(folder)
        return dataclasses.replace(model, constants={name: (1.0,) * len(each) for name, each in model.constants.items()})

    monkeypatch.setattr(convert_module, "read_model", forget_factors)
    with pytest.raises(PipelineError, match="failed verification"):
        export()
    assert list_files(world) == []


def fail_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "is_finite", lambda tensor: False)


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt("Ctrl-C")

    monkeypatch.setattr(logits, "require_agreement", stop)


def cut_file(monkeypatch: pytest.MonkeyPatch) -> None:
    real = convert_module.convert

    def convert(*arguments: Any, **options: Any) -> Any:
        done = real(*arguments, **options)
        os.truncate(done[0].path, done[0].bytes - 4096)
        return done

    monkeypatch.setattr(making, "convert", convert)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
@pytest.mark.parametrize(("fail", "kind", "message"), [
    (fail_structure, PipelineError, "NaN"),
    (cut_file, PipelineError, "no complete GGUF"),
    (press_ctrl_c, KeyboardInterrupt, "Ctrl-C"),
])
def test_a_file_that_failed_is_unmapped_before_it_is_deleted(
    world: Path, export: Export, monkeypatch: pytest.MonkeyPatch, fail: Callable, kind: type[BaseException], message: str
) -> None:
    real, deleted = Path.unlink, []

    def unlink_like_windows(path: Path, missing_ok: bool = False) -> None:
        assert str(path) not in Path("/proc/self/maps").read_text("utf-8")
        deleted.extend([path.name] if path.exists() else [])
        real(path, missing_ok)

    fail(monkeypatch)
    monkeypatch.setattr(Path, "unlink", unlink_like_windows)
    with pytest.raises(kind, match=message):
        export()
    assert deleted == ["pump-expert-q4_k_m.gguf.part", "pump-expert-base-q4_k_m.gguf.part"] and list_files(world) == []


def test_an_unfinished_export_goes_on(world: Path, tiny_phi3: Path, export: Export, capsys) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    export()
    first = (world / "gguf" / "manifest.json").read_text("utf-8")
    for name in ("manifest.json", "SHA256SUMS", "pump-expert-base-q4_k_m.gguf"):
        (world / "gguf" / name).unlink()
    (world / "gguf" / "pump-expert-base-q4_k_m.gguf.part").write_bytes(b"left by a killed run")
    capsys.readouterr()
    export()
    printed = capsys.readouterr().out
    assert "[SKIP] pump-expert-q4_k_m.gguf was finished" in printed
    assert "[SKIP] pump-expert-base-q4_k_m.gguf was finished" not in printed
    assert len(list_files(world)) == 7
    again = json.loads((world / "gguf" / "manifest.json").read_text("utf-8"))
    hashes = {file["path"]: file["sha256"] for file in again["outputs"] if file["path"].endswith(".gguf")}
    assert hashes == {file["path"]: file["sha256"] for file in json.loads(first)["outputs"] if file["path"].endswith(".gguf")}


def test_overwrite_starts_afresh(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    export("--skip-base")
    write_config(world, tiny_phi3, export="verify: none, quantization: [f16]")
    export("--overwrite", "--skip-base")
    assert [name for name in list_files(world) if name.endswith(".gguf")] == ["pump-expert-f16.gguf"]
    assert set(read_json(world / "gguf" / "verification.json")) == {"pump-expert-f16.gguf"}


def test_the_name_inside_the_file_is_safe(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    text = (world / "config.yaml").read_text("utf-8").replace("pump-expert", "my-phi3-expert")
    (world / "config.yaml").write_text(text, encoding="utf-8")
    export("--skip-base")
    name = GGUFReader(world / "gguf" / "my-phi3-expert-q4_k_m.gguf").fields["general.name"].contents()
    assert name == "my-phi-expert"


def test_the_adapter_must_be_there_and_unchanged(world: Path, export: Export) -> None:
    path = world / "adapters" / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(PipelineError, match=r"run  python finetune\.py --overwrite  again"):
        export()
    (world / "adapters" / "manifest.json").unlink()
    with pytest.raises(PipelineError, match=r"run  python finetune\.py  first"):
        export()


def test_another_base_model_is_refused(world: Path, tiny_phi3: Path, export: Export) -> None:
    base = Path(shutil.copytree(tiny_phi3, world / "other" / tiny_phi3.name))
    shard = sorted(base.glob("*.safetensors"))[0]
    save_file({name: tensor * 2 for name, tensor in load_file(shard).items()}, shard)
    write_config(world, base)
    manifest = read_json(world / "adapters" / "manifest.json")
    manifest["fixed"]["finetune.base_model"] = load_config(world / "config.yaml").value_of("finetune.base_model")
    (world / "adapters" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(PipelineError, match="changed since the adapter was trained"):
        export()
    assert not list((world / "gguf").glob("*.gguf"))


def test_a_base_model_that_lost_a_file_is_refused(world: Path, export: Export) -> None:
    path = world / "adapters" / "manifest.json"
    manifest = read_json(path)
    manifest["details"]["base_model_files"].append({"path": "chat_template.jinja", "bytes": 1, "sha256": "0" * 64})
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(PipelineError, match=r": chat_template\.jinja changed since the adapter was trained"):
        export()
    assert not list((world / "gguf").glob("*.gguf"))


def test_a_smoke_run_is_told_and_recorded(world: Path, tiny_phi3: Path, export: Export, capsys) -> None:
    finish_training(world, smoke_run=True)
    write_config(world, tiny_phi3, export="verify: none")
    export("--skip-base")
    assert "[WARN] adapters/ come from a smoke run (--limit): for trying out only" in capsys.readouterr().out
    assert read_json(world / "gguf" / "manifest.json")["details"]["smoke_run"] is True


def test_a_system_prompt_that_ollama_would_alter_stops_before_the_work(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, system="45\u00a0Nm")
    finish_training(world)
    with pytest.raises(PipelineError, match=r"U\+00A0"):
        export()
    assert not (world / "gguf").exists()


def test_an_untrained_adapter_is_told(world: Path, tiny_phi3: Path, export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    path = world / "adapters" / "adapter_model.safetensors"
    save_file({name: tensor * ("lora_A" in name) for name, tensor in load_file(path).items()}, path)
    finish_training(world)
    export("--dry-run")
    assert "[WARN] the adapter changes nothing" in capsys.readouterr().out


def test_more_context_than_the_model_was_trained_for_is_refused(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, export="num_ctx: 8192")
    with pytest.raises(PipelineError, match=r"export\.num_ctx 8192 is above 4096: .*longrope"):
        export()
    assert not list((world / "gguf").glob("*.gguf"))


def test_a_full_disk_is_told_before_the_work(world: Path, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(world)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(PipelineError, match=r"needs 1\.9 MB but the disk has 0\.0 MB free"):
        export()


def test_several_types_and_the_merged_model_in_one_run(world: Path, tiny_phi3: Path, export: Export) -> None:
    types = "[q4_k_m, bf16, f16, q8_0, q6_k, q5_k_m]"
    write_config(world, tiny_phi3, export=f"verify: none, save_merged: true, quantization: {types}")
    export("--skip-base")
    names = {f"pump-expert-{name}.gguf" for name in ("q4_k_m", "bf16", "f16", "q8_0", "q6_k", "q5_k_m")}
    assert names <= set(list_files(world))
    manifest = require_manifest(world / "gguf", "export_gguf.py", load_config(world / "config.yaml"))
    recorded = {file["path"] for file in manifest["outputs"]}
    assert {f"gguf/{name}" for name in names} <= recorded
    assert {f"gguf/merged/{path.name}" for path in tiny_phi3.glob("*.safetensors")} <= recorded
    export("--overwrite", "--skip-base")  # a folder among what it clears


def test_full_verification_leaves_no_16_bit_file(world: Path, tiny_phi3: Path, export: Export, capsys) -> None:
    write_config(world, tiny_phi3, export="verify: full")
    export("--skip-base")
    checks = read_json(world / "gguf" / "verification.json")["pump-expert-q4_k_m.gguf"]
    assert checks["quantisation"]["mean_kl"] > checks["logits"]["mean_kl"]
    assert checks["quantisation"]["published_kl"] == 0.031
    assert not [name for name in list_files(world) if "reference" in name or name.endswith(".part")]
    assert "quantisation: against f16: KL" in capsys.readouterr().out


def test_what_may_follow_a_finished_export(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    with pytest.raises(PipelineError, match="use them with --bundle"):
        export("--part-size", "1MB")
    assert not (world / "gguf").exists()
    export("--skip-base")
    with pytest.raises(PipelineError, match=r"training_data/manifest\.json is missing: a bundle carries"):
        export("--bundle")
    (world / "gguf" / "pump-expert-q4_k_m.gguf").write_bytes(b"changed")
    with pytest.raises(PipelineError, match="has changed since its manifest was written"):
        export("--bundle")


KILLED = """\
import sys, os, signal, threading, time
sys.argv = ["export_gguf.py", "--config", sys.argv[1]]
sys.path.insert(0, {root!r})
import export_gguf, distill.gguf.making, distill.bundle.pack
threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGKILL)).start()
export_gguf.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_at_any_moment_it_leaves_no_file_or_a_whole_one(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, export="quantization: [q4_k_m, q8_0]")
    root, killed = str(Path(export_gguf.__file__).parent), 0
    for seconds in (0.3, 0.7, 1.1, 1.6, 2.2, 3.0):
        script = KILLED.format(root=root, seconds=seconds)
        done = subprocess.run([sys.executable, "-c", script, str(world / "config.yaml")], capture_output=True)
        killed += done.returncode == -signal.SIGKILL
        known = world / "gguf" / "verification.json"
        entries = read_json(known) if known.exists() else {}
        for path in (world / "gguf").glob("*.gguf"):
            # Named before it was written down: such a file is made again.
            if path.name in entries:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == entries[path.name]["sha256"]
            GGUFReader(path)
        assert done.returncode == -signal.SIGKILL or not (world / "gguf" / "manifest.json").exists() or done.returncode == 0
    assert killed >= 3
    if not (world / "gguf" / "manifest.json").exists():
        export()
    assert len([name for name in list_files(world) if name.endswith(".gguf")]) == 4
    assert not [name for name in list_files(world) if name.endswith((".part", ".tmp"))]


def remove_manifest(world: Path) -> None:
    (world / "gguf" / "manifest.json").unlink()


def test_files_of_an_earlier_adapter_are_made_again(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, export="verify: none, save_merged: true")
    export()
    before = {path: sha256_file(path) for path in sorted((world / "gguf").rglob("*.gguf"))}
    remove_manifest(world)
    path = world / "adapters" / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path)
    finish_training(world)
    write_config(world, tiny_phi3, export="verify: none")
    export("--skip-base")
    assert sha256_file(world / "gguf" / "pump-expert-q4_k_m.gguf") != before[world / "gguf" / "pump-expert-q4_k_m.gguf"]
    # What nobody asked for any more is gone: the base, and the merged model of the earlier adapter.
    assert "pump-expert-base-q4_k_m.gguf" not in list_files(world) and "merged" not in list_files(world)


def test_save_merged_switched_on_later_is_made(world: Path, tiny_phi3: Path, export: Export) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    export("--skip-base")
    remove_manifest(world)
    write_config(world, tiny_phi3, export="verify: none, save_merged: true")
    export("--skip-base")
    assert list((world / "gguf" / "merged").glob("*.safetensors"))


def test_a_failed_verification_leaves_no_merged_model(world: Path, tiny_phi3: Path, export: Export, monkeypatch) -> None:
    write_config(world, tiny_phi3, export="save_merged: true")
    monkeypatch.setattr(structure, "is_finite", lambda tensor: False)
    with pytest.raises(PipelineError, match="NaN"):
        export("--skip-base")
    assert list_files(world) == []


@pytest.mark.parametrize("wrong", ["base", "llama_cpp", "tokenizer"])
def test_overwrite_keeps_a_finished_export_until_all_inputs_are_checked(
    world: Path, tiny_phi3: Path, export: Export, wrong: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    export("--skip-base")
    before = list_files(world)
    arguments = ["--overwrite", "--skip-base"]
    if wrong == "llama_cpp":
        arguments += ["--llama-cpp", str(world / "nothing")]
    else:
        base = Path(shutil.copytree(tiny_phi3, tmp_path_factory.mktemp("other") / tiny_phi3.name))
        (base / ("generation_config.json" if wrong == "base" else "tokenizer.json")).write_text("{}", encoding="utf-8")
        write_config(world, base, export="verify: none")
    for more in (["--dry-run"], []):
        with pytest.raises(PipelineError, match=r"changed since the adapter was trained|is not there"):
            export(*arguments, *more)
        assert list_files(world) == before


@pytest.mark.parametrize(("arguments", "message"), [
    (["--bundle", "out.tar"], "out.tar"),
    (["--bundle", "--part-size", "5GB"], "under 2 GiB"),
    (["--register"], "ollama is not on PATH"),
])
def test_a_wish_that_cannot_be_met_is_told_before_the_work(
    world: Path, export: Export, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PipelineError, match=message):
        export(*arguments)
    assert not (world / "gguf").exists()


def test_register_goes_by_what_was_exported(
    world: Path, tiny_phi3: Path, export: Export, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_config(world, tiny_phi3, export="verify: none")
    export()
    (tmp_path / "bin").mkdir()
    put_on_path(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with RegistryServer() as server:
        text = f"evaluate: {{ollama_url: '{server.base_url}'}}\n"
        for extra in ("verify: none", "verify: none, num_ctx: 1024"):
            write_config(world, tiny_phi3, export=extra)
            with open(world / "config.yaml", "a", encoding="utf-8") as file:
                file.write(text)
            capsys.readouterr()
            export("--register")
            printed = capsys.readouterr().out
            assert "pump-expert-base" in printed
        assert "[WARN] config.yaml's export section has changed" in printed
