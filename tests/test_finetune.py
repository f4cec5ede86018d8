"""Stage 2 through its command line, on a tiny student: what it writes, what stops it, and that a kill changes nothing."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer

from distill.config import load_config
from distill.files import read_jsonl, sha256_file, write_jsonl_atomic
from distill.manifest import write_manifest
from tests.leaks import find_traces, make_surroundings, spell_tokens
from tests.machine_paths import reveals

ROOT = Path(__file__).parent.parent
ROWS = 16
RARE = "flibbertigibbet"
PROMPT_KEYS = ("system", "template", "source_format", "source_separator", "citation", "refusal")


def write_config(folder: Path, base: Path, encrypt: bool = False, **changes: object) -> Path:
    """A config whose run takes eight steps with a checkpoint after each."""
    finetune = {
        "base_model": base.as_posix(), "backend": "trl", "lora_r": 4, "learning_rate": 1e-2, "warmup_steps": 2, "epochs": 2,
        "effective_batch_size": 4, "batch_size": 2, "save_steps": 1, "max_length": 512, **changes,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({"work_dir": "work", "encrypt": encrypt, "finetune": finetune}), encoding="utf-8")
    return path


def write_answer(number: int) -> str:
    """What a row teaches."""
    return f"Part {number} checks the {RARE}. [Source 1]"


def finish_stage_1(config_path: Path, rows: int = ROWS) -> None:
    """training_data/ as generate_training_data.py leaves it."""
    config = load_config(config_path)
    config.training_dir.mkdir(parents=True)
    examples = [
        {"id": f"r{i}", "instruction": f"Question: what does {RARE} {i} do?", "output": write_answer(i)}
        for i in range(rows)
    ]
    outputs = [config.training_dir / name for name in ("train.jsonl", "heldout.jsonl")]
    for path in outputs:
        write_jsonl_atomic(path, examples, encrypt=config.encrypt)
    write_manifest(
        config.training_dir, made_by="generate_training_data.py", config=config, sections=[], inputs=[], outputs=outputs,
        fixed={f"prompt.{key}": getattr(config.prompt, key) for key in PROMPT_KEYS}, counts={}, started=time.time(),
    )


def make_stage(folder: Path, base: Path, **changes: Any) -> Path:
    """Config and finished stage 1 in a new folder; returns the config's path."""
    folder.mkdir()
    config = write_config(folder, base, **changes)
    finish_stage_1(config)
    return config


