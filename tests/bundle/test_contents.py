from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from distill.bundle.contents import collect_entries
from distill.bundle.pack import make_bundle
from distill.config import Config
from distill.errors import PipelineError
from distill.files import read_json, sha256_file, write_json_atomic
from tests.bundle.finished import SYSTEM, read_rows, write_adapters, write_gguf
from tests.leaks import find_traces
from tests.machine_paths import reveals

TUNED = {"student-q4_k_m.gguf", "student-q8_0.gguf", "Modelfile", "Modelfile.q8_0"}
BASE = {"student-base-q4_k_m.gguf", "student-base-q8_0.gguf", "Modelfile.base", "Modelfile.base.q8_0"}
ALWAYS = {
    "README.txt", "HYBRIDRAG3.txt", "MODEL_CARD.md", "loss.png", "install.ps1", "install.sh", "verify_bundle.py", "SHA256SUMS",
    "verification.json", "manifests/training_data.json", "manifests/adapters.json", "manifests/gguf.json",
}


def list_private_texts(config: Config) -> list[str]:
    """Chunks, their sentences, questions, answers and the names of documents."""
    rows = read_rows(config)
    chunks = [row["instruction"][span["start"] : span["end"]] for row in rows for span in row["context"]]
    sentences = [part.strip() for text in chunks for part in re.split(r"(?<=[.?!])\s", text)]
    names = [span["source"] for row in rows for span in row["context"]]
    others = [row[key] for row in rows for key in ("instruction", "question", "output")]
    return sorted({text for text in (*chunks, *sentences, *names, *others) if len(text) > 8})


def spell(text: str) -> list[bytes]:
    """A text as it is, and as JSON writes it."""
    return [text.encode(), json.dumps(text)[1:-1].encode()]


@pytest.mark.parametrize("with_base", [False, True])
def test_the_bundle_holds_the_tuned_models_and_their_proof_and_the_base_on_request(config: Config, with_base: bool) -> None:
    names = [entry.name for entry in collect_entries(config, "student", with_base)]
    assert set(names) == ALWAYS | TUNED | (BASE if with_base else set()) and len(set(names)) == len(names)


def test_no_text_of_a_document_gets_into_any_file_of_the_bundle(config: Config, unpacked: Path) -> None:
    texts = list_private_texts(config)
    assert any("limit is 20 degrees" in text for text in texts) and len(texts) > 50
    traces = [form for text in texts for form in spell(text)]
    assert find_traces(unpacked, traces) == []
    assert find_traces(config.adapters_dir, traces) == ["README.md"]  # the search does find: the adapter's card has samples


def test_no_text_of_a_document_gets_into_the_parts(config: Config, tmp_path: Path) -> None:
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=10_000, with_base=True)
    folder = tmp_path / "student-parts"
    whole = b"".join(path.read_bytes() for path in sorted(folder.glob("*.zip.*")))
    (folder / "joined").write_bytes(whole)
    assert find_traces(folder, [form for text in list_private_texts(config) for form in spell(text)]) == []


def test_no_file_tells_where_the_pipeline_ran(config: Config, unpacked: Path, tmp_path: Path) -> None:
    texts = [path for path in unpacked.rglob("*") if path.is_file() and path.suffix != ".gguf"]
    assert len(texts) == len(ALWAYS) + 2 and not [path for path in texts if reveals(path, tmp_path)]


def test_the_system_prompt_is_the_users_own_and_travels_in_the_modelfile(unpacked: Path) -> None:
    assert SYSTEM in (unpacked / "Modelfile").read_text(encoding="utf-8")


def test_manifests_and_verification_travel_byte_for_byte(config: Config, unpacked: Path) -> None:
    for stage in ("training_data", "adapters", "gguf"):
        travelled, made = unpacked / "manifests" / f"{stage}.json", config.work_dir / stage / "manifest.json"
        assert travelled.read_bytes() == made.read_bytes()
    assert (unpacked / "verification.json").read_bytes() == (config.gguf_dir / "verification.json").read_bytes()


def test_the_card_names_files_rows_and_settings(config: Config, unpacked: Path) -> None:
    text = (unpacked / "MODEL_CARD.md").read_text(encoding="utf-8")
    size = (unpacked / "student-q8_0.gguf").stat().st_size
    assert f"| student-q8_0.gguf | tuned | q8_0 | {size:,} | {sha256_file(unpacked / 'student-q8_0.gguf')} |" in text
    for expected in ("# student\n", f"| training_data | {len(read_rows(config))} |", "| 5 | 0.7000 |", "| lora_r | 16 |"):
        assert expected in text
    assert "Sample answers" not in text and "student-base" not in text


