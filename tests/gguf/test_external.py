from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from distill.errors import PipelineError
from distill.gguf.external import QUANTISER, LlamaCpp, convert_to_f16, find_llama_cpp, run_program

STAND_IN = """\
import json, os, sys
target = sys.argv[sys.argv.index("--outfile") + 1]
told = {"arguments": sys.argv[1:], "offline": os.environ.get("HF_HUB_OFFLINE"), "path": os.environ.get("PYTHONPATH")}
open(target, "w", encoding="utf-8").write(json.dumps(told))
"""


def make_sources(folder: Path, converter: str = STAND_IN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "convert_hf_to_gguf.py").write_text(converter, encoding="utf-8")
    return folder


@pytest.mark.parametrize("place", ["build/bin", "build/bin/Release", "bin", "."])
def test_the_quantiser_is_found_where_builds_and_releases_leave_it(tmp_path: Path, place: str) -> None:
    folder = make_sources(tmp_path / "llama.cpp")
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / QUANTISER).write_bytes(b"")
    assert find_llama_cpp(folder, ["q4_k_m"]).quantiser == folder / place / QUANTISER


def test_f16_needs_no_quantiser(tmp_path: Path) -> None:
    assert find_llama_cpp(make_sources(tmp_path / "llama.cpp"), ["f16"]).quantiser is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"convert_hf_to_gguf\.py is not there"):
        find_llama_cpp(tmp_path, ["f16"])
    with pytest.raises(PipelineError, match=f"{QUANTISER} is in none of build/bin.*quantization to"):
        find_llama_cpp(make_sources(tmp_path / "llama.cpp"), ["f16", "q4_k_m"])


def test_the_converter_works_offline_with_its_own_gguf_package(tmp_path: Path) -> None:
    tools = find_llama_cpp(make_sources(tmp_path / "llama.cpp"), ["f16"])
    convert_to_f16(tools, tmp_path / "merged", tmp_path / "a.gguf")
    told = json.loads((tmp_path / "a.gguf").read_text("utf-8"))
    assert told["arguments"][0] == str(tmp_path / "merged") and told["arguments"][-2:] == ["--outtype", "f16"]
    assert told["offline"] == "1" and told["path"] == str(tmp_path / "llama.cpp" / "gguf-py")


def test_a_failing_converter_is_one_line_with_its_last_words(tmp_path: Path) -> None:
    words = "import sys\nprint('reading')\nprint('BPE pre-tokenizer was not recognized')\nsys.exit(3)\n"
    tools = LlamaCpp(make_sources(tmp_path, words) / "convert_hf_to_gguf.py", None)
    with pytest.raises(PipelineError) as error:
        convert_to_f16(tools, tmp_path, tmp_path / "a.gguf")
    expected = "convert_hf_to_gguf.py failed with exit code 3: reading / BPE pre-tokenizer was not recognized"
    assert str(error.value) == expected


def test_a_program_that_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot be started"):
        run_program([str(tmp_path / "nothing")], {})


def test_a_program_that_ends_well_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run_program([sys.executable, "-c", "print('chatter')"], {})
    assert capfd.readouterr() == ("", "")
