"""What stage 1 is given, and everything that it will try to make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.config import Config
from distill.curation.rejections import Rejections
from distill.errors import PipelineError
from distill.files import sha256_file
from distill.index.check import check_index
from distill.index.embedders import Embedder
from distill.index.hybridrag import Index, load_index, warn_of_access_tags, warn_of_tiers
from distill.index.sources import make_document_finder
from distill.masking import Masker
from distill.records import Rows
from distill.rows.contexts import ChunkReader
from distill.rows.curated import Curated, load_curated, make_keys, require_unique
from distill.rows.documents import plan_sets
from distill.rows.making import list_requests
from distill.rows.overlaps import drop_planned_overlaps
from distill.rows.planner import PlannedRow, PlannedSet, plan_questions, plan_recordings
from distill.rows.questions import Question, load_questions
from distill.rows.recordings import Recording, load_recordings
from distill.rows.shapes import warn_of_system, warn_of_template
from distill.rows.split import Split, place_all, split_sources
from distill.rows.twins import describe_twins, group_twins
from distill.teacher.requests import Request


@dataclass(frozen=True)
class Inputs:
    """What the user wrote or recorded, and the sha256 of each file as it was read."""

    questions: list[Question]
    recordings: list[Recording]
    curated: list[Curated]
    digests: dict[Path, str]

    def want_index(self, config: Config) -> bool:
        """Whether chunks must be found."""
        return bool(self.questions or config.generate.documents.sets)

    def ask_teacher(self, config: Config) -> bool:
        """Whether there is anything to ask."""
        return self.want_index(config) or bool(self.recordings)

    def want_embedder(self, config: Config) -> bool:
        """Whether texts must be embedded: to find chunks, or by the extractive teacher to choose sentences."""
        return self.want_index(config) or bool(self.recordings and config.generate.teacher.provider == "extractive")


def find_finder(config: Config) -> Callable[[str], str] | None:
    """What names the document of a recorded chunk, where the index is on this machine: two prompt shapes show none."""
    settings = config.generate
    there = settings.index.fts_table and (settings.index_folder / settings.index.database).is_file()
    return make_document_finder(settings.index_folder, settings.index) if there else None


def load_inputs(config: Config, limit: int | None) -> Inputs:
    """Questions, or recorded prompts in their place, and curated rows. Raises PipelineError when there is nothing to do."""
    settings = config.generate
    recorded = settings.recordings_file
    asked = recorded or settings.questions_file
    named = [path for path in (asked, settings.masking.words_file, *settings.curated_files) if path]
    digests = {path: sha256_file(path) for path in named if path.is_file()}
    recordings = load_recordings(recorded, config.prompt, find_finder(config)) if recorded else []
    questions = load_questions(settings.questions_file) if asked and not recorded else []
    curated = load_curated(settings.curated_files)
    if not (questions or recordings or curated or settings.documents.sets):
        raise PipelineError("nothing to do: name generate.questions_file or generate.curated_files in config.yaml")
    if recorded and settings.documents.sets:
        raise PipelineError(
            "generate.recordings_file and generate.documents.sets are split in different ways: set one of them to null or 0"
        )
    categories = len({question.category for question in questions[:limit]})
    asked = f"{len(questions[:limit])} questions in {categories} categories, " if questions else ""
    print(f"[OK] {asked}{len(curated)} curated rows")
    for line in [*warn_of_system(config.prompt), *(warn_of_template(config.prompt) if not recordings else ())]:
        print(f"[WARN] {line}")
    return Inputs(questions[:limit], recordings[:limit], curated, digests)


# -----------------------------------------------------------------------------
# The plan


def open_index(config: Config, embedder: Embedder) -> tuple[Index, Split]:
    """The index, after it was compared with the embedder, and which of its documents are held out."""
    settings = config.generate
    index = load_index(settings.index_folder, settings.index)
    groups = group_twins(index)
    split = split_sources(index.sources, settings.heldout_share, groups)
    heldout = sum(split.side_of_source(source) == "heldout" for source in index.sources)
    print(f"[OK] index of {len(index):,} live chunks from {len(index.sources)} documents, {heldout} of them held out")
    if line := describe_twins(groups):
        print(line)
    warn_of_tiers(index)
    warn_of_access_tags(index)
    print(f"[OK] {check_index(index, embedder, settings.embedder)}")
    return index, split


def split_curated(curated: Sequence[Curated], share: float) -> Split:
    """Without an index: which of the documents that curated rows name are held out. One alone goes to training."""
    sources = {span.source for each in curated for span in each.row.context}
    return split_sources(sources, share) if len(sources) > 1 else Split("", share)


@dataclass(frozen=True)
class Plan:
    """What will be asked, the curated rows by side, and how much of what is asked was masked, by tag."""

    planned: list[PlannedRow]
    sets: list[PlannedSet]
    curated: Rows
    requests: list[Request]
    masked: Counter[str]

    @property
    def row_ids(self) -> set[str]:
        """The ids of all rows and sets: whatever is asked for them at first names one."""
        return {each.id for each in [*self.planned, *self.sets]}


def make_plan(
    config: Config, inputs: Inputs, embedder: Embedder | None, masker: Masker, rejections: Rejections, limit: int | None
) -> Plan:
    """Every row that this run will try to make. Raises PipelineError for a curated row that is on both sides."""
    settings, sets = config.generate, []
    planned = plan_recordings(config, inputs.recordings, masker, rejections)
    if embedder and inputs.want_index(config):
        index, split = open_index(config, embedder)
        reader = ChunkReader(index, masker)
        planned += plan_questions(config, inputs.questions, reader, split, embedder, rejections)
        sets = plan_sets(config, reader, split)[:limit]
    else:
        split = split_curated(inputs.curated, settings.heldout_share)
    planned = keep_first(planned)
    keys = {key: f"question {row.question.text}" for row in planned for key in make_keys(row.id, row.prompt.instruction)}
    require_unique(inputs.curated, keys)
    rows = place_all(split, inputs.curated, (chunk for row in planned for chunk in row.chunks))
    require_same_side(planned, rows)
    planned = drop_planned_overlaps(config, planned, rows, rejections)
    requests = list_requests(config, planned, sets)
    return Plan(planned, sets, rows, requests, count_masked(masker, requests))


def keep_first(planned: Sequence[PlannedRow]) -> list[PlannedRow]:
    """Of rows with one id, which ask the same of the same sources, the first."""
    first: dict[str, PlannedRow] = {}
    for row in planned:
        first.setdefault(row.id, row)
    if len(first) < len(planned):
        print(f"[WARN] {len(planned) - len(first)} rows would be the same as another and were left out")
    return list(first.values())


def count_masked(masker: Masker, requests: Sequence[Request]) -> Counter[str]:
    """How often each tag stands in what will be asked: more was looked at, and some of it stands in many prompts."""
    texts = [message["content"] for request in requests for message in request.messages if message["role"] == "user"]
    found = {tag: sum(text.count(f"[{tag}]") for text in texts) for tag in masker.counts}
    return Counter({tag: number for tag, number in found.items() if number})


def require_same_side(planned: Sequence[PlannedRow], curated: Rows) -> None:
    """Raises PipelineError, before anything is paid, for a curated row whose document a planned row shows on the other side."""
    sides = {chunk.source: row.side for row in planned for chunk in row.chunks}
    for side, rows in curated.items():
        for row in rows:
            wrong = [span.source for span in row.context if sides.get(span.source, side) != side]
            if wrong:
                raise PipelineError(f"curated row {row.id} names {wrong[0]}, which is on the other side: leave it out")


def describe_plan(config: Config, plan: Plan, rejections: Rejections) -> None:
    """Print what goes where, before it goes."""
    empty = sum(not row.chunks for row in plan.planned)
    golden_less = sum(row.answerable is False and bool(row.chunks) for row in plan.planned)
    sets = f"; {len(plan.sets)} sets of chunks to ask questions about" if plan.sets else ""
    heldout = sum(row.side == "heldout" for row in plan.planned)
    print(f"[OK] {len(plan.planned)} rows planned, {heldout} held out, {golden_less} without the document that answers{sets}")
    if empty:
        print(f"[WARN] {empty} questions found no chunk at or above min_score {config.generate.min_score:g}")
    for check, number in rejections.counts().items():
        print(f"[WARN] {number} left out: {check}")
    named = ", ".join(f"{number:,} {tag}" for tag, number in plan.masked.most_common())
    print(f"[OK] masked before anything is sent: {named}" if named else "[OK] masking found no personal data")
