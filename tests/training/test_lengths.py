"""How long rows are, and what becomes of those that are longer than the student may see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import FinetuneSection, PromptSection
from distill.errors import PipelineError
from distill.records import TrainingExample
from distill.training.encode import IGNORE, EncodedExample, encode_examples
from distill.training.lengths import describe_lengths, draw_histogram, fit_lengths, print_length_report, require_lengths
from tests.training.test_trimming import PROMPT, make_row


def encode_of_length(length: int, name: str = "r") -> EncodedExample:
    return EncodedExample(name, list(range(length)), [IGNORE] * (length - 1) + [0])


@pytest.fixture(scope="module")
def tokenizer(tiny_phi3: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_phi3)


def make_rows() -> list[TrainingExample]:
    """Three short rows and three long ones: one with a chunk to spare, one that cites it, one without chunks."""
    long = "the pump checks the oil level " * 30
    short = [TrainingExample(id=f"s{n}", instruction="Why?", output=f"So {n}.", category="A") for n in range(3)]
    spare = make_row(texts=["Short.", long, "Short, too."], output="It holds. [Source 3]")
    cites = make_row(texts=["Short.", long, "Short, too."], output="It holds. [Source 2]")
    whole = TrainingExample(id="whole", instruction=long * 2, output="So.")
    spare = spare.model_copy(update={"id": "spare", "category": "B"})
    return [*short, spare, cites.model_copy(update={"id": "cites", "category": "A"}), whole]


def fit(tokenizer: Any, over_length: str, prompt: PromptSection | None = PROMPT, max_length: int = 260, **given: Any) -> Any:
    settings = FinetuneSection.model_validate({"max_length": max_length, "over_length": over_length})
    return fit_lengths(tokenizer, "Be exact.", make_rows(), settings, prompt, **given)


# -----------------------------------------------------------------------------
# The report


def test_lengths_are_counted() -> None:
    found = describe_lengths([encode_of_length(3), encode_of_length(8), encode_of_length(5)])
    assert found == {"rows": 3, "tokens": 16, "answer_tokens": 3, "median_tokens": 5, "longest_tokens": 8}


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60))
def test_histogram_counts_every_row_once_in_few_bins(lengths: list[int]) -> None:
    _, *lines = draw_histogram(lengths)
    cells = [line.split("#")[0].replace(",", "").split() for line in lines]
    assert 1 <= len(lines) <= 10
    assert sum(int(cell[3]) for cell in cells) == len(lengths)
    assert sum(float(cell[4].rstrip("%")) for cell in cells) == pytest.approx(100, abs=0.6)
    for low, _, high, count, *_ in cells:
        assert int(count) == sum(int(low) <= length <= int(high) for length in lengths)
    assert all(len(line) < 100 and line.isascii() for line in lines)


def test_report_counts_long_rows_by_category(capsys: pytest.CaptureFixture[str]) -> None:
    examples = [TrainingExample(instruction="a", output="b", category=name) for name in ("Pumps", "Valves", "", "Valves")]
    print_length_report([encode_of_length(length) for length in (5, 20, 30, 40)], 10, examples)
    printed = capsys.readouterr().out
    assert "[OK] 4 rows, 95 tokens (4 carry loss), median 30, longest 40 of 10" in printed
    assert "[WARN] 3 rows are longer than finetune.max_length 10: Valves 2, (no category) 1" in printed
    print_length_report([encode_of_length(10)], 10)
    assert "[WARN]" not in capsys.readouterr().out


# -----------------------------------------------------------------------------
# error


def test_long_row_stops_the_run_and_is_named() -> None:
    rows = [encode_of_length(10, "r1"), encode_of_length(30, "r2")]
    require_lengths(rows, 30)
    with pytest.raises(PipelineError, match=r"1 of 2 rows are longer than finetune.max_length 29, the longest r2 \(30 "):
        require_lengths(rows, 29)


def test_error_shows_the_report_first(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError, match=r"3 of 6 rows are longer .*set finetune.over_length to trim_context or drop"):
        fit(tokenizer, "error")
    assert "3 rows are longer than finetune.max_length 260" in capsys.readouterr().out


@pytest.mark.parametrize("over_length", ["error", "drop", "trim_context"])
def test_rows_that_fit_stay_as_they_are(tokenizer: Any, over_length: str) -> None:
    examples, encoded, report = fit(tokenizer, over_length, max_length=4096)
    assert examples == make_rows() and [row.example_id for row in encoded] == [row.id for row in examples]
    assert report.to_manifest() == {
        "over_length": over_length, "dropped": {}, "dropped_rows": {}, "trimmed": {}, "trimmed_rows": {}
    }


@pytest.mark.parametrize("over_length", ["error", "drop", "trim_context"])
def test_row_of_exactly_the_length_stays_as_it_is(tokenizer: Any, over_length: str) -> None:
    longest = max(len(row.input_ids) for row in encode_examples(tokenizer, "Be exact.", make_rows()))
    assert fit(tokenizer, over_length, max_length=longest)[0] == make_rows()


# -----------------------------------------------------------------------------
# drop and trim_context


def test_drop_leaves_long_rows_out_and_says_which(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    examples, encoded, report = fit(tokenizer, "drop")
    assert [row.id for row in examples] == [row.example_id for row in encoded] == ["s0", "s1", "s2"]
    assert report.dropped == {"spare": "B", "cites": "A", "whole": "(no category)"} and not report.trimmed
    printed = capsys.readouterr().out
    assert "[WARN] 3 rows are left out as too long: B 1, A 1, (no category) 1\n       spare (" in printed


def test_trim_context_keeps_the_row_and_leaves_out_what_cannot_fit(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    examples, encoded, report = fit(tokenizer, "trim_context")
    assert [row.id for row in examples] == [row.example_id for row in encoded] == ["s0", "s1", "s2", "spare"]
    trimmed = examples[-1]
    # Chunk 2 has the lowest score; the answer cites 3, and 1 stays because leaving out 2 was enough.
    assert [span.chunk_id for span in trimmed.context] == ["c1", "c3"]
    assert [trimmed.instruction[span.start : span.end] for span in trimmed.context] == ["Short.", "Short, too."]
    assert trimmed.output == "It holds. [Source 3]" and "Question: What holds?" in trimmed.instruction
    assert encoded[-1] == encode_examples(tokenizer, "Be exact.", [trimmed])[0] and len(encoded[-1].input_ids) <= 260
    assert report.trimmed == {"spare": "B"} and report.chunks == {"spare": 1}
    assert set(report.dropped) == {"cites", "whole"}
    assert "its answer needs" in report.reasons["cites"] and report.reasons["whole"] == "it names no chunks"
    printed = capsys.readouterr().out
    assert "[OK] 1 rows fit finetune.max_length 260 now, less 1 chunks: B 1" in printed
    assert "[WARN] 2 rows are left out as too long" in printed


def test_manifest_holds_counts_and_ids_but_no_text(tokenizer: Any) -> None:
    manifest = fit(tokenizer, "trim_context")[2].to_manifest()
    assert manifest["dropped"] == {"A": 1, "(no category)": 1} and manifest["trimmed_rows"] == {"spare": 1}
    assert "Short" not in str(manifest)


def test_without_the_prompt_settings_nothing_is_trimmed(tokenizer: Any) -> None:
    _, _, report = fit(tokenizer, "trim_context", prompt=None)
    assert not report.trimmed and "not known how its chunks are rendered" in report.reasons["spare"]


def test_tokens_that_are_known_are_not_made_again(tokenizer: Any) -> None:
    encoded = encode_examples(tokenizer, "Be exact.", make_rows())
    marked = [EncodedExample(row.example_id, [7, *row.input_ids], [IGNORE, *row.labels]) for row in encoded]
    _, kept, _ = fit(tokenizer, "drop", encoded=marked)
    assert kept == marked[:3]


def test_no_row_left_stops_the_run(tokenizer: Any) -> None:
    with pytest.raises(PipelineError, match=r"no row is within finetune.max_length 3"):
        fit(tokenizer, "trim_context", max_length=3)
