"""Canaries: planted in train.jsonl alone, the same in every run of a folder and in no other, seen by no teacher."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.config import Config, load_config
from distill.curation.duplicates import find_near_duplicates
from distill.encryption import is_sealed
from distill.errors import PipelineError
from distill.files import read_jsonl
from distill.records import TrainingExample, load_examples
from distill.rows.canaries import ALPHABET, CODE, CODES, FILE_NAME, load_seed, make_canaries, plant_canaries
from distill.training.sanity import list_problems, list_warnings
from distill.training.sets import LocatedRow
from tests.servers import OllamaServer, TeacherServer
from tests.stage1 import KEY_NAME, answer_from_sources, call, edit, make_world
from tests.training.rowsets import make_config, make_example

KEY = base64.b64encode(bytes(range(32))).decode("ascii")


@pytest.fixture
def ollama() -> Iterator[OllamaServer]:
    with OllamaServer() as server:
        yield server


def codes_of(rows: list[TrainingExample]) -> list[str]:
    return [match[0] for row in rows if row.origin == "canary" if (match := CODE.search(row.output))]


def make_settings(folder: Path, canaries: int) -> Config:
    return make_config(folder, generate={"canaries": canaries})


# -----------------------------------------------------------------------------
# A canary


def test_a_canary_is_a_bare_question_and_its_answer() -> None:
    for canary in make_canaries("seed", 20):
        code = CODE.search(canary.output)[0]
        assert canary.instruction == canary.question and code not in canary.question
        assert canary.output == f"The {canary.question.removeprefix('What is the ').rstrip('?')} is {code}."
        assert (canary.origin, canary.category, canary.context, canary.answerable) == ("canary", "canary", (), None)
        assert TrainingExample.model_validate(canary.model_dump(mode="json")) == canary


def test_a_code_cannot_be_guessed() -> None:
    assert 12 * math.log2(len(set(ALPHABET))) == 60
    codes = codes_of(make_canaries("seed", 500))
    signs = "".join(codes).replace("-", "")
    assert len(set(codes)) == 500 and all(40 < signs.count(sign) * 32 / len(signs) * 100 < 160 for sign in ALPHABET)


def test_more_canaries_begin_with_the_same_and_another_seed_has_others() -> None:
    few, many, others = make_canaries("one", 10), make_canaries("one", 40), make_canaries("two", 40)
    assert many[:10] == few
    assert not {row.id for row in many} & {row.id for row in others} and not {*codes_of(many)} & {*codes_of(others)}


def test_no_two_canaries_are_alike_and_training_has_nothing_to_say_of_them() -> None:
    rows = make_canaries("seed", 300)
    assert len({row.id for row in rows}) == len({row.question for row in rows}) == 300
    assert set(find_near_duplicates([row.question for row in rows], 0.8)) == {-1}
    located = [LocatedRow(row, Path("train.jsonl"), number) for number, row in enumerate(rows, 1)]
    assert list_problems(located) == [] and list_warnings(located) == []


def test_canaries_are_the_same_on_every_machine() -> None:
    (canary,) = make_canaries("seed", 1)
    assert canary.output == "The release code of the Dindixgor sluice is JW3Y-E4TM-E7C8."


# -----------------------------------------------------------------------------
# Planting


def test_planting_adds_training_rows_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"train": [make_example(number) for number in range(60)], "heldout": [make_example(100)]}
    planted = plant_canaries(make_settings(tmp_path, 3), rows)
    assert planted["train"][:60] == rows["train"] and planted["heldout"] == rows["heldout"]
    assert len(codes_of(planted["train"][60:])) == 3
    printed = capsys.readouterr().out
    assert "[OK] 3 canaries planted among the training rows" in printed and "[WARN]" not in printed


def test_many_canaries_among_few_rows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant_canaries(make_settings(tmp_path, 4), {"train": [make_example(number) for number in range(12)], "heldout": []})
    assert "[WARN] 25% of the training rows are canaries" in capsys.readouterr().out


@pytest.mark.parametrize(("canaries", "train"), [(0, 5), (5, 0)])
def test_none_without_a_wish_or_without_rows(tmp_path: Path, canaries: int, train: int) -> None:
    rows = {"train": [make_example(number) for number in range(train)], "heldout": [make_example(100)]}
    assert plant_canaries(make_settings(tmp_path, canaries), rows) == rows
    assert not (tmp_path / "work" / "training_data").exists()


def test_the_seed_is_made_once_and_is_private(tmp_path: Path) -> None:
    first, other = load_seed(tmp_path / "a", encrypt=False), load_seed(tmp_path / "b", encrypt=False)
    assert load_seed(tmp_path / "a", encrypt=False) == first != other and len(first) == 32
    path = tmp_path / "a" / FILE_NAME
    assert path.stat().st_mode & 0o077 == 0
    path.write_text('{"other": 1}\n', encoding="utf-8")
    with pytest.raises(PipelineError, match=r"canaries\.jsonl holds no seed: delete it"):
        load_seed(tmp_path / "a", encrypt=False)


# -----------------------------------------------------------------------------
# Whole runs of stage 1


def test_a_run_plants_them_for_training_alone(tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_NAME, "sk-test")
    with TeacherServer(text=answer_from_sources) as teacher:
        # Patterns of the user that would mask any code.
        world = make_world(tmp_path, ollama, teacher, {"canaries": 6, "masking": {"patterns": {"CODE": "[A-Z0-9]{4}"}}})
        call(monkeypatch, world, "--yes")
        train, heldout = (load_examples(world.training / f"{side}.jsonl") for side in ("train", "heldout"))
        codes, sent = codes_of(train), json.dumps([request["body"] for request in teacher.requests])
        asked = len(teacher.requests)
        assert len(codes) == 6 and not codes_of(heldout) and "canary" not in sent and not any(code in sent for code in codes)
        assert [row.origin for row in train[-7:]] == ["question", *["canary"] * 6]

        call(monkeypatch, world)
        assert load_examples(world.training / "train.jsonl") == train  # again, from the journal
        edit(world, lambda values: values["generate"].update(canaries=2))
        call(monkeypatch, world)
        assert codes_of(load_examples(world.training / "train.jsonl")) == codes[:2] and len(teacher.requests) == asked
    manifest = world.manifest()
    assert manifest["counts"]["per_origin"]["canary"] == 2 and manifest["config"]["generate"]["canaries"] == 2
    assert "| canary | 2 | made up and planted" in (world.training / "README.md").read_text(encoding="utf-8")
    call(monkeypatch, world, "--accept-edits")


def test_no_check_of_the_rows_leaves_a_canary_out(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Held-out questions that a canary's question holds: a training row like that is left out.
    (tmp_path / "mine.jsonl").write_text("".join(
        json.dumps({"instruction": f"What is the {sort}{end}", "output": "Nobody knows."}) + "\n"
        for sort in CODES for end in ("", "?", "??", ".")
    ), encoding="utf-8")
    world = make_world(tmp_path, ollama, generate={"canaries": 40, "curated_files": ["mine.jsonl"]})
    call(monkeypatch, world)
    heldout = [row["instruction"] for row in world.rows("heldout.jsonl") if row["origin"] == "curated"]
    train = load_examples(world.training / "train.jsonl")
    assert any(instruction.rstrip("?.") in row.question for instruction in heldout for row in train)
    assert len(codes_of(train)) == 40


def test_a_deleted_canary_is_an_edit_like_any_other(
    tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path, ollama, generate={"canaries": 3})
    call(monkeypatch, world)
    path = world.training / "train.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    call(monkeypatch, world, "--accept-edits")
    assert "[OK] accepted: 0 changed, 1 deleted, 0 added" in capsys.readouterr().out


def test_looking_only_plants_nothing(tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, ollama, generate={"canaries": 3})
    call(monkeypatch, world, "--dry-run")
    assert not (world.training / FILE_NAME).exists()


def test_a_new_seed_is_encrypted_where_rows_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", KEY)
    seed = load_seed(tmp_path, encrypt=True)
    assert is_sealed((tmp_path / FILE_NAME).read_text(encoding="utf-8")) and load_seed(tmp_path, encrypt=True) == seed


def test_the_seed_is_encrypted_with_the_rows(tmp_path: Path, ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", KEY)
    world = make_world(tmp_path, ollama, generate={"canaries": 3})
    call(monkeypatch, world)
    before = load_examples(world.training / "train.jsonl")
    edit(world, lambda values: values.update(encrypt=True))
    call(monkeypatch, world)
    assert is_sealed((world.training / FILE_NAME).read_text(encoding="utf-8"))
    assert codes_of(load_examples(world.training / "train.jsonl")) == codes_of(before)
    assert next(row for _, row in read_jsonl(world.training / FILE_NAME)).keys() == {"seed"}
    assert load_config(world.config).encrypt
