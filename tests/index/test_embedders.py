from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from demo.minilm import find_minilm
from distill.config import EmbedderSection
from distill.errors import PipelineError
from distill.index.embedders import embed_questions, make_embedder
from tests.servers import OllamaServer, embed_words


def section(server: OllamaServer, **changes: str) -> EmbedderSection:
    """An embedder section for a server in a test."""
    return EmbedderSection.model_validate({"base_url": server.base_url, **changes})


def test_ollama_vectors_are_normalised_and_in_order() -> None:
    texts = [f"text number {number}" for number in range(150)]
    with OllamaServer(embed=lambda some: embed_words(some) * 7) as server:
        vectors = make_embedder(section(server)).embed(texts)
        assert len(server.requests) == 3, "150 texts go in batches of 64"
    assert vectors.dtype == np.float32 and np.allclose(vectors, embed_words(texts), atol=1e-6)


@pytest.mark.parametrize("url", [
    "http://gpu.example:11434", "https://ollama.example", "http://192.168.1.5:11434", "http://127.0.0.1.example",
    "http://0.0.0.0:11434", "http://[2001:db8::1]:11434",
])
def test_an_ollama_on_another_machine_is_refused(url: str) -> None:
    message = r"embedder\.base_url .* on this machine alone: run Ollama here .* or set provider: sentence-transformers"
    with pytest.raises(PipelineError, match=message):
        make_embedder(EmbedderSection(base_url=url))


@pytest.mark.parametrize("url", ["http://localhost:11434", "http://127.0.0.1:1", "http://[::1]:11434"])
def test_an_ollama_on_this_machine_is_not(url: str) -> None:
    make_embedder(EmbedderSection(base_url=url))


def test_only_questions_get_the_prefix() -> None:
    with OllamaServer() as server:
        embedder = make_embedder(section(server))
        embed_questions(embedder, section(server), ["why?"])
        embedder.embed(["a sentence"])
        assert [request["body"]["input"] for request in server.requests] == [["search_query: why?"], ["a sentence"]]


@pytest.mark.parametrize("bad", [[[0.0, 0.0], [1.0, 0.0]], [[float("nan"), 1.0], [1.0, 0.0]]])
def test_zeros_and_nan_are_refused(bad: list[list[float]]) -> None:
    with OllamaServer(embed=lambda texts: np.array(bad)) as server, pytest.raises(PipelineError, match="zeros or not-a-number"):
        make_embedder(section(server)).embed(["a", "b"])


def test_vectors_of_different_lengths_are_refused() -> None:
    fault = (200, {"embeddings": [[1.0], [1.0, 2.0]]})
    with OllamaServer(fault=lambda *_: fault) as server, pytest.raises(PipelineError, match="different lengths"):
        make_embedder(section(server)).embed(["a", "b"])


def test_a_local_model_embeds_by_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    embedder = make_embedder(EmbedderSection(provider="sentence-transformers", model=str(find_minilm())))
    texts = ["How hot may the pump get?", "The pump's temperature limit is 80 C.", "Invoices are blue."]
    question, near, far = embedder.embed(texts)
    assert question.shape == (384,) and np.linalg.norm(near) == pytest.approx(1, abs=1e-5)
    assert question @ near > question @ far + 0.2


def test_a_local_model_that_is_not_there_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PipelineError, match="hf download nobody/nothing"):
        make_embedder(EmbedderSection(provider="sentence-transformers", model="nobody/nothing"))
