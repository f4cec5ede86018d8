"""SQLite, read only: an index is never written, whatever folder it lies in and whoever writes it meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from distill.errors import PipelineError

SOURCE_TIP = "index the documents with HybridRAG3, or mend generate.index_folder"
IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write.

    Raises PipelineError when the file cannot be opened, is no database, or is locked by its writer, now or while it is read.
    """
    connection = connect(path, "mode=ro") or connect_immutable(path)
    # Text out of a damaged PDF may be no UTF-8: a chunk with a strange sign is better than a traceback.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    try:
        yield connection
    except sqlite3.OperationalError as error:
        require_unlocked(path, error)
        raise
    finally:
        connection.close()


def connect(path: Path, options: str) -> sqlite3.Connection | None:
    """A connection that was tried out, or None when SQLite cannot open the file this way. A lock is waited for, 5 s."""
    connection = sqlite3.connect(f"{to_uri(path)}?{options}", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        require_unlocked(path, error)
        return None
    except sqlite3.DatabaseError as error:
        connection.close()
        raise PipelineError(f"{path} is not a SQLite database ({error}): {SOURCE_TIP}") from None
    return connection


def require_unlocked(path: Path, error: sqlite3.OperationalError) -> None:
    """Raises PipelineError for the error of a locked database; its extended codes hold the plain one in their low byte."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in IN_USE:
        raise PipelineError(f"{path} is being written: let HybridRAG3 finish, and run again") from None


def connect_immutable(path: Path) -> sqlite3.Connection:
    """For a read-only folder: there SQLite cannot make the -shm file that the index's WAL mode wants.

    Only without a -wal or -journal file that holds something: immutable=1 would miss the rows of the one, and read rows that
    were never committed beside the other.
    """
    log, journal = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    if log.exists() and log.stat().st_size:
        raise PipelineError(f"{path} has a {log.name} that cannot be read here: copy the folder to where you may write")
    if journal.exists() and journal.stat().st_size:
        raise PipelineError(
            f"{path} is half-written ({journal.name} lies beside it): let HybridRAG3 finish; if it was ended, start it once "
            "more, which mends the file"
        )
    connection = connect(path, "mode=ro&immutable=1")
    if connection is None:
        raise PipelineError(f"{path} cannot be opened: check that you may read it")
    return connection


def to_uri(path: Path) -> str:
    """A file URI as SQLite wants it; a network share keeps its two slashes after an empty host."""
    name = quote(path.resolve().as_posix(), safe="/:")
    return f"file://{name}" if name.startswith("/") else f"file:///{name}"


# -----------------------------------------------------------------------------
# Names


def quote_name(name: str) -> str:
    """A table's or column's name as an SQL identifier, whatever signs are in it."""
    return '"' + name.replace('"', '""') + '"'


def list_tables(connection: sqlite3.Connection) -> list[str]:
    """Tables and views, without those that SQLite and FTS5 keep for themselves."""
    query = "SELECT name, sql LIKE 'CREATE VIRTUAL%' FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
    found = [(name, is_virtual) for name, is_virtual in connection.execute(query) if not name.startswith("sqlite_")]
    shadows = tuple(f"{name}_" for name, is_virtual in found if is_virtual)
    return [name for name, is_virtual in found if is_virtual or not name.startswith(shadows)]


def list_columns(connection: sqlite3.Connection, table: str) -> list[str]:
    """A table's columns; none for a table that is not there."""
    return [row[1] for row in connection.execute(f"PRAGMA table_info({quote_name(table)})")]


def has_name(name: str, names: list[str]) -> bool:
    """Whether SQLite would find a name among these: letter case does not count."""
    return name.lower() in [each.lower() for each in names]
