"""The one place that knows how HybridRAG3 stores an index: hybridrag.sqlite3, embeddings.f16.dat, embeddings_meta.json.

A chunk is live when the table `chunks` holds it. Deleting a document leaves its vectors in the file, so the table decides what
may be found, never the file. Knows nothing of questions or embedders.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from distill.errors import PipelineError
from distill.files import read_json
from distill.records import Chunk

DATABASE, VECTORS, META = "hybridrag.sqlite3", "embeddings.f16.dat", "embeddings_meta.json"
FLOAT16_BYTES = 2
LIVE = "embedding_row IS NOT NULL AND coalesce(text_length, 1) > 0"
SHOWN_TAGS = 5
SOURCE_TIP = "index the documents with HybridRAG3, or mend generate.index_folder"


@dataclass(frozen=True)
class Index:
    """The live chunks of an index; a chunk's position is its place in these arrays, n long, in order of embedding row.

    `rows` int64 [n]: rows of `vectors`; `keys` int64 [n]: chunk_pk; `source_numbers` int32 [n]: places in `sources`;
    `vectors` float16 [N, dim], mapped from disk, N >= n.
    """

    database: Path
    vectors: np.memmap
    rows: np.ndarray
    keys: np.ndarray
    source_numbers: np.ndarray
    sources: tuple[str, ...]

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def load_chunks(self, positions: Sequence[int], scores: Sequence[float]) -> list[Chunk]:
        """The chunks at these positions, in the given order. Raises PipelineError when one was deleted meanwhile."""
        chunks = []
        with open_database(self.database) as database:
            for position, score in zip(positions, scores):
                query = "SELECT chunk_id, source_path, text FROM chunks WHERE chunk_pk = ?"
                found = database.execute(query, (int(self.keys[position]),)).fetchone()
                if found is None:
                    raise PipelineError(f"{self.database} changed while it was read: let HybridRAG3 finish, and run again")
                chunks.append(Chunk(str(found[0]), found[1], found[2] or "", float(score)))
        return chunks


def load_index(folder: Path) -> Index:
    """Open an index for reading. Raises PipelineError for whatever is missing, of the wrong size, or inconsistent."""
    if not folder.is_dir():
        raise PipelineError(f"generate.index_folder {folder} is missing: {SOURCE_TIP}")
    database = require_file(folder / DATABASE)
    vectors = map_vectors(require_file(folder / VECTORS), require_file(folder / META))
    with open_database(database) as connection:
        rows, keys, source_numbers, sources = read_live_chunks(connection, database)
    if not len(rows):
        raise PipelineError(f"{database} holds no chunk with a vector: {SOURCE_TIP}")
    if rows[0] < 0 or rows[-1] >= len(vectors):
        wrong = int(rows[0] if rows[0] < 0 else rows[-1])
        raise PipelineError(f"{database} names vector row {wrong}, but {VECTORS} has {len(vectors)}: index the documents again")
    return Index(database, vectors, rows, keys, source_numbers, sources)


def list_files(folder: Path) -> list[Path]:
    """The files that an index is read from; rows that are not yet in the database stand in its -wal file."""
    log = folder / f"{DATABASE}-wal"
    return [*(folder / name for name in (DATABASE, VECTORS, META)), *([log] if log.exists() and log.stat().st_size else [])]


def require_file(path: Path) -> Path:
    """Raises PipelineError when a file of the index is missing."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: {SOURCE_TIP}")
    return path


def map_vectors(path: Path, meta_path: Path) -> np.memmap:
    """The vector file as float16 [N, dim] without reading it. Raises PipelineError when size and description disagree."""
    meta = read_json(meta_path)
    dim, count = (meta.get(key) if isinstance(meta, dict) else None for key in ("dim", "count"))
    if not isinstance(dim, int) or dim < 1 or not isinstance(count, int):
        raise PipelineError(f"{meta_path} must hold whole numbers dim and count: index the documents again")
    if meta.get("dtype", "float16") != "float16":
        raise PipelineError(f"{meta_path} says dtype {meta['dtype']}, but only float16 vectors can be read")
    size = path.stat().st_size
    total, rest = divmod(size, dim * FLOAT16_BYTES)
    # HybridRAG3 appends vectors before it writes the count, so that a file may be longer than its description.
    if rest or total < count or not total:
        raise PipelineError(
            f"{path} has {size} bytes, which is not {count} vectors of {dim} float16 as {META} says: index the documents again"
        )
    return np.memmap(path, dtype=np.float16, mode="r", shape=(total, dim))


def read_live_chunks(connection: sqlite3.Connection, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """rows, keys, source numbers and sources of `Index`. Texts stay on disk: an index may hold millions."""
    rows, keys, numbers = array("q"), array("q"), array("i")
    known: dict[str, int] = {}
    try:
        for key, row, source in connection.execute(
            "SELECT chunk_pk, embedding_row, source_path FROM chunks"
            f" WHERE {LIVE} ORDER BY embedding_row, chunk_pk"
        ):
            keys.append(key)
            rows.append(row)
            numbers.append(known.setdefault(source, len(known)))
    except sqlite3.Error as error:
        raise PipelineError(f"{path} is not an index of HybridRAG3 ({error}): {SOURCE_TIP}") from None
    return np.array(rows, np.int64), np.array(keys, np.int64), np.array(numbers, np.int32), tuple(known)


def warn_of_access_tags(index: Index) -> None:
    """HybridRAG3 shows some chunks to some users only; here all are used. Indexes of February 2026 have no such column."""
    with open_database(index.database) as database:
        if "access_tags" not in [column[1] for column in database.execute("PRAGMA table_info(chunks)")]:
            return
        found = database.execute(
            f"SELECT access_tags, count(*) FROM chunks WHERE {LIVE} AND coalesce(access_tags, '') NOT IN ('', 'shared')"
            " GROUP BY access_tags ORDER BY 2 DESC, 1"
        ).fetchall()
    if found:
        tags = ", ".join(f"{count:,} {tag}" for tag, count in found[:SHOWN_TAGS]) + (", ..." if found[SHOWN_TAGS:] else "")
        total = sum(count for _, count in found)
        print(f"[WARN] {total:,} chunks are not tagged shared ({tags}): access_tags are ignored, these chunks are used too")


# -----------------------------------------------------------------------------
# SQLite, read only


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write. Raises PipelineError when the file cannot be opened or is no database."""
    connection = connect(path, "mode=ro") or connect_immutable(path)
    try:
        yield connection
    finally:
        connection.close()


def connect(path: Path, options: str) -> sqlite3.Connection | None:
    """A connection that was tried out, or None when SQLite cannot open the file this way."""
    connection = sqlite3.connect(f"{to_uri(path)}?{options}", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        return None
    except sqlite3.DatabaseError as error:
        connection.close()
        raise PipelineError(f"{path} is not a SQLite database ({error}): {SOURCE_TIP}") from None
    return connection


def connect_immutable(path: Path) -> sqlite3.Connection:
    """For a read-only folder: there SQLite cannot make the -shm file that the index's WAL mode wants.

    Only without a -wal file that holds something: immutable=1 would miss the rows in it.
    """
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise PipelineError(f"{path} has a {log.name} that cannot be read here: copy the folder to where you may write")
    connection = connect(path, "mode=ro&immutable=1")
    if connection is None:
        raise PipelineError(f"{path} cannot be opened: check that you may read it")
    return connection


def to_uri(path: Path) -> str:
    """A file URI as SQLite wants it; a network share keeps its two slashes after an empty host."""
    name = quote(path.resolve().as_posix(), safe="/:")
    return f"file://{name}" if name.startswith("/") else f"file:///{name}"
