"""evaluate.py --ask: a question, what is found for it, each model's answer, and the figures of each. Writes nothing to disk."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

from distill.cases.case_set import Question, Source
from distill.cases.retrieving import Retriever
from distill.config import Config
from distill.engines.calls import Ask
from distill.engines.engine import Engine
from distill.engines.models import Model, Side
from distill.errors import PipelineError
from distill.metrics.table import score_free
from distill.prompts import find_citations, to_messages, wants_citations
from distill.records import Answer

RULE = "-" * 80
PROMPT = "\nQuestion (an empty line ends): "

Load = Callable[[Side], AbstractContextManager[Ask]]


def ask_loop(
    config: Config, engine: Engine, models: Mapping[Side, Model], retriever: Retriever, question: str | None
) -> None:
    """Answer `question`; without one, whatever is typed, until an empty line, Ctrl-C or Ctrl-D.

    For a single question one model is loaded after the other, as in an evaluation; in the loop they stay loaded. A failed call
    is a [FAIL] line. Raises PipelineError for an index or a model that cannot be used, and for a single question that a model
    did not answer.
    """
    if question is not None:
        failed = answer_question(config, models, retriever, engine.load, question)
        if failed:
            raise PipelineError(f"{' and '.join(failed)} gave no answer: see above")
        return
    with ExitStack() as stack:
        load = keep_loaded(engine, stack)
        try:
            while text := to_characters(input(PROMPT)).strip():
                answer_question(config, models, retriever, load, text)
        except (EOFError, KeyboardInterrupt):
            print()


def keep_loaded(engine: Engine, stack: ExitStack) -> Load:
    """A `load` that brings each model into memory once and leaves it there until the stack ends."""
    asks: dict[Side, Ask] = {}

    def load(side: Side) -> AbstractContextManager[Ask]:
        if side not in asks:
            asks[side] = stack.enter_context(engine.load(side))
        return nullcontext(asks[side])

    return load


def to_characters(text: str) -> str:
    """What was typed or piped, with a mark for each byte that is no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def answer_question(config: Config, models: Mapping[Side, Model], retriever: Retriever, load: Load, text: str) -> list[Side]:
    """Print the sources that were found and every model's answer to the same prompt; returns the models that gave none."""
    question = make_question(config, retriever, text)
    scores = [chunk.score for chunk in retriever.find(text)]
    print("\n".join(describe_sources(config, question, scores)))
    failed: list[Side] = []
    for side, model in models.items() if question.sources else ():
        with load(side) as ask:
            answer = ask(question)
        failed += [side] * bool(answer.error)
        print("\n".join([RULE, f"{side}: {model.name}", RULE, *describe_answer(config, question, answer)]))
    return failed


def make_question(config: Config, retriever: Retriever, text: str) -> Question:
    """The prompt that a served model would get, with the chunks found in the index."""
    rendered = retriever.render(text)
    sources = tuple(Source(span.source, rendered.instruction[span.start : span.end]) for span in rendered.context)
    messages = tuple(to_messages(config.prompt.system, rendered.instruction))
    return Question("own", "asked", messages, text=text, sources=sources)


# -----------------------------------------------------------------------------
# Lines for the console


def describe_sources(config: Config, question: Question, scores: Sequence[float]) -> list[str]:
    """One numbered line for each source, with its cosine; or why no model is asked."""
    if not question.sources:
        return [
            f"[WARN] nothing in the index is near that question (generate.min_score {config.generate.min_score:g}), "
            f"so no model is asked"
        ]
    numbered = zip(range(1, len(question.sources) + 1), question.sources, scores)
    return [RULE, *(f"source {number}  {score:.3f}  {to_printable(source.name)}" for number, source, score in numbered)]


def describe_answer(config: Config, question: Question, answer: Answer) -> list[str]:
    """The answer and its figures, or why there is none."""
    if answer.error:
        return [f"[FAIL] {to_printable(answer.error)}"]
    lines = [to_printable(answer.text) or "(it said nothing)", "", f"[OK] {describe_speed(answer)}"]
    if answer.finish_reason == "length":
        lines.append(f"[WARN] cut off at evaluate.max_tokens {config.evaluate.max_tokens}")
    return lines + describe_scores(config, question, answer.text) + describe_citations(config, question, answer.text)


def describe_speed(answer: Answer) -> str:
    """Words, tokens and time; what an engine does not tell is left out."""
    parts = [f"{len(answer.text.split())} words", f"{answer.answer_tokens} tokens", f"{answer.seconds:.1f} s"]
    if answer.answer_seconds:
        parts.append(f"{answer.answer_tokens / answer.answer_seconds:.1f} tokens/s")
    if answer.first_token_seconds:
        parts.append(f"first token after {answer.first_token_seconds:.2f} s")
    return ", ".join(parts)


def describe_scores(config: Config, question: Question, text: str) -> list[str]:
    """What can be measured without a reference answer."""
    scores = score_free(config.prompt, question.text, question.sources, text)
    grounding, passed = scores["grounding"], scores["guard_passed"]
    lines = [] if grounding is None else [f"     grounding {grounding:.2f} (1.00: no unsupported statement was found)"]
    if passed is not None:
        lines.append(f"     HybridRAG3's answer guard would {'show' if passed else 'withhold'} it")
    return lines


def describe_citations(config: Config, question: Question, text: str) -> list[str]:
    """Which sources the answer cites, by number, and a warning for those that do not exist."""
    if not wants_citations(config.prompt):
        return []
    cited = sorted(set(find_citations(config.prompt, text)))
    missing = [number for number in cited if not 1 <= number <= len(question.sources)]
    there = [str(number) for number in cited if number not in missing]
    lines = [f"     cites source {', '.join(there)}" if there else "     cites no source"]
    return lines + ([f"[WARN] cites source {', '.join(map(str, missing))}, which does not exist"] if missing else [])


def to_printable(text: str) -> str:
    """A text from a model or a document without what could steer a terminal: control and formatting characters become "?"."""
    lines = text.replace("\r\n", "\n")
    return "".join(each if each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cf") else "?" for each in lines)
