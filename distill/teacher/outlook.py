"""Before the teacher is paid: what a run will cost, what the provider says of the model, and the first rows to look at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from distill.config import Config
from distill.curation.lengths import TokenCounter
from distill.curation.rejections import Rejections
from distill.index.embedders import Embedder
from distill.network import is_loopback
from distill.rows.making import Results
from distill.rows.plan import Plan
from distill.rows.planner import PlannedRow, PlannedSet
from distill.rows.preview import show_rows
from distill.teacher.dispatch import answer_rows, describe_teacher
from distill.teacher.journal import Journal, describe_journal, list_missing, load_replies
from distill.teacher.ledger import Ledger, load_spending
from distill.teacher.preflight import Preflight, check_teacher
from distill.teacher.prices import Prices, estimate
from distill.teacher.requests import Request

FIRST_BATCH, LONG_RUN = 3, 20  # rows shown before a paid run of more requests than this goes on


def prepare_teacher(config: Config, key: str, plan: Plan, overwrite: bool) -> tuple[Preflight | None, list[Request]]:
    """What the provider says of the model, and the requests that have no answer yet; prints what they will cost."""
    teacher, folder = config.generate.teacher, config.training_dir
    missing = list_missing(teacher, plan.requests, {} if overwrite else load_replies(folder))
    print(f"[OK] to answer: {len(missing)} of {len(plan.requests)} requests, by {describe_teacher(config)}")
    if teacher.provider == "extractive" or not teacher.enabled or not plan.requests:
        return None, missing
    preflight = check_teacher(config, key)
    spending = load_spending(folder, preflight.prices)
    lines = [*preflight.lines, describe_journal(folder, teacher, plan.requests), *spending.describe()]
    expected = estimate(config, missing, preflight.prices)
    print("\n".join([*lines, *expected.describe()]))
    if teacher.budget_usd and expected.cost_usd and spending.most_usd + expected.cost_usd > teacher.budget_usd:
        print(f"[WARN] generate.teacher.budget_usd {teacher.budget_usd:g} will end this run before its last row")
    return preflight, missing


@dataclass(frozen=True)
class Stage:
    """What answering needs."""

    config: Config
    key: str
    embedder: Embedder | None
    counter: TokenCounter
    journal: Journal
    ledger: Ledger
    prices: Prices | None

    def answer(self, planned: Sequence[PlannedRow], sets: Sequence[PlannedSet], results: Results) -> None:
        """Have rows and sets answered, checked and kept, in `results`."""
        answer_rows(
            self.config, self.key, self.embedder, planned, sets, self.counter, results, self.journal, self.ledger, self.prices
        )


def may_go_on(stage: Stage, plan: Plan, missing: Sequence[Request], yes: bool) -> bool:
    """Before a long paid run: the first rows as they will be learnt, and, to somebody who sits there, a question."""
    teacher, prices = stage.config.generate.teacher, stage.prices
    free = is_loopback(teacher.base_url) if prices is None else not prices.cost(1, 1)
    if teacher.provider == "extractive" or free or len(missing) <= LONG_RUN:
        return True
    first = {row_id for request in missing[:FIRST_BATCH] for row_id in request.row_ids}
    planned, sets = ([each for each in some if each.id in first] for some in (plan.planned, plan.sets))
    results = Results(planned, sets, Rejections())
    stage.answer(planned, sets, results)
    show_rows(stage.config, results.rows, FIRST_BATCH)
    if yes or not sys.stdin.isatty():
        return True
    return input(f"Go on with {len(missing) - FIRST_BATCH} more requests? [y/N] ").strip().lower() in ("y", "yes")
