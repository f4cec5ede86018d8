from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.config import Config, load_config
from distill.curation.card import write_card
from distill.curation.counts import count_rows
from distill.errors import PipelineError
from distill.files import read_json, read_jsonl, sha256_file, write_json_atomic, write_jsonl_atomic
from distill.manifest import require_manifest, write_manifest
from distill.records import SIDES, ContextSpan, Rows, TrainingExample
from distill.rows.edits import FILE_NAME, accept_edits, write_digests

ADDED = {"instruction": "What is a pump?", "output": "A machine that moves liquids."}
KEY = "HYBRIDRAG_DISTILL_KEY"
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
REFUSAL = "The provided documents do not answer this question."
UNITS = {"train": ("pump", "valve", "antenna", "modem"), "heldout": ("laser", "mixer")}


def make_row(unit: str) -> TrainingExample:
    """A row as stage 1 writes it."""
    text = f"The {unit} runs at 20 degrees."
    instruction = f"[Source 1] {unit}.md\n{text}\n\nQuestion: How hot does the {unit} run?"
    span = ContextSpan(chunk_id=f"{unit}-1", source=f"docs/{unit}.md", score=0.5, start=instruction.index(text), end=0)
    return TrainingExample(
        id=f"id-{unit}", instruction=instruction, output=f"The {unit} runs at 20 degrees. [Source 1]", category="Thermal",
        question=f"How hot does the {unit} run?", context=(span.model_copy(update={"end": span.start + len(text)}),),
        origin="question", answerable=True, num_chunks=1, teacher_model="teacher-1",
    )


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A finished stage 1."""
    monkeypatch.setenv(KEY, SECRET)
    encrypt = "true" if request.param else "false"
    (tmp_path / "config.yaml").write_text(f"work_dir: work\nencrypt: {encrypt}\n", encoding="utf-8")
    config = load_config(tmp_path / "config.yaml")
    finish(config)
    yield config


def finish(config: Config, *more: TrainingExample) -> None:
    """What generate_training_data.py leaves, in small."""
    folder = config.training_dir
    rows: Rows = {side: [make_row(unit) for unit in UNITS[side]] for side in SIDES}
    rows["train"] += more
    for side in SIDES:
        lines = [row.model_dump(mode="json") for row in rows[side]]
        write_jsonl_atomic(folder / f"{side}.jsonl", lines, private=True, encrypt=config.encrypt)
    counts = {**count_rows(config.prompt, rows), "failures": 3}
    facts = {"teacher": "teacher-1 at example.org"}
    card = write_card(folder, rows, {**facts, "counts": counts}, config.encrypt)
    outputs = [*(folder / f"{side}.jsonl" for side in SIDES), write_digests(folder, rows), *card]
    write_manifest(
        folder, made_by="generate_training_data.py", config=config, sections=("prompt", "generate"), inputs=[], outputs=outputs,
        fixed={"prompt.citation": config.prompt.citation}, counts=counts, started=time.time(), details={"card": facts},
    )


def edit(config: Config, side: str, change: Callable[[list[dict[str, Any]]], object], plain: bool = False) -> None:
    """Change a file's rows as an editor would."""
    path = config.training_dir / f"{side}.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    change(rows)
    if config.encrypt and not plain:
        return write_jsonl_atomic(path, rows, encrypt=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load_manifest(config: Config) -> dict[str, Any]:
    """Stage 1's manifest."""
    return read_json(config.training_dir / "manifest.json")


def test_untouched_rows_are_accepted_as_they_are(config: Config) -> None:
    before = {path.name: path.read_bytes() for path in config.training_dir.glob("*.jsonl")}
    edits = accept_edits(config)
    assert (edits["changed"], edits["deleted"], edits["added"]) == (0, 0, 0)
    assert before == {path.name: path.read_bytes() for path in config.training_dir.glob("*.jsonl")}
    require_manifest(config.training_dir, "generate_training_data.py", config)


def test_what_the_user_wrote_before_stage_1_is_not_judged_now(config: Config) -> None:
    """Curated rows go into the data as they are, whatever they cite."""
    curated = make_row("cable").model_copy(update={"origin": "curated", "output": "As in the manual [Source 9]."})
    finish(config, curated)
    assert accept_edits(config)["changed"] == 0
    edit(config, "train", lambda rows: rows[-1].update(output="As in the old manual [Source 9]."))
    with pytest.raises(PipelineError, match=r"train\.jsonl:5 output cites source 9 of 1"):
        accept_edits(config)


def test_what_changed_is_counted_and_the_next_stage_goes_on(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    edit(config, "train", lambda rows: rows.pop(0))
    edit(config, "train", lambda rows: rows[0].update(output="The valve never exceeds 20 degrees. [Source 1]"))
    edit(config, "train", lambda rows: rows.append(ADDED))
    with pytest.raises(PipelineError, match=r"--accept-edits"):
        require_manifest(config.training_dir, "generate_training_data.py", config)
    edits = accept_edits(config)
    assert (edits["changed"], edits["deleted"], edits["added"]) == (1, 1, 1)
    assert "[OK] accepted: 1 changed, 1 deleted, 1 added; 4 training rows, 2 held-out rows" in capsys.readouterr().out
    manifest = require_manifest(config.training_dir, "generate_training_data.py", config)
    assert manifest["details"]["edits"] == edits and manifest["details"]["card"] == {"teacher": "teacher-1 at example.org"}
    assert manifest["counts"]["per_origin"] == {"curated": 1, "question": 5} and manifest["counts"]["failures"] == 3
    rows = [row for _, row in read_jsonl(config.training_dir / "train.jsonl")]
    assert len(rows[-1]["id"]) == 16 and rows[-1]["origin"] == "curated"
    card = (config.training_dir / "README.md").read_text(encoding="utf-8")
    assert "changed 1, deleted 1, added 1" in card and "teacher-1 at example.org" in card


def test_accepting_twice_counts_from_what_stage_1_wrote(config: Config) -> None:
    edit(config, "heldout", lambda rows: rows.pop())
    first = accept_edits(config)
    edit(config, "train", lambda rows: rows.pop())
    second = accept_edits(config)
    assert first["deleted"] == 1 and second["deleted"] == 2


def test_plain_lines_do_not_stay_where_rows_are_encrypted(config: Config) -> None:
    edit(config, "train", lambda rows: rows.pop(), plain=True)
    accept_edits(config)
    text = (config.training_dir / "train.jsonl").read_text(encoding="utf-8")
    assert ("The pump runs" in text) is not config.encrypt
    assert len([*read_jsonl(config.training_dir / "train.jsonl")]) == 3


PROBLEMS = [
    ("train", lambda rows: rows[1].update(output=" "), r"train\.jsonl:2 output: is blank"),
    ("train", lambda rows: rows[1].pop("output"), r"train\.jsonl:2 output: Field required"),
    ("train", lambda rows: rows[1].update(ouptut="x"), r"train\.jsonl:2 ouptut: unknown, did you mean output\?"),
    ("train", lambda rows: rows[0].update(instruction=rows[0]["instruction"] + "!"), r"train\.jsonl:1 has another instruction"),
    ("train", lambda rows: rows[0].update(instruction="short"), r"train\.jsonl:1 context\.0: start"),
    ("train", lambda rows: rows[0].update(output="Hot. [Source 2]"), r"train\.jsonl:1 output cites source 2 of 1"),
    ("train", lambda rows: rows[0].update(output="Hot.<|end|> [Source 1]"), r"train\.jsonl:1 output holds the chat marker"),
    ("train", lambda rows: rows[0].update(output="N/A"), r"train\.jsonl:1 output is no answer: N/A"),
    ("train", lambda rows: rows[0].update(output="I am an AI. [Source 1]"), r"train\.jsonl:1 output is no answer: I am an AI"),
    ("train", lambda rows: rows[0].update(output="word " * 3000), r"train\.jsonl:1 output has \d+ tokens, more than .* 512"),
    ("train", lambda rows: rows.append({**ADDED, "output": "word " * 3000}), r"train\.jsonl:5 output has \d+ tokens"),
    ("train", lambda rows: rows.append({**ADDED, "output": "TODO"}), r"train\.jsonl:5 output is no answer"),
    ("train", lambda rows: rows[0].update(output=REFUSAL), r"train\.jsonl:1 output refuses although its sources"),
    ("train", lambda rows: rows[0].update(output=f"Hot [Source 1]. {REFUSAL}"), r":1 output answers and refuses in one"),
    ("train", lambda rows: rows[0].update(context=[], instruction="Anything else"), r"train\.jsonl:1 has another context"),
    ("train", lambda rows: rows[0].update(golden=["nonsense"]), r"train\.jsonl:1 has another context, golden, answerable or"),
    ("train", lambda rows: rows[0].update(answerable=False), r"train\.jsonl:1 has another context"),
    ("train", lambda rows: rows[0].update(origin="curated"), r"train\.jsonl:1 has another context"),
    ("train", lambda rows: rows[0]["context"][0].update(score=0.9), r"train\.jsonl:1 has another context"),
    ("train", lambda rows: rows.append(rows[0]), r"train\.jsonl:5 repeats the instruction of .*train\.jsonl:1"),
    ("train", lambda rows: rows[0].update(id="mine"), r"train\.jsonl:1 was added or has a new id"),
    ("train", lambda rows: rows.append({**ADDED, "origin": "question"}), r"train\.jsonl:5 was added"),
    ("train", lambda rows: rows.append(make_row("laser").model_dump(mode="json")), r"train\.jsonl:5 stood in heldout\.jsonl"),
    ("train", lambda rows: rows.append({**ADDED, "question": "How hot does a laser run?"}), r":5 asks nearly .*out\.jsonl:1"),
    ("heldout", lambda rows: rows[0]["context"][0].update(source="docs/pump.md"), r":1 shows docs/pump\.md, as .*:1 does"),
    ("train", lambda rows: rows.clear(), r"train\.jsonl holds no row"),
]


@pytest.mark.parametrize(("side", "change", "message"), PROBLEMS)
def test_what_stage_1_would_not_have_written_is_named_and_changes_nothing(
    config: Config, side: str, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    edit(config, side, change)
    before = {path.name: path.read_bytes() for path in config.training_dir.iterdir()}
    with pytest.raises(PipelineError, match=message):
        accept_edits(config)
    assert before == {path.name: path.read_bytes() for path in config.training_dir.iterdir()}


def test_every_problem_is_named_at_once(config: Config) -> None:
    edit(config, "train", lambda rows: rows[0].update(output="Hot. [Source 2]"))
    edit(config, "train", lambda rows: rows[2].update(output="Hot. [Source 3]"))
    with pytest.raises(PipelineError) as caught:
        accept_edits(config)
    assert [line.split("jsonl:")[1] for line in str(caught.value).splitlines()] == [
        "1 output cites source 2 of 1", "3 output cites source 3 of 1",
    ]


def test_it_stops_before_stage_1_has_finished_or_after_the_wording_changed(config: Config, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text('work_dir: work\nprompt: {citation: "({number})"}\n', encoding="utf-8")
    with pytest.raises(PipelineError, match=r"prompt\.citation"):
        accept_edits(load_config(tmp_path / "config.yaml"))
    (config.training_dir / FILE_NAME).write_text("{}", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"row_digests\.json is not the one that stage 1 wrote"):
        accept_edits(config)
    (config.training_dir / "manifest.json").unlink()
    with pytest.raises(PipelineError, match=r"training_data/manifest\.json is missing: run  python generate_training_data"):
        accept_edits(config)


def test_digests_of_another_version_are_named(config: Config) -> None:
    path = config.training_dir / FILE_NAME
    old = {side: {row_id: digest[:2] for row_id, digest in rows.items()} for side, rows in read_json(path).items()}
    write_json_atomic(path, old, private=True)
    manifest = load_manifest(config)
    for output in manifest["outputs"]:
        if output["path"].endswith(FILE_NAME):
            output["sha256"] = sha256_file(path)
    write_json_atomic(config.training_dir / "manifest.json", manifest)
    with pytest.raises(PipelineError, match="written by another version"):
        accept_edits(config)


def test_curated_rows_may_refuse_in_their_own_words(config: Config) -> None:
    edit(config, "train", lambda rows: rows.append({**ADDED, "output": "I cannot answer this from the sources."}))
    assert accept_edits(config)["added"] == 1


def test_the_digests_hold_no_text(config: Config) -> None:
    assert "pump runs" not in (config.training_dir / FILE_NAME).read_text(encoding="utf-8")
    assert set(load_manifest(config)["details"]) == {"card"}
