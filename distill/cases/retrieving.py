"""Chunks for a question that no training row was made of: golden cases, and what is asked with --ask.

They are found as HybridRAG3 finds them when it serves: in the whole index, best first. What stage 1 does besides in order to
teach is left out here: no split, no near misses of other documents, no shuffling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from distill.config import Config
from distill.index.check import check_index
from distill.index.embedders import Embedder, embed_questions, make_embedder
from distill.index.hybridrag import Index, load_index, warn_of_tiers
from distill.index.retrieval import rank_chunks
from distill.masking import Masker
from distill.network import is_loopback
from distill.prompts import RenderedPrompt, render_prompt
from distill.records import Chunk


def make_masker(config: Config) -> Masker | None:
    """What masks prompts before they are asked: nothing where the models answer on this machine, as HybridRAG3 serves them."""
    settings = config.evaluate
    stays_here = settings.engine == "embedded" or is_loopback(settings.ollama_url)
    return None if stays_here else Masker(config.generate.masking)


class Retriever:
    """Finds chunks with the settings of config.generate; index and embedder are opened at the first question."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._found: dict[str, list[Chunk]] = {}

    @cached_property
    def embedder(self) -> Embedder:
        """What embeds questions. Raises PipelineError."""
        return make_embedder(self.config.generate.embedder)

    @cached_property
    def index(self) -> Index:
        """The index, compared with the embedder. Raises PipelineError when it is missing, or of another model."""
        settings = self.config.generate
        index = load_index(settings.index_folder, settings.index)
        warn_of_tiers(index)
        print(f"[OK] {check_index(index, self.embedder, settings.embedder)}")
        return index

    @cached_property
    def masker(self) -> Masker | None:
        """See make_masker. Raises PipelineError when its file of words is missing."""
        return make_masker(self.config)

    def find(self, question: str) -> list[Chunk]:
        """At most top_k chunks from min_score up, best first; `score` is the plain cosine. Raises PipelineError."""
        return self.find_all([question])[0]

    def find_all(self, questions: Sequence[str]) -> list[list[Chunk]]:
        """The same for many questions at once; what was found once is remembered. Raises PipelineError."""
        fresh = [question for question in dict.fromkeys(questions) if question not in self._found]
        if fresh:
            self._found.update(zip(fresh, self._search(fresh)))
        return [self._found[question] for question in questions]

    def render(self, question: str) -> RenderedPrompt:
        """The prompt that asks the question with the chunks found for it; masked where it leaves this machine.

        The spans name the sources by their true paths. Raises PipelineError.
        """
        chunks = self.find(question)
        if self.masker is None:
            return render_prompt(self.config.prompt, question, chunks)
        mask = self.masker.mask
        shown = [replace(chunk, source=mask(chunk.source), text=mask(chunk.text)) for chunk in chunks]
        rendered = render_prompt(self.config.prompt, mask(question), shown)
        spans = zip(rendered.context, chunks)
        return RenderedPrompt(
            rendered.instruction, tuple(span.model_copy(update={"source": chunk.source}) for span, chunk in spans)
        )

    def _search(self, questions: Sequence[str]) -> list[list[Chunk]]:
        """The chunks of each question, from the index."""
        settings, index = self.config.generate, self.index
        vectors = embed_questions(self.embedder, settings.embedder, questions)
        everything = np.ones(len(index), bool)
        ranked = rank_chunks(index, questions, vectors, [everything], settings.top_k, settings.retrieval)[0]
        kept = [[hit for hit in hits if hit.cosine >= settings.min_score] for hits in ranked]
        return [index.load_chunks([hit.position for hit in hits], [hit.cosine for hit in hits]) for hits in kept]
