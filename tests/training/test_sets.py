"""Several training_data/ folders as one: what is merged, what is refused, and what the manifest says of them."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from distill.config import Config
from distill.errors import PipelineError
from distill.files import sha256_file
from distill.records import TrainingExample
from distill.training.sets import LocatedRow, load_sets
from tests.training.rowsets import make_config, make_example, write_set

Rows = Sequence[TrainingExample]


def make_two(
    folder: Path, train: Rows, heldout: Rows, more_train: Rows = (), more_heldout: Rows = (), encrypt: bool = False
) -> Config:
    """A config with its own set, and another's as more_training_data."""
    more = write_set(make_config(folder / "b", encrypt), more_train, more_heldout)
    config = make_config(folder / "a", encrypt, finetune={"more_training_data": [more.as_posix()]})
    write_set(config, train, heldout)
    return config


def more_of(config: Config) -> Path:
    return config.finetune.more_training_data[0]


def list_ids(rows: Sequence[LocatedRow]) -> list[str]:
    return [row.example.id for row in rows]


# -----------------------------------------------------------------------------
# Merging


def test_rows_of_one_folder_keep_their_order_and_know_their_lines(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    examples = [make_example(number) for number in range(4)]
    write_set(config, examples[:3], examples[3:])
    train, heldout, sets = load_sets(config, None)
    assert [row.example for row in train] == examples[:3] and [row.example for row in heldout] == examples[3:]
    assert [(row.path, row.line) for row in train] == [(config.training_dir / "train.jsonl", line) for line in (1, 2, 3)]
    assert sets == [{
        "name": "training_data", "rows": 3, "manifest_sha256": sha256_file(config.training_dir / "manifest.json"),
        "train_sha256": sha256_file(config.training_dir / "train.jsonl"),
    }]


def test_folders_are_merged_and_the_same_row_counts_once(tmp_path: Path) -> None:
    rows = [make_example(number) for number in range(8)]
    config = make_two(tmp_path, rows[:3], rows[3:5], [rows[1], rows[5]], [rows[3], rows[6]])
    train, heldout, sets = load_sets(config, None)
    assert [row.example for row in train] == [*rows[:3], rows[5]]
    assert [row.example for row in heldout] == [*rows[3:5], rows[6]]
    assert train[-1].path == more_of(config) / "train.jsonl" and train[-1].line == 2
    assert [(each["name"], each["rows"]) for each in sets] == [("training_data", 3), ("training_data", 1)]
    assert str(tmp_path) not in json.dumps(sets)


def test_limit_takes_the_first_rows_of_all(tmp_path: Path) -> None:
    rows = [make_example(number) for number in range(6)]
    config = make_two(tmp_path, rows[:2], rows[5:], rows[2:5])
    train, heldout, sets = load_sets(config, 3)
    assert [row.example for row in train] == rows[:3] and len(heldout) == 1
    assert [each["rows"] for each in sets] == [2, 3]


def test_two_answers_to_one_prompt_are_both_kept_under_ids_of_their_own(tmp_path: Path) -> None:
    row, other = make_example(0), make_example(1, id="")
    taken = make_example(2, id=f"{row.id}#2")
    config = make_two(tmp_path, [row, taken], [], [row.model_copy(update={"output": "A spanner. [Source 1]"}), other])
    train, _, _ = load_sets(config, None)
    assert list_ids(train) == [row.id, f"{row.id}#2", f"{row.id}#2#2", "train.jsonl:2"]
    assert [row.example.output[:9] for row in train] == ["Tool 0. [", "Tool 2. [", "A spanner", "Tool 1. ["]


def test_row_that_stands_twice_in_one_file_is_left_to_the_sanity_check(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_set(config, [make_example(0), make_example(0)])
    train, _, _ = load_sets(config, None)
    assert list_ids(train) == ["inspect-pump", "inspect-pump#2"]


def test_renamed_copy_of_a_folder_is_a_set_too(tmp_path: Path) -> None:
    config = make_two(tmp_path, [make_example(0)], [], [make_example(1)])
    moved = tmp_path / "a" / "work" / "march"
    shutil.copytree(more_of(config), moved)
    config = make_config(tmp_path / "a", finetune={"more_training_data": ["work/march"]})
    train, _, sets = load_sets(config, None)
    assert len(train) == 2 and [each["name"] for each in sets] == ["training_data", "march"]


def test_encrypted_sets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", base64.b64encode(bytes(range(32))).decode("ascii"))
    config = make_two(tmp_path, [make_example(0)], [], [make_example(1)], encrypt=True)
    assert b"Tool" not in (more_of(config) / "train.jsonl").read_bytes()
    assert [row.example.output[:6] for row in load_sets(config, None)[0]] == ["Tool 0", "Tool 1"]


# -----------------------------------------------------------------------------
# What is refused


def test_no_training_row_names_the_mend(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_set(config, [], [make_example(0)])
    with pytest.raises(PipelineError, match=r"train\.jsonl holds no rows: run  python generate_training_data\.py  again"):
        load_sets(config, None)


@pytest.mark.parametrize(
    ("line", "expected"), [('{"instruction": "a", "out', "is not JSON"), ('{"instruction": "a"}', "output: Field required")]
)
def test_broken_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    config = make_config(tmp_path)
    write_set(config, [make_example(0)])
    with open(config.training_dir / "train.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(PipelineError, match=rf"train\.jsonl:2 .*{expected}"):
        load_sets(config, None)


def break_set(folder: Path, how: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    changes = {
        "maker": {"made_by": "finetune.py"}, "unlisted": {"outputs": manifest["outputs"][:1]},
        "prompt": {"fixed": {**manifest["fixed"], "prompt.system": "You are a pirate."}},
        "older prompt": {"fixed": {"prompt.system": manifest["fixed"]["prompt.system"]}},
    }
    if how == "unfinished":
        (folder / "manifest.json").unlink()
    elif how == "no object":
        (folder / "manifest.json").write_text("[]", encoding="utf-8")
    elif how == "missing":
        (folder / "heldout.jsonl").unlink()
    elif how in changes:
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes[how]}), encoding="utf-8")
    else:
        text = (folder / "train.jsonl").read_text(encoding="utf-8")
        (folder / "train.jsonl").write_text(text.replace("Tool", "Fool" if how == "same size" else "A tool"), encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("unfinished", r"manifest\.json is missing: finetune\.more_training_data takes training_data/ folders"),
        ("maker", r"manifest\.json was made by finetune\.py, not generate_training_data\.py"),
        ("no object", r"manifest\.json was made by None"),
        ("missing", r"heldout\.jsonl is missing: copy the whole"),
        ("unlisted", r"heldout\.jsonl is missing"),
        ("edited", r"train\.jsonl has changed since its manifest was written: .*--accept-edits"),
        ("same size", r"train\.jsonl has changed since its manifest was written"),
        ("prompt", r"manifest\.json was made with prompt\.system 'You are a pirate\.', but config\.yaml says 'You are a dom"),
    ],
)
def test_folder_that_is_no_finished_set_of_this_prompt_is_refused(tmp_path: Path, how: str, expected: str) -> None:
    config = make_two(tmp_path, [make_example(0)], [], [make_example(1)])
    break_set(more_of(config), how)
    with pytest.raises(PipelineError, match=expected) as problem:
        load_sets(config, None)
    assert str(more_of(config)) in str(problem.value) and "\n" not in str(problem.value)


def test_set_of_an_older_version_that_fixed_fewer_keys_is_taken(tmp_path: Path) -> None:
    config = make_two(tmp_path, [make_example(0)], [], [make_example(1)])
    break_set(more_of(config), "older prompt")
    assert len(load_sets(config, None)[0]) == 2


@pytest.mark.parametrize("names", [["work/training_data"], ["../b/work/training_data", "../b/../b/work/training_data"]])
def test_folder_that_is_named_twice_is_refused(tmp_path: Path, names: list[str]) -> None:
    make_two(tmp_path, [make_example(0)], [], [make_example(1)])
    config = make_config(tmp_path / "a", finetune={"more_training_data": names})
    with pytest.raises(PipelineError, match=r"finetune\.more_training_data: .* is this run's own, or named twice"):
        load_sets(config, None)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_folder_that_is_named_by_a_link_too_is_refused(tmp_path: Path) -> None:
    make_two(tmp_path, [make_example(0)], [], [make_example(1)])
    (tmp_path / "link").symlink_to(tmp_path / "b" / "work")
    names = ["../b/work/training_data", "../link/training_data"]
    with pytest.raises(PipelineError, match="named twice"):
        load_sets(make_config(tmp_path / "a", finetune={"more_training_data": names}), None)


# -----------------------------------------------------------------------------
# Overlaps


HELD = make_example(7)
ELSEWHERE = {"source": "docs/other.md", "output": "Another. [Source 1]"}


def strip(row: TrainingExample, **changes: object) -> TrainingExample:
    """A curated row: no context, no question."""
    return TrainingExample.model_validate({"instruction": row.instruction, "output": row.output, **changes})


def rename_chunks(row: TrainingExample) -> TrainingExample:
    """The same row with other chunks of the same document."""
    context = tuple(span.model_copy(update={"chunk_id": f"other {span.chunk_id}"}) for span in row.context)
    return row.model_copy(update={"context": context, "golden": ()})


OVERLAPS = {
    "the same row": (HELD, "asks nearly the same question as"),
    "the same question of another document": (make_example(7, **ELSEWHERE), "asks nearly the same question as"),
    "nearly the same question": (
        make_example(7, **ELSEWHERE, question="Inspect the boiler: which tool, really?"), "asks nearly the same"
    ),
    "a curated prompt around the question": (strip(HELD), "asks nearly the same question as"),
    "the same document": (rename_chunks(make_example(8, source=HELD.context[0].source)), "shows the same document as"),
    "a golden chunk that is not shown": (make_example(8, golden=(HELD.context[1].chunk_id,)), "shows the same document as"),
}


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("ours", [True, False], ids=["ours is held out", "the other's is held out"])
def test_row_that_is_learnt_here_and_held_out_there_is_refused(tmp_path: Path, name: str, ours: bool) -> None:
    learnt, expected = OVERLAPS[name]
    rows = [make_example(0), learnt]
    if ours:
        config = make_two(tmp_path, [make_example(1)], [make_example(2), HELD], rows, [make_example(3)])
    else:
        config = make_two(tmp_path, rows, [make_example(3)], [make_example(1)], [make_example(2), HELD])
    with pytest.raises(PipelineError, match=expected) as problem:
        load_sets(config, None)
    first, second = ("b", "a") if ours else ("a", "b")
    folders = {side: tmp_path / side / "work" / "training_data" for side in "ab"}
    message = str(problem.value)
    assert f"{folders[first] / 'train.jsonl'}:2 is trained on" in message
    assert f"{folders[second] / 'heldout.jsonl'}:2, which is held out" in message


def test_overlap_is_found_beyond_the_limit_and_counted(tmp_path: Path) -> None:
    config = make_two(tmp_path, [make_example(0)], [HELD], [make_example(1), HELD, HELD.model_copy(update={"id": "x"})])
    with pytest.raises(PipelineError, match=r"held out \(and 1 more rows\)"):
        load_sets(config, 1)


def test_other_questions_on_other_documents_are_no_overlap(tmp_path: Path) -> None:
    rows = [make_example(number) for number in range(40)]
    config = make_two(tmp_path, rows[:10], rows[10:20], rows[20:30], rows[30:])
    assert len(load_sets(config, None)[0]) == 20
