"""`--register` with a stand-in for the ollama program and a server that replies as Ollama's documentation and source show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.config import Config, load_config
from distill.errors import PipelineError
from distill.files import sha256_file
from distill.gguf.chat import FORMATS, recognise_format
from distill.gguf.modelfile import render_modelfile
from distill.gguf.outputs import Job
from distill.gguf.register import find_store, read_parameters, register_all, require_own_name
from tests.gguf.chat_jinja import MODELS, write_chat_tokenizer
from tests.gguf.go_template import render_with_go
from tests.gguf.ollama_program import put_on_path
from tests.gguf.ollama_registry import RegistryServer

SYSTEM = 'Use the sources.\nSay "no" otherwise.'
NUMBERS: dict[str, Any] = {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "num_ctx": 4096}
JOBS = (
    Job("tuned", "q4_k_m", "student-q4_k_m.gguf", "Modelfile", "student"),
    Job("base", "q4_k_m", "student-base-q4_k_m.gguf", "Modelfile.base", "student-base"),
)


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH with an `ollama` in it; Ollama's models lie below the test's own folder."""
    folder = put_on_path(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    return folder


@pytest.fixture
def ollama() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def prepare(
    tmp_path: Path, base: Path, ollama: RegistryServer, name: str = "phi-4-mini", system: str = SYSTEM
) -> dict[str, Any]:
    """An export of a base model of some format; what register_all is called with."""
    write_chat_tokenizer(base, MODELS[name], tmp_path / "base")
    (tmp_path / "config.yaml").write_text(f'evaluate: {{ollama_url: "{ollama.base_url}"}}\n', encoding="utf-8")
    folder, known = tmp_path / "gguf", recognise_format(tmp_path / "base")
    folder.mkdir()
    for job in JOBS:
        (folder / job.gguf).write_bytes(f"GGUF {job.side}".encode())
        text = render_modelfile(job.gguf, format=known, system=system, comments=["made here"], **NUMBERS)
        (folder / job.modelfile).write_bytes(text.encode())
    config = load_config(tmp_path / "config.yaml")
    return {"config": config, "folder": folder, "jobs": JOBS, "format": known, "base": tmp_path / "base"}


@pytest.fixture
def export(tmp_path: Path, tiny_phi3: Path, ollama: RegistryServer) -> dict[str, Any]:
    """A Phi-4-mini's."""
    return prepare(tmp_path, tiny_phi3, ollama)


# -----------------------------------------------------------------------------
# What goes well


def test_both_models_are_created_and_checked(
    export: dict[str, Any], ollama: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert register_all(**export) == ["student", "student-base"]
    said = capsys.readouterr().out
    made = ollama.created["student:latest"]
    assert made["system"] == SYSTEM and made["template"] == export["format"].template
    assert made["parameters"]["stop"] == list(export["format"].stops) and made["parameters"]["num_ctx"] == 4096
    assert ollama.created["student-base:latest"]["template"] == made["template"]
    assert list(made["files"].values()) == [f"sha256:{sha256_file(export['folder'] / 'student-q4_k_m.gguf')}"]
    assert said.count("prompts, made by TEMPLATE, are those of the base model's tokenizer") == 2
    assert "    ollama rm student\n    ollama rm student-base\n" in said
    assert f"with OLLAMA_HOST set to {ollama.base_url}" in said and said.isascii()
    unloaded = [body["model"] for body in bodies(ollama, "/api/generate") if body.get("keep_alive") == 0]
    assert unloaded == ["student", "student-base"]


def test_prompts_are_looked_at_the_way_hybridrag3_sends_them(export: dict[str, Any], ollama: RegistryServer) -> None:
    register_all(**export)
    shown = [body for body in bodies(ollama, "/api/generate") if body.get("_debug_render_only")]
    assert shown and all(body["prompt"] and body["stream"] is False and body["options"]["num_predict"] == 1 for body in shown)


@pytest.mark.parametrize("name", ["mistral-v0.3", "gemma-3", "llama-3.1 of the day", "qwen3"])
@pytest.mark.parametrize("system", ["", " Use the sources.\n"])
def test_every_format_goes_through_go(name: str, system: str, tmp_path: Path, tiny_phi3: Path) -> None:
    def render(template: str, messages: Any) -> str:
        return render_with_go([(template, messages)])[0]

    with RegistryServer(render=render) as ollama:
        assert register_all(**prepare(tmp_path, tiny_phi3, ollama, name, system)) == ["student", "student-base"]


def test_an_ollama_that_shows_bos_is_right_too(tmp_path: Path, tiny_phi3: Path) -> None:
    with RegistryServer() as ollama:
        export = prepare(tmp_path, tiny_phi3, ollama, "llama-3")
        ollama.render = lambda template, messages: "<|begin_of_text|>" + export["format"].render(messages)
        ollama.jinja = "{{ bos_token }}..."
        register_all(**export)


def test_an_ollama_that_prefers_the_ggufs_template_says_so(
    export: dict[str, Any], ollama: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ollama.jinja = "{% for message in messages %}..."
    register_all(**export)
    assert "prompts, made by the GGUF's own chat template, are those" in capsys.readouterr().out


def test_an_ollama_that_hides_its_prompts_is_a_warning(
    export: dict[str, Any], ollama: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ollama.show_prompts = False
    register_all(**export)
    assert capsys.readouterr().out.count("[WARN] student") == 2


def test_a_second_time_nothing_is_replaced(
    export: dict[str, Any], ollama: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    register_all(**export)
    capsys.readouterr()
    assert register_all(**export) == ["student", "student-base"]
    assert len(bodies(ollama, "/api/create")) == 2 and not bodies(ollama, "/api/copy")
    said = capsys.readouterr().out
    assert said.count("[SKIP] student") == 2 and said.count("tokenizer") == 2 and "take it back" not in said


@pytest.mark.parametrize("change", ["gguf", "SYSTEM", "parameter", "TEMPLATE"])
def test_a_model_that_is_replaced_stays_under_a_dated_name(
    change: str, export: dict[str, Any], ollama: RegistryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    register_all(**export)
    capsys.readouterr()
    earlier = dict(ollama.created["student:latest"])
    modelfile = export["folder"] / "Modelfile"
    if change == "gguf":
        (export["folder"] / "student-q4_k_m.gguf").write_bytes(b"GGUF again")
    elif change == "TEMPLATE":  # what stands in Ollama was changed
        earlier = ollama.created["student:latest"] = {**earlier, "template": "{{ .Prompt }}"}
    else:
        old, new = {"SYSTEM": ("Use the", "Read the"), "parameter": ("temperature 0.3", "temperature 0.4")}[change]
        modelfile.write_bytes(modelfile.read_bytes().replace(old.encode(), new.encode()))
    register_all(**export)
    kept = next(name for name in ollama.created if name.startswith("student:replaced-20"))
    assert ollama.created[kept] == earlier != ollama.created["student:latest"]
    said = capsys.readouterr().out
    assert f"also {kept}" in said and f"    ollama cp {kept} student\n    ollama rm {kept}\n" in said
    assert "ollama rm student\n" not in said


# -----------------------------------------------------------------------------
# What goes wrong


@pytest.mark.parametrize("name", ["phi4-mini", "phi4-mini:tuned", "student:v2", "gemma3"])
def test_a_name_that_hybridrag3_folds_is_refused(name: str, export: dict[str, Any], ollama: RegistryServer) -> None:
    job = Job("tuned", "q4_k_m", "student-q4_k_m.gguf", "Modelfile", name)
    with pytest.raises(PipelineError, match=r"export\.name .* HybridRAG3 would take it for"):
        register_all(**{**export, "jobs": [job]})
    assert not ollama.requests


def test_a_config_refuses_a_tag(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text('export: {name: "phi4-mini:tuned"}\n', encoding="utf-8")
    with pytest.raises(PipelineError, match=r"export\.name"):
        load_config(tmp_path / "config.yaml")
    require_own_name(Config().export.name)
    require_own_name(f"{Config().export.name}-base-q8_0")


def test_no_program_is_one_clear_line(export: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(PipelineError, match=r"ollama is not on PATH: install Ollama") as caught:
        register_all(**export)
    assert "\n" not in str(caught.value)


def test_no_server_is_one_clear_line(tmp_path: Path, tiny_phi3: Path) -> None:
    stopped = SimpleNamespace(base_url="http://127.0.0.1:9")
    with pytest.raises(PipelineError, match=r"nothing answers at http://127\.0\.0\.1:9: start Ollama there"):
        register_all(**prepare(tmp_path, tiny_phi3, stopped))


@pytest.mark.parametrize(("number", "fits"), [
    ("0.11.10", False), ("0.5.13", False), ("0.12.0", True), ("0.30.1-rc2", True), ("1.0.0", True), ("0.0.0", True), ("", True),
])
def test_an_old_ollama_is_refused(number: str, fits: bool, export: dict[str, Any], ollama: RegistryServer) -> None:
    ollama.number = number
    if fits:
        register_all(**export)
        return
    with pytest.raises(PipelineError, match=rf"Ollama {number} at .* is older than 0\.12: update it"):
        register_all(**export)
    assert not ollama.created


def test_a_full_disk_is_found_before_anything_is_created(
    export: dict[str, Any], ollama: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=12))
    with pytest.raises(PipelineError, match=r"needs 0\.0 MB but the disk has 0\.0 MB free: make room"):
        register_all(**export)
    assert not ollama.created and not bodies(ollama, "/api/create")


def test_a_file_that_ollama_has_needs_no_room(
    export: dict[str, Any], ollama: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job in JOBS:
        path = export["folder"] / job.gguf
        ollama.files[sha256_file(path)] = path.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    assert register_all(**export)


def test_ollamas_folder_is_the_one_it_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_store() == tmp_path
    monkeypatch.delenv("OLLAMA_MODELS")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    assert find_store() == tmp_path / ".ollama" / "models"


def test_what_ollama_create_says_is_passed_on(export: dict[str, Any], ollama: RegistryServer) -> None:
    ollama.fault = lambda number, path: None
    ollama.keep = lambda handler, name, body: handler.reply({"error": "unsupported architecture"}, 400)  # type: ignore[method-assign]
    with pytest.raises(PipelineError, match=r"ollama create student failed: Error: unsupported architecture$"):
        register_all(**export)


@pytest.mark.parametrize(("change", "named"), [
    ({"template": "{{ .Prompt }}"}, "another TEMPLATE than"),
    ({"system": ""}, "another SYSTEM than"),
    ({"parameters": {**NUMBERS, "stop": ["<|end|>"]}}, "another parameter"),
    ({"parameters": {**NUMBERS, "stop": list(FORMATS[0].stops), "num_ctx": 2048}}, "another parameter"),
    ({"files": {"x.gguf": "sha256:" + "ab" * 32}, "system": "x"}, "another file and another SYSTEM"),
])
def test_a_model_that_is_not_what_was_exported_is_refused(
    change: dict[str, Any], named: str, export: dict[str, Any], ollama: RegistryServer
) -> None:
    keep = ollama.keep_as
    ollama.keep_as = lambda name, body: keep(name, {**body, **change})  # type: ignore[method-assign]
    with pytest.raises(PipelineError, match=rf"student in Ollama has {named}.*To take it back: ollama rm student"):
        register_all(**export)


def test_another_prompt_is_refused_with_the_place(export: dict[str, Any], ollama: RegistryServer) -> None:
    right = export["format"].render
    ollama.render = lambda template, messages: right(messages).replace("<|end|><|user|>", "<|user|>")  # Ollama's own phi4-mini
    wanted = r"other prompts than training: after .*otherwise\.<\|' comes 'user\|>What .* instead of 'end\|><\|user\|>What "
    with pytest.raises(PipelineError, match=wanted) as caught:
        register_all(**export)
    assert "\n" not in str(caught.value) and "ollama rm student" in str(caught.value)
    assert bodies(ollama, "/api/generate")[-1] == {"model": "student", "keep_alive": 0}


def test_parameters_are_compared_as_values() -> None:
    assert read_parameters('num_ctx    4096\nstop  "b"\nstop "a \\"q\\""\nmodel phi') == read_parameters(
        'stop "a \\"q\\""\nstop "b"\nmodel phi\nnum_ctx 4096.0'
    )


def bodies(ollama: RegistryServer, path: str) -> list[dict[str, Any]]:
    """What was sent to a path."""
    return [request["body"] for request in ollama.requests if request["path"] == path]