def start(config: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """finetune.py as a process. No CUDA: the tests state what a CPU does."""
    command = [sys.executable, "finetune.py", "--config", str(config), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )


def finetune(config: Path, *arguments: str, code: int = 0, **environment: str) -> str:
    """Run to the end; returns what was printed."""
    process = start(config, *arguments, **environment)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == code, printed
    return printed


def read_losses(config: Path) -> list[float]:
    """The loss of every step."""
    return [row["loss"] for _, row in read_jsonl(config.parent / "work" / "adapters" / "training_log.jsonl")]


def kill_at_step_3(config: Path, **environment: str) -> None:
    """Start, and kill as soon as the third checkpoint stands."""
    process = start(config, **environment)
    checkpoints = config.parent / "work" / "adapters" / "checkpoints"
    deadline = time.monotonic() + 240
    while not (checkpoints / "checkpoint-3" / "trainer_state.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.02)
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> Path:
    """The config of one unbroken run."""
    config = make_stage(tmp_path_factory.mktemp("finetune") / "run", tiny_phi3)
    finetune(config)
    return config


# -----------------------------------------------------------------------------
# A run


def test_run_writes_what_the_export_needs(finished: Path, tiny_phi3: Path) -> None:
    folder = finished.parent / "work" / "adapters"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "training_log.jsonl", "loss.png", "manifest.json"} <= names
    assert not names & {"checkpoints", "adapter_model.bin", "README.md"}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert sha256_file(folder / name) == sha256_file(tiny_phi3 / name)


def test_manifest_tells_what_was_trained_on_what(finished: Path, tiny_phi3: Path) -> None:
    work = finished.parent / "work"
    text = (work / "adapters" / "manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    assert manifest["counts"]["adapted_modules"] == 8 and manifest["counts"]["steps"] == 8
    assert manifest["fixed"]["finetune.base_model"] == tiny_phi3.name
    assert manifest["manifests"] == {"training_data/manifest.json": sha256_file(work / "training_data" / "manifest.json")}
    weights = {file["path"]: file["sha256"] for file in manifest["details"]["base_model_files"]}
    shard = next(tiny_phi3.glob("*.safetensors"))
    assert weights[shard.name] == sha256_file(shard)
    assert not reveals(work / "adapters" / "manifest.json", work)


def test_no_machine_path_travels_with_the_adapter(finished: Path, tiny_phi3: Path) -> None:
    for path in (finished.parent / "work" / "adapters").glob("*.json"):
        assert not reveals(path, tiny_phi3), path.name


def test_loss_falls(finished: Path) -> None:
    losses = read_losses(finished)
    assert len(losses) == 8 and losses[-1] < losses[0]


def test_finished_run_is_kept(finished: Path) -> None:
    printed = finetune(finished, code=1)
    assert "[FAIL]" in printed and "--overwrite" in printed and "Traceback" not in printed


# -----------------------------------------------------------------------------
# Kill and resume


def test_killed_run_ends_with_the_same_losses_and_the_same_adapter(finished: Path, tmp_path: Path, tiny_phi3: Path) -> None:
    config = make_stage(tmp_path / "killed", tiny_phi3)
    kill_at_step_3(config)
    assert not (config.parent / "work" / "adapters" / "manifest.json").exists()

    printed = finetune(config)
    assert "Going on from step" in printed
    assert read_losses(config) == read_losses(finished)
    adapter = Path("work", "adapters", "adapter_model.safetensors")
    assert sha256_file(config.parent / adapter) == sha256_file(finished.parent / adapter)


# -----------------------------------------------------------------------------
# Privacy


def list_traces(base: Path) -> list[bytes]:
    """The rows' text, and their tokens as they are trained on."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    answer = tokenizer.encode(write_answer(3), add_special_tokens=False).ids
    return [RARE.encode(), RARE.encode("utf-16-le"), *spell_tokens(answer)]


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The surroundings of the processes; their encryption key is this process's too."""
    made = make_surroundings(tmp_path / "around")
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", made["HYBRIDRAG_DISTILL_KEY"])
    return made


def test_encrypted_rows_are_trained_on_and_no_plain_copy_is_left(
    finished: Path, tmp_path: Path, tiny_phi3: Path, around: dict[str, str]
) -> None:
    """Neither while it trains (checkpoints stand, the process is killed) nor at the end; and it learns the same."""
    config, traces = make_stage(tmp_path / "run", tiny_phi3, encrypt=True), list_traces(tiny_phi3)
    kill_at_step_3(config, **around)
    assert (config.parent / "work" / "adapters" / "checkpoints").is_dir()
    assert find_traces(tmp_path, traces) == []
    printed = finetune(config, **around)
    assert "Going on from step" in printed and RARE not in printed
    assert find_traces(tmp_path, traces) == [] and not list(tmp_path.rglob("*.arrow"))
    assert read_losses(config) == read_losses(finished)


def test_the_traces_are_found_where_they_are(finished: Path, tmp_path: Path, tiny_phi3: Path) -> None:
    traces = list_traces(tiny_phi3)
    assert find_traces(finished.parent / "work", traces) == ["training_data/heldout.jsonl", "training_data/train.jsonl"]
    tokenizer = Tokenizer.from_file(str(tiny_phi3 / "tokenizer.json"))
    row = tokenizer.encode(f"What? {write_answer(3)}").ids
    Dataset.from_list([{"input_ids": row}]).save_to_disk(str(tmp_path / "cache"))
    assert find_traces(tmp_path, traces) == ["cache/data-00000-of-00001.arrow"]


def test_with_another_key_training_stops_at_the_first_row(tmp_path: Path, tiny_phi3: Path, around: dict[str, str]) -> None:
    config = make_stage(tmp_path / "run", tiny_phi3, encrypt=True)
    around["HYBRIDRAG_DISTILL_KEY"] = base64.b64encode(bytes(32)).decode("ascii")
    printed = finetune(config, code=1, **around)
    assert "train.jsonl:1 is encrypted: it was changed since, or written with another key" in printed
    assert "Traceback" not in printed


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_an_adapter_is_private_like_its_rows(finished: Path) -> None:
    folder = finished.parent / "work" / "adapters"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o777 == 0o600


# -----------------------------------------------------------------------------
# What stops it


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_length": 20}, "rows are longer than finetune.max_length 20"),
        ({"target_modules": ["q_proj", "o_proj"]}, "finetune.target_modules: q_proj not in this model, which has down_proj"),
        ({"backend": "unsloth"}, "finetune.backend is unsloth but there is no CUDA GPU"),
        ({"base_model": "nobody/nothing"}, "base model nobody/nothing is not on this machine: run  hf download"),
    ],
)
def test_wrong_setting_is_one_line(tmp_path: Path, tiny_phi3: Path, changes: dict, expected: str) -> None:
    config = make_stage(tmp_path / "run", tiny_phi3, **changes)
    printed = finetune(config, code=1)
    assert expected in printed and "Traceback" not in printed
    assert not (config.parent / "work" / "adapters" / "manifest.json").exists()


def test_mended_setting_after_a_failed_start_is_accepted(tmp_path: Path, tiny_phi3: Path) -> None:
    config = make_stage(tmp_path / "run", tiny_phi3, target_modules=["q_proj"])
    finetune(config, code=1)
    write_config(config.parent, tiny_phi3, target_modules=["o_proj"], max_steps=1, warmup_steps=0)
    printed = finetune(config)
    assert "[WARN] finetune.target_modules leaves 6 modules out" in printed


def test_learning_rate_zero_trains_nothing_and_says_so(tmp_path: Path, tiny_phi3: Path) -> None:
    config = make_stage(tmp_path / "run", tiny_phi3, learning_rate=0, max_steps=2)
    assert "nothing will be learned" in finetune(config)


def test_dry_run_counts_and_leaves_nothing(tmp_path: Path, tiny_phi3: Path) -> None:
    config = make_stage(tmp_path / "run", tiny_phi3)
    printed = finetune(config, "--dry-run")
    assert f"{ROWS} rows" in printed and "8 steps of 4 rows" in printed
    assert not (config.parent / "work" / "adapters").exists()


def test_missing_training_data_names_its_producer(tmp_path: Path, tiny_phi3: Path) -> None:
    printed = finetune(write_config(tmp_path, tiny_phi3), code=1)
    assert "training_data/manifest.json is missing: run  python generate_training_data.py  first" in printed
