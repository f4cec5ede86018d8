"""BM25 over an index's own FTS5 table, for all questions together.

BM25 is a sum over a question's words, so each distinct word is asked for once, with FTS5's own bm25(), and a question's scores
are added up here: the same figures as one MATCH of all its words joined by OR, in a fraction of the time for many questions.
(Threads with a connection each do not help: every row that SQLite returns needs Python's lock.)
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from distill.errors import PipelineError
from distill.index.database import has_name, list_tables, open_database, quote_name
from distill.index.hybridrag import Index, join_names

# Letters and digits, and every sign of other scripts: FTS5's tokenizer decides what of those is a word. Halves of surrogate
# pairs cannot be sent to SQLite.
LETTERS = "[0-9A-Za-z\u00c0-\u1fff\u2c00-\ud7ff\uf900-\U0010ffff]+"
COMPOUND = re.compile(f"{LETTERS}(?:[-._/]{LETTERS})*")
WORD = re.compile(LETTERS)
SHORTEST_WORD = 2
# FTS5 gives a word that stands in half of the chunks or more an idf of 1e-6, where rare ones have 5 to 14.
WEIGHTLESS = 1e-5
POSTINGS_AT_ONCE = 60_000_000  # 480 MB
GROUP = 64
SAMPLE, SAMPLE_WORDS = 8, 10
ADVICE = "or set  generate.retrieval: vector"


@dataclass(frozen=True)
class Ranking:
    """The best chunks for one question, best first, equal scores in order of position: int64 [n], and BM25 float32 [n]."""

    positions: np.ndarray
    scores: np.ndarray


def rank_keywords(index: Index, questions: Sequence[str], masks: Sequence[np.ndarray], depth: int) -> list[list[Ranking]]:
    """For each mask (bool [n]) and each question, at most `depth` chunks that hold one of its words.

    Raises PipelineError without an FTS5 table over these very chunks.
    """
    terms = [list_terms(question) for question in questions]
    found: list[list[Ranking]] = [[] for _ in masks]
    try:
        with open_database(index.database) as connection:
            table = FullText(connection, index)
            counts = table.count_terms({term for each in terms for term in each})
            wanted = [choose_terms(each, counts) for each in terms]
            for first, last in make_batches(wanted, counts):
                postings = {term: table.load_posting(term) for term in {term for each in wanted[first:last] for term in each}}
                for each in wanted[first:last]:
                    scores = add_up(len(index), [postings[term] for term in each])
                    for rankings, mask in zip(found, masks):
                        rankings.append(take_best(scores, mask, depth))
    except sqlite3.Error as error:
        reason = f"generate.index.fts_table {index.names.fts_table} cannot be searched ({error})"
        raise PipelineError(f"{reason}: name an FTS5 table, {ADVICE}") from None
    return found


def list_terms(question: str) -> list[str]:
    """What to look for, each once: words of 2 or more signs, and compounds such as MIL-STD-1553 whole as well as in parts."""
    terms: dict[str, None] = {}
    for compound in COMPOUND.findall(question.lower()):
        for term in (compound, *WORD.findall(compound)):
            if len(term) >= SHORTEST_WORD:
                terms[term] = None
    return list(terms)


def quote_term(term: str) -> str:
    """A term as an FTS5 string: nothing in it means anything to FTS5, and a compound is a phrase."""
    return '"' + term.replace('"', '""') + '"'


# -----------------------------------------------------------------------------
# The FTS5 table


@dataclass(frozen=True)
class Count:
    """How many chunks hold a term, and whether that says anything about them."""

    chunks: int
    weightless: bool


class FullText:
    """An open FTS5 table, and the positions of its rows. Raises PipelineError where it is not there or not of these chunks."""

    def __init__(self, connection: sqlite3.Connection, index: Index) -> None:
        require_table(connection, index)
        self._connection, self._table = connection, quote_name(index.names.fts_table)
        self._bm25 = f"-bm25({self._table})"  # FTS5's own figure is the negative, so that ORDER BY puts the best first
        self._order = np.argsort(index.keys)
        self._keys = index.keys[self._order]
        self._require_same_chunks(index)

    def count_terms(self, terms: set[str]) -> dict[str, Count]:
        """Counts of the terms that are in the table at all."""
        counted = ((term, self._ask("count(*)", term)) for term in terms)
        return {term: Count(count, self._ask(self._bm25, term) < WEIGHTLESS) for term, count in counted if count}

    def load_posting(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        """The live chunks that hold a term: positions int32 [n], and what the term adds to their BM25, float32 [n]."""
        query = f"SELECT rowid, {self._bm25} FROM {self._table} WHERE {self._table} MATCH ?"
        found = np.fromiter(self._connection.execute(query, (quote_term(term),)), [("key", np.int64), ("weight", np.float64)])
        places = np.minimum(np.searchsorted(self._keys, found["key"]), len(self._keys) - 1)
        live = self._keys[places] == found["key"]
        return self._order[places[live]].astype(np.int32), found["weight"][live].astype(np.float32)

    def _ask(self, what: str, term: str) -> float:
        query = f"SELECT {what} FROM {self._table} WHERE {self._table} MATCH ? LIMIT 1"
        return self._connection.execute(query, (quote_term(term),)).fetchone()[0]

    def _require_same_chunks(self, index: Index) -> None:
        """The table's rowid must be the chunk's key, or every hit would be another chunk than the one found."""
        positions = np.unique(np.linspace(0, len(index) - 1, SAMPLE).astype(int))
        texts = [chunk.text for chunk in index.load_chunks(positions, [0.0] * len(positions))]
        words = [[term for term in list_terms(text) if WORD.fullmatch(term)][:SAMPLE_WORDS] for text in texts]
        query = f"SELECT count(*) FROM {self._table} WHERE {self._table} MATCH ? AND rowid = ?"
        keys = index.keys[positions].tolist()
        pairs = [(" ".join(map(quote_term, each)), key) for each, key in zip(words, keys) if each]
        found = sum(self._connection.execute(query, pair).fetchone()[0] for pair in pairs)
        if found < len(pairs) / 2:
            raise PipelineError(
                f"generate.index.fts_table {index.names.fts_table} finds {found} of {len(pairs)} sampled chunks by their own "
                f"words: it is not filled, or its rowid is not generate.index.key; index the documents again, {ADVICE}"
            )


def require_table(connection: sqlite3.Connection, index: Index) -> None:
    """Raises PipelineError when the FTS table that hybrid and keyword search need is not there."""
    name = index.names.fts_table
    if not name:
        raise PipelineError(f'generate.index.fts_table is "", but hybrid and keyword search need one: name it, {ADVICE}')
    tables = list_tables(connection)
    if not has_name(name, tables):
        place = f"is not in {index.database}, which has {join_names(tables, 'tables')}"
        raise PipelineError(f"generate.index.fts_table {name} {place}: name the FTS5 table, {ADVICE}")


# -----------------------------------------------------------------------------
# Adding up


def choose_terms(terms: Sequence[str], counts: dict[str, Count]) -> list[str]:
    """The terms that weigh something; where all are in half of the chunks or more, those must do."""
    known = [term for term in terms if term in counts]
    return [term for term in known if not counts[term].weightless] or known


def make_batches(wanted: Sequence[Sequence[str]], counts: dict[str, Count]) -> Iterator[tuple[int, int]]:
    """Runs of questions, first to last, whose terms together have at most POSTINGS_AT_ONCE postings, or of one question."""
    first, held, total = 0, set[str](), 0
    for number, terms in enumerate(wanted):
        fresh = sum(counts[term].chunks for term in terms if term not in held)
        if number > first and total + fresh > POSTINGS_AT_ONCE:
            yield first, number
            first, held, total = number, set(), 0
            fresh = sum(counts[term].chunks for term in terms)
        held.update(terms)
        total += fresh
    if wanted:
        yield first, len(wanted)


def add_up(size: int, postings: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """BM25 of every chunk: float32 [size filled up to whole groups]. The order of adding is the question's, so copies tie."""
    scores = np.zeros(-(-size // GROUP) * GROUP, np.float32)
    for positions, weights in postings:
        scores[positions] += weights
    return scores


def take_best(scores: np.ndarray, mask: np.ndarray, depth: int) -> Ranking:
    """The best `depth` chunks of a mask that have any score. Looks at groups first: that spares sorting a million scores."""
    allowed = scores.copy()
    allowed[: len(mask)] *= mask
    peaks = allowed.reshape(-1, GROUP).max(axis=1)
    floor = np.partition(peaks, -depth)[-depth] if len(peaks) > depth else 0
    found = np.flatnonzero(allowed >= max(floor, np.finfo(np.float32).tiny))
    best = found[np.lexsort((found, -allowed[found]))[:depth]]
    return Ranking(best, allowed[best])
