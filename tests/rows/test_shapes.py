"""What a prompt asks for is found by its form, in the instructions alone, and compared with config.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import PromptSection, load_config
from distill.errors import PipelineError
from distill.rows.shapes import Shape, find_shape, list_changes, require_one_shape, warn_of_system, warn_of_template

DEFAULT = PromptSection()
NONE = PromptSection(citation="", refusal="", general_knowledge="")

CASES = [
    ("Cite as [Source: chunk_N] please.", Shape("[Source: chunk_{number}]", "", "")),
    ("  [Source: chunk_1] for the first,\n  [Source: chunk_2] for the second", Shape("[Source: chunk_{number}]", "", "")),
    ("Use [Source N].", Shape("[Source {number}]", "", "")),
    ("Use [Doc 3].", Shape("[Doc {number}]", "", "")),
    ("Do not write [General Knowledge] or [UNKNOWN] or [x] or [3].", Shape("", "", "")),
    ('If nothing helps, respond: "It is not here." Do not guess.', Shape("", "It is not here.", "")),
    ('say exactly:\n     "It is not here: the\n     files are mute."', Shape("", "It is not here: the files are mute.", "")),
    ("Reply: \u201cIt is not here.\u201d", Shape("", "It is not here.", "")),
    ('Reply only with: "It is not here."\nElse reply: "Something else."', Shape("", "It is not here.", "")),
    ('It is safer to say "I do not know that" than to guess.', Shape("", "", "")),
    ("Text from your own knowledge gets the prefix: [Own View].", Shape("", "", "[Own View]")),
    ("You may use general knowledge. Prefix those parts with [General Knowledge].", Shape("", "", "[General Knowledge]")),
    ('If you cannot cite, prefix with: "[UNSOURCED GUESS]"', Shape("", "", "")),
]


@pytest.mark.parametrize(("instructions", "shape"), CASES)
def test_finds_by_form(instructions: str, shape: Shape) -> None:
    assert find_shape(NONE, instructions) == shape


@pytest.mark.parametrize(("prompt", "instructions", "shape"), [
    (PromptSection(citation="({number})"), "Cite as (1) or (N).", Shape("({number})", "", "")),
    (PromptSection(citation="({number})"), "Cite (one) source.", Shape("", "", "")),
    (PromptSection(refusal="Not here."), "Else the answer is Not\n here", Shape("", "Not here.", "")),
    (PromptSection(general_knowledge="<<own>>"), "Begin with <<own>> what is yours", Shape("", "", "<<own>>")),
    (PromptSection(refusal="Nested words."), 'reply: "The outer words." Nested words.', Shape("", "The outer words.", "")),
])
def test_the_configured_wording_counts_where_no_form_shows(prompt: PromptSection, instructions: str, shape: Shape) -> None:
    assert find_shape(prompt, instructions) == shape


def test_case_spacing_and_full_stop_make_no_difference() -> None:
    prompt = PromptSection(citation="[source {number}]", refusal="It is  NOT here", general_knowledge="[own view]")
    assert not list_changes(prompt, Shape("[Source {number}]", "It is not here.", "[Own View]"))


@pytest.mark.parametrize("shape", [
    Shape("[Source: chunk_{number}]", 'A "quoted": refusal # with signs', "[Own View]"), Shape("", "", ""),
    Shape("[S{number}]", "\u00e9t\u00e9", ""),
])
def test_the_printed_lines_are_the_ones_to_paste(tmp_path: Path, shape: Shape) -> None:
    lines = list_changes(PromptSection(citation="#{number}", refusal="other", general_knowledge="[other]"), shape)
    (tmp_path / "config.yaml").write_text("prompt:\n" + "".join(f"  {line}\n" for line in lines), encoding="utf-8")
    found = load_config(tmp_path / "config.yaml").prompt
    assert Shape(found.citation, found.refusal, found.general_knowledge) == shape


def test_config_that_differs_from_the_recordings_is_refused_with_what_to_set() -> None:
    shapes = {1: Shape("[Source: chunk_{number}]", "", "[General Knowledge]")}
    with pytest.raises(PipelineError) as caught:
        require_one_shape(Path("r.jsonl"), DEFAULT, shapes)
    assert str(caught.value).splitlines()[1:] == [
        '         citation: "[Source: chunk_{number}]"', '         refusal: ""',
        '         general_knowledge: "[General Knowledge]"',
    ]
    right = PromptSection(citation="[Source: chunk_{number}]", refusal="", general_knowledge="[General Knowledge]")
    require_one_shape(Path("r.jsonl"), right, shapes)


def test_two_shapes_in_one_file_are_refused_with_counts_and_lines() -> None:
    one, two = Shape("[S{number}]", "", ""), Shape("", "No.", "")
    shapes = {line: two if line == 9 else one for line in (1, 2, 4, 5, 6, 8, 9)}
    with pytest.raises(PipelineError, match=r"2 shapes.*6 prompts, lines 1, 2, 4, 5, 6, \.\.\..*1 prompts, line 9\)"):
        require_one_shape(Path("r.jsonl"), DEFAULT, shapes)


def test_no_shape_at_all_is_no_problem() -> None:
    require_one_shape(Path("r.jsonl"), DEFAULT, {})


@pytest.mark.parametrize(("changes", "warned"), [
    ({}, []),
    ({"template": "{context}\n{question}"}, ['citation: ""', 'refusal: ""']),
    ({"template": "{context}\n{question}", "citation": "", "refusal": ""}, []),
    ({"template": 'Cite [Ref N]. Else reply: "Not here at all."\n{context}\n{question}'},
     ['citation: "[Ref {number}]"', 'refusal: "Not here at all."']),
    ({"general_knowledge": "[Own]"}, ['general_knowledge: ""']),
])
def test_a_template_that_asks_for_something_else_is_warned_of(changes: dict[str, str], warned: list[str]) -> None:
    found = warn_of_template(PromptSection(**changes))
    assert [line.rsplit("set  ", 1)[1] for line in found] == warned


@pytest.mark.parametrize(("citation", "system", "warned"), [
    ("", "Be precise, and cite the sources you use.", 1), ("", "Give Citations always.", 1), ("", "Be precise.", 0),
    ("", "Be excited.", 0), ("[Source {number}]", "Cite the sources.", 0),
])
def test_a_system_prompt_that_wants_tags_where_the_prompt_wants_none_is_warned_of(
    citation: str, system: str, warned: int
) -> None:
    assert len(warn_of_system(PromptSection(citation=citation, system=system))) == warned
