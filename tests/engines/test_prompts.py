from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distill.engines.prompts import find_format, make_probe, render_opened, require_same_prompt
from distill.errors import PipelineError
from distill.gguf.chat import FORMATS, ChatFormat
from distill.gguf.modelfile import render_modelfile
from tests.engines.worlds import MESSAGES, MODEL


def by_name(name: str) -> ChatFormat:
    return next(known for known in FORMATS if known.name == name)


def write_modelfile(path: Path, format: ChatFormat) -> Path:
    text = render_modelfile("a.gguf", format=format, system="", temperature=0, top_p=1, top_k=40, num_ctx=512)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_every_format_is_found_by_the_template_in_its_modelfile(tmp_path: Path, format: ChatFormat) -> None:
    assert find_format(replace(MODEL, modelfile=write_modelfile(tmp_path / "Modelfile", format))) == format


def test_a_template_of_someone_else_is_refused(tmp_path: Path) -> None:
    path = write_modelfile(tmp_path / "Modelfile", FORMATS[0])
    path.write_text(path.read_text(encoding="utf-8").replace("<|end|>{{", "<|END|>{{"), encoding="utf-8")
    with pytest.raises(PipelineError, match=r"Modelfile has a TEMPLATE that is not of this version: run  python export_gguf"):
        find_format(replace(MODEL, modelfile=path))


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_prompt_of_training_passes_and_any_other_does_not(format: ChatFormat, system: str) -> None:
    probe = make_probe(format, system)
    right = format.render(probe)
    require_same_prompt(MODEL, format, right, probe)
    for wrong in (right + " ", right[:-1], " " + right, right.replace("45", "46"), right.replace("\u00a0", " "), ""):
        with pytest.raises(PipelineError, match="student is asked with other prompts than it was trained with: after"):
            require_same_prompt(MODEL, format, wrong, probe)


@pytest.mark.parametrize(("name", "front", "passes"), [
    ("gemma-3", "<bos>", True), ("llama-3", "<|begin_of_text|>", True), ("mistral-v0.3", "<s>", True),
    ("phi-4-mini", "<s>", False), ("gemma-3", "<bos> ", False), ("gemma-3", "<bos><bos>", False), ("gemma-3", "bos", False),
])
def test_a_bos_may_stand_in_front_where_the_model_has_one(name: str, front: str, passes: bool) -> None:
    format = by_name(name)
    probe = make_probe(format, "")
    if passes:
        require_same_prompt(MODEL, format, front + format.render(probe), probe)
    else:
        with pytest.raises(PipelineError, match="other prompts"):
            require_same_prompt(MODEL, format, front + format.render(probe), probe)


def test_a_difference_shows_both_texts_where_they_part() -> None:
    probe = make_probe(FORMATS[0], "")
    wanted = FORMATS[0].render(probe)
    with pytest.raises(PipelineError) as caught:
        require_same_prompt(MODEL, FORMATS[0], wanted.replace("<|end|>", "<|im_end|>"), probe)
    assert "comes 'im_end|><|assistant|>' instead of 'end|><|assistant|>'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_opened_prompt_is_the_rendered_one_with_the_answer_begun() -> None:
    assert render_opened(by_name("phi-4-mini"), MESSAGES, "It is") == (
        "<|system|>Be brief.<|end|><|user|>What is a valve?<|end|><|assistant|>It is"
    )
    trimmed = render_opened(by_name("gemma-3"), [{"role": "user", "content": " Q \n"}], "It")
    assert trimmed == "<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\nIt"
