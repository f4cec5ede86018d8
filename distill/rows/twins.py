"""Which documents of an index repeat one another: revisions, copies in other folders, excerpts. Such a group is never split.

A document is the set of its runs of WORDS_IN_RUN words, wherever its lines and chunks end. Each run is a number. Of very many
runs, those that a power of two divides stand for all: a run is kept or dropped in all documents alike (Broder 1997, "On the
resemblance and containment of documents"). Words are what blanks and ASCII signs part, in lower case.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple
from zlib import crc32

import numpy as np

from distill.curation.duplicates import Groups
from distill.errors import PipelineError
from distill.index.database import SOURCE_TIP, open_database
from distill.index.hybridrag import Index, to_text

WORDS_IN_RUN = 8
MOST_RUNS = 16_000_000  # kept of a whole index, 12 bytes each; 1.6 million chunks then have six each
BATCH = 1000  # chunks

SHARE = 0.25  # of the runs of the document that has fewer
FEWEST_SHARED = 3  # runs
# A run in more documents is boilerplate, such as a notice on every cover: it tells nothing about two of them. That is more than
# MOST_DOCUMENTS, in a small index more than a quarter of all, but never as few as FEWEST_DOCUMENTS.
MOST_DOCUMENTS, FEWEST_DOCUMENTS = 20, 4
# But documents that are nearly the same throughout are copies or editions, however many there are.
NEARLY_ALL = 0.8
# A document is compared with the next few that hold the same run: each with each would be millions of pairs for a notice.
NEIGHBOURS = 8

LETTERS = bytes(code if code > 127 or chr(code).isalnum() else 32 for code in range(256))
# Powers of an odd number (Knuth's multiplicative hashing, modulo 2^64): the order of the words counts.
MULTIPLIERS = np.array([pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, WORDS_IN_RUN + 1)], np.uint64)


def group_twins(index: Index) -> dict[str, str]:
    """For each source of the index the name of its group, which is the group's smallest path; most are alone in theirs.

    Two documents are of one group when they share SHARE of the runs of the one with fewer, boilerplate aside, or NEARLY_ALL of
    the one with more; also through others. Reads every live text once. Raises PipelineError when the database cannot be read.
    """
    groups = Groups(len(index.sources))
    for first, second in find_twins(collect_runs(read_texts(index)), len(index.sources)):
        groups.join(first, second)
    names: dict[int, str] = {}
    for number, source in enumerate(index.sources):
        group = groups.find(number)
        names[group] = min(names.get(group, source), source)
    return {source: names[groups.find(number)] for number, source in enumerate(index.sources)}


def describe_twins(groups: Mapping[str, str]) -> str | None:
    """What group_twins found, in one line for the console; None where no document repeats another."""
    sizes = [size for size in Counter(groups.values()).values() if size > 1]
    if not sizes:
        return None
    return f"[OK] {sum(sizes)} documents repeat others, in {len(sizes)} group(s): each group stays on one side"


# -----------------------------------------------------------------------------
# Runs of words


class Runs(NamedTuple):
    """Runs as `numbers`, uint64 [r], and in which of the documents each stands, int32 [r]."""

    numbers: np.ndarray
    documents: np.ndarray


def read_texts(index: Index) -> Iterator[tuple[int, str]]:
    """The source's number and the text of every live chunk, in the order of the file."""
    sources = dict(zip(index.keys.tolist(), index.source_numbers.tolist()))
    layout = index.layout
    try:
        with open_database(index.database) as database:
            for key, text in database.execute(f"SELECT {layout.key}, {layout.text} FROM {layout.table}"):
                if key in sources:
                    yield sources[key], to_text(text)
    except sqlite3.Error as error:
        raise PipelineError(f"{index.database} cannot be read as an index ({error}): {SOURCE_TIP}") from None


def collect_runs(texts: Iterable[tuple[int, str]]) -> Runs:
    """Of (document, text) the runs that stand for all, at most MOST_RUNS: those that a power of two divides."""
    parts: list[Runs] = []
    texts, kept, every = iter(texts), 0, 1
    while batch := list(islice(texts, BATCH)):
        parts.append(choose_runs(hash_batch(batch), every))
        kept += len(parts[-1].numbers)
        while kept > MOST_RUNS:
            every *= 2
            parts = [choose_runs(part, every) for part in parts]
            kept = sum(len(part.numbers) for part in parts)
    return sort_runs(Runs(*(np.concatenate(arrays) for arrays in zip(*parts))))


def choose_runs(runs: Runs, every: int) -> Runs:
    """The runs whose number `every` divides."""
    chosen = runs.numbers % every == 0
    return Runs(runs.numbers[chosen], runs.documents[chosen])


def sort_runs(runs: Runs) -> Runs:
    """By number, then document; a run that a document has twice becomes one."""
    order = np.lexsort((runs.documents, runs.numbers))
    numbers, documents = runs.numbers[order], runs.documents[order]
    fresh = np.append(True, (numbers[1:] != numbers[:-1]) | (documents[1:] != documents[:-1]))[: len(numbers)]
    return Runs(numbers[fresh], documents[fresh])


def hash_batch(batch: Sequence[tuple[int, str]]) -> Runs:
    """All runs of some texts."""
    found = [hash_runs(text) for _, text in batch]
    documents = np.array([document for document, _ in batch], np.int32)
    return Runs(np.concatenate(found), np.repeat(documents, [len(each) for each in found]))


def hash_runs(text: str) -> np.ndarray:
    """Each run of WORDS_IN_RUN words as a number, uint64; a shorter text is one run, one without words none."""
    words = text.lower().encode().translate(LETTERS).split()
    numbers = np.fromiter(map(crc32, words), np.uint64, len(words))
    return np.convolve(numbers, MULTIPLIERS[: len(words)], "valid") if words else numbers


# -----------------------------------------------------------------------------
# Pairs of documents


def find_twins(runs: Runs, documents: int) -> list[tuple[int, int]]:
    """The pairs, among `documents`, that share enough; a pair that others link may be missing. `runs` as from collect_runs."""
    rare = count_documents(runs.numbers) <= min(MOST_DOCUMENTS, max(FEWEST_DOCUMENTS, documents // 4))
    whole = np.bincount(runs.documents, minlength=documents)
    own = np.bincount(runs.documents[rare], minlength=documents)
    pairs, shared, shared_own = count_shared(runs, rare, documents)
    first, second = np.divmod(pairs, documents)
    of_fewer = np.minimum(own[first], own[second])
    of_more = np.maximum(whole[first], whole[second])
    twins = (shared_own >= np.maximum(FEWEST_SHARED, SHARE * of_fewer)) | (shared >= NEARLY_ALL * of_more)
    return list(zip(first[twins].tolist(), second[twins].tolist()))


def count_documents(numbers: np.ndarray) -> np.ndarray:
    """For each place in sorted numbers how often its number stands there: int [r]."""
    _, counts = np.unique(numbers, return_counts=True)
    return np.repeat(counts, counts)


def count_shared(runs: Runs, rare: np.ndarray, documents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs as first x documents + second, int64 [p]; how many runs each shares, and how many of the `rare` ones."""
    pairs, own = [], []
    for distance in range(1, NEIGHBOURS + 1):
        same = np.flatnonzero(runs.numbers[distance:] == runs.numbers[:-distance])
        pairs.append(runs.documents[same].astype(np.int64) * documents + runs.documents[same + distance])
        own.append(rare[same])
    found, places = np.unique(np.concatenate(pairs), return_inverse=True)
    return found, np.bincount(places, minlength=len(found)), np.bincount(places, np.concatenate(own), minlength=len(found))
