from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from demo.build_index import build_index, cut_chunks
from demo.minilm import find_minilm
from distill.index.hybridrag import load_index
from tests.servers import embed_words

DOCUMENTS = [(f"docs/{name}.md", f"The {name} document tells about {name}.\n\n" * 6) for name in ("alpha", "beta", "gamma")]


def test_chunks_overlap_and_lose_nothing() -> None:
    words = [f"word{number}" for number in range(400)]
    chunks = cut_chunks(" ".join(words), 300, 60)
    assert all(len(chunk) <= 300 for chunk in chunks)
    assert set(words) <= {word for chunk in chunks for word in chunk.split()}
    assert all(set(first.split()[-3:]) & set(second.split()) for first, second in pairwise(chunks))


def test_chunks_end_at_paragraphs_where_they_can() -> None:
    assert cut_chunks("a " * 30 + "\n\n" + "b " * 30, 100, 0) == [("a " * 30).strip(), ("b " * 30).strip()]


@pytest.mark.parametrize("text", ["", "  \n", "short", "x" * 1000])
def test_texts_of_any_length_are_cut(text: str) -> None:
    chunks = cut_chunks(text, 100, 20)
    assert all(0 < len(chunk) <= 100 for chunk in chunks) and bool(chunks) == bool(text.strip())


def test_the_folder_has_what_hybridrag3_writes(tmp_path: Path) -> None:
    build_index(tmp_path, DOCUMENTS, embed_words, chunk_characters=120, overlap=20)
    meta = json.loads((tmp_path / "embeddings_meta.json").read_text())
    assert meta == {"dim": 64, "count": len(load_index(tmp_path)), "dtype": "float16", "embedding_model": ""}
    vectors = np.fromfile(tmp_path / "embeddings.f16.dat", np.float16).reshape(meta["count"], 64)
    with closing(sqlite3.connect(tmp_path / "hybridrag.sqlite3")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        texts = [text for (text,) in database.execute("SELECT text FROM chunks ORDER BY embedding_row")]
        found = database.execute("SELECT count(*) FROM chunks_fts WHERE chunks_fts MATCH 'beta'").fetchone()[0]
        assert found == sum("beta" in text for text in texts) > 0
        assert database.execute("SELECT count(*) FROM source_quality WHERE retrieval_tier = 'serve'").fetchone() == (3,)
    assert np.allclose(vectors, embed_words(texts), atol=1e-3)


def test_building_again_replaces_the_index(tmp_path: Path) -> None:
    build_index(tmp_path, DOCUMENTS, embed_words)
    build_index(tmp_path, DOCUMENTS[:1], embed_words)
    assert load_index(tmp_path).sources == ("docs/alpha.md",)


def test_minilm_is_a_whole_model() -> None:
    assert {"modules.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in find_minilm().iterdir()}
