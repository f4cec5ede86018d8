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


def begin_rewriting(folder: Path) -> sqlite3.Connection:
    """A writer in the middle of a transaction that has spilled new texts into the file; as for a half-written -journal."""
    writer = sqlite3.connect(folder / "hybridrag.sqlite3", isolation_level=None)
    for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA cache_size = 1", "BEGIN EXCLUSIVE"):
        writer.execute(statement)
    writer.execute("UPDATE chunks SET text = 'UNCOMMITTED' || hex(zeroblob(9000))")
    return writer


def test_an_index_that_is_being_written_is_not_read(folder: Path) -> None:
    with closing(begin_rewriting(folder)) as writer:
        with pytest.raises(PipelineError, match="is being written: let HybridRAG3 finish"):
            load_index(folder)
        writer.execute("ROLLBACK")
    assert load_index(folder).load_chunks([0], [0])[0].text.startswith("The alpha document")


def test_a_lock_that_is_taken_while_we_read_is_named_too(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = DELETE")
        message = "is being written: let HybridRAG3 finish"
        with pytest.raises(PipelineError, match=message), open_database(folder / "hybridrag.sqlite3") as database:
            database.execute("PRAGMA busy_timeout = 50")
            writer.execute("BEGIN EXCLUSIVE")
            database.execute("SELECT count(*) FROM chunks")


def test_an_index_whose_writer_was_killed_is_not_read(folder: Path) -> None:
    copy = folder.with_name("copy")
    with closing(begin_rewriting(folder)):
        shutil.copytree(folder, copy)  # what a power cut would leave: no lock, a hot journal
    assert (copy / "hybridrag.sqlite3-journal").stat().st_size
    with pytest.raises(PipelineError, match=r"is half-written \(hybridrag.sqlite3-journal lies beside it\)"):
        load_index(copy)
    with closing(sqlite3.connect(copy / "hybridrag.sqlite3")) as database:  # as HybridRAG3 opens it
        database.execute("SELECT count(*) FROM chunks").fetchone()
    assert load_index(copy).load_chunks([0], [0])[0].text.startswith("The alpha document")


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
