from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.gguf.chat import FORMATS, ChatFormat
from distill.gguf.families.common import Model
from distill.gguf.modelfile import read_modelfile, render_modelfile, require_context, require_plain_text
from tests.gguf.modelfile_parser import parse_modelfile

PHI, LLAMA = FORMATS[0], next(known for known in FORMATS if known.name == "llama-3.1")
NUMBERS = {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "num_ctx": 4096}
SETTINGS = {"format": PHI, **NUMBERS}
TEXTS = st.text(alphabet=st.one_of(st.sampled_from('" \n\t#'), st.characters(codec="utf-8")), min_size=1)


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_the_whole_file(known: ChatFormat) -> None:
    modelfile = render_modelfile("a-q4_k_m.gguf", format=known, system="Be precise.", comments=["made by me", ""], **NUMBERS)
    assert modelfile.startswith("# made by me\n#\nFROM ./a-q4_k_m.gguf\n")
    assert parse_modelfile(modelfile) == [
        ("FROM", "./a-q4_k_m.gguf"), ("TEMPLATE", known.template), ("SYSTEM", "Be precise."),
        *[("PARAMETER", f'stop "{stop}"') for stop in known.stops],
        ("PARAMETER", "temperature 0.3"), ("PARAMETER", "top_p 0.9"), ("PARAMETER", "top_k 40"), ("PARAMETER", "num_ctx 4096"),
    ]
    assert "\r" not in modelfile
    assert modelfile.isascii()


def test_an_empty_system_prompt_is_left_out() -> None:
    assert "SYSTEM" not in render_modelfile("a.gguf", system="", **SETTINGS)


def test_a_comment_stays_a_comment() -> None:
    modelfile = render_modelfile("a.gguf", system="", comments=["base\nSYSTEM evil", "rank 16\r"], **SETTINGS)
    assert modelfile.startswith("# base SYSTEM evil\n# rank 16\nFROM")


def test_system_is_stripped_where_training_strips_it() -> None:
    for known, kept in ((LLAMA, "Be brief."), (PHI, "\nBe brief. ")):
        modelfile = render_modelfile("a.gguf", format=known, system="\nBe brief. ", **NUMBERS)
        assert ("SYSTEM", kept) in parse_modelfile(modelfile)


# -----------------------------------------------------------------------------
# Context


def make_model(trained_context: int) -> Model:
    return Model(
        Path("base"), "phi3", "phi3", 8, 1, True, trained_context, "beyond that nothing was learnt", metadata={}, weights=()
    )


def test_a_context_longer_than_the_trained_one_is_refused() -> None:
    require_context(make_model(4096), 4096)
    with pytest.raises(PipelineError, match=r"num_ctx 4097 is above 4096: beyond that nothing was learnt; set .* to 4096"):
        require_context(make_model(4096), 4097)


# -----------------------------------------------------------------------------
# What Ollama's parser eats


@pytest.mark.parametrize(("system", "named"), [
    ('say """this""" now', "three quotation marks"),
    ('ends in """', "three quotation marks"),
    ("one\r\ntwo", r"U\+000D"),
    ("45\u00a0Nm", r"U\+00A0"),
    ("zero\u200bwidth", r"U\+200B"),
    ("\ufeffmark", r"U\+FEFF"),
    ("a\x00b", r"U\+0000"),
])
def test_text_that_the_parser_would_alter_is_refused(system: str, named: str) -> None:
    with pytest.raises(PipelineError, match=rf"prompt\.system.*{named}") as error:
        render_modelfile("a.gguf", system=system, **SETTINGS)
    assert "\n" not in str(error.value)


@given(TEXTS)
def test_what_is_accepted_survives_the_parser(system: str) -> None:
    try:
        require_plain_text(system)
    except PipelineError:
        return
    assert ("SYSTEM", system) in parse_modelfile(render_modelfile("a.gguf", system=system, **SETTINGS))


# -----------------------------------------------------------------------------
# Reading


@given(TEXTS, st.sampled_from(FORMATS))
def test_a_modelfile_says_what_was_put_in(system: str, known: ChatFormat) -> None:
    try:
        require_plain_text(system)
    except PipelineError:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Modelfile"
        path.write_bytes(render_modelfile("a.gguf", format=known, system=system, **NUMBERS).encode())
        found = read_modelfile(path)
    assert found.template == known.template and found.stops == known.stops
    assert found.system == (system.strip() if "system" in known.trims else system)
    assert found.parameters[-4:] == (("temperature", "0.3"), ("top_p", "0.9"), ("top_k", "40"), ("num_ctx", "4096"))


def test_a_parameter_inside_a_system_prompt_is_none(tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(
        render_modelfile("a.gguf", system='Say:\nPARAMETER stop "no"\nTEMPLATE x', **SETTINGS), encoding="utf-8"
    )
    assert read_modelfile(tmp_path / "Modelfile").stops == PHI.stops


@pytest.mark.parametrize("text", ["FROM ./a.gguf\n", 'FROM ./a.gguf\nTEMPLATE """x"""\n', 'FROM ./a\nPARAMETER stop "x"\n'])
def test_a_modelfile_without_template_or_stops_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=r"no TEMPLATE or no PARAMETER stop"):
        read_modelfile(path)


def test_a_missing_modelfile_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"Modelfile is missing: run  python export_gguf\.py"):
        read_modelfile(tmp_path / "Modelfile")
