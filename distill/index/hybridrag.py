"""The one place that knows how HybridRAG3 stores an index: hybridrag.sqlite3, embeddings.f16.dat, embeddings_meta.json.

A chunk is live when the table of chunks holds it with a text and a vector, and source_quality does not put its document into a
tier that config.yaml leaves out. Deleting a document leaves its vectors in the file, so the table decides what may be found,
never the file. Other indexes are read by the names that generate.index gives. Knows nothing of questions or embedders.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill.config import IndexSection
from distill.errors import PipelineError
from distill.files import read_json
from distill.index.database import SOURCE_TIP, has_name, list_columns, list_tables, open_database, quote_name
from distill.records import Chunk

META = "embeddings_meta.json"
FLOAT16_BYTES = 2
SHOWN_NAMES, SHOWN_TAGS = 12, 5
HYBRIDRAG3 = IndexSection()
COLUMN_KEYS = ("key", "chunk_id", "source", "text", "embedding_row")  # of generate.index
# Tables and columns that HybridRAG3 alone has; an index without them is read as well.
TEXT_LENGTH, ACCESS_TAGS = "text_length", "access_tags"
QUALITY, QUALITY_SOURCE, QUALITY_TIER = "source_quality", "source_path", "retrieval_tier"


@dataclass(frozen=True)
class Layout:
    """How one index's SQL is written: identifiers that exist, quoted; `key` may be rowid, `row` is "" without such a column."""

    table: str
    key: str
    chunk_id: str
    source: str
    text: str
    row: str
    has_text: str
    tags: str


@dataclass(frozen=True)
class Index:
    """The live chunks of an index; a chunk's position is its place in these arrays, n long, in order of embedding row.

    `rows` int64 [n]: rows of `vectors`; `keys` int64 [n]: the table's key; `source_numbers` int32 [n]: places in `sources`;
    `vectors` float16 [N, dim], mapped from disk, N >= n; `left_out`: chunks that are not live for their tier, by tier;
    `strays`: documents with a tier, where not one of them has chunks under the same path.
    """

    database: Path
    vectors: np.memmap
    rows: np.ndarray
    keys: np.ndarray
    source_numbers: np.ndarray
    sources: tuple[str, ...]
    layout: Layout
    names: IndexSection
    left_out: Mapping[str, int] = field(default_factory=dict)
    strays: int = 0

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def load_chunks(self, positions: Sequence[int], scores: Sequence[float]) -> list[Chunk]:
        """The chunks at these positions, in the given order. Raises PipelineError when one was deleted meanwhile."""
        layout, chunks = self.layout, []
        query = f"SELECT {layout.chunk_id}, {layout.source}, {layout.text} FROM {layout.table} WHERE {layout.key} = ?"
        with open_database(self.database) as database:
            for position, score in zip(positions, scores):
                found = database.execute(query, (int(self.keys[position]),)).fetchone()
                if found is None:
                    raise PipelineError(f"{self.database} changed while it was read: let HybridRAG3 finish, and run again")
                chunks.append(Chunk(*(to_text(value) for value in found), float(score)))
        return chunks


