"""The chain through the scripts' command lines: a real index, a server as teacher, a tiny student, GGUF files, llama.cpp."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.files import sha256_file
from tests.machine_paths import reveals
from tests.servers import OllamaServer, TeacherServer, embed_words
from tests.stage1 import KEY_NAME, make_world

ROOT = Path(__file__).parent.parent
SCRIPTS = ("generate_training_data.py", "finetune.py", "export_gguf.py", "evaluate.py")
FEW_ROWS = {"finetune.py": ("--limit", "100")}  # fewer than 100 are learnt as a smoke run only
FOLDERS = ("training_data", "adapters", "gguf", "evaluation")


def call(script: str, config: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and everything printed."""
    done = subprocess.run(
        [sys.executable, script, "--config", str(config), *arguments], cwd=ROOT, timeout=300, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", KEY_NAME: "sk-a-secret-key"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )
    return done.returncode, done.stdout


def edit(config: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.yaml as a user does between runs."""
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    change(values)
    config.write_text(yaml.safe_dump(values), encoding="utf-8")


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[OllamaServer, TeacherServer]]:
    """An Ollama that embeds and a teacher that answers, on loopback."""
    with OllamaServer(embed=embed_words) as ollama, TeacherServer() as teacher:
        yield ollama, teacher


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path, servers: tuple[OllamaServer, TeacherServer]) -> Path:
    """The config of a finished chain; what each script printed lies beside it."""
    ollama, teacher = servers
    folder = tmp_path_factory.mktemp("chain")
    config = make_world(folder, ollama, teacher).config

    def add_stages(values: dict[str, Any]) -> None:
        values["finetune"] = {
            "base_model": tiny_phi3.as_posix(), "backend": "peft", "lora_r": 4, "max_steps": 3, "warmup_steps": 0,
            "learning_rate": 1e-2,
        }
        values["export"] = {"name": "tiny-expert", "quantization": ["q4_k_m"], "num_ctx": 1024, "verify": "full"}
        values["evaluate"] = {"engine": "embedded", "max_tokens": 16, "embedder": {"base_url": ollama.base_url}}

    edit(config, add_stages)
    for script in SCRIPTS:
        code, printed = call(script, config, *FEW_ROWS.get(script, ()))
        (folder / f"{script}.txt").write_text(printed, encoding="utf-8")
        assert code == 0, printed
    return config


@pytest.fixture
def finished(chain: Path, tmp_path: Path) -> Path:
    """A copy of the finished chain that a test may spoil."""
    shutil.copytree(chain.parent, tmp_path / "copy")
    return tmp_path / "copy" / "config.yaml"


# -----------------------------------------------------------------------------
# The chain


def test_each_stage_leaves_what_the_next_one_reads(chain: Path) -> None:
    work = chain.parent / "work"
    names = {folder: {path.name for path in (work / folder).iterdir()} for folder in FOLDERS}
    assert {"train.jsonl", "heldout.jsonl", "failures.jsonl", "manifest.json"} <= names["training_data"]
    assert {"adapter_model.safetensors", "tokenizer.json", "loss.png", "README.md", "manifest.json"} <= names["adapters"]
    assert {
        "tiny-expert-q4_k_m.gguf", "tiny-expert-base-q4_k_m.gguf", "Modelfile", "Modelfile.base", "SHA256SUMS",
        "verification.json", "manifest.json",
    } <= names["gguf"]
    assert {"answers.jsonl", "summary.json", "report.html", "manifest.json"} <= names["evaluation"]


def test_report_can_be_walked_back_to_the_questions(chain: Path) -> None:
    work = chain.parent / "work"
    manifests = {folder: json.loads((work / folder / "manifest.json").read_text(encoding="utf-8")) for folder in FOLDERS}
    for before, after in itertools.pairwise(FOLDERS):
        name = f"{before}/manifest.json"
        assert manifests[after]["manifests"][name] == sha256_file(work / name)
    questions = manifests["training_data"]["inputs"][0]
    assert questions["path"] == "questions.yaml"
    assert questions["sha256"] == sha256_file(chain.parent / "questions.yaml")


def test_no_manifest_holds_a_secret_or_a_machine_path(chain: Path) -> None:
    for path in (chain.parent / "work").rglob("*.json"):
        assert not reveals(path, chain.parent) and "sk-a-secret" not in path.read_text(encoding="utf-8"), path


def test_the_export_is_proven_with_the_rows_of_stage_1(chain: Path) -> None:
    work = chain.parent / "work"
    paths = {name: work / "training_data" / f"{name}.jsonl" for name in ("train", "heldout")}
    counts = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in paths.items()}
    for checks in json.loads((work / "gguf" / "verification.json").read_text(encoding="utf-8")).values():
        assert checks["tokenization"]["texts"] == 2 * counts["train"] > 0
        assert 0 < checks["quantisation"]["rows"] <= counts["heldout"] and checks["quantisation"]["perplexity"] > 1


def test_a_finished_chain_can_be_packed(finished: Path) -> None:
    code, printed = call("export_gguf.py", finished, "--bundle", str(finished.parent / "expert.zip"))
    assert code == 0, printed
    done = subprocess.run(
        [sys.executable, str(ROOT / "distill" / "bundle" / "verify_bundle.py"), str(finished.parent / "expert.zip")],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_stage_ends_with_the_next_command(chain: Path) -> None:
    for script, following in itertools.pairwise(SCRIPTS):
        printed = (chain.parent / f"{script}.txt").read_text(encoding="utf-8")
        assert printed.rstrip().endswith(f'Next:  python {following} --config "{chain}"'), printed


def test_a_smoke_run_is_told_by_every_later_stage(chain: Path) -> None:
    for script in SCRIPTS[1:]:
        assert "smoke run" in (chain.parent / f"{script}.txt").read_text(encoding="utf-8"), script
    for folder in FOLDERS[1:3]:
        manifest = json.loads((chain.parent / "work" / folder / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["details"]["smoke_run"] is True


def test_both_sides_of_the_evaluation_were_asked(chain: Path) -> None:
    work = chain.parent / "work"
    lines = (work / "evaluation" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [answer for answer in map(json.loads, lines) if answer["set"] == "heldout"]
    heldout = (work / "training_data" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    assert [answer["side"] for answer in answers].count("base") == len(heldout) > 0
    assert [answer["side"] for answer in answers].count("tuned") == len(heldout)


def test_both_models_can_be_asked_one_question_and_nothing_is_written(chain: Path) -> None:
    folder = chain.parent / "work" / "evaluation"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, printed = call("evaluate.py", chain, "--ask", "What does the pump need?")
    assert code == 0 and "base" in printed and "tuned" in printed, printed
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


# -----------------------------------------------------------------------------
# Edits between the stages


@pytest.mark.parametrize("script", SCRIPTS[1:])
def test_edited_system_prompt_stops_the_next_stage(finished: Path, script: str) -> None:
    edit(finished, lambda values: values.update(prompt={"system": "You are a pirate."}))
    code, printed = call(script, finished, "--overwrite")
    failure = next(line for line in printed.splitlines() if line.startswith("[FAIL]"))
    assert code == 1 and "Traceback" not in printed
    assert "prompt.system" in failure and "You are a pirate." in failure and "You are a domain expert" in failure


@pytest.mark.parametrize("script", SCRIPTS[2:])
def test_edited_base_model_stops_the_next_stage(finished: Path, tiny_phi3: Path, script: str) -> None:
    other = finished.parent / "other-student"
    shutil.copytree(tiny_phi3, other)
    edit(finished, lambda values: values["finetune"].update(base_model=other.as_posix()))
    code, printed = call(script, finished, "--overwrite")
    failure = next(line for line in printed.splitlines() if line.startswith("[FAIL]"))
    assert code == 1 and "Traceback" not in printed
    assert "finetune.base_model" in failure and "other-student" in failure and tiny_phi3.name in failure


@pytest.mark.parametrize(("script", "folder"), zip(SCRIPTS[1:], FOLDERS))
def test_damaged_input_stops_the_next_stage(finished: Path, script: str, folder: str) -> None:
    work = finished.parent / "work"
    damaged = next(path for path in sorted((work / folder).iterdir()) if path.name in (
        "train.jsonl", "adapter_model.safetensors", "tiny-expert-q4_k_m.gguf"
    ))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, printed = call(script, finished, "--overwrite")
    assert code == 1 and f"{folder}/{damaged.name} has changed since its manifest was written" in printed


@pytest.mark.parametrize("script", SCRIPTS[1:])
def test_finished_stage_is_not_done_twice(finished: Path, script: str) -> None:
    if script == "finetune.py":  # a smoke run would be replaced without being asked
        manifest = finished.parent / "work" / "adapters" / "manifest.json"
        text = manifest.read_text(encoding="utf-8").replace('"smoke_run": true', '"smoke_run": false')
        manifest.write_text(text, encoding="utf-8")
    code, printed = call(script, finished)
    assert code == 1 and "--overwrite" in printed and "Traceback" not in printed


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_no_heavy_library(script: str) -> None:
    program = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        f"try:\n    runpy.run_path('{script}', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "Reads" in done.stdout
