from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from demo.build_index import build_index
from distill.config import IndexSection
from distill.errors import PipelineError
from distill.index.hybridrag import list_files, load_index, warn_of_access_tags, warn_of_tiers
from tests.servers import embed_words

DOCUMENTS = [(rf"D:\docs\{name}.md", f"The {name} document tells about {name}.\n\n" * 6) for name in ("alpha", "beta", "gamma")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of three documents in several chunks each."""
    build_index(tmp_path / "index", DOCUMENTS, embed_words, chunk_characters=120, overlap=20)
    return tmp_path / "index"


def change(folder: Path, statement: str, *values: object) -> None:
    """Run SQL on the index as HybridRAG3 would."""
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as database:
        database.execute(statement, values)
        database.commit()


def test_reads_every_live_chunk_with_its_own_vector(folder: Path) -> None:
    index = load_index(folder)
    assert index.dim == 64 and len(index) == len(index.vectors) and index.sources == tuple(source for source, _ in DOCUMENTS)
    chunks = index.load_chunks(range(len(index)), [0.5] * len(index))
    again = embed_words([chunk.text for chunk in chunks])
    assert np.abs(again - index.vectors[index.rows]).max() < 1e-3
    assert [chunk.source for chunk in chunks] == [index.sources[number] for number in index.source_numbers]
    assert chunks[0].score == 0.5 and len({chunk.chunk_id for chunk in chunks}) == len(chunks)


def test_vectors_are_found_by_embedding_row_not_by_key(folder: Path) -> None:
    before = load_index(folder)
    text = before.load_chunks([0], [0])[0].text
    change(folder, "UPDATE chunks SET chunk_pk = chunk_pk + 1000 WHERE embedding_row = 0")
    index = load_index(folder)
    assert index.keys[0] > 1000 and index.load_chunks([0], [0])[0].text == text


def test_deleted_documents_are_not_live_though_their_vectors_remain(folder: Path) -> None:
    full = len(load_index(folder))
    change(folder, "DELETE FROM chunks WHERE source_path = ?", DOCUMENTS[1][0])
    index = load_index(folder)
    assert len(index.vectors) == full > len(index) and DOCUMENTS[1][0] not in index.sources


def test_chunks_without_vector_or_text_are_left_out(folder: Path) -> None:
    full = len(load_index(folder))
    change(folder, "UPDATE chunks SET embedding_row = NULL WHERE embedding_row = 0")
    change(folder, "UPDATE chunks SET text = '', text_length = 0 WHERE embedding_row = 1")
    assert len(load_index(folder)) == full - 2


def test_access_tags_that_are_ignored_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_access_tags(load_index(folder))
    assert not capsys.readouterr().out
    change(folder, "UPDATE chunks SET access_tags = 'finance' WHERE embedding_row < 2")
    change(folder, "UPDATE chunks SET access_tags = 'hr' WHERE embedding_row = 2")
    change(folder, "UPDATE chunks SET access_tags = NULL WHERE embedding_row = 3")
    change(folder, "UPDATE chunks SET access_tags = 'hr', embedding_row = NULL WHERE embedding_row = 4")
    warn_of_access_tags(load_index(folder))
    assert "[WARN] 3 chunks are not tagged shared (2 finance, 1 hr): access_tags are ignored" in capsys.readouterr().out


def test_an_index_of_february_2026_has_no_access_tags(folder: Path) -> None:
    change(folder, "ALTER TABLE chunks DROP COLUMN access_tags")
    change(folder, "ALTER TABLE chunks DROP COLUMN access_tag_source")
    assert len(load_index(folder))
    warn_of_access_tags(load_index(folder))


def test_the_files_of_an_index_are_listed_with_a_wal_that_holds_rows(folder: Path) -> None:
    names = ["hybridrag.sqlite3", "embeddings.f16.dat", "embeddings_meta.json"]
    (folder / "hybridrag.sqlite3-wal").write_bytes(b"")
    assert [path.name for path in list_files(folder)] == names
    (folder / "hybridrag.sqlite3-wal").write_bytes(b"rows")
    assert [path.name for path in list_files(folder)] == [*names, "hybridrag.sqlite3-wal"]


def test_reading_leaves_the_database_as_it_was(folder: Path) -> None:
    before = (folder / "hybridrag.sqlite3").read_bytes()
    index = load_index(folder)
    index.load_chunks([0], [0])
    assert (folder / "hybridrag.sqlite3").read_bytes() == before
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0] = 0


def test_a_chunk_deleted_after_opening_is_a_clear_error(folder: Path) -> None:
    index = load_index(folder)
    change(folder, "DELETE FROM chunks WHERE embedding_row = 0")
    with pytest.raises(PipelineError, match="changed while it was read"):
        index.load_chunks([0], [0])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"generate\.index_folder .*nowhere is missing"):
        load_index(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["hybridrag.sqlite3", "embeddings.f16.dat", "embeddings_meta.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PipelineError, match=f"{name} is missing"):
        load_index(folder)


@pytest.mark.parametrize("change_bytes", [lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_vector_file_of_the_wrong_size_is_refused(folder: Path, change_bytes: object) -> None:
    path = folder / "embeddings.f16.dat"
    path.write_bytes(change_bytes(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(PipelineError, match=r"which is not .* vectors of 64 float16"):
        load_index(folder)


def test_a_file_with_more_vectors_than_described_is_read(folder: Path) -> None:
    with open(folder / "embeddings.f16.dat", "ab") as file:
        file.write(bytes(64 * 2))
    index = load_index(folder)
    assert len(index.vectors) == len(index) + 1


@pytest.mark.parametrize("meta", [{}, {"dim": 0, "count": 1}, {"dim": "64", "count": 1}, [1]])
def test_a_broken_description_is_refused(folder: Path, meta: object) -> None:
    (folder / "embeddings_meta.json").write_text(json.dumps(meta))
    with pytest.raises(PipelineError, match="must hold whole numbers dim and count"):
        load_index(folder)


def test_another_dtype_is_refused(folder: Path) -> None:
    (folder / "embeddings_meta.json").write_text(json.dumps({"dim": 64, "count": 1, "dtype": "float32"}))
    with pytest.raises(PipelineError, match="dtype float32"):
        load_index(folder)


def test_a_row_beyond_the_vector_file_is_refused(folder: Path) -> None:
    change(folder, "UPDATE chunks SET embedding_row = 9999 WHERE embedding_row = 1")
    with pytest.raises(PipelineError, match="names vector row 9999, but embeddings"):
        load_index(folder)


def test_an_index_without_chunks_is_refused(folder: Path) -> None:
    change(folder, "DELETE FROM chunks")
    with pytest.raises(PipelineError, match="holds no chunk with a vector"):
        load_index(folder)


def test_a_file_that_is_no_database_is_refused(folder: Path) -> None:
    for extra in folder.glob("hybridrag.sqlite3-*"):
        extra.unlink()
    (folder / "hybridrag.sqlite3").write_bytes(b"not a database at all " * 100)
    with pytest.raises(PipelineError, match="is not a SQLite database"):
        load_index(folder)


def test_a_database_of_something_else_is_refused(folder: Path) -> None:
    change(folder, "DROP TABLE chunks")
    with pytest.raises(PipelineError, match=r"index\.table chunks is not in .*; it has the tables chunks_fts, index_runs"):
        load_index(folder)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 2)])
def test_two_chunks_of_one_row_are_refused(folder: Path, first: int, second: int) -> None:
    change(folder, "UPDATE chunks SET embedding_row = ? WHERE embedding_row = ?", first, second)
    with pytest.raises(PipelineError, match=rf"gives vector row {first} to two chunks \(1 such rows\)"):
        load_index(folder)


@pytest.mark.parametrize("row", ["'seven'", "1.5", "x'00'"])
def test_a_row_that_is_no_whole_number_is_named(folder: Path, row: str) -> None:
    change(folder, f"UPDATE chunks SET embedding_row = {row} WHERE embedding_row = 1")
    with pytest.raises(PipelineError, match=r"generate\.index\.embedding_row embedding_row of .* which is no whole number"):
        load_index(folder)


def test_text_that_is_no_utf8_is_read_with_a_stand_in(folder: Path) -> None:
    change(folder, "UPDATE chunks SET text = CAST(x'61ff62' AS TEXT) WHERE embedding_row = 0")
    assert load_index(folder).load_chunks([0], [0])[0].text == "a\ufffdb"


# -----------------------------------------------------------------------------
# Tiers


def test_chunks_of_tiers_that_are_not_listed_are_not_live(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = len(load_index(folder))
    warn_of_tiers(load_index(folder))
    assert not capsys.readouterr().out
    change(folder, "UPDATE source_quality SET retrieval_tier = 'suspect' WHERE source_path = ?", DOCUMENTS[0][0])
    change(folder, "UPDATE source_quality SET retrieval_tier = 'archive' WHERE source_path = ?", DOCUMENTS[1][0])
    change(folder, "DELETE FROM source_quality WHERE source_path = ?", DOCUMENTS[2][0])
    index = load_index(folder)
    assert index.sources == (DOCUMENTS[1][0], DOCUMENTS[2][0]), "an unknown document is used"
    warn_of_tiers(index)
    lost = f"[WARN] {full - len(index)} suspect chunks are not used: generate.index.tiers has serve, archive alone"
    assert lost in capsys.readouterr().out
    assert load_index(folder, IndexSection(tiers=("suspect",))).sources == (DOCUMENTS[0][0], DOCUMENTS[2][0])


def test_tiers_are_found_whatever_the_case_of_their_columns(folder: Path) -> None:
    change(folder, "ALTER TABLE source_quality RENAME COLUMN source_path TO Source_Path")
    change(folder, "ALTER TABLE source_quality RENAME COLUMN retrieval_tier TO RETRIEVAL_TIER")
    change(folder, "UPDATE source_quality SET retrieval_tier = 'suspect' WHERE source_path = ?", DOCUMENTS[0][0])
    assert load_index(folder).sources == (DOCUMENTS[1][0], DOCUMENTS[2][0])


@pytest.mark.parametrize("spelling", ["lower(source_path)", r"replace(source_path, '\', '/')"])
def test_tiers_of_documents_that_are_spelled_otherwise_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str], spelling: str
) -> None:
    change(folder, f"UPDATE source_quality SET source_path = {spelling}, retrieval_tier = 'suspect'")
    warn_of_tiers(load_index(folder))
    printed = capsys.readouterr().out
    assert "[WARN] source_quality holds tiers for 3 documents, but none has chunks under the same path" in printed


@pytest.mark.parametrize("statement", [
    "DELETE FROM source_quality",
    "UPDATE source_quality SET source_path = lower(source_path) WHERE source_path LIKE '%alpha%'",  # the others match
    "UPDATE source_quality SET retrieval_tier = 'suspect' WHERE source_path LIKE '%alpha%'",
])
def test_nothing_is_said_of_spelling_where_some_match_or_there_are_none(
    folder: Path, capsys: pytest.CaptureFixture[str], statement: str
) -> None:
    change(folder, statement)
    warn_of_tiers(load_index(folder))
    assert "same path" not in capsys.readouterr().out


def test_documents_without_a_tier_are_used(folder: Path) -> None:
    full = len(load_index(folder))
    change(folder, "CREATE TABLE copy AS SELECT source_path, NULL AS retrieval_tier FROM source_quality")
    change(folder, "DROP TABLE source_quality")
    assert len(load_index(folder)) == full
    change(folder, "ALTER TABLE copy RENAME TO source_quality")
    assert len(load_index(folder)) == full


def test_an_index_whose_every_tier_is_left_out_says_so(folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"generate\.index\.tiers leaves all of them out \(\d+ serve\)"):
        load_index(folder, IndexSection(tiers=("archive",)))


# -----------------------------------------------------------------------------
# Other tables and columns


TUTORIAL = IndexSection(key="", text="content", source="source_file", embedding_row="", fts_table="")


@pytest.fixture
def tutorial(folder: Path) -> Path:
    """The same chunks as chunks(chunk_id, content, source_file), and nothing else."""
    change(folder, "CREATE TABLE plain (chunk_id TEXT, content TEXT, source_file TEXT)")
    change(folder, "INSERT INTO plain SELECT chunk_id, text, source_path FROM chunks ORDER BY embedding_row")
    for table in ("chunks_fts", "chunks", "source_quality", "index_runs"):
        change(folder, f"DROP TABLE {table}")
    change(folder, "ALTER TABLE plain RENAME TO chunks")
    return folder


def test_the_tutorials_table_is_read(tutorial: Path, tmp_path: Path) -> None:
    build_index(tmp_path / "again", DOCUMENTS, embed_words, chunk_characters=120, overlap=20)
    expected, index = load_index(tmp_path / "again"), load_index(tutorial, TUTORIAL)
    every = range(len(expected))
    assert index.load_chunks(every, every) == expected.load_chunks(every, every)
    assert index.rows.tolist() == expected.rows.tolist() and index.sources == expected.sources
    warn_of_access_tags(index)


def test_without_a_column_of_rows_empty_chunks_still_count(tutorial: Path) -> None:
    full = load_index(tutorial, TUTORIAL)
    change(tutorial, "UPDATE chunks SET content = '' WHERE rowid = 2")
    change(tutorial, "UPDATE chunks SET content = NULL WHERE rowid = 3")
    assert load_index(tutorial, TUTORIAL).rows.tolist() == [0, *range(3, len(full))]


def test_without_a_column_of_rows_the_counts_must_be_equal(tutorial: Path) -> None:
    change(tutorial, "DELETE FROM chunks WHERE rowid = 1")
    with pytest.raises(PipelineError, match=r"has \d+ chunks but embeddings\.f16\.dat has \d+ vectors: .*embedding_row"):
        load_index(tutorial, TUTORIAL)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("table", "pieces", r"generate\.index\.table pieces is not in .*; it has the tables chunks, chunks_fts"),
    ("text", "content", r"generate\.index\.text content is no column of chunks in .*; it has the columns chunk_pk, chunk_id"),
    ("source", "source_file", r"generate\.index\.source source_file is no column"),
    ("key", "id", r"generate\.index\.key id is no column"),
    ("key", "chunk_id", r"generate\.index\.key chunk_id of .* holds '.*', which is no whole number"),
    ("key", "chunk_index", r"generate\.index\.key chunk_index is not unique"),
    ("embedding_row", "row", r"generate\.index\.embedding_row row is no column"),
    ("embedding_row", "text", r"generate\.index\.embedding_row text of .* which is no whole number"),
    ("database", "other.db", r"other\.db is missing.*generate\.index\.database"),
    ("vectors", "other.dat", r"other\.dat is missing.*generate\.index\.vectors"),
])
def test_a_name_that_is_not_there_is_an_error_with_those_that_are(folder: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        load_index(folder, IndexSection.model_validate({key: value}))


def test_names_are_quoted_and_their_case_does_not_count(folder: Path) -> None:
    expected = load_index(folder)
    change(folder, 'ALTER TABLE chunks RENAME TO "select; "" --"')
    change(folder, 'ALTER TABLE "select; "" --" RENAME COLUMN text TO "the ""text"""')
    names = IndexSection(table='SELECT; " --', text='The "Text"')
    index = load_index(folder, names)
    assert index.rows.tolist() == expected.rows.tolist()
    assert index.load_chunks([0], [1])[0].text.startswith("The alpha document")


def test_a_table_without_rowid_needs_a_key(tutorial: Path) -> None:
    change(tutorial, "CREATE TABLE bare (chunk_id TEXT PRIMARY KEY, content TEXT, source_file TEXT) WITHOUT ROWID")
    with pytest.raises(PipelineError, match=r'generate\.index\.key is "", but bare in .* has no rowid'):
        load_index(tutorial, TUTORIAL.model_copy(update={"table": "bare"}))


def test_files_of_other_names_are_listed_by_them(folder: Path) -> None:
    names = IndexSection(database="a.db", vectors="b.dat")
    assert [path.name for path in list_files(folder, names)] == ["a.db", "b.dat", "embeddings_meta.json"]