def to_text(value: object) -> str:
    """A column's value as text; NULL is empty."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)


# -----------------------------------------------------------------------------
# Opening


def load_index(folder: Path, names: IndexSection = HYBRIDRAG3) -> Index:
    """Open an index for reading. Raises PipelineError for whatever is missing, of the wrong size, or inconsistent."""
    if not folder.is_dir():
        raise PipelineError(f"generate.index_folder {folder} is missing: {SOURCE_TIP}")
    path = require_file(folder / names.database, "database")
    vectors = map_vectors(require_file(folder / names.vectors, "vectors"), require_file(folder / META))
    try:
        with open_database(path) as connection:
            layout = read_layout(connection, path, names)
            index = read_live_chunks(connection, path, names, layout, vectors)
    except sqlite3.Error as error:
        raise PipelineError(f"{path} cannot be read as an index ({error}): {SOURCE_TIP}") from None
    require_rows(index)
    return index


def list_files(folder: Path, names: IndexSection = HYBRIDRAG3) -> list[Path]:
    """The files that an index is read from; rows that are not yet in the database stand in its -wal file."""
    log = folder / f"{names.database}-wal"
    files = [folder / name for name in (names.database, names.vectors, META)]
    return [*files, *([log] if log.exists() and log.stat().st_size else [])]


def require_file(path: Path, key: str = "") -> Path:
    """Raises PipelineError when a file of the index is missing; `key` of generate.index names it."""
    if not path.is_file():
        raise PipelineError(f"{path} is missing: {SOURCE_TIP}" + (f" or generate.index.{key}" if key else ""))
    return path


def map_vectors(path: Path, meta_path: Path) -> np.memmap:
    """The vector file as float16 [N, dim] without reading it. Raises PipelineError when size and description disagree."""
    meta = read_json(meta_path)
    dim, count = (meta.get(key) if isinstance(meta, dict) else None for key in ("dim", "count"))
    if type(dim) is not int or dim < 1 or type(count) is not int:
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


def read_layout(connection: sqlite3.Connection, path: Path, names: IndexSection) -> Layout:
    """Check the configured names against the database. Raises PipelineError for one that is not there, with those that are."""
    tables = list_tables(connection)
    if not has_name(names.table, tables):
        raise PipelineError(f"generate.index.table {names.table} is not in {path}; it has {join_names(tables, 'tables')}")
    columns = list_columns(connection, names.table)
    for key in COLUMN_KEYS:
        name = getattr(names, key)
        if name and not has_name(name, columns):
            raise PipelineError(
                f"generate.index.{key} {name} is no column of {names.table} in {path}; it has {join_names(columns, 'columns')}"
            )
    table, text = quote_name(names.table), quote_name(names.text)
    length = quote_name(TEXT_LENGTH)
    return Layout(
        table, find_key(connection, path, names), quote_name(names.chunk_id), quote_name(names.source), text,
        quote_name(names.embedding_row) if names.embedding_row else "",
        # HybridRAG3's column spares reading every text; where it is NULL, the text counts as there.
        f"coalesce({length}, 1) > 0" if has_name(TEXT_LENGTH, columns) else f"coalesce({text}, '') <> ''",
        quote_name(ACCESS_TAGS) if has_name(ACCESS_TAGS, columns) else "",
    )


def join_names(names: Sequence[str], what: str) -> str:
    """The first names for an error message."""
    more = ", ..." if len(names) > SHOWN_NAMES else ""
    return f"the {what} " + ", ".join(names[:SHOWN_NAMES]) + more if names else f"no {what}"


def find_key(connection: sqlite3.Connection, path: Path, names: IndexSection) -> str:
    """The key as SQL. Raises PipelineError where there is neither a key column nor a rowid."""
    if names.key:
        return quote_name(names.key)
    try:
        connection.execute(f"SELECT rowid FROM {quote_name(names.table)} LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        raise PipelineError(
            f'generate.index.key is "", but {names.table} in {path} has no rowid: name its integer primary key'
        ) from None
    return "rowid"


# -----------------------------------------------------------------------------
# Live chunks


def read_live_chunks(
    connection: sqlite3.Connection, path: Path, names: IndexSection, layout: Layout, vectors: np.memmap
) -> Index:
    """The index as it stands now. Texts stay on disk: there may be millions."""
    rows, keys, numbers = array("q"), array("q"), array("i")
    known: dict[str, int] = {}
    tiers, left_out = read_tiers(connection, names), Counter[str]()
    if not layout.row:
        require_same_count(connection, path, names, len(vectors))
    for key, row, source in connection.execute(select_live(layout)):
        source = to_text(source)
        if source in tiers:
            left_out[tiers[source]] += 1
            continue
        try:
            keys.append(key)
            rows.append(row)
        except (TypeError, OverflowError):
            wrong = "embedding_row" if len(keys) > len(rows) else "key"
            value = row if wrong == "embedding_row" else key
            raise PipelineError(
                f"generate.index.{wrong} {getattr(names, wrong)} of {path} holds {value!r}, which is no whole number"
            ) from None
        numbers.append(known.setdefault(source, len(known)))
    found = (np.array(rows, np.int64), np.array(keys, np.int64), np.array(numbers, np.int32), tuple(known))
    strays = 0 if left_out else count_strays(connection, known)
    return Index(path, vectors, *found, layout, names, dict(left_out), strays)


def select_live(layout: Layout) -> str:
    """SQL for key, row and source of every chunk with text and vector, in order of row."""
    if layout.row:
        rows = f"SELECT {layout.key}, {layout.row}, {layout.source} FROM {layout.table}"
        return f"{rows} WHERE {layout.row} IS NOT NULL AND {layout.has_text} ORDER BY {layout.row}, {layout.key}"
    numbered = f"row_number() OVER (ORDER BY {layout.key}) - 1"
    every = f"SELECT {layout.key} AS k, {numbered} AS r, {layout.source} AS s, {layout.has_text} AS live FROM {layout.table}"
    return f"SELECT k, r, s FROM ({every}) WHERE live ORDER BY r"


def read_tiers(connection: sqlite3.Connection, names: IndexSection) -> dict[str, str]:
    """The tier of each source whose tier is not in use. Sources without a tier are in use, and so is all without the table."""
    if not has_tiers(connection):
        return {}
    marks = ", ".join("?" * len(names.tiers))
    query = f"SELECT {QUALITY_SOURCE}, {QUALITY_TIER} FROM {QUALITY} WHERE {QUALITY_TIER} NOT IN ({marks})"
    return {to_text(source): to_text(tier) for source, tier in connection.execute(query, names.tiers)}


def has_tiers(connection: sqlite3.Connection) -> bool:
    """Whether the index has HybridRAG3's table of tiers."""
    columns = list_columns(connection, QUALITY)
    return has_name(QUALITY_SOURCE, columns) and has_name(QUALITY_TIER, columns)


