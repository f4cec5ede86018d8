from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from distill.errors import PipelineError
from distill.files import sha256_file, sha256_text
from tests.engines.worlds import Stages
from tests.finished_stages import BASE, STOCK, TUNED, ModelServer, write_config, write_gguf


def test_both_sides_are_found_in_the_order_in_which_they_are_asked(stages: Stages) -> None:
    models = stages.find_models()
    assert list(models) == ["base", "tuned"] and [model.side for model in models.values()] == ["base", "tuned"]
    tuned = models["tuned"]
    assert (tuned.name, tuned.file) == (TUNED, "gguf/student-q4_k_m.gguf")
    assert tuned.path == stages.folder / "gguf" / "student-q4_k_m.gguf" and tuned.sha256 == sha256_file(tuned.path)
    assert tuned.bytes == tuned.path.stat().st_size and tuned.modelfile == stages.folder / "gguf" / "Modelfile"
    assert models["base"].modelfile == stages.folder / "gguf" / "Modelfile.base"


def test_without_a_control_there_is_the_tuned_model_alone(stages: Stages) -> None:
    write_gguf(stages.config, {"tuned": TUNED})
    assert list(stages.find_models()) == ["tuned"]


def test_the_stock_model_of_ollama_is_known_by_ollamas_digest(stages: Stages) -> None:
    stages.configure(f"stock_model: {STOCK}")
    stock = stages.find_models()["stock"]
    assert (stock.side, stock.name, stock.sha256) == ("stock", STOCK, sha256_text(f"{STOCK}:latest"))
    assert stock.path is None and stock.modelfile is None and stock.file == ""


def test_a_stock_model_that_ollama_does_not_hold_says_what_to_pull(stages: Stages) -> None:
    stages.configure("stock_model: mistral:7b")
    with pytest.raises(PipelineError, match=r"has no model mistral:7b: run  ollama pull mistral:7b"):
        stages.find_models()


def test_models_name_the_program_that_runs_them_and_its_version(stages: Stages, server: ModelServer) -> None:
    stages.configure(f"stock_model: {STOCK}")
    assert {model.runtime for model in stages.find_models().values()} == {"ollama 0.30.1"}
    assert [request["path"] for request in server.requests].count("/api/version") == 1
    stages.configure("engine: embedded")
    assert {model.runtime for model in stages.find_models().values()} == {f"xllamacpp {version('xllamacpp')}"}


class Plain(ModelServer):
    """A server that speaks as Ollama does, but tells no version and no digests; `told` is its version if it tells one."""

    told: str | None = None

    def answer(self, handler: Any, path: str, body: Any, number: int) -> None:
        if path == "/api/version":
            return handler.reply({"version": self.told}) if self.told else handler.reply("404 page not found", 404)
        if path == "/api/tags":
            return handler.reply({"models": [{"name": name} for name in self.models]})
        return super().answer(handler, path, body, number)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Stages]:
    with Plain(lambda body: f"I am {body['model']}.") as server:
        yield Stages(tmp_path, server)


def test_an_ollama_that_tells_neither_version_nor_digest_is_used_all_the_same(plain: Stages) -> None:
    plain.configure(f"stock_model: {STOCK}")
    models = plain.find_models()
    assert {model.runtime for model in models.values()} == {"ollama"} and models["stock"].sha256 == ""


def test_after_an_update_of_ollama_everything_is_asked_again(plain: Stages) -> None:
    found = []
    for told in ("0.30.1", "0.30.1", "0.30.2"):
        plain.server.told = told
        found.append(plain.collect().cached)
    assert found == [0, 6, 0]


def test_answers_of_another_stock_model_without_a_digest_are_not_taken(plain: Stages) -> None:
    asked = []
    for name in (STOCK, "nomic-embed-text", STOCK):
        plain.server.templates["nomic-embed-text"] = plain.server.templates[STOCK]
        plain.server.systems["nomic-embed-text"] = ""
        plain.configure(f"stock_model: {name}")
        asked.append({answer.text for answer in plain.collect().answers["heldout", "stock"]})
    assert asked == [{f"I am {STOCK}."}, {"I am nomic-embed-text."}, {f"I am {STOCK}."}]


def test_an_ollama_that_does_not_answer_is_one_line(stages: Stages) -> None:
    stages.config = write_config(stages.folder, "http://127.0.0.1:9")
    with pytest.raises(PipelineError, match=r"nothing answers at http://127.0.0.1:9: start Ollama"):
        stages.find_models()


@pytest.mark.parametrize(("name", "side"), [(TUNED, "tuned"), (f"{TUNED}:latest", "tuned"), (BASE, "base")])
def test_the_stock_model_is_a_third_one(stages: Stages, name: str, side: str) -> None:
    stages.configure(f"stock_model: {name}")
    with pytest.raises(PipelineError, match=f"which is the {side} model"):
        stages.find_models()


def test_the_stock_model_of_the_embedded_engine_is_a_file(stages: Stages, server: ModelServer) -> None:
    (stages.folder / "today.gguf").write_bytes(b"GGUF of today")
    stages.configure("engine: embedded\n  stock_model: today.gguf")
    stock = stages.find_models()["stock"]
    assert (stock.name, stock.file, stock.bytes) == ("today", "today.gguf", 13)
    assert stock.sha256 == sha256_file(stages.folder / "today.gguf") and stock.modelfile is None
    assert server.requests == []


def test_a_stock_file_by_its_full_path_leaves_no_path_behind(stages: Stages) -> None:
    path = stages.folder / "elsewhere" / "today.gguf"
    path.parent.mkdir()
    path.write_bytes(b"x")
    stages.configure(f"engine: embedded\n  stock_model: {path.as_posix()}")
    stock = stages.find_models()["stock"]
    assert stock.path == path and stock.file == "today.gguf"


@pytest.mark.parametrize(("name", "message"), [
    ("gone.gguf", "gone.gguf is missing: evaluate.stock_model"),
    ("gguf/student-q4_k_m.gguf", "which is the tuned model"),
])
def test_a_stock_file_that_is_no_third_model_is_refused(stages: Stages, name: str, message: str) -> None:
    stages.configure(f"engine: embedded\n  stock_model: {name}")
    with pytest.raises(PipelineError, match=message):
        stages.find_models()
