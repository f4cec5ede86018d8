"""The four prompt shapes of HybridRAG3 by their features: from a template, from recordings, and as really sent.

The real recordings are looked for beside the index that HYBRIDRAG3_INDEX names, in recordings/. The wording here is our own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from distill.config import IndexSection, PromptSection, load_config
from distill.curation.statements import is_marked
from distill.errors import PipelineError
from distill.index.sources import make_document_finder
from distill.prompts import (
    demands_refusal,
    find_citations,
    invites_knowledge,
    is_refusal,
    render_citation,
    render_prompt,
    wants_citations,
)
from distill.recorder.record import describe_prompt
from distill.records import Chunk
from distill.rows.forms import read_form
from distill.rows.recordings import load_recordings, make_spans
from distill.rows.shapes import Shape, find_shape, warn_of_template
from tests.recorded import KNOWLEDGE, PLAIN, REFUSAL, STRICT, TAGS, write_rows

NUMBERED = {
    "source_format": "[Source {number}] {source} (chunk 0, score=0.500)\n{text}", "source_separator": "\n\n---\n\n",
    "citation": "",
}
GUARDED = {
    "source_format": "--- CHUNK {number} ---\n{text}", "source_separator": "\n\n", "citation": "[Source: chunk_{number}]",
}
FOUND = "=== FOUND TEXT ({count} chunks) ===\n{context}\n\n=== END TEXT ===\n\nUSER QUERY:\n{question}\n\nAnswer:"
SHAPES = {
    "A": PromptSection(
        **NUMBERED, refusal="", general_knowledge="[Own Knowledge]",
        template=f"{PLAIN}\n{KNOWLEDGE}\n\nContext (may be thin):\n{{context}}\n\nQuestion: {{question}}\n\nAnswer:",
    ),
    "B": PromptSection(
        **NUMBERED, refusal=REFUSAL,
        template=f"{PLAIN}\n{STRICT}\n\nContext:\n{{context}}\n\nQuestion: {{question}}\n\nAnswer:",
    ),
    "C": PromptSection(**GUARDED, refusal="", general_knowledge="[Own Knowledge]", template=f"{KNOWLEDGE}\n{TAGS}\n{FOUND}"),
    "D": PromptSection(**GUARDED, refusal=REFUSAL, template=f"{STRICT}\n{TAGS}\n{FOUND}"),
}
CHUNKS = [Chunk(str(n), f"D:\\docs\\{n}.md", f"The limit is {n}.\n\n---\n\nIt is {n} on all days.", 0.5) for n in range(1, 4)]


@pytest.mark.parametrize("name", SHAPES)
def test_a_template_asks_for_what_config_says(name: str) -> None:
    prompt = SHAPES[name]
    assert not warn_of_template(prompt)
    assert demands_refusal(prompt, prompt.template) is (name in "BD")
    assert invites_knowledge(prompt, prompt.template) is (name in "AC")
    assert wants_citations(prompt) is (name in "CD")


@pytest.mark.parametrize("name", SHAPES)
def test_an_answer_is_read_by_its_shape(name: str) -> None:
    prompt = SHAPES[name]
    assert find_citations(prompt, f"The limit is 2 [Source: chunk_2]. {render_citation(prompt, 1)}") == [2, 1] * (name in "CD")
    assert is_refusal(prompt, REFUSAL) is (name in "BD")
    assert is_marked(prompt, "[Own Knowledge] Limits vary.") is (name in "AC")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_rendered_prompt_and_a_recorded_one_are_read_alike(name: str, count: int) -> None:
    rendered = render_prompt(SHAPES[name], "What is the limit?", CHUNKS[:count])
    form = read_form(rendered.instruction)
    assert form.question == "What is the limit?"
    spans = make_spans(rendered.instruction, form)
    assert [(span.start, span.end) for span in spans] == [(span.start, span.end) for span in rendered.context]


@pytest.mark.parametrize("name", SHAPES)
def test_recordings_of_a_shape_are_taken_by_its_config_alone(name: str, tmp_path: Path) -> None:
    prompt = SHAPES[name]
    row = describe_prompt("/api/generate", {"model": "m", "prompt": render_prompt(prompt, "Why?", CHUNKS).instruction})
    path = write_rows(tmp_path / "r.jsonl", [row])
    assert len(load_recordings(path, prompt)[0].chunks) == 3
    for other in SHAPES.values():
        if other is not prompt:
            with pytest.raises(PipelineError, match="set there below prompt:"):
                load_recordings(path, other)


def test_a_template_file_gives_the_exact_prompt(tmp_path: Path) -> None:
    template = SHAPES["C"].template
    (tmp_path / "template.txt").write_bytes(b"\xef\xbb\xbf" + template.replace("\n", "\r\n").encode() + b"\r\n")
    settings = {"template_file": "template.txt", **GUARDED, "refusal": "", "general_knowledge": "[Own Knowledge]"}
    (tmp_path / "config.yaml").write_text(json.dumps({"prompt": settings}), encoding="utf-8")
    prompt = load_config(tmp_path / "config.yaml").prompt
    assert render_prompt(prompt, "Why?", CHUNKS) == render_prompt(SHAPES["C"], "Why?", CHUNKS)


# -----------------------------------------------------------------------------
# As really sent

INDEX = Path(os.environ.get("HYBRIDRAG3_INDEX", "none"))
FILES = {path.name[0]: path for path in sorted(INDEX.parent.glob("recordings/*.txt"))}
real = pytest.mark.skipif(len(FILES) != 4, reason="HYBRIDRAG3_INDEX names no index with recordings beside it")
ASK_NOTHING = PromptSection(citation="", refusal="", general_knowledge="")


def read_real(name: str) -> str:
    return FILES[name].read_bytes().decode("utf-8")


def record_real(name: str, path: Path) -> Path:
    body = json.loads(FILES[name].with_suffix(".request.json").read_text(encoding="utf-8"))
    return write_rows(path, [describe_prompt("/api/generate", {**body, "prompt": read_real(name)})])


def shape_of(name: str) -> Shape:
    return find_shape(ASK_NOTHING, read_form(read_real(name)).instructions)


def config_for(name: str) -> PromptSection:
    return PromptSection(**asdict(shape_of(name)))


@real
@pytest.mark.parametrize(("name", "kind", "chunks"), [
    ("A", "numbered", 5), ("B", "numbered", 5), ("C", "guarded", 6), ("D", "guarded", 6),
])
def test_real_prompts_are_taken_apart(name: str, kind: str, chunks: int) -> None:
    text = read_real(name)
    form = read_form(text)
    assert (form.kind, form.question, len(form.passages)) == (kind, "What is the vibration inspection interval?", chunks)
    shown = [text[passage.start : passage.end] for passage in form.passages]
    assert shown[0].startswith("# DP4SD Maintenance Intervals") and shown[0].endswith("N*m")
    assert shown[3].startswith("ed answer in under 5 seconds") and shown[-1].endswith("Mistakes section.")
    assert not any(re.search(r"--- CHUNK|=== END|\(chunk \d+, score", part) for part in shown)


@real
def test_real_prompts_ask_for_four_different_shapes() -> None:
    found = {name: shape_of(name) for name in FILES}
    assert [bool(found[name].citation) for name in "ABCD"] == [False, False, True, True]
    assert found["C"].citation == found["D"].citation == "[Source: chunk_{number}]"
    assert [bool(found[name].refusal) for name in "ABCD"] == [False, True, False, True]
    assert [found[name].general_knowledge for name in "ABCD"] == ["[General Knowledge]", "", "[General Knowledge]", ""]
    inner = config_for("B")  # D quotes B's rules inside its own: the outer refusal counts
    assert demands_refusal(inner, read_real("D")) and found["D"].refusal != found["B"].refusal


@real
@pytest.mark.parametrize("name", "ABCD")
def test_real_prompts_are_loaded_with_the_config_that_the_error_prints(name: str, tmp_path: Path) -> None:
    path = record_real(name, tmp_path / "r.jsonl")
    with pytest.raises(PipelineError) as caught:
        load_recordings(path, PromptSection(citation="#{number}", refusal="no such words", general_knowledge="[none]"))
    (tmp_path / "config.yaml").write_text("prompt:\n" + str(caught.value).split("\n", 1)[1], encoding="utf-8")
    recording, = load_recordings(path, load_config(tmp_path / "config.yaml").prompt)
    assert recording.prompt == read_real(name) and recording.options["num_ctx"] == 4096 and recording.model == "phi4-mini"


@real
@pytest.mark.parametrize("name", "ABCD")
def test_every_real_chunk_finds_its_document_in_the_index(name: str, tmp_path: Path) -> None:
    index = tmp_path / "index"
    shutil.copytree(INDEX, index)
    find = make_document_finder(index, IndexSection())
    recording, = load_recordings(record_real(name, tmp_path / "r.jsonl"), config_for(name), find)
    names = [re.split(r"[\\/]", chunk.source)[-1] for chunk in recording.chunks]
    expected = ["maintenance_intervals.md", "TKINTER_THREADING.md", "TECHNICAL_THEORY_OF_OPERATION_RevC.md", "DEMO_GUIDE.md"]
    assert names == [*expected, *(["DEMO_GUIDE.md"] if name in "CD" else []), "TKINTER_THREADING.md"]


@real
@pytest.mark.parametrize("name", "CD")
def test_a_guarded_template_made_of_a_real_prompt_renders_it_to_the_byte(name: str) -> None:
    text, question = read_real(name), "What is the vibration inspection interval?"
    start, end = text.index("--- CHUNK 1 ---\n"), text.rindex("\n\n=== END ")
    pieces = re.split(r"--- CHUNK \d ---\n", text[start:end])[1:]
    head = re.sub(r"\b6( (?:context )?chunks)", r"{count}\1", text[:start])
    template = f"{head}{{context}}{text[end:]}".replace(question, "{question}")
    prompt = PromptSection(**{**GUARDED, **asdict(shape_of(name))}, template=template)
    rendered = render_prompt(prompt, question, [Chunk(str(n), "", piece.rstrip("\n"), 0.5) for n, piece in enumerate(pieces)])
    assert rendered.instruction == text
