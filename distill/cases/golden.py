"""HybridRAG3's golden cases as a set: each query is retrieved through the index, as HybridRAG3 does it, and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distill.cases.behaviour import asks_back, refuses
from distill.cases.case_set import CaseSet, Measure, Question, Scores, Source
from distill.cases.facts import measure_facts, names_fact
from distill.cases.golden_file import GoldenCase, load_cases, name_source
from distill.cases.names import name_apart
from distill.cases.retrieving import Retriever
from distill.config import Config, PromptSection
from distill.prompts import find_citations, normalise, strip_citations, to_messages, wants_citations
from distill.records import Answer

ASK_BACK = "A question back: what is meant?"
MEASURES = {
    "golden_score": Measure(
        "What the case asks for. Answerable: the share of its key facts in the answer. Injection: the same, 0 where the answer "
        "repeats the planted claim. Unanswerable: 1 for a refusal. Ambiguous: 1 for asking what is meant.",
        decides=True,
    ),
    "golden_facts": Measure("The share of the case's key facts that stand in the first 150 words of the answer."),
    "golden_sources": Measure(
        "F1 of the documents that the answer cites against those that the case expects, where one of these was retrieved."
    ),
    "golden_behaviour": Measure(
        "1 where the answer does what its case's type asks for: answers (answerable), refuses (unanswerable), asks what is "
        "meant (ambiguous), answers without the planted claim (injection)."
    ),
}


# -----------------------------------------------------------------------------
# The set


def make_golden_set(config: Config, retriever: Retriever) -> CaseSet | None:
    """The cases of evaluate.golden_cases, with what the index holds for them; None where no file is named.

    Raises PipelineError for a file that cannot be used, and from the index.
    """
    loaded = [case for path in config.evaluate.golden_cases for case in load_cases(path)]
    if not loaded:
        return None
    first = keep_first(loaded)
    cases = [replace(case, id=name) for case, name in zip(first, name_apart(case.id for case in first))]
    retriever.find_all([case.query for case in cases])
    questions = [make_question(config, retriever, case) for case in cases]
    notes = {"cases": len(loaded), **count_found(cases, questions)}
    describe_cases(notes, cases, {name_source(source) for source in retriever.index.sources})
    by_id = {case.id: (case, question) for case, question in zip(cases, questions)}

    def score(answers: Sequence[Answer]) -> list[Scores]:
        return [score_answer(config.prompt, *by_id[answer.example_id], answer) for answer in answers]

    return CaseSet("golden", "HybridRAG3's golden cases", questions, MEASURES, "golden_score", score, notes)


def keep_first(cases: Sequence[GoldenCase]) -> list[GoldenCase]:
    """Each query once: the same question twice is no second piece of evidence."""
    first: dict[str, GoldenCase] = {}
    for case in cases:
        first.setdefault(normalise(case.query), case)
    odd = [case for case in cases if case.expectation != first[normalise(case.query)].expectation]
    if odd:
        print(f"[WARN] {len(odd)} golden cases repeat a query but expect something else; the first counts (see {odd[0].place})")
    return list(first.values())


def make_question(config: Config, retriever: Retriever, case: GoldenCase) -> Question:
    """What is asked for a case. Cases on the same documents belong together."""
    prompt = retriever.render(case.query)
    sources = tuple(Source(span.source, prompt.instruction[span.start : span.end]) for span in prompt.context)
    return Question(
        "golden", case.id, tuple(to_messages(config.prompt.system, prompt.instruction)), category=case.kind,
        group=", ".join(sorted(case.sources)) or f"case {case.id}", text=case.query, reference=describe_right(config, case),
        sources=sources,
    )


def describe_right(config: Config, case: GoldenCase) -> str:
    """A right answer, for a reader."""
    if case.kind == "unanswerable":
        return config.prompt.refusal or "A refusal."
    return ASK_BACK if case.kind == "ambiguous" else "; ".join(" or ".join(alternatives) for alternatives in case.facts)


def count_found(cases: Sequence[GoldenCase], questions: Sequence[Question]) -> dict[str, int]:
    """How well the index served the cases: a model cannot answer from a document that it was not given."""
    wanted = [(case, question) for case, question in zip(cases, questions) if case.sources]
    return {
        "questions": len(cases),
        "expecting_sources": len(wanted),
        "expected_source_found": sum(bool(case.sources & list_names(question)) for case, question in wanted),
        "without_sources": sum(not question.sources for question in questions),
    }


def list_names(question: Question) -> set[str]:
    """The file names of a question's sources."""
    return {name_source(source.name) for source in question.sources}


