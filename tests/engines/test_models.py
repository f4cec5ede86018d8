from __future__ import annotations

import pytest

from distill.errors import PipelineError
from distill.files import sha256_file, sha256_text
from tests.engines.worlds import Stages
from tests.finished_stages import BASE, STOCK, TUNED, ModelServer, write_gguf


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
