"""A second opinion on the answers: a model compares base and tuned on each held-out question, with the sources in view.

Each pair is judged in both orders, since judges like the answer that stands first; where the two judgements differ, the pair is
a tie. The judge never decides. It is asked through the teacher's client: evaluation/judge/ holds its replies, each of which
is paid for once, its ledger and its audit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.cases.case_set import CaseSet
from distill.config import Config, JudgeSection
from distill.encryption import clear_plain
from distill.engines.models import PAIR, Model, Side
from distill.errors import PipelineError
from distill.judging.pairs import Opinions, Pair, judge_pair, make_requests
from distill.masking import Masker
from distill.network import host_of, is_loopback, require_allowed
from distill.ollama import OllamaClient
from distill.progress import show_progress
from distill.records import Answer
from distill.report.statistics import compare_pairs, count_leanings
from distill.teacher.dispatch import Spending
from distill.teacher.journal import Journal, list_missing, load_replies, set_aside
from distill.teacher.keys import describe_key, find_key, require_https
from distill.teacher.ledger import Ledger, load_spending
from distill.teacher.prices import describe_usd, most_cost
from distill.teacher.requests import Request

if TYPE_CHECKING:
    from distill.teacher.preflight import Preflight

FOLDER = "judge"  # below evaluation/
LONGEST_LOOK_SECONDS = 10
PREFERENCE = {"base": -1.0, "tie": 0.0, "tuned": 1.0}

Answers = Mapping[tuple[str, Side], Sequence[Answer]]  # by name of the set, and side


# -----------------------------------------------------------------------------
# Before the first answer


def check_judge(config: Config, folder: Path, models: Mapping[Side, Model]) -> Preflight | None:
    """What the judge's server says of the model; `folder` is evaluation/. Sends no document.

    None, after one [SKIP] line, where no judge is wanted, HybridRAG3's switches forbid its host, or there is no control.
    Raises PipelineError for a judge that cannot be asked, and for one that is a judged model itself.
    """
    section = config.evaluate.judge
    if reason := find_obstacle(section, models):
        print(f"[SKIP] judge: {reason}")
        return None
    from distill.teacher.preflight import check_service

    require_https(section)
    require_other_model(section, models)
    require_other_file(config, models)
    print(describe_key(section, config.generate.teacher))
    preflight = check_service(section, folder / FOLDER, find_key(section, config.generate.teacher))
    print("\n".join(preflight.lines))
    return preflight


def find_obstacle(section: JudgeSection, models: Mapping[Side, Model]) -> str:
    """Why nobody is asked, or an empty text."""
    if not section.enabled:
        return "evaluate.judge.enabled is false"
    if not models.keys() >= set(PAIR):
        return "there is no base model whose answers could be compared"
    try:
        require_allowed(section.base_url)
    except PipelineError as error:
        return str(error)
    return ""


def require_other_model(section: JudgeSection, models: Mapping[Side, Model]) -> None:
    """Raises PipelineError for a judge that would judge itself, by its name in Ollama or its file."""
    wanted = section.model.lower().removesuffix(":latest")
    for side in PAIR:
        name, file = models[side].name.lower().removesuffix(":latest"), Path(models[side].file.lower())
        if wanted in (name, file.name, file.stem):
            raise explain_same(section, side)


def require_other_file(config: Config, models: Mapping[Side, Model]) -> None:
    """Raises PipelineError for a judge in Ollama that is one of the two by another name, such as a copy.

    Asked where the judge stands on this machine or at evaluate.ollama_url; a server that is no Ollama tells nothing.
    """
    section, address = config.evaluate.judge, config.evaluate.judge.base_url.rstrip("/").removesuffix("/v1")
    if not is_loopback(address) and host_of(address) != host_of(config.evaluate.ollama_url):
        return
    client = OllamaClient(address, LONGEST_LOOK_SECONDS)
    try:
        held = client.find_model(section.model).get("digest")
        same = [side for side in PAIR if held and held == client.find_model(models[side].name).get("digest")]
    except (PipelineError, KeyError, TypeError, AttributeError):
        return
    if same:
        raise explain_same(section, same[0])


def explain_same(section: JudgeSection, side: Side) -> PipelineError:
    """The error for a judge that would judge itself."""
    return PipelineError(f"evaluate.judge.model {section.model} is the {side} model that is judged: name another")


# -----------------------------------------------------------------------------
# All pairs


def judge_answers(
    config: Config, heldout: CaseSet, answers: Answers, folder: Path, preflight: Preflight | None
) -> dict[str, Any] | None:
    """The judge's figures for summary.json; None without a `preflight`, which is that of `check_judge`.

    A judge that fails midway, or whose budget ends, is a warning: what it said until then counts. Raises nothing that an
    evaluation should end for; replies that a cut prompt led to are set aside, so that a later run asks again.
    """
    if preflight is None:
        return None
    section, place = config.evaluate.judge, folder / FOLDER
    pairs = pair_answers(config, heldout, answers)
    if config.encrypt:
        clear_plain(place)
    opinions = Opinions({pair.id: "tie" for pair in pairs if pair.alike})
    stopped = ask_judge(config, [pair for pair in pairs if not pair.alike], place, preflight, opinions)
    if opinions.cut:
        set_aside(place, opinions.cut)
    describe_opinions(section, opinions, stopped)
    return summarise_opinions(config, pairs, opinions)


def pair_answers(config: Config, heldout: CaseSet, answers: Answers) -> list[Pair]:
    """The pairs without a failed call, of the first evaluate.judge.questions questions; masked for a judge elsewhere."""
    section = config.evaluate.judge
    masker = None if is_loopback(section.base_url) else Masker(config.generate.masking)
    mask = masker.mask if masker else str
    both = zip(heldout.questions, *(answers[heldout.name, side] for side in PAIR))
    pairs = [
        Pair(
            question.id, question.group or question.id, mask(question.messages[-1]["content"]),
            {"base": mask(base.text), "tuned": mask(tuned.text)},
        )
        for question, base, tuned in list(both)[: section.questions] if not base.error and not tuned.error
    ]
    if masker and masker.counts:
        masked = ", ".join(f"{number:,} {tag}" for tag, number in sorted(masker.counts.items()))
        print(f"[OK] judge: masked before it is sent: {masked}")
    return pairs


def ask_judge(config: Config, pairs: Sequence[Pair], place: Path, preflight: Preflight, opinions: Opinions) -> str:
    """Have every pair judged, into `opinions`; returns why the judge stopped early, or an empty text."""
    from distill.teacher.chat import run_jobs

    section = config.evaluate.judge
    asked = [make_requests(section, pair, schema=preflight.structured is not False) for pair in pairs]
    describe_plan(section, [request for both in asked for request in both], place, preflight)
    key = find_key(section, config.generate.teacher)
    with Journal(place, section, config.encrypt) as journal, Ledger(place) as ledger, \
            show_progress(len(pairs), "judge", "question") as progress:
        spending = Spending(progress)
        jobs = [partial(judge_pair, both, pair, opinions, spending.advance) for both, pair in zip(asked, pairs)]
        try:
            run_jobs(section, key, jobs, journal, ledger, preflight.prices, spending.note)
        except PipelineError as error:
            return str(error)
    return ""


def describe_plan(section: JudgeSection, requests: Sequence[Request], place: Path, preflight: Preflight) -> None:
    """Say what will be sent and cost at most, before it is, and what earlier runs cost."""
    missing = list_missing(section, requests, load_replies(place))
    most = sum(most_cost(preflight.prices, request) for request in missing) if preflight.prices else None
    cost = "its price is not known" if most is None else f"at most {describe_usd(most)}"
    print(f"[OK] judge: {len(missing):,} of {len(requests):,} requests to {section.model} at {preflight.host}, {cost}")
    for line in load_spending(place, preflight.prices).describe():
        print(line)


# -----------------------------------------------------------------------------
# Figures


def describe_opinions(section: JudgeSection, opinions: Opinions, stopped: str) -> None:
    """Console lines on what went wrong."""
    if opinions.cut:
        print(
            f"[WARN] judge: the server of {section.model} cut {len(opinions.cut)} prompts, so that the judge did not see all "
            f"sources: give it more context (Ollama: OLLAMA_CONTEXT_LENGTH=8192), and run again with --overwrite"
        )
    for reason, number in Counter(opinions.unreadable.values()).most_common(3):
        print(f"[WARN] judge: {number} questions left out: {reason}")
    if stopped:
        print(f"[WARN] judge: stopped early, what it said until then counts, and no reply is lost: {stopped}")


def summarise_opinions(config: Config, pairs: Sequence[Pair], opinions: Opinions) -> dict[str, Any]:
    """The figures. `interval` is that of the mean preference, -1 (always base) to 1 (always tuned), clustered by document.

    `questions` were judged: `tuned`, `base` and `tie` add up to them, and of the ties `alike` had equal answers and in
    `disagreed` the orders did not agree. `unreadable` and `unasked` pairs are left out. `first_share` is how often the answer
    that stood first won, where one did: 0.5 for a judge who does not look at the order. `p_value` is the sign test's.
    """
    section, settings = config.evaluate.judge, config.evaluate
    judged = [pair for pair in pairs if pair.id in opinions.winners]
    winners = Counter(opinions.winners.values())
    chosen = opinions.places["A"] + opinions.places["B"]
    documents: dict[str, list[float]] = defaultdict(list)
    for pair in judged:
        documents[pair.group].append(PREFERENCE[opinions.winners[pair.id]])
    compared = compare_pairs(
        [0.0] * len(judged), [PREFERENCE[opinions.winners[pair.id]] for pair in judged], [pair.group for pair in judged],
        confidence=settings.confidence, samples=settings.bootstrap_samples, seed=settings.seed,
    )
    return {
        "model": section.model, "host": host_of(section.base_url), "questions": len(judged), "tuned": winners["tuned"],
        "base": winners["base"], "tie": winners["tie"], "alike": sum(pair.alike for pair in pairs),
        "disagreed": len(opinions.disagreed), "unreadable": len(opinions.unreadable),
        "unasked": len(pairs) - len(judged) - len(opinions.unreadable), **count_leanings(documents),
        "first_share": round(opinions.places["A"] / chosen, 6) if chosen else None,
        "p_value": compared.p_value if compared else None, "interval": compared.interval if compared else None,
    }