def count_strays(connection: sqlite3.Connection, sources: Collection[str]) -> int:
    """How many documents have a tier, where none of them is one of `sources`; else 0."""
    if not has_tiers(connection):
        return 0
    tiered = {to_text(source) for source, in connection.execute(f"SELECT {QUALITY_SOURCE} FROM {QUALITY}")}
    return len(tiered) if tiered.isdisjoint(sources) else 0


def require_same_count(connection: sqlite3.Connection, path: Path, names: IndexSection, vectors: int) -> None:
    """Without a column of rows, the n-th chunk has the n-th vector. Raises PipelineError where the counts say otherwise."""
    chunks = connection.execute(f"SELECT count(*) FROM {quote_name(names.table)}").fetchone()[0]
    if chunks != vectors:
        raise PipelineError(
            f"{path} has {chunks:,} chunks but {names.vectors} has {vectors:,} vectors: which belongs to which is not known; "
            f"name the column in generate.index.embedding_row, or index the documents again"
        )


def require_rows(index: Index) -> None:
    """Raises PipelineError for an index without live chunks, rows beyond the file, and rows or keys that two chunks share."""
    rows, path, vectors, tip = index.rows, index.database, index.names.vectors, "index the documents again"
    if not len(rows):
        tiers = f"generate.index.tiers leaves all of them out ({describe_tiers(index)})"
        raise PipelineError(f"{path} holds no chunk with a vector: {tiers if index.left_out else SOURCE_TIP}")
    if rows[0] < 0 or rows[-1] >= len(index.vectors):
        wrong = int(rows[0] if rows[0] < 0 else rows[-1])
        raise PipelineError(f"{path} names vector row {wrong}, but {vectors} has {len(index.vectors)}: {tip}")
    if len(again := rows[1:][rows[1:] == rows[:-1]]):
        raise PipelineError(f"{path} gives vector row {again[0]} to two chunks ({len(again):,} such rows): {tip}")
    if len(np.unique(index.keys)) < len(index.keys):
        raise PipelineError(f"generate.index.key {index.names.key} is not unique in {path}: name the table's primary key")


# -----------------------------------------------------------------------------
# What a user should know about the chunks


def warn_of_tiers(index: Index) -> None:
    """Say how many chunks are not used because of their document's tier, and when no tier could be honoured."""
    if index.strays:
        print(
            f"[WARN] {QUALITY} holds tiers for {index.strays:,} documents, but none has chunks under the same path (capitals "
            "and slashes count): generate.index.tiers has no effect, suspect documents may be used"
        )
    if index.left_out:
        used = ", ".join(index.names.tiers)
        print(f"[WARN] {describe_tiers(index)} chunks are not used: generate.index.tiers has {used} alone")


def describe_tiers(index: Index) -> str:
    """Counts by tier, such as "12 suspect"."""
    return ", ".join(f"{count:,} {tier or 'untitled'}" for tier, count in Counter(index.left_out).most_common(SHOWN_NAMES))


def warn_of_access_tags(index: Index) -> None:
    """HybridRAG3 shows some chunks to some users only; here all are used. Indexes of February 2026 have no such column."""
    layout = index.layout
    if not layout.tags:
        return
    query = f"SELECT {layout.key}, {layout.tags} FROM {layout.table} WHERE coalesce({layout.tags}, '') NOT IN ('', 'shared')"
    with open_database(index.database) as database:
        tagged = {key: to_text(tags) for key, tags in database.execute(query)}
    live = set(tagged).intersection(index.keys.tolist()) if tagged else ()
    found = sorted(Counter(tagged[key] for key in live).items(), key=lambda pair: (-pair[1], pair[0]))
    if found:
        tags = ", ".join(f"{count:,} {tag}" for tag, count in found[:SHOWN_TAGS]) + (", ..." if found[SHOWN_TAGS:] else "")
        print(f"[WARN] {len(live):,} chunks are not tagged shared ({tags}): access_tags are ignored, these chunks are used too")