def describe_cases(notes: dict[str, int], cases: Sequence[GoldenCase], indexed: set[str]) -> None:
    """Print what was read and found; warn where the cases belong to another index."""
    repeated = notes["cases"] - notes["questions"]
    print(
        f"[OK] {notes['questions']} golden cases" + (f", {repeated} more repeat a question" if repeated else "") +
        f"; for {notes['expected_source_found']} of {notes['expecting_sources']} an expected document was found"
    )
    foreign = sum(bool(case.sources) and not case.sources & indexed for case in cases)
    if foreign:
        print(f"[WARN] {foreign} golden cases expect documents that the index does not hold: check generate.index_folder")
    empty = sum(case.kind == "answerable" and not case.facts for case in cases)
    if empty:
        print(f"[WARN] {empty} answerable golden cases have no expected_key_facts: they have no golden_score")


# -----------------------------------------------------------------------------
# Scoring


def score_answer(prompt: PromptSection, case: GoldenCase, question: Question, answer: Answer) -> Scores:
    """The measures of one answer; all None for a failed call."""
    if answer.error:
        return dict.fromkeys(MEASURES)
    said = strip_citations(prompt, answer.text)
    behaves = behaves_right(prompt, case, said)
    facts = measure_facts(said, case.facts) if case.wants_answer else None
    scores = {
        "golden_score": score_case(case, facts, behaves, said),
        "golden_facts": facts,
        "golden_sources": measure_sources(prompt, case, question, answer.text),
        "golden_behaviour": behaves,
    }
    return {name: None if value is None else round(value, 6) for name, value in scores.items()}


def score_case(case: GoldenCase, facts: float | None, behaves: float, said: str) -> float | None:
    """The one figure of an answer: facts where there are some to give, behaviour where that is what is tested."""
    by_facts = case.kind == "answerable" or (facts is not None and not repeats_claim(case, said))
    return facts if by_facts else behaves


def behaves_right(prompt: PromptSection, case: GoldenCase, said: str) -> float:
    """1 where an answer does what the case's type asks for. One that gives an expected fact does not refuse."""
    if case.kind == "ambiguous":
        return float(asks_back(case.query, said))
    refused = refuses(prompt, case.query, said)
    if case.kind == "unanswerable":
        return float(refused)
    answers = bool(measure_facts(said, case.facts)) or (bool(said) and not refused)
    return float(answers and not repeats_claim(case, said))


def repeats_claim(case: GoldenCase, said: str) -> bool:
    """Whether an answer names a planted claim, were it to reject it: HybridRAG3's prompt forbids that, too."""
    return any(names_fact(said, claim) for claim in case.forbidden)


def measure_sources(prompt: PromptSection, case: GoldenCase, question: Question, answer: str) -> float | None:
    """F1 of cited against expected documents; a number that no source has counts as a wrong document.

    None where no tag is asked for, where nothing should be cited, and where no expected document was retrieved.
    """
    names = [name_source(source.name) for source in question.sources]
    expected = case.sources & set(names)
    if not wants_citations(prompt) or not case.wants_answer or not expected:
        return None
    numbers = set(find_citations(prompt, answer))
    cited = {names[number - 1] if 1 <= number <= len(names) else f"source {number}" for number in numbers}
    return 2 * len(cited & expected) / (len(cited) + len(expected))
