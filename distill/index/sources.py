"""Which document a passage of text comes from: for recorded prompts, where most chunks stand without their document."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

from distill.config import IndexSection
from distill.errors import PipelineError
from distill.index.database import has_name, list_tables, open_database, quote_name
from distill.index.hybridrag import require_file
from distill.prompts import normalise

WORD = re.compile(r"\w+")
PHRASE_WORDS = 16
MOST_CHUNKS = 50


def make_document_finder(folder: Path, names: IndexSection) -> Callable[[str], str]:
    """A function from a chunk's text, or a piece of it, to the path of its document: "" for none, or for several.

    Raises PipelineError when the index is not there, or has no FTS table to look in.
    """
    path = require_file(folder / names.database, "database")
    with open_database(path) as connection:
        if not names.fts_table or not has_name(names.fts_table, list_tables(connection)):
            raise PipelineError(f"{path} has no table generate.index.fts_table {names.fts_table!r}: texts cannot be looked up")

    def find_document(text: str) -> str:
        try:
            with open_database(path) as connection:
                sources = find_sources(connection, names, text)
        except sqlite3.Error as error:
            raise PipelineError(f"{path} cannot be searched for a chunk's text: {error}") from None
        return sources.pop() if len(sources) == 1 else ""

    return find_document


def find_sources(connection: sqlite3.Connection, names: IndexSection, text: str) -> set[str]:
    """The documents of every chunk that holds `text`; spacing and case do not matter."""
    words = WORD.findall(text)[:PHRASE_WORDS]
    if not words:
        return set()
    table, fts = quote_name(names.table), quote_name(names.fts_table)
    key = quote_name(names.key) if names.key else "rowid"
    found = list(connection.execute(
        f"SELECT t.{quote_name(names.source)}, t.{quote_name(names.text)} FROM {fts} JOIN {table} AS t ON t.{key} = {fts}.rowid"
        f" WHERE {fts} MATCH ? LIMIT {MOST_CHUNKS}",
        (f'"{" ".join(words)}"',),
    ))
    wanted = normalise(text)
    held = {str(source) for source, chunk in found if wanted in normalise(str(chunk))}
    return held if len(found) < MOST_CHUNKS else set()  # a beginning that stands everywhere tells nothing
