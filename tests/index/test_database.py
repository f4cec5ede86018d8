from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from demo.build_index import build_index
from distill.errors import PipelineError
from distill.index.database import connect_immutable, list_columns, list_tables, open_database, to_uri
from distill.index.hybridrag import load_index
from tests.servers import embed_words

DOCUMENTS = [(f"{name}.md", f"The {name} document tells about {name}.") for name in ("alpha", "beta", "gamma")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of three documents."""
    build_index(tmp_path / "index", DOCUMENTS, embed_words)
    return tmp_path / "index"


def test_rows_that_hybridrag3_writes_meanwhile_are_seen_through_the_wal(folder: Path) -> None:
    full = len(load_index(folder))
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as writer:
        writer.execute("DELETE FROM chunks WHERE embedding_row = 0")
        writer.commit()
        assert (folder / "hybridrag.sqlite3-wal").stat().st_size
        assert len(load_index(folder)) == full - 1


def block_shared_memory(folder: Path) -> None:
    """Make mode=ro fail as in a read-only folder, for root too: SQLite cannot make its -shm file."""
    for name in ("hybridrag.sqlite3-shm", "hybridrag.sqlite3-wal"):
        (folder / name).unlink(missing_ok=True)
    (folder / "hybridrag.sqlite3-shm").mkdir()


def test_a_read_only_folder_is_read_as_immutable(folder: Path) -> None:
    block_shared_memory(folder)
    assert len(load_index(folder))


def test_a_database_with_a_live_wal_is_never_read_as_immutable(folder: Path) -> None:
    (folder / "hybridrag.sqlite3-wal").write_bytes(b"rows that immutable=1 would miss")
    with pytest.raises(PipelineError, match="sqlite3-wal that cannot be read here"):
        connect_immutable(folder / "hybridrag.sqlite3")
    (folder / "hybridrag.sqlite3-wal").write_bytes(b"")
    connect_immutable(folder / "hybridrag.sqlite3").close()


def test_a_live_wal_counts_even_without_its_shared_memory(folder: Path) -> None:
    full = len(load_index(folder))
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as writer:
        writer.execute("DELETE FROM chunks WHERE embedding_row = 0")
        writer.commit()
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
    (copy / "hybridrag.sqlite3-shm").unlink()
    (copy / "hybridrag.sqlite3-shm").mkdir()
    assert len(load_index(copy)) == full - 1


def test_a_folder_name_with_signs_that_mean_something_in_a_uri(tmp_path: Path) -> None:
    folder = tmp_path / "50% of #1 index"
    build_index(folder, DOCUMENTS, embed_words)
    assert len(load_index(folder))
    assert "%23" in to_uri(folder) and "%25" in to_uri(folder)


def test_tables_are_listed_without_what_belongs_to_sqlite(folder: Path) -> None:
    with open_database(folder / "hybridrag.sqlite3") as database:
        assert list_tables(database) == ["chunks", "chunks_fts", "index_runs", "source_quality"]
        assert list_columns(database, "source_quality")[:2] == ["source_path", "source_type"]
        assert list_columns(database, "nowhere") == []


def test_nothing_can_be_written(folder: Path) -> None:
    with open_database(folder / "hybridrag.sqlite3") as database, pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.execute("DELETE FROM chunks")
