from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from demo.build_index import build_index
from demo.minilm import find_minilm
from distill.config import EmbedderSection
from distill.errors import PipelineError
from distill.index.check import DOCUMENT_PREFIX, check_index
from distill.index.embedders import make_embedder
from distill.index.hybridrag import load_index
from tests.servers import Handler, OllamaServer, embed_words

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu")
# Long enough that a prefix changes a bag of words only a little.
TEXT = "The {name} document tells about {name} and the {name} limit of unit {name}s. " * 4
DOCUMENTS = [(f"{name}.md", TEXT.format(name=name)) for name in NAMES]
Embed = Callable[[Sequence[str]], np.ndarray]


class HeedfulServer(OllamaServer):
    """Ollama with a model for which a prefix is a part of the text, as it is for nomic-embed-text."""

    def send_embed(self, handler: Handler, body: dict[str, list[str]]) -> None:
        """Vectors of the texts as they came."""
        handler.reply({"embeddings": self.embed(body["input"]).tolist()})


def check(folder: Path, query_prefix: str = "search_query: ", embed: Embed = embed_words, heedful: bool = True) -> str:
    """check_index on the index in `folder` over HTTP."""
    with (HeedfulServer if heedful else OllamaServer)(embed=embed) as server:
        section = EmbedderSection(base_url=server.base_url, query_prefix=query_prefix)
        return check_index(load_index(folder), make_embedder(section), section)


def build(folder: Path, prefix: Callable[[int], str] = lambda row: "", embed: Embed = embed_words) -> Path:
    """An index whose chunk number `row` was embedded with prefix(row) before it."""
    build_index(folder, DOCUMENTS, lambda texts: embed([prefix(row) + text for row, text in enumerate(texts)]))
    return folder


@pytest.mark.parametrize(("document_prefix", "query_prefix", "convention"), [
    ("", "", "without"),
    ("", "query: ", "without"),
    ("search_document: ", "search_query: ", "with"),
])
def test_the_convention_of_the_index_is_named(
    tmp_path: Path, document_prefix: str, query_prefix: str, convention: str
) -> None:
    line = check(build(tmp_path, lambda row: document_prefix), query_prefix)
    assert f'the index holds nomic-embed-text\'s vectors, "search_document:" before each chunk: {convention} (12 ' in line
    assert "median cosine 1.0000" in line


@pytest.mark.parametrize(("document_prefix", "query_prefix", "message"), [
    ("", "search_query: ", 'is "search_query: ", but the index was made without a prefix: set it to ""'),
    ("search_document: ", "", 'is "", but the index was made with "search_document: " before each chunk: set it to "search_qu'),
    ("search_document: ", "search_query:", 'is "search_query:", but the index was made with "search_document: "'),
    ("search_document: ", "query: ", 'is "query: ", but the index was made with "search_document: "'),
])
def test_a_prefix_that_the_index_does_not_follow_is_an_error(
    tmp_path: Path, document_prefix: str, query_prefix: str, message: str
) -> None:
    with pytest.raises(PipelineError, match=f"generate.embedder.query_prefix {message}"):
        check(build(tmp_path, lambda row: document_prefix), query_prefix)


@pytest.mark.parametrize("query_prefix", ["", "search_query: "])
def test_a_model_that_ignores_prefixes_contradicts_none(tmp_path: Path, query_prefix: str) -> None:
    assert "before each chunk: either" in check(build(tmp_path), query_prefix, heedful=False)


@pytest.mark.parametrize("query_prefix", ["", "search_query: "])
def test_an_index_that_grew_over_the_change_of_convention_is_mixed(tmp_path: Path, query_prefix: str) -> None:
    folder = build(tmp_path, lambda row: DOCUMENT_PREFIX if row % 2 else "")
    assert "before each chunk: mixed" in check(folder, query_prefix)


def test_one_stray_chunk_does_not_decide(tmp_path: Path) -> None:
    folder = build(tmp_path, lambda row: DOCUMENT_PREFIX if row == 3 else "")
    assert "before each chunk: without" in check(folder, "")


def test_texts_that_were_cleaned_before_they_were_embedded_pass(tmp_path: Path) -> None:
    folder = build(tmp_path, embed=lambda texts: embed_words([text[: len(text) * 9 // 10].lower() for text in texts]))
    assert "before each chunk: without" in check(folder, "")


def test_another_dimension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="nomic-embed-text gives 32 dimensions but the index holds 64"):
        check(build(tmp_path), embed=lambda texts: embed_words(texts, 32))


def test_another_model_of_the_same_dimension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"did not make this index \(0 of 12 sampled chunks give their stored vectors"):
        check(build(tmp_path), embed=lambda texts: embed_words([text[::-1] for text in texts]))


def test_rows_that_belong_to_other_chunks_are_refused(tmp_path: Path) -> None:
    folder = build(tmp_path)
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as database:  # half of the chunks swap their rows
        database.execute("UPDATE chunks SET embedding_row = 5 - embedding_row WHERE embedding_row < 6")
        database.commit()
    with pytest.raises(PipelineError, match=r"\(6 of 12 sampled chunks .*its rows are mixed up"):
        check(folder, "")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_stored_vectors_that_are_no_vectors_are_refused(tmp_path: Path, value: float) -> None:
    vectors = np.memmap(build(tmp_path) / "embeddings.f16.dat", np.float16, "r+", shape=(len(NAMES), 64))
    vectors[7] = value
    vectors.flush()
    with pytest.raises(PipelineError, match=r"holds zeros or not-a-number for 1 of 12 sampled chunks \(row 7\)"):
        check(tmp_path)


def test_no_more_than_a_sample_is_embedded(tmp_path: Path) -> None:
    build_index(tmp_path, DOCUMENTS, embed_words, chunk_characters=60, overlap=0)
    asked: list[str] = []

    def remember(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return embed_words(texts)

    check(tmp_path, "", remember)
    index = load_index(tmp_path)
    texts = [chunk.text for chunk in index.load_chunks([0, len(index) - 1], [0, 0])]
    assert len(index) > 40 and len(asked) == 32 and {*texts, DOCUMENT_PREFIX + texts[1]} <= set(asked)


def test_a_local_model_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    section = EmbedderSection(provider="sentence-transformers", model=str(find_minilm()), query_prefix="")
    embedder = make_embedder(section)
    index = load_index(build(tmp_path, embed=embedder.embed))
    line = check_index(index, embedder, section)
    assert f"the index holds {find_minilm().name}'s vectors" in line and "before each chunk: without" in line
    with pytest.raises(PipelineError, match="made without a prefix"):
        check_index(index, embedder, section.model_copy(update={"query_prefix": "search_query: "}))
