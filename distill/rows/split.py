"""Which documents, and so which questions, are held out of training: no document is on both sides.

With an index, held out are the documents with the smallest hashes of their paths: whatever the questions are, the same
documents give the same split. Documents that repeat one another are one group (see twins.py): the hash of its smallest path
decides for all of it. How many are held out follows the number of documents, so that adding or deleting some can move others
across the cut. Rows whose sources are fixed already, such as recorded prompts, are split by what they have in common: rows that
share a source, directly or through others, stay together. Questions that are nearly the same stay together in both cases.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distill.curation.duplicates import Groups
from distill.errors import PipelineError
from distill.files import sha256_text
from distill.index.hybridrag import Index
from distill.records import SIDES, Chunk, Rows, Side, TrainingExample
from distill.rows.curated import Curated

HASH_DIGITS = 16
FEWEST_CHARACTERS = 40  # a shorter chunk may stand in an instruction by chance
# (text, source) of chunks by the text's first FEWEST_CHARACTERS: one look-up for each place of an instruction.
TextsByBeginning = dict[str, set[tuple[str, str]]]


@dataclass(frozen=True)
class Split:
    """Sources whose hash is at most `last_hash` are held out; "" holds out none. `share` decides for rows without sources.

    A source counts as what `groups` names it; one without a name there, such as a document that the index does not hold, as
    itself. `passed_over` are groups below `last_hash` that are for training all the same: they would be too much held out.
    """

    last_hash: str
    share: float
    groups: Mapping[str, str] = field(default_factory=dict)
    passed_over: frozenset[str] = frozenset()

    def side_of_source(self, source: str) -> Side:
        """The side of a document, also of one that the index does not hold."""
        name = self.groups.get(source, source)
        return "heldout" if name not in self.passed_over and hash_source(name) <= self.last_hash else "train"

    def side_of_text(self, text: str) -> Side:
        """The side of a row without sources: the same text is always on the same side."""
        return "heldout" if int(hash_source(text), 16) < self.share * 16**HASH_DIGITS else "train"


def hash_source(text: str) -> str:
    """Hex digits that spread texts evenly."""
    return sha256_text(text)[:HASH_DIGITS]


# -----------------------------------------------------------------------------
# With an index: documents first, questions by what they find


def split_sources(sources: Iterable[str], share: float, groups: Mapping[str, str] | None = None) -> Split:
    """Hold out the `share` of the documents with the smallest hashes, at least one; `groups` as from group_twins.

    Whole groups are held out, each hashed by its name. A group too large to be held out is for training, where others make the
    share. Raises PipelineError where no choice of groups holds out about the share, as split_groups does.
    """
    groups = groups or {}
    sizes = Counter(groups.get(source, source) for source in set(sources))
    if not sizes:
        return Split("", share, groups)
    names = sorted(sizes, key=hash_source)
    chosen = choose_heldout([sizes[name] for name in names], share)
    if not chosen:
        raise PipelineError(
            f"{sizes.total()} source document(s) cannot be split into training and held-out ones at generate.heldout_share "
            f"{share:g}: {max(sizes.values())} of them are one group, which holds one document or repeats of it: add other "
            "documents or change the share"
        )
    passed_over = frozenset(names[: chosen[-1]]) - {names[place] for place in chosen}
    return Split(hash_source(names[chosen[-1]]), share, groups, passed_over)


def make_masks(index: Index, split: Split, top_k: int) -> list[np.ndarray]:
    """For each of SIDES, which live chunks are its own: bool [n]. Raises PipelineError for a side with fewer than top_k."""
    heldout_sources = np.array([split.side_of_source(source) == "heldout" for source in index.sources])
    heldout = heldout_sources[index.source_numbers]
    masks = [~heldout, heldout]
    for side, mask in zip(SIDES, masks):
        if mask.sum() < top_k:
            raise PipelineError(
                f"the {side} side has {mask.sum()} chunks of {len(index)}, fewer than generate.top_k {top_k}: "
                f"change generate.heldout_share, lower top_k or index more documents"
            )
    return masks


def choose_sides(best: np.ndarray, groups: Sequence[int]) -> list[Side]:
    """The side of each question: float [q, 2], its best cosine on each of SIDES, and its near-duplicate group's number.

    All questions of a group go where the highest cosine of any of them is; at a tie into training.
    """
    highest: dict[int, np.ndarray] = {}
    for cosines, group in zip(best, groups):
        highest[group] = np.maximum(highest.get(group, cosines), cosines)
    return [SIDES[int(highest[group][1] > highest[group][0])] for group in groups]


# -----------------------------------------------------------------------------
# Without an index: rows whose sources are fixed


def split_groups(
    sources: Sequence[Collection[str]], groups: Sequence[int], share: float, keys: Sequence[str] | None = None
) -> list[Side]:
    """The side of each row, given its sources and its near-duplicate group; `keys` name the rows that have no sources.

    Rows linked by a source or a group, directly or through others, are one component. Whole components are held out in the
    order of the smallest hash among their sources (without sources: keys), until `share` of the rows is reached. Nothing hangs
    on the order of the rows. Raises PipelineError where no choice of components holds out between half and twice the share (and
    no more than half of the rows, unless the share is more).
    """
    components = find_components(sources, groups)
    names = keys if keys is not None else [f"group {group}" for group in groups]
    ordered = sorted(components, key=lambda rows: hash_component(rows, sources, names))
    heldout = choose_heldout([len(rows) for rows in ordered], share)
    if not heldout:
        largest = max(map(len, ordered), default=0) / max(len(sources), 1)
        raise PipelineError(
            f"the {len(sources)} rows cannot be split at generate.heldout_share {share:g}: they fall into {len(ordered)} "
            f"group(s) that share no document, the largest of them {largest:.0%} of all: record questions about other "
            "documents, or change the share"
        )
    sides: list[Side] = ["train"] * len(sources)
    for place in heldout:
        for row in ordered[place]:
            sides[row] = "heldout"
    return sides


def find_components(sources: Sequence[Collection[str]], groups: Sequence[int]) -> list[list[int]]:
    """The rows' numbers by component."""
    joined = Groups(len(sources))
    first: dict[tuple[str, str | int], int] = {}
    for row, (named, group) in enumerate(zip(sources, groups)):
        for link in [("group", group), *(("source", source) for source in named)]:
            joined.join(first.setdefault(link, row), row)
    components: dict[int, list[int]] = {}
    for row in range(len(sources)):
        components.setdefault(joined.find(row), []).append(row)
    return list(components.values())


