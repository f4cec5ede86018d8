"""A chunk's text, or a piece of it, leads back to its document, or to none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from demo.build_index import build_index
from distill.config import IndexSection
from distill.errors import PipelineError
from distill.index.sources import MOST_CHUNKS, make_document_finder
from tests.servers import embed_words

HEAD = "This notice stands at the head of every sheet that leaves the house, word for word, on each and every day."
COLOUR = "Its colour AND shade NEAR blue (or not): *x* pct_label^2."
DOCUMENTS = [
    (r"D:\docs\pump.md", 'The pump limit is "20" degrees.\n\n' f'{COLOUR}\n\nShared words.'),
    (r"D:\docs\valve.md", "The valve limit is 30 degrees.\n\nShared words.\n\nThe valve log."),
    *((rf"D:\docs\sheet{n}.md", f"{HEAD} Number {n}.") for n in range(MOST_CHUNKS + 5)),
]


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("index")
    build_index(folder, DOCUMENTS, embed_words, chunk_characters=400, overlap=0)
    return make_document_finder(folder, IndexSection())


@pytest.mark.parametrize(("text", "document"), [
    ('The pump limit is "20" degrees.', "pump"),
    ("  its colour and SHADE\nnear blue (or not): *x* pct_label^2.", "pump"),
    ("or not): *x* pct", "pump"),
    ("The valve log.", "valve"),
    ("limit is", ""),
    ("Shared words.", ""),
    ("The pump limit is 21 degrees.", ""),
    ("limits", ""),
    ("", ""),
    ("*** ---", ""),
    ('"', ""),
    (f"{HEAD} Number 3.", ""),
])
def test_finds_the_one_document(find: Callable[[str], str], text: str, document: str) -> None:
    assert find(text) == (rf"D:\docs\{document}.md" if document else "")


def test_an_index_without_fts_is_refused(tmp_path: Path) -> None:
    build_index(tmp_path, DOCUMENTS[:2], embed_words, chunk_characters=400, overlap=0)
    for name in ("", "other_fts"):
        with pytest.raises(PipelineError, match="no table generate"):
            make_document_finder(tmp_path, IndexSection(fts_table=name))
    with pytest.raises(PipelineError, match="is missing"):
        make_document_finder(tmp_path, IndexSection(database="other.sqlite3"))
