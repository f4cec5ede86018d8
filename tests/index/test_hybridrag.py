from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from demo.build_index import build_index
from distill.errors import PipelineError
from distill.index.hybridrag import connect_immutable, list_files, load_index, to_uri, warn_of_access_tags
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


def test_rows_that_hybridrag3_writes_meanwhile_are_seen_through_the_wal(folder: Path) -> None:
    full = len(load_index(folder))
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as writer:
        writer.execute("DELETE FROM chunks WHERE embedding_row = 0")
        writer.commit()
        assert (folder / "hybridrag.sqlite3-wal").stat().st_size
        assert len(load_index(folder)) == full - 1


def block_shared_memory(folder: Path) -> None:
    """Make mode=ro fail as in a read-only folder, for root too: SQLite cannot make its -shm file."""
    for name in ("hybridrag.sqlite3-shm", "hybridrag.sqlite3-wal"):
        (folder / name).unlink(missing_ok=True)
    (folder / "hybridrag.sqlite3-shm").mkdir()


def test_a_read_only_folder_is_read_as_immutable(folder: Path) -> None:
    block_shared_memory(folder)
    assert len(load_index(folder))


def test_a_database_with_a_live_wal_is_never_read_as_immutable(folder: Path) -> None:
    (folder / "hybridrag.sqlite3-wal").write_bytes(b"rows that immutable=1 would miss")
    with pytest.raises(PipelineError, match="sqlite3-wal that cannot be read here"):
        connect_immutable(folder / "hybridrag.sqlite3")
    (folder / "hybridrag.sqlite3-wal").write_bytes(b"")
    connect_immutable(folder / "hybridrag.sqlite3").close()


def test_a_live_wal_counts_even_without_its_shared_memory(folder: Path) -> None:
    full = len(load_index(folder))
    with closing(sqlite3.connect(folder / "hybridrag.sqlite3")) as writer:
        writer.execute("DELETE FROM chunks WHERE embedding_row = 0")
        writer.commit()
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
    (copy / "hybridrag.sqlite3-shm").unlink()
    (copy / "hybridrag.sqlite3-shm").mkdir()
    assert len(load_index(copy)) == full - 1


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
    with pytest.raises(PipelineError, match="is not an index of HybridRAG3"):
        load_index(folder)


def test_a_folder_name_with_signs_that_mean_something_in_a_uri(tmp_path: Path) -> None:
    folder = tmp_path / "50% of #1 index"
    build_index(folder, DOCUMENTS, embed_words)
    assert len(load_index(folder))
    assert "%23" in to_uri(folder) and "%25" in to_uri(folder)
