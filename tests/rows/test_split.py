from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.build_index import build_index
from distill.errors import PipelineError
from distill.index.hybridrag import Index, load_index
from distill.records import Chunk, ContextSpan, TrainingExample
from distill.rows.curated import Curated
from distill.rows.split import Side, Split, make_masks, place_all, retrieve, split_sources
from tests.servers import embed_words

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
TEXT = "The {name} unit. Its {name} limit is {row}.\n\nThe {name} check."
DOCUMENTS = [(f"{name}.md", TEXT.format(name=name, row=row)) for row, name in enumerate(NAMES)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Ten documents of two chunks each."""
    build_index(tmp_path, DOCUMENTS, embed_words, chunk_characters=40, overlap=0)
    return load_index(tmp_path)


@given(st.sets(st.text(max_size=20), min_size=2, max_size=60), st.floats(0.01, 0.49))
def test_the_share_of_documents_is_exact(sources: set[str], share: float) -> None:
    split = split_sources(sources, share)
    heldout = [source for source in sources if split.side_of_source(source) == "heldout"]
    assert len(heldout) == max(1, round(share * len(sources)))


def test_a_documents_side_does_not_hang_on_order_or_repetition() -> None:
    sources = [source for source, _ in DOCUMENTS]
    assert split_sources(sources, 0.2) == split_sources(sources[::-1] * 2, 0.2)


def test_too_few_documents_to_split() -> None:
    with pytest.raises(PipelineError, match=r"1 source document\(s\) cannot be split"):
        split_sources(["only.md"], 0.1)


@given(st.floats(0.05, 0.95))
def test_texts_without_sources_follow_the_share(share: float) -> None:
    split = Split("", share)
    heldout = sum(split.side_of_text(f"question {number}") == "heldout" for number in range(2000))
    assert abs(heldout / 2000 - share) < 0.05


def place(split: Split, *sources: str, instruction: str = "text", chunks: tuple[Chunk, ...] = ()) -> Side:
    """The side of a curated row that names these documents."""
    spans = tuple(ContextSpan(chunk_id="1", source=source, score=1, start=0, end=1) for source in sources)
    row = TrainingExample(instruction=instruction, output="answer", context=spans)
    rows = place_all(split, [Curated(row, "rows.jsonl:7")], chunks)
    return "train" if rows["train"] == [row] else "heldout"


def test_a_curated_row_goes_where_its_documents_are() -> None:
    sources = [source for source, _ in DOCUMENTS]
    split = split_sources(sources, 0.3)
    for source in sources:
        assert place(split, source, source) == split.side_of_source(source)
    assert place(split) == split.side_of_text("text")


def test_a_curated_row_that_straddles_is_refused() -> None:
    sources = [source for source, _ in DOCUMENTS]
    with pytest.raises(PipelineError, match=r"rows\.jsonl:7 holds documents of both"):
        place(split_sources(sources, 0.3), *sources)


def test_a_curated_row_with_a_whole_chunk_goes_where_its_document_is(capsys: pytest.CaptureFixture[str]) -> None:
    split = split_sources([source for source, _ in DOCUMENTS], 0.3)
    chunks = tuple(Chunk("1", f"{name}.md", f"The {name} unit is described at length in this chunk.\n", 0.5) for name in NAMES)
    for chunk in chunks:
        for number in range(5):
            assert place(split, instruction=f"{chunk.text}Why {number}?", chunks=chunks) == split.side_of_source(chunk.source)
    assert "[WARN]" not in capsys.readouterr().out
    with pytest.raises(PipelineError, match=r"rows\.jsonl:7 holds documents of both"):
        place(split, instruction="".join(chunk.text for chunk in chunks), chunks=chunks)


def test_curated_rows_of_unknown_source_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert place(Split("", 0.5), chunks=(Chunk("1", "a.md", "text", 0.5),)) == Split("", 0.5).side_of_text("text")
    assert "[WARN] 1 curated rows name no source documents: they are split by their text alone" in capsys.readouterr().out


def test_every_question_gets_top_k_chunks_of_one_side(index: Index) -> None:
    split = split_sources(index.sources, 0.3)
    vectors = embed_words([f"What is the {name} limit?" for name in NAMES])
    found = retrieve(index, split, vectors, 4, -1)
    for name, each in zip(NAMES, found):
        assert each.chunks[0].source == f"{name}.md", "the best chunk overall decides"
        assert len(each.chunks) == 4 and {split.side_of_source(chunk.source) for chunk in each.chunks} == {each.side}
        assert [chunk.score for chunk in each.chunks] == sorted((chunk.score for chunk in each.chunks), reverse=True)
    train, heldout = (
        {chunk.source for each in found if each.side == side for chunk in each.chunks} for side in ("train", "heldout")
    )
    assert train and heldout and not train & heldout


def test_min_score_cuts_and_may_leave_nothing(index: Index) -> None:
    split = split_sources(index.sources, 0.3)
    some = retrieve(index, split, embed_words(["What is the gamma limit?", "unheard words altogether"]), 4, 0.5)
    assert 0 < len(some[0].chunks) < 4 and all(chunk.score >= 0.5 for chunk in some[0].chunks)
    assert some[1].chunks == () and some[1].side in ("train", "heldout")


def test_scores_are_plain_cosines(index: Index) -> None:
    split = split_sources(index.sources, 0.3)
    question = embed_words(["What is the gamma limit?"])
    for chunk in retrieve(index, split, question, 3, -1)[0].chunks:
        assert chunk.score == pytest.approx(float(np.dot(question[0], embed_words([chunk.text])[0])), abs=2e-3)


def test_a_side_that_is_too_small_for_top_k_says_what_to_change(index: Index) -> None:
    split = split_sources(index.sources, 0.1)
    with pytest.raises(PipelineError, match=r"the heldout side has 2 chunks of 20, fewer than generate\.top_k 3"):
        make_masks(index, split, 3)
