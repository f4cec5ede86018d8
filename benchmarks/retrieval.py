"""
Retrieval at full scale: 1,000 questions in one pass against one at a time: python benchmarks/retrieval.py

    python benchmarks/retrieval.py --folder D:/bench                                       # 1.63 million chunks, 768 dimensions
    python benchmarks/retrieval.py --folder bench --chunks 20000 --dim 64 --questions 50   # seconds

Makes an index of synthetic text and vectors in the folder (7 GB and some minutes at full size), or uses the one that an earlier
run left there, and prints a table. Embedding the questions is not part of any time. "One at a time" is the same code with one
question, which reads the whole index for each: a sample of --sample questions is timed and multiplied.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from demo.build_index import SCHEMA  # noqa: E402
from distill.index import search  # noqa: E402
from distill.index.database import open_database  # noqa: E402
from distill.index.hybridrag import Index, load_index  # noqa: E402
from distill.index.keywords import Ranking, list_terms, quote_term  # noqa: E402
from distill.index.retrieval import CANDIDATES, Hit, fuse, rank_chunks  # noqa: E402

DEPTH = 40  # what stage 1 asks for with top_k 5
TOP = 5
BLOCK_CHUNKS = 20_000
CHUNKS_PER_DOCUMENT = 20
VOCABULARY, COMMON_WORDS = 120_000, 30
TOPIC_WORDS, TOPIC_SHARE = 40, 0.3
SEED = 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the index is made, or was made before")
    parser.add_argument("--chunks", type=int, default=1_630_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--questions", type=int, default=1_000)
    parser.add_argument("--sample", type=int, default=20, help="questions asked one at a time, and as whole FTS queries")
    return parser.parse_args()


# -----------------------------------------------------------------------------
# The index


@dataclass(frozen=True)
class Text:
    """Words as they are in texts: their ranks follow Zipf's law, and a document repeats the words of its subject."""

    words: np.ndarray
    shares: np.ndarray

    def draw(self, rng: np.random.Generator, chunks: int) -> list[str]:
        """Texts of 60 to 200 words, CHUNKS_PER_DOCUMENT in a row about the same."""
        lengths = rng.integers(60, 201, chunks)
        ids = np.searchsorted(self.shares, rng.random(lengths.sum()))
        topics = rng.integers(COMMON_WORDS, VOCABULARY, (chunks // CHUNKS_PER_DOCUMENT + 1, TOPIC_WORDS))
        documents = np.repeat(np.arange(chunks) // CHUNKS_PER_DOCUMENT, lengths)
        of_topic = rng.random(len(ids)) < TOPIC_SHARE
        ids[of_topic] = topics[documents[of_topic], rng.integers(0, TOPIC_WORDS, of_topic.sum())]
        every, ends = self.words[ids].tolist(), np.cumsum(lengths).tolist()
        return [" ".join(every[end - length : end]) for end, length in zip(ends, lengths.tolist())]


def make_text() -> Text:
    """A vocabulary of made-up words, and the shares of the ranks: Zipf and Mandelbrot, 1 / (rank + 2.7)."""
    rng = np.random.default_rng(SEED)
    syllables = [first + rest for first in "bcdfghjklmnprstvz" for rest in ("a", "e", "i", "o", "u", "an", "er", "in", "ol")]
    found: dict[str, None] = {}
    while len(found) < VOCABULARY:
        found["".join(rng.choice(syllables, rng.integers(2, 5)))] = None
    weights = 1 / (np.arange(VOCABULARY) + 2.7)
    return Text(np.array(list(found), dtype=object), np.cumsum(weights / weights.sum()))


def build(folder: Path, chunks: int, dim: int) -> None:
    """Write an index as HybridRAG3 does, block by block; nothing to do where an earlier run made the same one."""
    mark = folder / "made_from.json"
    made_from = {"chunks": chunks, "dim": dim, "seed": SEED}
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == made_from:
        return print(f"[OK] using the index in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    started = time.monotonic()
    write_vectors(folder, chunks, dim)
    write_chunks(folder / "hybridrag.sqlite3", chunks)
    mark.write_text(json.dumps(made_from), encoding="utf-8")
    print(f"[OK] made an index of {chunks:,} chunks in {time.monotonic() - started:.0f} s")


def write_vectors(folder: Path, chunks: int, dim: int) -> None:
    """Normalised float16 vectors; those of a document lie together."""
    rng = np.random.default_rng(SEED)
    with open(folder / "embeddings.f16.dat", "wb") as file:
        for start in range(0, chunks, BLOCK_CHUNKS):
            count = min(BLOCK_CHUNKS, chunks - start)
            subjects = rng.standard_normal((count // CHUNKS_PER_DOCUMENT + 1, dim), np.float32)
            vectors = rng.standard_normal((count, dim), np.float32) + subjects[np.arange(count) // CHUNKS_PER_DOCUMENT]
            file.write(search.normalise_rows(vectors).astype(np.float16).tobytes())
    meta = {"dim": dim, "count": chunks, "dtype": "float16", "embedding_model": ""}
    (folder / "embeddings_meta.json").write_text(json.dumps(meta), encoding="utf-8")


def write_chunks(path: Path, chunks: int) -> None:
    """Table and FTS table. No journal: a run that was stopped begins again."""
    for old in path.parent.glob(path.name + "*"):
        old.unlink()
    text, rng = make_text(), np.random.default_rng(SEED)
    with closing(sqlite3.connect(path)) as database:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;" + SCHEMA)
        for start in range(0, chunks, BLOCK_CHUNKS):
            texts = text.draw(rng, min(BLOCK_CHUNKS, chunks - start))
            database.executemany(
                "INSERT INTO chunks (chunk_pk, chunk_id, source_path, chunk_index, text, text_length, embedding_row)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (row + 1, f"chunk-{row}", f"D:\\docs\\{row // CHUNKS_PER_DOCUMENT}.md", row % CHUNKS_PER_DOCUMENT, each,
                     len(each), row) for row, each in enumerate(texts, start)
                ),
            )
            numbered = ((row + 1, each) for row, each in enumerate(texts, start))
            database.executemany("INSERT INTO chunks_fts (rowid, text) VALUES (?, ?)", numbered)
            database.commit()


def make_questions(index: Index, count: int) -> tuple[list[str], np.ndarray]:
    """Questions of 3 to 8 words of some chunk and as many common ones, and vectors near that chunk's: float32 [count, dim]."""
    rng = np.random.default_rng(SEED + 1)
    positions = rng.integers(0, len(index), count)
    common = make_text().words[:COMMON_WORDS]
    questions = []
    for chunk in index.load_chunks(positions.tolist(), [0.0] * count):
        size = int(rng.integers(3, 9))
        rare = [word for word in chunk.text.split() if word not in common]
        questions.append(" ".join([*rng.choice(common, size), *rng.choice(rare, size)]) + "?")
    near = np.asarray(index.vectors[index.rows[positions]], np.float32)
    return questions, near + rng.standard_normal(near.shape, np.float32) / np.sqrt(index.dim)


# -----------------------------------------------------------------------------
# Measuring


@dataclass
class Memory:
    """The peak of this process's anonymous memory in bytes, 0 where the system does not tell."""

    peak: int = 0

    def look(self) -> None:
        """Read Linux's own figure; the mapped vector file is not in it."""
        status = Path("/proc/self/status")
        for line in status.read_text(encoding="ascii").splitlines() if status.is_file() else ():
            if line.startswith("RssAnon:"):
                self.peak = max(self.peak, int(line.split()[1]) * 1024)

    def __str__(self) -> str:
        return f"{self.peak / 1e9:.2f} GB" if self.peak else "not measured on this system"


@contextmanager
def watch_memory() -> Iterator[Memory]:
    """Look at the memory every 20 ms while the block runs."""
    memory, stop = Memory(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            memory.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        memory.look()
        stop.set()
        thread.join()


def take_time(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the call gave."""
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def measure_product_rate(dim: int, questions: int) -> float:
    """The machine's own float32 rate in FLOP/s for the product of one block: the median of many."""
    import torch

    device = search.choose_device()
    rows, asked = torch.randn(search.BLOCK_ROWS, dim, device=device), torch.randn(questions, dim, device=device)
    scores = torch.empty(search.BLOCK_ROWS, questions, device=device)

    def multiply() -> None:
        torch.mm(rows, asked.T, out=scores)
        float(scores[0, 0])  # a GPU has finished when a figure is here

    multiply()
    return 2 * search.BLOCK_ROWS * dim * questions / float(np.median([take_time(multiply)[0] for _ in range(30)]))


def rank_whole(index: Index, question: str, depth: int) -> Ranking:
    """What SQLite itself finds for all words joined by OR."""
    query = "SELECT rowid, -bm25(chunks_fts) FROM chunks_fts WHERE chunks_fts MATCH ? ORDER BY 2 DESC, 1 LIMIT ?"
    with open_database(index.database) as connection:
        found = connection.execute(query, (" OR ".join(map(quote_term, list_terms(question))), depth)).fetchall()
    keys = np.array([key for key, _ in found], np.int64)
    return Ranking(np.searchsorted(index.keys, keys), np.array([score for _, score in found], np.float32))


def overlap(first: Sequence[Sequence[Hit]], second: Sequence[Sequence[Hit]]) -> float:
    """The mean share of the first TOP hits that two rankings of the same questions have in common."""
    pairs = [({hit.position for hit in one[:TOP]}, {hit.position for hit in other[:TOP]}) for one, other in zip(first, second)]
    return float(np.mean([len(one & other) / max(len(other), 1) for one, other in pairs]))


def measure(index: Index, count: int, sample: int) -> Iterator[tuple[str, str, str]]:
    """The rows of the table as they are measured: what, figure, bar."""
    questions, vectors = make_questions(index, count)
    masks, few = [np.ones(len(index), bool)], range(min(sample, count))
    rank_chunks(index, questions[:1], vectors[:1], masks, DEPTH, "vector")  # the index is in the system's cache from here on
    before = measure_product_rate(index.dim, count)
    with watch_memory() as vector_memory:
        together, hits = take_time(lambda: rank_chunks(index, questions, vectors, masks, DEPTH, "vector")[0])
    rate = (before + measure_product_rate(index.dim, count)) / 2  # another program may take its share of one of them
    singles = [take_time(lambda i=i: rank_chunks(index, [""], vectors[i : i + 1], masks, DEPTH, "vector")[0][0]) for i in few]
    alone = float(np.mean([seconds for seconds, _ in singles])) * count
    same = sum(found == hits[i] for i, (_, found) in zip(few, singles))
    reached = 2 * len(index) * index.dim * count / together
    yield "vector search, all questions in one pass", f"{together:.1f} s", ""
    yield f"vector search, one at a time (mean of {len(few)}, times {count:,})", f"{alone:.0f} s", ""
    yield "one pass is faster by", f"{alone / together:.0f} times", judge(alone / together >= 40, "at least 40")
    yield f"same {DEPTH} hits", f"{same} of {len(few)} questions", judge(same == len(few), "all")
    yield "float32 product of one block alone", f"{rate / 1e9:.0f} GFLOP/s", ""
    yield "whole pass", f"{reached / 1e9:.0f} GFLOP/s, {reached / rate:.0%}", judge(reached >= 0.6 * rate, "at least 60%")
    yield "peak anonymous memory, vector", str(vector_memory), judge(vector_memory.peak < 1.5e9, "under 1.5 GB")
    yield from measure_hybrid(index, questions, vectors, len(few))


def measure_hybrid(index: Index, questions: list[str], vectors: np.ndarray, sample: int) -> Iterator[tuple[str, str, str]]:
    """Hybrid search end to end, and the same questions as whole FTS queries."""
    masks, count = [np.ones(len(index), bool)], len(questions)
    with watch_memory() as memory:
        together, hits = take_time(lambda: rank_chunks(index, questions, vectors, masks, DEPTH, "hybrid")[0])
    yield "hybrid search, all questions, end to end", f"{together:.1f} s, {1000 * together / count:.0f} ms a question", ""
    yield "peak anonymous memory, hybrid", str(memory), judge(memory.peak < 1.5e9, "under 1.5 GB")
    words = rank_chunks(index, questions[:sample], vectors[:sample], masks, TOP, "keyword")[0]
    whole = [take_time(lambda q=q: rank_whole(index, q, CANDIDATES)) for q in questions[:sample]]
    rankings = [ranking for _, ranking in whole]
    near = search.search(index.vectors, index.rows, vectors[:sample], CANDIDATES, masks)[0]
    fused = fuse(index, vectors[:sample], near, rankings, DEPTH)
    whole_words = [[Hit(position, 0, 0) for position in ranking.positions.tolist()] for ranking in rankings]
    shares = overlap(hits, fused), overlap(words, whole_words)
    seconds = float(np.mean([seconds for seconds, _ in whole]))
    yield f"one FTS5 query a question with all its words (mean of {sample}, times {count:,})", f"{seconds * count:.0f} s", ""
    yield f"top {TOP} shared with it, hybrid", f"{shares[0]:.3f}", judge(shares[0] >= 0.98, "at least 0.98")
    yield f"top {TOP} shared with it, keywords alone", f"{shares[1]:.3f}", judge(shares[1] >= 0.98, "at least 0.98")


def judge(met: bool, bar: str) -> str:
    """A bar, and whether it is met."""
    return f"{bar}: {'met' if met else 'MISSED'}"


def describe_machine() -> str:
    """Date, device and versions."""
    import torch

    device = search.choose_device()
    cores = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if device == "cuda" else cores
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{date.today()}, {name}{load}, {versions}, SQLite {sqlite3.sqlite_version}"


def main() -> None:
    """Index, measurements, table."""
    args = parse_args()
    build(args.folder, args.chunks, args.dim)
    machine = describe_machine()  # before our own load
    seconds, index = take_time(lambda: load_index(args.folder))
    print(f"\n{machine}\n\n{len(index):,} chunks of {index.dim} dimensions, {args.questions:,} questions\n")
    print(f"| what | measured | bar |\n|---|---|---|\n| opening the index | {seconds:.1f} s | |", flush=True)
    for row in measure(index, args.questions, args.sample):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
