"""What turns texts into vectors: Ollama, or a sentence-transformers model on this machine's disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from distill.config import EmbedderSection
from distill.errors import PipelineError
from distill.index.search import normalise_rows
from distill.network import host_of, is_loopback
from distill.ollama import OllamaClient

BATCH_TEXTS = 64


class Embedder(Protocol):
    """Texts in, vectors out."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, dim], rows of length 1; texts go in as they are, without a prefix. Raises PipelineError."""
        ...


class OllamaEmbedder:
    """An embedding model in Ollama."""

    def __init__(self, model: str, base_url: str) -> None:
        self._model, self._client = model, OllamaClient(base_url)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See Embedder."""
        vectors: list[list[float]] = []
        for start in range(0, len(texts), BATCH_TEXTS):
            vectors += self._client.embed(self._model, texts[start : start + BATCH_TEXTS])
        return require_finite(vectors, self._model)


class SentenceTransformersEmbedder:
    """A sentence-transformers model from a folder or the local Hugging Face cache; never from the network."""

    def __init__(self, model: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # a bar for loading a small model says nothing
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._name = model
        try:
            self._model = SentenceTransformer(
                model, device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise PipelineError(
                f"the embedding model {model} is not on this disk as safetensors: name its folder, or fetch it once with  "
                f"hf download {model}  ({reason})"
            ) from None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See Embedder."""
        vectors = self._model.encode(
            list(texts), batch_size=BATCH_TEXTS, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return require_finite(vectors, self._name)


def make_embedder(section: EmbedderSection) -> Embedder:
    """The embedder that a config section names. Raises PipelineError for an Ollama elsewhere and a missing local model."""
    if section.provider == "ollama":
        require_this_machine(section.base_url)
        return OllamaEmbedder(section.model, section.base_url)
    return SentenceTransformersEmbedder(section.model)


def require_this_machine(base_url: str) -> None:
    """Raises PipelineError for another host: what is embedded are whole chunks and answers, as they stand, nothing masked."""
    if not is_loopback(base_url):
        raise PipelineError(
            f"embedder.base_url (below generate or evaluate) names {host_of(base_url)}, but document text is embedded on this "
            "machine alone: run Ollama here (http://127.0.0.1:11434), or set provider: sentence-transformers"
        )


def embed_questions(embedder: Embedder, section: EmbedderSection, questions: Sequence[str]) -> np.ndarray:
    """Questions with the configured prefix, as the index's model wants to be asked: float32 [n, dim]."""
    return embedder.embed([section.query_prefix + question for question in questions])


def require_finite(vectors: Sequence[Sequence[float]] | np.ndarray, model: str) -> np.ndarray:
    """Vectors as float32 [n, dim], rows of length 1. Raises PipelineError for uneven lengths, not-a-number and zeros."""
    try:
        found = np.asarray(vectors, dtype=np.float32)
    except (ValueError, TypeError):
        raise PipelineError(f"the embedding model {model} gave vectors of different lengths") from None
    if found.ndim != 2 and len(found):
        raise PipelineError(f"the embedding model {model} gave something that is not a vector per text")
    if not np.isfinite(found).all() or (len(found) and not np.abs(found).sum(axis=1).all()):
        raise PipelineError(f"the embedding model {model} gave a vector of zeros or not-a-number: restart it, run again")
    return normalise_rows(found) if len(found) else found
