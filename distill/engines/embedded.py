"""llama.cpp in this process, with the chat template of the GGUF file and the stops of the Modelfile beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distill.cases.case_set import Question
from distill.engines.calls import Ask, Complete, Reply, make_ask
from distill.engines.models import Model, Side
from distill.engines.options import Options
from distill.engines.prompts import find_format, make_probe, require_same_prompt

if TYPE_CHECKING:
    from distill.llamacpp import LlamaModel


class EmbeddedEngine:
    """Asks one question at a time; nothing leaves this process."""

    workers = 1

    def __init__(self, models: Mapping[Side, Model], options: Options, system: str = "") -> None:
        self._models, self._options, self._system = models, options, system
        self.loads: Counter[Side] = Counter()

    def require_ready(self) -> None:
        """gguf/manifest.json has vouched for the files. Raises PipelineError for a Modelfile that is missing or not ours."""
        for model in self._models.values():
            if model.modelfile:
                find_format(model)

    def describe_call(self, question: Question) -> str:
        """There is one way."""
        return "embedded"

    @contextmanager
    def load(self, side: Side) -> Iterator[Ask]:
        """Raises PipelineError when llama.cpp refuses the file; that is no failed call, and ends the run."""
        from distill.gguf.modelfile import read_modelfile
        from distill.llamacpp import LlamaModel

        model = self._models[side]
        stops = read_modelfile(model.modelfile).stops if model.modelfile else ()
        with LlamaModel(model.path, n_ctx=self._options["num_ctx"]) as llama:
            self.loads[side] += 1
            self._require_same_prompt(model, llama)
            yield make_ask(side, self._options, make_complete(llama, stops))

    def _require_same_prompt(self, model: Model, llama: LlamaModel) -> None:
        """A stock model may wrap messages as it likes."""
        if model.modelfile:
            format = find_format(model)
            probe = make_probe(format, self._system)
            require_same_prompt(model, format, llama.apply_template(probe), probe)


def make_complete(llama: LlamaModel, stops: tuple[str, ...]) -> Complete:
    """What asks a loaded model."""

    def complete(question: Question, options: Options) -> Reply:
        made = llama.complete(
            llama.apply_template(question.messages) + question.opening, temperature=options["temperature"],
            top_p=options["top_p"], top_k=options["top_k"], max_tokens=options["num_predict"], seed=options["seed"], stop=stops,
        )
        return Reply(
            made.text, made.finish_reason, made.prompt_tokens, made.generated_tokens, made.prompt_seconds, made.answer_seconds
        )

    return complete
