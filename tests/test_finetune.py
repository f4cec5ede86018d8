"""Stage 2 through its command line, on a tiny student: what it writes, what it says, and what stops it."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from tokenizers import Tokenizer

import export_gguf
from distill.config import Config, load_config
from distill.files import sha256_file
from distill.manifest import write_manifest
from distill.prompts import render_prompt
from distill.records import Chunk, TrainingExample
from tests.leaks import find_traces, make_surroundings, spell_tokens
from tests.machine_paths import reveals
from tests.stage2 import (
    FIRST_HELDOUT,
    ROWS,
    STEPS,
    Script,
    find_adapters,
    finetune,
    hash_adapter,
    kill_at,
    list_outcome,
    make_rows,
    make_run,
    read_log,
    read_manifest,
    write_config,
)
from tests.training.rowsets import make_config, make_example, write_set

RARE = "flibbertigibbet"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(monkeypatch, capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_phi3: Path) -> Path:
    """The config of one unbroken run; what it printed lies beside it."""
    config = make_run(tmp_path_factory.mktemp("finetune") / "run", tiny_phi3, sample_questions=2)
    (config.parent / "printed.txt").write_text(finetune(config), encoding="utf-8")
    return config


def read_printed(config: Path) -> str:
    return (config.parent / "printed.txt").read_text(encoding="utf-8")


# -----------------------------------------------------------------------------
# A run


def test_run_writes_what_the_export_needs(finished: Path, tiny_phi3: Path) -> None:
    folder = find_adapters(finished)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "README.md",
        "training_log.jsonl", "loss.png", "run.json", "manifest.json",
    }
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert sha256_file(folder / name) == sha256_file(tiny_phi3 / name)


def test_manifest_tells_what_was_trained_on_what(finished: Path, tiny_phi3: Path) -> None:
    training_data, manifest = finished.parent / "work" / "training_data", read_manifest(finished)
    details = manifest["details"]
    assert manifest["counts"]["adapted_modules"] == 8 and manifest["counts"]["steps"] == STEPS
    assert manifest["counts"]["rows"] + manifest["counts"]["validation_rows"] == ROWS
    assert manifest["fixed"]["finetune.base_model"] == tiny_phi3.name
    assert manifest["manifests"] == {"training_data/manifest.json": sha256_file(training_data / "manifest.json")}
    assert details["data"] == [{
        "name": "training_data", "manifest_sha256": sha256_file(training_data / "manifest.json"),
        "train_sha256": sha256_file(training_data / "train.jsonl"), "rows": ROWS,
    }]
    weights = {file["path"]: file["sha256"] for file in details["base_model_files"]}
    shard = next(tiny_phi3.glob("*.safetensors"))
    assert weights[shard.name] == sha256_file(shard)
    assert len(details["adapted"]) == 8 and details["backend"] == "peft" and details["smoke_run"] is False
    assert details["resumed_from_step"] is None and details["startup_seconds"] > 0


def test_manifest_tells_plan_machine_and_losses(finished: Path) -> None:
    details, losses = read_manifest(finished)["details"], read_log(finished)
    plan, machine = details["plan"], details["machine"]
    assert plan["in_4bit"] is False and plan["tokens_per_batch"] >= details["plan"]["largest_tokens"] > 0
    assert machine["gpus"] == [] and machine["cpu_cores"] > 0 and machine["ram_bytes"] > 2**30 and machine["torch"]
    assert details["memory"] == {}, "measured with CUDA alone"
    assert [loss for _, loss in details["losses"]["losses"]] == losses and len(losses) == STEPS
    assert details["losses"]["eval_losses"] == [[step, loss] for step, loss in enumerate(read_log(finished, "eval_loss"), 1)]
    assert details["losses"]["seconds"] > 0 and details["losses"]["tokens_per_second"] > 0
    assert read_manifest(finished)["config"]["finetune"]["seed"] == 42


def test_the_model_card_can_be_read_by_the_hub(finished: Path, tiny_phi3: Path) -> None:
    card = ModelCard.load(find_adapters(finished) / "README.md")
    assert card.data.base_model == tiny_phi3.name and card.data.library_name == "peft"
    assert f"{ROWS}" in card.text and "smoke run" not in card.text.lower()


def test_no_machine_path_is_in_any_file(finished: Path, tiny_phi3: Path) -> None:
    places = [str(place).encode() for place in (finished.parent, tiny_phi3, Path(__file__).parent.parent, Path.home())]
    for path in find_adapters(finished).iterdir():
        assert not [place for place in places if place in path.read_bytes()], path.name
        if path.suffix in (".json", ".jsonl", ".md"):
            assert not reveals(path, finished.parent) and not reveals(path, tiny_phi3), path.name


def test_loss_falls(finished: Path) -> None:
    losses, measured = read_log(finished), read_log(finished, "eval_loss")
    assert losses[-1] < losses[0] - 1 and measured[-1] < measured[0] - 1


def test_the_console_tells_the_plan_the_answers_and_what_comes_next(finished: Path) -> None:
    printed = read_printed(finished)
    assert "[OK] Plan: " in printed and f"[OK] peft: {STEPS} steps of 4 rows" in printed and "8 modules adapted" in printed
    assert f'Next:  python export_gguf.py --config "{finished}"' in printed
    assert "Traceback" not in printed


def test_same_rows_and_seed_make_the_same_adapter(finished: Path, tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    """In another process and folder, and without the sample answers."""
    again = make_run(tmp_path / "again", tiny_phi3)
    script(again)
    assert list_outcome(again) == list_outcome(finished)
    other = make_run(tmp_path / "other", tiny_phi3, seed=7, max_steps=2)
    script(other)
    assert hash_adapter(other) != hash_adapter(finished)


def test_finished_run_is_kept(finished: Path, script: Script) -> None:
    before = hash_adapter(finished)
    printed = script(finished, code=1)
    assert "[FAIL]" in printed and "--overwrite" in printed and hash_adapter(finished) == before


def test_overwrite_begins_afresh(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, max_steps=2)
    script(config)
    first = list_outcome(config)
    (find_adapters(config) / "stale.txt").write_text("of the earlier run", encoding="utf-8")
    write_config(config.parent, tiny_phi3, max_steps=2, lora_r=8)
    assert "Going on" not in script(config, "--overwrite")
    assert list_outcome(config) != first and not (find_adapters(config) / "stale.txt").exists()


# -----------------------------------------------------------------------------
# Sample answers


def list_samples(printed: str) -> list[str]:
    """What stands behind Before: and After: on the console."""
    return [line.split(":", 1)[1].strip() for line in printed.splitlines() if line.startswith(("Before:", "After:"))]


def test_sample_answers_are_on_the_console_and_in_the_card(finished: Path) -> None:
    printed, card = read_printed(finished), (find_adapters(finished) / "README.md").read_text(encoding="utf-8")
    heldout = [make_example(FIRST_HELDOUT + number).question for number in range(3)]
    asked = [question for question in heldout if f"Question: {question}" in printed]
    assert len(asked) == 2 and all(question in card for question in asked)
    samples = list_samples(printed)
    assert len(samples) == 4 and all(sample and sample[:30] in card for sample in samples)
    assert samples[0] != samples[1], "training changed the answer"


# -----------------------------------------------------------------------------
# Privacy


def make_rare_rows() -> list[TrainingExample]:
    """Rows whose answers hold a word that stands nowhere else."""
    return [row.model_copy(update={"output": write_answer(number)}) for number, row in enumerate(make_rows(ROWS))]


def write_answer(number: int) -> str:
    return f"Part {number} checks the {RARE}. [Source 1]"


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
    tmp_path: Path, tiny_phi3: Path, around: dict[str, str], script: Script
) -> None:
    """Neither while it trains (checkpoints stand, the process is killed), nor at the end, nor on the console."""
    rows, traces = make_rare_rows(), list_traces(tiny_phi3)
    config = make_run(tmp_path / "run", tiny_phi3, rows, encrypt=True, sample_questions=1)
    kill_at(config, 3, **around)
    assert (find_adapters(config) / "checkpoints").is_dir()
    assert find_traces(tmp_path, traces) == []
    printed = finetune(config, **around)
    assert "Going on from step" in printed and RARE not in printed
    assert "Before:" not in printed and make_example(FIRST_HELDOUT).question not in printed
    assert find_traces(tmp_path, traces) == [] and not list(tmp_path.rglob("*.arrow"))
    card = (find_adapters(config) / "README.md").read_text(encoding="utf-8")
    assert make_example(FIRST_HELDOUT).question not in card and "Left out: the rows are encrypted" in card
    plain = make_run(tmp_path / "plain", tiny_phi3, rows)
    script(plain)
    assert list_outcome(config) == list_outcome(plain)


def test_the_traces_are_found_where_they_are(tmp_path: Path, tiny_phi3: Path) -> None:
    """In plain rows, in the tokens of an unfinished run, and in what other libraries would keep."""
    traces = list_traces(tiny_phi3)
    config = make_run(tmp_path / "run", tiny_phi3, make_rare_rows())
    kill_at(config, 1)
    found = find_traces(tmp_path / "run", traces)
    cache = [path for path in found if path.startswith("work/adapters/cache/")]
    assert len(cache) == 1 and set(found) - set(cache) == {"work/training_data/train.jsonl"}
    tokenizer = Tokenizer.from_file(str(tiny_phi3 / "tokenizer.json"))
    Dataset.from_list([{"input_ids": tokenizer.encode(f"What? {write_answer(3)}").ids}]).save_to_disk(str(tmp_path / "cache"))
    assert find_traces(tmp_path / "cache", traces) == ["data-00000-of-00001.arrow"]
    if sys.platform != "win32":
        assert (find_adapters(config) / "cache").stat().st_mode & 0o777 == 0o700


def test_with_another_key_training_stops_at_the_first_row(
    tmp_path: Path, tiny_phi3: Path, around: dict[str, str], monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, encrypt=True)
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", base64.b64encode(bytes(32)).decode("ascii"))
    assert "train.jsonl:1 is encrypted: it was changed since, or written with another key" in script(config, code=1)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_an_adapter_is_private_like_its_rows(finished: Path) -> None:
    folder = find_adapters(finished)
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("adapter_model.safetensors", "README.md"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600


# -----------------------------------------------------------------------------
# Rows


def make_long(number: int) -> TrainingExample:
    """A row that is too long by its second chunk, which its answer does not need."""
    row = make_example(number)
    texts = [f"Part 1 on {row.id}.", "The oil level is checked twice a year. " * 40]
    chunks = [
        Chunk(span.chunk_id, span.source, text, span.score) for span, text in zip(row.context, texts)
    ]
    rendered = render_prompt(Config().prompt, row.question, chunks)
    return row.model_copy(update={"instruction": rendered.instruction, "context": rendered.context, "category": "Long"})


@pytest.mark.parametrize(("over_length", "rows", "told"), [
    ("drop", ROWS - 2, "[WARN] 2 rows are left out as too long: Long 2"),
    ("trim_context", ROWS, "[OK] 2 rows fit finetune.max_length 512 now, less 2 chunks: Long 2"),
])
def test_rows_over_max_length(
    tmp_path: Path, tiny_phi3: Path, script: Script, over_length: str, rows: int, told: str
) -> None:
    examples = [make_long(0), make_long(1), *make_rows(ROWS - 2, 2)]
    config = make_run(tmp_path / "run", tiny_phi3, examples, over_length=over_length, max_steps=1)
    assert told in script(config)
    manifest, named = read_manifest(config), {examples[0].id, examples[1].id}
    lengths, counts = manifest["details"]["lengths"], manifest["counts"]
    assert counts["rows"] + counts["validation_rows"] == rows and counts["longest_tokens"] <= 512
    held = set(lengths["validation_rows"])
    assert len(held) == counts["validation_rows"] > 0 and not held & lengths["dropped_rows"].keys()
    what = "dropped" if over_length == "drop" else "trimmed"
    assert lengths["over_length"] == over_length and lengths[what] == {"Long": 2} and set(lengths[f"{what}_rows"]) == named


def test_fewer_than_a_hundred_rows_stop_with_the_reason(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, make_rows(24))
    printed = script(config, code=1)
    assert "[FAIL] 24 training rows, fewer than 100: so few teach a model little" in printed
    assert "--limit 24, which marks the run as a smoke run" in printed and not find_adapters(config).exists()


def test_limit_marks_a_smoke_run_and_the_export_says_so(
    tmp_path: Path, tiny_phi3: Path, script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, make_rows(24), max_steps=2)
    printed = script(config, "--limit", "20")
    assert "[WARN] smoke run on 20 rows" in printed and "[SKIP] validation" in printed
    manifest = read_manifest(config)
    assert manifest["details"]["smoke_run"] is True and manifest["counts"]["rows"] == 20
    assert "smoke run" in (find_adapters(config) / "README.md").read_text(encoding="utf-8").lower()
    monkeypatch.setattr(sys, "argv", ["export_gguf.py", "--config", str(config), "--dry-run"])
    export_gguf.main()
    assert "[WARN] adapters/ come from a smoke run (--limit): for trying out only" in capsys.readouterr().out


def make_other_set(folder: Path, rows: list[TrainingExample], heldout: list[TrainingExample]) -> Path:
    """A finished training_data/ of another run."""
    return write_set(make_config(folder), rows, heldout)


def test_several_folders_are_learnt_together(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    other = make_other_set(tmp_path / "other", make_rows(60, 50), make_rows(3, FIRST_HELDOUT + 10))
    config = make_run(tmp_path / "run", tiny_phi3, make_rows(60), more_training_data=[other.as_posix()], max_steps=1)
    script(config)
    manifest = read_manifest(config)
    assert manifest["counts"]["rows"] + manifest["counts"]["validation_rows"] == 110, "ten stand in both and count once"
    assert [each["rows"] for each in manifest["details"]["data"]] == [60, 50]
    assert not reveals(find_adapters(config) / "manifest.json", tmp_path)


def test_what_one_folder_holds_out_the_other_may_not_teach(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    other = make_other_set(tmp_path / "other", make_rows(60, 60), make_rows(3, 40))
    config = make_run(tmp_path / "run", tiny_phi3, make_rows(60), more_training_data=[other.as_posix()])
    printed = script(config, code=1)
    assert f"{config.parent / 'work' / 'training_data' / 'train.jsonl'}:41 is trained on" in printed
    assert f"{other / 'heldout.jsonl'}:1, which is held out" in printed and not find_adapters(config).exists()


def rewrite_manifest(config: Path) -> None:
    """As generate_training_data.py --accept-edits does after an edit."""
    settings = load_config(config)
    old = json.loads((settings.training_dir / "manifest.json").read_text(encoding="utf-8"))
    outputs = [settings.training_dir / name for name in ("train.jsonl", "heldout.jsonl")]
    write_manifest(
        settings.training_dir, made_by="generate_training_data.py", config=settings, sections=[], inputs=[], outputs=outputs,
        fixed=old["fixed"], counts={}, started=time.time(),
    )


@pytest.mark.parametrize(("line", "expected"), [
    ('{"instruction": "What?", "output"', "train.jsonl:111 is not JSON"),
    ('{"instruction": "What?", "output": "  "}', "train.jsonl:111: 1 blank answers"),
    ('{"instruction": "What?", "output": "TODO"}', "train.jsonl:111: 1 placeholders for an answer"),
    ('{"instruction": "What?"}', "train.jsonl:111"),
])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, tiny_phi3: Path, script: Script, line: str, expected: str) -> None:
    config = make_run(tmp_path / "run", tiny_phi3)
    with open(load_config(config).training_dir / "train.jsonl", "a", encoding="utf-8", newline="\n") as file:
        file.write(line + "\n")
    rewrite_manifest(config)
    assert expected in script(config, code=1) and not find_adapters(config).exists()


def test_edited_rows_are_refused(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3)
    with open(load_config(config).training_dir / "train.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")
    assert "train.jsonl has changed since its manifest was written" in script(config, code=1)


# -----------------------------------------------------------------------------
# Validation, order, further rounds


def test_the_best_checkpoint_is_kept_and_training_stops_early(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    """The adapter is that of a run which ends where the other was best."""
    overshooting = {"learning_rate": 0.03, "lr_scheduler": "constant_with_warmup", "early_stopping_patience": 3}
    config = make_run(tmp_path / "run", tiny_phi3, **overshooting)
    printed = script(config)
    assert "[OK] Kept the checkpoint of step 3, validation loss" in printed
    assert "[OK] Stopped early at step 6 of 8: validation loss no longer fell" in printed
    losses = read_log(config, "eval_loss")
    assert len(losses) == 6 and min(losses) == losses[2]
    assert read_manifest(config)["details"]["losses"]["best_eval"] == {"step": 3, "loss": losses[2]}
    short = make_run(tmp_path / "short", tiny_phi3, **overshooting, max_steps=3)
    script(short)
    assert hash_adapter(short) == hash_adapter(config)


def test_without_validation_the_last_step_is_kept(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, validation_share=0, max_steps=3)
    printed = script(config)
    assert "Kept the checkpoint" not in printed and "validate" not in printed
    assert read_log(config, "eval_loss") == [] and read_manifest(config)["counts"]["rows"] == ROWS


def test_a_loss_that_is_no_number_stops_with_advice_and_curriculum_learns_easy_rows_first(
    tmp_path: Path, tiny_phi3: Path, script: Script
) -> None:
    """The rows of the last steps are named: all easy ones, which are every fifth row."""
    rows = [row.model_copy(update={"difficulty": 1 if number % 5 == 0 else 3}) for number, row in enumerate(make_rows(ROWS))]
    config = make_run(tmp_path / "run", tiny_phi3, rows, learning_rate=1e6, curriculum=True, validation_share=0)
    printed = script(config, code=1)
    assert "halve finetune.learning_rate and run with --overwrite" in printed and "Traceback" not in printed
    named = printed.split("look at the rows of the last steps (")[1].split(")")[0].split(", ")
    easy = {row.id for row in rows if row.difficulty == 1}
    assert len(named) == 4 and set(named) <= easy
    assert not (find_adapters(config) / "manifest.json").exists()


def test_a_further_round_goes_on_from_an_earlier_adapter(
    finished: Path, tmp_path: Path, tiny_phi3: Path, script: Script
) -> None:
    config = make_run(
        tmp_path / "run", tiny_phi3, continue_from=find_adapters(finished).as_posix(), max_steps=2, sample_questions=2
    )
    printed = script(config)
    # The first step has a learning rate of zero: its measurement is that of the adapter it began with.
    assert read_log(config, "eval_loss")[0] == pytest.approx(min(read_log(finished, "eval_loss")), rel=1e-5)
    assert abs(read_log(config)[0] - read_log(finished)[-1]) < 1 < read_log(finished)[0] - read_log(config)[0]
    assert list_samples(printed)[0::2] == list_samples(read_printed(finished))[1::2], "before is what the first round left"
    earlier = read_manifest(config)["details"]["continued_from"]
    assert earlier["adapter_sha256"] == hash_adapter(finished)
    assert earlier["manifest_sha256"] == sha256_file(find_adapters(finished) / "manifest.json")
    assert not reveals(find_adapters(config) / "manifest.json", finished.parent)


@pytest.mark.parametrize(("changes", "expected"), [
    ({"lora_r": 8}, "finetune.lora_r is 8 but the adapter in adapters/ has 4"),
    ({"lora_alpha": 8}, "finetune.lora_alpha is 8 but the adapter in adapters/ has 16"),
    ({"target_modules": ["o_proj"]}, "adapts other modules than finetune.target_modules"),
    ({"continue_from": "nowhere"}, "nowhere holds no finished run"),
])
def test_an_adapter_of_another_kind_is_refused(
    finished: Path, tmp_path: Path, tiny_phi3: Path, script: Script, changes: dict[str, Any], expected: str
) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, **{"continue_from": find_adapters(finished).as_posix(), **changes})
    printed = script(config, code=1)
    assert expected in printed and "Traceback" not in printed


def test_the_folder_that_a_run_writes_is_not_what_it_goes_on_from(
    finished: Path, tmp_path: Path, tiny_phi3: Path, script: Script
) -> None:
    """--overwrite would delete the adapter before it is read."""
    shutil.copytree(finished.parent, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    write_config(config.parent, tiny_phi3, continue_from="work/../work/adapters")
    printed = script(config, "--overwrite", code=1)
    assert "finetune.continue_from is this run's own adapters/" in printed
    assert hash_adapter(config) == hash_adapter(finished)


def test_another_adapter_to_go_on_from_is_another_run(
    finished: Path, tmp_path: Path, tiny_phi3: Path, script: Script
) -> None:
    """Though its folder has the same name."""
    config = make_run(tmp_path / "run", tiny_phi3, continue_from=find_adapters(finished).as_posix())
    kill_at(config, 2)
    other = make_run(tmp_path / "other", tiny_phi3, seed=1, max_steps=1)
    script(other)
    write_config(config.parent, tiny_phi3, continue_from=find_adapters(other).as_posix())
    assert "holds an unfinished run that differs in adapter to go on from" in script(config, code=1)


# -----------------------------------------------------------------------------
# What stops it


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_length": 20}, "rows are longer than finetune.max_length 20"),
        ({"target_modules": ["q_proj", "o_proj"]}, "finetune.target_modules: q_proj not in this model, which has down_proj"),
        ({"backend": "unsloth"}, "finetune.backend is unsloth but there is no CUDA GPU"),
        ({"base_model": "nobody/nothing"}, "base model nobody/nothing is not on this machine: run  python finetune.py"),
    ],
)
def test_wrong_setting_is_one_line(
    tmp_path: Path, tiny_phi3: Path, script: Script, changes: dict[str, Any], expected: str
) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, **changes)
    printed = script(config, code=1)
    assert expected in printed and "Traceback" not in printed
    assert not (find_adapters(config) / "manifest.json").exists()


def test_mended_setting_after_a_failed_start_is_accepted(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, target_modules=["q_proj"])
    script(config, code=1)
    write_config(config.parent, tiny_phi3, target_modules=["o_proj"], max_steps=1, warmup_steps=0)
    printed = script(config)
    assert "[WARN] finetune.target_modules leaves 6 modules out" in printed
    assert f"[OK] {ROWS} rows as tokens from adapters/cache/" in printed and not (find_adapters(config) / "cache").exists()


def test_learning_rate_zero_trains_nothing_and_says_so(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3, learning_rate=0, max_steps=2)
    assert "nothing will be learned" in script(config)
    losses = read_log(config, "eval_loss")
    assert losses[0] == losses[1]


def test_dry_run_tells_all_and_leaves_nothing(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    printed = script(config, "--dry-run")
    for said in (
        "no CUDA GPU: training on the CPU", "Disk: ", "RAM: ", "base model: 1 million parameters", f"[OK] {ROWS} rows, ",
        "share", f"{STEPS} steps of 4 rows", "[OK] Plan: ",
    ):
        assert said in printed, said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_dry_run_leaves_an_unfinished_run_alone(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    config = make_run(tmp_path / "run", tiny_phi3)
    kill_at(config, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    script(config, "--dry-run")
    script(config, "--dry-run", "--overwrite")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_missing_training_data_names_its_producer(tmp_path: Path, tiny_phi3: Path, script: Script) -> None:
    printed = script(write_config(tmp_path, tiny_phi3), code=1)
    assert "training_data/manifest.json is missing: run  python generate_training_data.py  first" in printed
