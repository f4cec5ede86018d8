from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from distill.config import Config
from distill.gguf.chat import FORMATS
from distill.gguf.outputs import (
    Job,
    clear_export,
    clear_leftovers,
    format_bytes,
    list_commands,
    list_jobs,
    render_modelfiles,
    write_sums,
)


def configure(*quantization: str) -> Config:
    return Config(export={"name": "pump-expert", "quantization": quantization}, prompt={"system": "Be precise."})


def test_both_sides_of_one_quantisation() -> None:
    assert list_jobs(configure("q4_k_m"), with_base=True) == [
        Job("tuned", "q4_k_m", "pump-expert-q4_k_m.gguf", "Modelfile", "pump-expert"),
        Job("base", "q4_k_m", "pump-expert-base-q4_k_m.gguf", "Modelfile.base", "pump-expert-base"),
    ]


def test_a_second_quantisation_gets_names_of_its_own() -> None:
    jobs = list_jobs(configure("q4_k_m", "f16"), with_base=True)
    assert [job.modelfile for job in jobs] == ["Modelfile", "Modelfile.f16", "Modelfile.base", "Modelfile.base.f16"]
    assert len({job.gguf for job in jobs}) == len({job.ollama_name for job in jobs}) == 4
    assert [job.side for job in list_jobs(configure("q4_k_m"), with_base=False)] == ["tuned"]


def test_both_sides_get_the_same_prompt_and_parameters() -> None:
    config = configure("q4_k_m")
    tuned, base = render_modelfiles(config, list_jobs(config, with_base=True), FORMATS[0], ["made by a test"]).values()
    assert tuned != base
    assert tuned.replace("pump-expert-q4_k_m", "pump-expert-base-q4_k_m") == base
    assert 'SYSTEM """Be precise."""' in tuned


def test_sums_are_what_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"abc")
    assert write_sums(tmp_path, ["a.gguf"]).read_bytes() == hashlib.sha256(b"abc").hexdigest().encode() + b"  a.gguf\n"


def test_clearing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    for name in ("a.gguf", "a.gguf.part", "Modelfile", "Modelfile.base", "SHA256SUMS", "manifest.json", "notes.txt"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    clear_export(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf.part", "notes.txt"]
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("count", "text"), [(2_491_874_688, "2.49 GB"), (978_880, "1.0 MB")])
def test_sizes_are_readable(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_commands_are_one_a_line(tmp_path: Path) -> None:
    commands = list_commands(tmp_path, list_jobs(configure("q4_k_m"), with_base=True))
    assert commands == [
        f'cd "{tmp_path}"', "ollama create pump-expert -f Modelfile", "ollama create pump-expert-base -f Modelfile.base",
    ]