def hash_component(rows: Iterable[int], sources: Sequence[Collection[str]], names: Sequence[str]) -> tuple[str, str]:
    """What a component is ordered by: its smallest hashes of a source and of a row's name."""
    rows = list(rows)
    smallest = min(hash_source(name) for row in rows for name in (sources[row] or [names[row]]))
    return smallest, min(hash_source(names[row]) for row in rows)


def choose_heldout(sizes: Sequence[int], share: float) -> list[int]:
    """The places of the groups, in this order, that are held out, ascending; none where no choice will do.

    Taken in order are those that keep the sum within bounds, until the share is reached. Where that ends below half of it,
    only groups larger than that are left, and one of them alone may do: so a choice is found if there is one.
    """
    total, chosen = sum(sizes), []
    wanted = max(1, round(share * total))
    fewest, most = max(1.0, share * total / 2), min(max(wanted, min(2 * share, max(share, 0.5)) * total), total - 1)
    held = 0
    for place, size in enumerate(sizes):
        if held < wanted and held + size <= most:
            chosen.append(place)
            held += size
    if held < fewest:
        chosen = [place for place, size in enumerate(sizes) if fewest <= size <= most][:1]
    return chosen


# -----------------------------------------------------------------------------
# Curated rows


def place_all(split: Split, curated: Sequence[Curated], chunks: Iterable[Chunk]) -> Rows:
    """Curated rows by side; `chunks` are those that this run retrieved. Raises PipelineError for a row that is on both."""
    known = index_texts(chunks)
    rows: Rows = {side: [] for side in SIDES}
    unnamed = 0
    for each in curated:
        sources = find_sources(each.row, known)
        unnamed += not sources
        rows[place_curated(split, each, sources)].append(each.row)
    if unnamed:
        print(f"[WARN] {unnamed} curated rows name no source documents: they are split by their text alone")
    return rows


def index_texts(chunks: Iterable[Chunk]) -> TextsByBeginning:
    """The chunks that are long enough to be told by their text."""
    known: TextsByBeginning = defaultdict(set)
    for chunk in chunks:
        if len(text := chunk.text.strip()) >= FEWEST_CHARACTERS:
            known[text[:FEWEST_CHARACTERS]].add((text, chunk.source))
    return known


def find_sources(row: TrainingExample, known: TextsByBeginning) -> set[str]:
    """The documents that a row names, or else those whose chunk stands whole in its instruction."""
    if row.context:
        return {span.source for span in row.context}
    text, found = row.instruction, set()
    for start in range(len(text) - FEWEST_CHARACTERS + 1):
        # Not known[...]: that would remember every piece of every instruction.
        candidates = known.get(text[start : start + FEWEST_CHARACTERS], ())
        found |= {source for chunk, source in candidates if text.startswith(chunk, start)}
    return found


def place_curated(split: Split, curated: Curated, sources: Iterable[str]) -> Side:
    """The side of a row that somebody wrote. Raises PipelineError, naming file and line, when its sources are on both sides."""
    sides = {split.side_of_source(source) for source in sources}
    if len(sides) > 1:
        raise PipelineError(f"{curated.place} holds documents of both training and held-out side: leave one of them out")
    return sides.pop() if sides else split.side_of_text(curated.row.instruction)


# -----------------------------------------------------------------------------
# Any rows


def require_disjoint(rows: Rows) -> None:
    """The proof of the split, on the rows themselves. Raises PipelineError for a document that both sides show."""
    trained, heldout = ({span.source: row for row in rows[side] for span in row.context} for side in SIDES)
    for source in sorted(trained.keys() & heldout.keys()):
        raise PipelineError(
            f"{source} stands behind training row {trained[source].id} and held-out row {heldout[source].id}: leave one of "
            "them out of generate.curated_files or generate.recordings_file"
        )