@pytest.mark.parametrize(("verify", "said"), [("none", "- **Not verified**"), ("quick", "- **Verified**")])
def test_the_card_claims_no_verification_that_was_switched_off(config: Config, verify: str, said: str) -> None:
    config = config.model_copy(update={"export": config.export.model_copy(update={"verify": verify})})
    write_gguf(config, smoke_run=False)
    card = next(entry.source for entry in collect_entries(config, "student", False) if entry.name == "MODEL_CARD.md")
    assert said in card.decode() and card.decode().count("erified**") == 1


@pytest.mark.parametrize("smoke_run", [False, True])
def test_a_smoke_run_is_said_in_readme_card_and_installers(config: Config, smoke_run: bool) -> None:
    write_adapters(config, smoke_run)
    write_gguf(config, smoke_run)
    entries = {entry.name: entry for entry in collect_entries(config, "student", False)}
    for name in ("README.txt", "MODEL_CARD.md", "install.ps1", "install.sh"):
        source = entries[name].source
        assert isinstance(source, bytes) and (b"smoke run (--limit)" in source) is smoke_run


def test_every_mark_is_filled_in_and_all_that_a_console_shows_is_ascii(unpacked: Path) -> None:
    for name in ("README.txt", "HYBRIDRAG3.txt", "install.ps1", "install.sh", "verify_bundle.py"):
        data = (unpacked / name).read_bytes()
        assert data.isascii() and b"\r" not in data and not re.search(rb"@[A-Z]+@", data), name
    for name in ("install.ps1", "install.sh"):
        assert "'student:Modelfile student-q8_0:Modelfile.q8_0'" in (unpacked / name).read_text()
    assert "model: student\n" in (unpacked / "HYBRIDRAG3.txt").read_text()


def test_names_are_those_of_the_export_whatever_the_config_says_now(config: Config) -> None:
    renamed = config.model_copy(update={"export": config.export.model_copy(update={"name": "other", "quantization": ("f16",)})})
    assert {entry.name for entry in collect_entries(renamed, "student", False)} == ALWAYS | TUNED


@pytest.mark.parametrize(("change", "expected"), [
    (lambda config: (config.gguf_dir / "manifest.json").unlink(), "gguf/manifest.json is missing: run  python export_gguf.py"),
    (lambda config: (config.gguf_dir / "student-q8_0.gguf").write_bytes(b"x"), "gguf/student-q8_0.gguf has changed"),
    (lambda config: (config.adapters_dir / "manifest.json").unlink(), "adapters/manifest.json is missing"),
    (lambda config: (config.training_dir / "manifest.json").unlink(), "training_data/manifest.json is missing"),
    (lambda config: write_adapters(config, smoke_run=True), "adapters/manifest.json is not the one that gguf/"),
    (lambda config: touch(config.training_dir / "manifest.json"), "training_data/manifest.json is not the one that adapters/"),
    (lambda config: forget(config), "verification.json is not about this student-q4_k_m.gguf"),
])  # fmt: skip
def test_what_does_not_fit_together_is_not_bundled(config: Config, change, expected: str) -> None:
    change(config)
    with pytest.raises(PipelineError, match=re.escape(expected)):
        collect_entries(config, "student", False)


def touch(path: Path) -> None:
    """The same values in other bytes."""
    write_json_atomic(path, {**read_json(path), "seconds": 0})


def forget(config: Config) -> None:
    """A verification that does not know the first model, with a manifest that fits it."""
    verification, manifest = config.gguf_dir / "verification.json", config.gguf_dir / "manifest.json"
    write_json_atomic(verification, {name: each for name, each in read_json(verification).items() if "q4" not in name})
    values = read_json(manifest)
    for file in values["outputs"]:
        if file["path"].endswith(verification.name):
            file.update(bytes=verification.stat().st_size, sha256=sha256_file(verification))
    write_json_atomic(manifest, values)


def test_a_base_that_was_not_exported_cannot_go_along(config: Config) -> None:
    manifest = read_json(config.gguf_dir / "manifest.json")
    del manifest["details"]["models"]["base"]
    write_json_atomic(config.gguf_dir / "manifest.json", manifest)
    with pytest.raises(PipelineError, match="holds no base model"):
        collect_entries(config, "student", True)
    assert collect_entries(config, "student", False)


def test_a_plot_that_changed_stays_behind(config: Config, tmp_path: Path) -> None:
    (config.adapters_dir / "loss.png").write_bytes(b"another")
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=None)
    assert "student/loss.png" not in zipfile.ZipFile(tmp_path / "student.zip").namelist()
