from __future__ import annotations

import ast
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.bundle import verify_bundle
from distill.bundle.pack import make_bundle
from distill.bundle.verify_bundle import check
from distill.config import Config
from distill.files import read_json, sha256_file, write_json_atomic
from tests.bundle.finished import reseal, write_adapters, write_gguf

SCRIPT = Path(verify_bundle.__file__)


def list_failures(path: Path) -> list[str]:
    """The texts of the failed checks."""
    return [text for tag, text in check(path) if tag == "FAIL"]


def run_script(script: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script on its own: without site packages, without this checkout, in another folder."""
    command = [sys.executable, "-I", "-S", str(script), *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False, timeout=60)


# -----------------------------------------------------------------------------
# On its own


def test_it_needs_nothing_but_python_3_9() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 9))
    nodes = list(ast.walk(tree))
    plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules = plain | {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    assert modules <= sys.stdlib_module_names | {"__future__"}
    assert not any(isinstance(node, ast.Attribute) and node.attr == "file_digest" for node in nodes)  # 3.11


def test_zip_folder_and_parts_pass_where_they_arrive(config: Config, unpacked: Path, tmp_path: Path) -> None:
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=None)
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=30_000, with_base=True)
    parts = tmp_path / "student-parts"
    for script, argument in (
        (unpacked / "verify_bundle.py", str(unpacked)), (unpacked / "verify_bundle.py", "student.zip"),
        (parts / "verify_bundle.py", str(parts / "student.zip.001")), (parts / "verify_bundle.py", str(parts)),
    ):
        done = run_script(script, argument, folder=tmp_path)
        assert done.returncode == 0 and done.stdout.isascii() and "[FAIL]" not in done.stdout + done.stderr, done
        assert done.stdout.count("[OK]") == 4 + ("student-parts" in argument) and "conversion, structure" in done.stdout
        assert "whole, and traced back" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"]])
def test_without_a_bundle_it_prints_how_to_call_it(arguments: list[str], tmp_path: Path) -> None:
    done = run_script(SCRIPT, *arguments, folder=tmp_path)
    assert done.returncode == 2 and "python verify_bundle.py FOLDER" in done.stderr


def test_a_failure_is_exit_code_one(unpacked: Path, tmp_path: Path) -> None:
    (unpacked / "Modelfile").unlink()
    done = run_script(SCRIPT, str(unpacked), folder=tmp_path)
    assert done.returncode == 1 and "[FAIL] missing: Modelfile\n" in done.stdout and "not to be used" in done.stdout


# -----------------------------------------------------------------------------
# Damage


def flip(path: Path) -> None:
    """One bit of a file's last byte."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    """A file of JSON, changed by a function."""
    value = read_json(path)
    change(value)
    write_json_atomic(path, value)


def forge_model(folder: Path, data: bytes) -> None:
    """Another model, with sums, export manifest and verification that fit it."""
    name = "student-q4_k_m.gguf"
    (folder / name).write_bytes(data)
    facts = {"sha256": sha256_file(folder / name), "bytes": len(data)}
    change_json(folder / "verification.json", lambda value: value[name].update(facts))
    record(folder, name, "verification.json")


def record(folder: Path, *names: str) -> None:
    """Let the export's manifest and SHA256SUMS fit what some files are now."""
    def change(manifest: dict) -> None:
        for file in manifest["outputs"]:
            if (name := file["path"].split("/")[-1]) in names:
                file.update(sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)

    change_json(folder / "manifests" / "gguf.json", change)
    reseal(folder)


def edit_verification(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A forged verification.json that the manifest knows."""
    def run(folder: Path) -> None:
        change_json(folder / "verification.json", change)
        record(folder, "verification.json")

    return run


def edit_manifest(stage: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A forged manifest that the sums know."""
    def run(folder: Path) -> None:
        change_json(folder / "manifests" / f"{stage}.json", change)
        reseal(folder)

    return run


def edit_modelfile(folder: Path) -> None:
    """A Modelfile of another model, which manifest and sums know."""
    (folder / "Modelfile").write_text("FROM phi4-mini\n")
    record(folder, "Modelfile")


def replace_and_reseal(name: str, data: bytes) -> Callable[[Path], None]:
    """A file exchanged, with sums that fit."""
    def run(folder: Path) -> None:
        (folder / name).write_bytes(data)
        reseal(folder)

    return run


def drop_sum(name: str) -> Callable[[Path], None]:
    """A SHA256SUMS that ends early."""
    def run(folder: Path) -> None:
        lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
        (folder / "SHA256SUMS").write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")))

    return run


GGUF = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + bytes(40)
Q4, Q8 = "student-q4_k_m.gguf", "student-q8_0.gguf"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the model": (lambda folder: flip(folder / Q4), f"damaged or changed: {Q4}: copy the bundle again"),
    "a bit of the installer": (lambda folder: flip(folder / "install.sh"), "damaged or changed: install.sh"),
    "a missing manifest": (lambda folder: (folder / "manifests/adapters.json").unlink(), "missing: manifests/adapters.json"),
    "no sums": (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "empty sums": (lambda folder: (folder / "SHA256SUMS").write_text(""), "SHA256SUMS is empty"),
    "sums that are none": (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\x00"), "SHA256SUMS is empty, or"),
    "a model that no sum covers": (drop_sum(Q8), f"does not list {Q8}"),
    "a verification that no sum covers": (drop_sum("verification.json"), "does not list verification.json"),
    "another model": (replace_and_reseal(Q4, GGUF), f"{Q4} is not the file that manifests/gguf.json lists"),
    "another Modelfile": (replace_and_reseal("Modelfile", b"FROM x\n"), "Modelfile is not the file that manifests/gguf.json"),
    "a Modelfile of no model here": (edit_modelfile, "Modelfile is FROM phi4-mini, which is not in the bundle"),
    "an added model": (replace_and_reseal("x.gguf", GGUF), "x.gguf is not the file that"),
    "no GGUF": (lambda folder: forge_model(folder, b"GGML" + GGUF[4:]), f"{Q4} is no GGUF file"),
    "half a header": (lambda folder: forge_model(folder, GGUF[:20]), f"{Q4} is no GGUF file"),
    "an old GGUF": (lambda folder: forge_model(folder, b"GGUF" + struct.pack("<IQQ", 1, 1, 0)), "GGUF version 1"),
    "a GGUF without tensors": (lambda folder: forge_model(folder, b"GGUF" + struct.pack("<IQQ", 3, 0, 0)), "0 tensors"),
    "another adapter manifest": (edit_manifest("adapters", lambda value: value.update(seconds=0)), "another manifest than"),
    "another data manifest": (edit_manifest("training_data", lambda value: value.update(seconds=0)), "manifests/training_data"),
    "a manifest of another stage": (
        lambda folder: replace_and_reseal("manifests/gguf.json", (folder / "manifests" / "adapters.json").read_bytes())(folder),
        "manifests/gguf.json was made by finetune.py",
    ),
    "a manifest that is no JSON": (replace_and_reseal("manifests/gguf.json", b"{"), "manifests/gguf.json is not JSON"),
    "a manifest without outputs": (edit_manifest("gguf", lambda value: value.pop("outputs")), "lacks what export_gguf.py"),
    "another adapter": (
        edit_manifest("gguf", lambda value: value["inputs"][1].update(sha256="0" * 64)),
        "read another adapters/adapter_model.safetensors than was written",
    ),
    "another system prompt": (
        edit_manifest("gguf", lambda value: value["fixed"].update({"prompt.system": "x"})), "another prompt.system than"
    ),
    "a verification of another model": (
        edit_verification(lambda value: value[Q8].update(sha256="0" * 64)), f"verification.json is not about this {Q8}"
    ),
    "no verification of a model": (edit_verification(lambda value: value.pop(Q4)), f"is not about this {Q4}"),
    "a structure that was not checked": (edit_verification(lambda value: value[Q4].pop("structure")), "was not checked"),
    "a check that failed": (
        edit_verification(lambda value: value[Q4]["conversion"].update(passed=False)), f"{Q4} failed conversion.passed"
    ),
    "a check that failed, deeper": (
        edit_verification(lambda value: value[Q4].update(tokens=[{"passed": None}])), "failed tokens.0.passed"
    ),
    "a verification that is a list": (replace_and_reseal("verification.json", b"[]"), "lacks what export_gguf.py writes"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(unpacked: Path, name: str) -> None:
    assert not list_failures(unpacked)
    damage, expected = DAMAGE[name]
    damage(unpacked)
    failures = list_failures(unpacked)
    assert any(expected in text for text in failures) and not any("\n" in text for text in failures), failures


# -----------------------------------------------------------------------------
# Zips and parts that arrive broken


@pytest.mark.parametrize("cut", [0, 10, 5_000, -1])
def test_a_cut_zip_is_no_bundle(unpacked: Path, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes((tmp_path / "made" / "student.zip").read_bytes()[:cut])
    assert [text.startswith("cut.zip cannot be read: ") for text in list_failures(path)] == [True]


def test_a_flipped_bit_in_a_zip_is_found(unpacked: Path, tmp_path: Path) -> None:
    path = tmp_path / "made" / "student.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"GGUF\x03") + 100] ^= 1
    path.write_bytes(data)
    assert any("CRC" in text and Q4 in text for text in list_failures(path))


def test_what_is_not_there_or_no_zip_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.zip").write_text("not a zip")
    (tmp_path / "empty").mkdir()
    for name in ("nothing.zip", "notes.zip", "empty"):
        assert list_failures(tmp_path / name), name


def test_a_zip_that_would_write_elsewhere_is_refused(tmp_path: Path) -> None:
    import zipfile

    for number, names in enumerate((["a/x", "b/x"], ["a/../../x"], ["/x"], ["a\\..\\x"], ["C:/x"])):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        assert "not laid out as a bundle" in list_failures(path)[0], names


@pytest.fixture
def parts(config: Config, tmp_path: Path) -> Path:
    """A folder of parts."""
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=20_000)
    return tmp_path / "student-parts"


@pytest.mark.parametrize(("change", "start", "expected"), [
    (lambda folder: flip(folder / "student.zip.002"), "001", "damaged: student.zip.002: copy it again"),
    (lambda folder: os.truncate(folder / "student.zip.001", 100), "001", "damaged: student.zip.001"),
    (lambda folder: (folder / "student.zip.002").unlink(), "001", "student.zip.002 missing beside student.zip.001"),
    (lambda folder: (folder / "SHA256SUMS").unlink(), "001", "SHA256SUMS is missing beside the parts"),
    (lambda folder: (folder / "SHA256SUMS").write_text(f"{'0' * 64}  other\n"), "001", "does not list student.zip.001"),
    (lambda folder: None, "002", "give the first part"),
])  # fmt: skip
def test_a_damaged_or_missing_part_is_named(parts: Path, change, start: str, expected: str) -> None:
    change(parts)
    assert any(expected in text for text in list_failures(parts / f"student.zip.{start}"))


def test_a_part_of_an_older_bundle_beside_them_is_not_read(parts: Path) -> None:
    (parts / "student.zip.099").write_bytes(b"older")
    assert not list_failures(parts / "student.zip.001")


# -----------------------------------------------------------------------------
# Warnings


def test_a_file_that_does_not_belong_there_is_a_warning(unpacked: Path) -> None:
    (unpacked / "Thumbs.db").write_bytes(b"x")
    assert [text for tag, text in check(unpacked) if tag == "WARN"] == ["not of the bundle: Thumbs.db"]


def test_a_smoke_run_and_a_skipped_verification_are_warned_of(config: Config, tmp_path: Path) -> None:
    write_adapters(config, smoke_run=True)
    unverified = config.model_copy(update={"export": config.export.model_copy(update={"verify": "none"})})
    write_gguf(unverified, smoke_run=True)
    make_bundle(config, target=tmp_path / "student.zip", part_bytes=None)
    warnings = [text for tag, text in check(tmp_path / "student.zip") if tag == "WARN"]
    assert len(warnings) == 2 and "smoke run" in warnings[0] and "nothing but the structure" in warnings[1]


def test_pack_refuses_what_its_own_check_refuses(config: Config, tmp_path: Path) -> None:
    from distill.errors import PipelineError

    path = config.gguf_dir / "verification.json"
    change_json(path, lambda value: value[Q4]["conversion"].update(passed=False))
    manifest = json.loads((config.gguf_dir / "manifest.json").read_text())
    for file in manifest["outputs"]:
        if file["path"].endswith("verification.json"):
            file.update(sha256=sha256_file(path), bytes=path.stat().st_size)
    write_json_atomic(config.gguf_dir / "manifest.json", manifest)
    with pytest.raises(PipelineError, match="does not pass its own check"):
        make_bundle(config, target=tmp_path / "out" / "student.zip", part_bytes=None)
    assert list((tmp_path / "out").iterdir()) == []
