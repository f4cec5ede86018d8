"""Build an index as HybridRAG3 writes it: hybridrag.sqlite3, embeddings.f16.dat and embeddings_meta.json in one folder."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path, PureWindowsPath

import numpy as np

from distill.files import write_json_atomic

# HybridRAG3's own tables and indexes, so that whatever reads its index reads this one.
SCHEMA = """
CREATE TABLE index_runs (
    run_id TEXT PRIMARY KEY, start_time TEXT NOT NULL, end_time TEXT, status TEXT NOT NULL DEFAULT 'running',
    source_folder TEXT, files_scanned INTEGER DEFAULT 0, files_indexed INTEGER DEFAULT 0, files_skipped INTEGER DEFAULT 0,
    chunks_added INTEGER DEFAULT 0, errors_count INTEGER DEFAULT 0, elapsed_seconds REAL DEFAULT 0, error_message TEXT
);
CREATE TABLE chunks (
    chunk_pk INTEGER PRIMARY KEY AUTOINCREMENT, chunk_id TEXT UNIQUE, source_path TEXT NOT NULL, chunk_index INTEGER,
    text TEXT, text_length INTEGER, created_at TEXT, embedding_row INTEGER, file_hash TEXT DEFAULT '',
    access_tags TEXT DEFAULT 'shared', access_tag_source TEXT DEFAULT 'default_document_tags'
);
CREATE TABLE source_quality (
    source_path TEXT PRIMARY KEY, source_type TEXT NOT NULL DEFAULT '', retrieval_tier TEXT NOT NULL DEFAULT 'serve',
    quality_score REAL NOT NULL DEFAULT 0.0, is_html_capture INTEGER NOT NULL DEFAULT 0,
    is_saved_resource INTEGER NOT NULL DEFAULT 0, is_boilerplate INTEGER NOT NULL DEFAULT 0,
    has_missing_path INTEGER NOT NULL DEFAULT 0, has_encoded_blob INTEGER NOT NULL DEFAULT 0,
    flags_json TEXT NOT NULL DEFAULT '[]', updated_at TEXT NOT NULL DEFAULT ''
);
CREATE INDEX idx_chunks_source ON chunks(source_path);
CREATE INDEX idx_chunks_emb_row ON chunks(embedding_row);
CREATE INDEX idx_source_quality_tier ON source_quality(retrieval_tier);
CREATE VIRTUAL TABLE chunks_fts USING fts5(
    text, content='chunks', content_rowid='chunk_pk', tokenize='porter unicode61'
);
"""


def build_index(
    folder: Path,
    documents: Sequence[tuple[str, str]],
    embed: Callable[[list[str]], np.ndarray],
    chunk_characters: int = 1200,
    overlap: int = 200,
) -> None:
    """Write a new index of `documents`, (source_path, text) each, into `folder`; an index that stands there is replaced.

    `embed` maps n texts to normalised vectors [n, dim].
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("hybridrag.sqlite3*"):
        old.unlink()
    chunks = [
        (source, number, text)
        for source, document in documents
        for number, text in enumerate(cut_chunks(document, chunk_characters, overlap))
    ]
    write_database(folder / "hybridrag.sqlite3", chunks)
    write_vectors(folder, embed([text for _, _, text in chunks]))


def cut_chunks(text: str, chunk_characters: int, overlap: int) -> list[str]:
    """Pieces of at most `chunk_characters`; each begins up to `overlap` characters before the end of the one before."""
    text, pieces, start = text.strip(), [], 0
    while start < len(text):
        end = find_cut(text, start, chunk_characters)
        pieces.append(text[start:end].strip())
        if end == len(text):
            break
        start = max(end - overlap, start + 1)
    return [piece for piece in pieces if piece]


def find_cut(text: str, start: int, chunk_characters: int) -> int:
    """Where a piece ends: at a paragraph, line, sentence or word in its second half, in this order of preference."""
    end = start + chunk_characters
    if end >= len(text):
        return len(text)
    for mark in ("\n\n", "\n", ". ", " "):
        found = text.rfind(mark, start + chunk_characters // 2, end)
        if found > 0:
            return found + len(mark)
    return end


def write_database(path: Path, chunks: Sequence[tuple[str, int, str]]) -> None:
    """Chunks are (source_path, chunk_index, text); their vectors' rows are their positions."""
    now = datetime.now(timezone.utc).isoformat()
    sources = sorted({source for source, _, _ in chunks})
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(SCHEMA)
        database.executemany(
            "INSERT INTO chunks (chunk_id, source_path, chunk_index, text, text_length, created_at, embedding_row)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (hashlib.sha256(f"{source}|{number}".encode()).hexdigest(), source, number, text, len(text), now, row)
                for row, (source, number, text) in enumerate(chunks)
            ],
        )
        database.execute("INSERT INTO chunks_fts (rowid, text) SELECT chunk_pk, text FROM chunks")
        database.executemany(
            "INSERT INTO source_quality (source_path, source_type, quality_score, updated_at) VALUES (?, ?, 0.9, ?)",
            [(source, PureWindowsPath(source).suffix.lstrip("."), now) for source in sources],
        )
        database.execute(
            "INSERT INTO index_runs (run_id, start_time, end_time, status, files_indexed, chunks_added)"
            " VALUES (?, ?, ?, 'completed', ?, ?)",
            (now, now, now, len(sources), len(chunks)),
        )
        database.commit()


def write_vectors(folder: Path, vectors: np.ndarray) -> None:
    """Headerless float16 [n, dim] and its description; embedding_model stays empty, as HybridRAG3's indexer leaves it."""
    vectors = np.asarray(vectors, dtype=np.float16)
    (folder / "embeddings.f16.dat").write_bytes(vectors.tobytes())
    meta = {"dim": vectors.shape[1], "count": vectors.shape[0], "dtype": "float16", "embedding_model": ""}
    write_json_atomic(folder / "embeddings_meta.json", meta)
