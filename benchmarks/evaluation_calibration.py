"""
How often the evaluation's verdict is wrong, and how often it finds what is there: python benchmarks/evaluation_calibration.py

    python benchmarks/evaluation_calibration.py                         # the demo's models; runs the demo if need be
    python benchmarks/evaluation_calibration.py --config config.yaml    # the models of your own finished run
    python benchmarks/evaluation_calibration.py --answers evaluation    # answers that are there already; no model is asked

Both models answer every row of training_data/ several times at a temperature above 0. The recorded answers are drawn again and
again, whole documents at a time, and judged exactly as evaluate.py judges:

base against itself   two answers of the base to each question: any verdict is false
names swapped         base and tuned, their names swapped for half of the documents: any verdict is false, and documents differ
lift everywhere       another answer of the base, every score raised a part of the way to the reference answer's: 10 points
lift in places        the same answer of the base, some replaced by the reference answer: 10 points
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that the file runs as a script

from benchmarks.recorded_scores import (  # noqa: E402 - needs the path above
    DEMO,
    Population,
    load_rows,
    make_population,
    record_answers,
    require_run,
    to_lists,
)
from distill.config import EvaluateSection, load_config  # noqa: E402
from distill.errors import run  # noqa: E402
from distill.files import write_json_atomic  # noqa: E402
from distill.progress import show_progress  # noqa: E402
from distill.report.statistics import Comparison, compare_pairs, correct_holm, judge  # noqa: E402

LIFT = 0.1
FALSE = ("base against itself", "names swapped")  # the scenarios where every verdict is false
NEED_TWO = ("base against itself", "lift everywhere")  # those that set two answers of the base against each other
MOST_FALSE, LEAST_FOUND, WIDEST = 0.06, 0.90, 0.3  # the bars; a lift must be found where the paired SD is at most WIDEST


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=DEMO, metavar="FILE")
    parser.add_argument("--answers", type=Path, metavar="FOLDER", help="with answers.jsonl: recorded, or evaluation/")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=100, help="in each run")
    parser.add_argument("--temperature", type=float, default=0.7)
    return parser.parse_args(arguments)


# -----------------------------------------------------------------------------
# Runs

# A scenario takes the rows of one run and the numbers of their documents, and gives both sides' scores, [row, metric] each.
Scenario = Callable[[np.random.Generator, Population, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def draw_rows(rng: np.random.Generator, population: Population, questions: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole documents with replacement until there are enough questions: their rows, and the draw that each belongs to."""
    names, index = np.unique(population.groups, return_inverse=True)
    members = [np.flatnonzero(index == number) for number in range(len(names))]
    drawn: list[np.ndarray] = []
    missing = questions
    while missing > 0:
        drawn.append(members[rng.integers(len(members))])
        missing -= len(drawn[-1])
    documents = np.repeat(np.arange(len(drawn)), [len(rows) for rows in drawn])
    return np.concatenate(drawn)[:questions], documents[:questions]


def draw_two(rng: np.random.Generator, population: Population, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two different answers of the base to each question; the same one twice where there is no other."""
    samples = len(population.base)
    first = rng.integers(samples, size=len(rows))
    second = (first + rng.integers(1, max(samples, 2), size=len(rows))) % samples
    return population.base[first, rows], population.base[second, rows]


def compare_with_itself(rng: np.random.Generator, population: Population, rows: np.ndarray, documents: np.ndarray) -> Any:
    """Base against base."""
    return draw_two(rng, population, rows)


def swap_names(rng: np.random.Generator, population: Population, rows: np.ndarray, documents: np.ndarray) -> Any:
    """Base against tuned with the names swapped for half of the documents, so that neither is better."""
    base, _ = draw_two(rng, population, rows)
    tuned = population.tuned[rng.integers(len(population.tuned), size=len(rows)), rows]
    swapped = rng.integers(2, size=documents.max() + 1)[documents][:, None] == 1
    return np.where(swapped, tuned, base), np.where(swapped, base, tuned)


def lift_everywhere(rng: np.random.Generator, population: Population, rows: np.ndarray, documents: np.ndarray) -> Any:
    """Every score of another answer raised by the same part of what the reference answer has more."""
    base, other = draw_two(rng, population, rows)
    return base, other + find_part(population) * (population.reference[rows] - other)


def lift_in_places(rng: np.random.Generator, population: Population, rows: np.ndarray, documents: np.ndarray) -> Any:
    """The same answers, some replaced by the reference answer."""
    base, _ = draw_two(rng, population, rows)
    return base, np.where(rng.random(len(rows))[:, None] < find_part(population), population.reference[rows], base)


def find_part(population: Population) -> np.ndarray:
    """For each metric the part of the way to the reference answers that is a mean lift of LIFT; nan where there is no room."""
    room = np.nanmean(population.reference, axis=0) - np.nanmean(population.base, axis=(0, 1))
    return np.where(room >= LIFT, LIFT / np.maximum(room, LIFT), np.nan)


def find_truth(population: Population, scenario: str) -> np.ndarray:
    """The mean difference of all that can be drawn, by metric: what an interval should hold."""
    if scenario in FALSE:
        return np.zeros(len(population.metrics))
    return find_part(population) * np.nanmean(population.reference - population.base, axis=(0, 1))


SCENARIOS: dict[str, Scenario] = {
    "base against itself": compare_with_itself, "names swapped": swap_names,
    "lift everywhere": lift_everywhere, "lift in places": lift_in_places,
}


@dataclass(frozen=True)
class Outcome:
    """One metric in one run; `spread` is the standard deviation of the paired differences."""

    found: Comparison
    spread: float
    word: str  # the verdict
    bare_word: str  # the verdict if every difference mattered


WORDS = dict.fromkeys(FALSE, "if any size mattered") | {"lift everywhere": "its SD", "lift in places": "its SD"}


def simulate(
    population: Population, settings: EvaluateSection, scenario: Scenario, runs: int, questions: int
) -> Iterator[dict[str, Outcome]]:
    """Each run's outcomes by metric; without those that applied to none of its questions."""
    rng = np.random.default_rng(settings.seed)
    for _ in range(runs):
        rows, documents = draw_rows(rng, population, questions)
        base, tuned = scenario(rng, population, rows, documents)
        seeded = settings.model_copy(update={"seed": int(rng.integers(2**31))})
        judged = (judge_run(seeded, base[:, n], tuned[:, n], documents) for n in range(len(population.metrics)))
        yield {name: outcome for name, outcome in zip(population.metrics, judged) if outcome}


def judge_run(settings: EvaluateSection, base: np.ndarray, tuned: np.ndarray, documents: np.ndarray) -> Outcome | None:
    """Compare and judge as evaluate.py does."""
    found = compare_pairs(
        to_lists(base), to_lists(tuned), [str(number) for number in documents], confidence=settings.confidence,
        samples=settings.bootstrap_samples, seed=settings.seed,
    )
    if found is None:
        return None
    words = [judge(found, smallest, settings.confidence).word for smallest in (settings.smallest_difference, 0.0)]
    return Outcome(found, float(np.nanstd(tuned - base)), *words)


def find_alarms(run: dict[str, Outcome], settings: EvaluateSection) -> tuple[bool, bool]:
    """Whether the first page would call a metric other than the primary worse: as confirmed, and as a hint at least."""
    others = {name: outcome for name, outcome in run.items() if name != settings.primary_metric}
    corrected = correct_holm({name: outcome.found.p_value for name, outcome in others.items()})
    worse = [name for name, outcome in others.items() if outcome.bare_word == "worse"]
    sure = [name for name in worse if others[name].found.documents_agree]
    return any(corrected[name] <= 1 - settings.confidence + 1e-9 for name in sure), bool(worse)


# -----------------------------------------------------------------------------
# The table


@dataclass(frozen=True)
class Row:
    """One metric in one scenario, as shares of the runs; `spread` is the mean of the paired standard deviations.

    `held` is the share of runs whose interval holds the true difference.
    """

    verdicts: float
    better: float
    bare: float
    held: float
    spread: float
    documents: float


def summarise_runs(runs: Sequence[dict[str, Outcome]], metric: str, truth: float) -> Row | None:
    """None where the metric applied to no run. `truth`: see `find_truth`."""
    outcomes = [run[metric] for run in runs if metric in run]
    if not outcomes:
        return None

    def share(true: Iterable[bool]) -> float:
        return sum(true) / len(outcomes)

    return Row(
        verdicts=share(o.word in ("better", "worse") for o in outcomes), better=share(o.word == "better" for o in outcomes),
        bare=share(o.bare_word in ("better", "worse") for o in outcomes), held=share(holds(o.found, truth) for o in outcomes),
        spread=float(np.mean([o.spread for o in outcomes])),
        documents=float(np.median([o.found.groups for o in outcomes])),
    )


def holds(found: Comparison, truth: float) -> bool:
    """Whether the interval holds the true difference; none, where there is one document, excludes nothing."""
    return found.interval is None or found.interval[0] <= truth <= found.interval[1]


def measure(population: Population, settings: EvaluateSection, runs: int, questions: int) -> dict[str, Any]:
    """Each scenario's rows by metric, each metric in runs of its own; and the share of runs with a false alarm.

    Where each question has one answer of the base, nothing is measured by setting it against itself.
    """
    rows: dict[str, dict[str, Row | None]] = {name: dict.fromkeys(population.metrics) for name in SCENARIOS}
    played = [name for name in SCENARIOS if len(population.base) > 1 or name not in NEED_TWO]
    false = [name for name in FALSE if name in played]
    alarms: dict[str, tuple[float, float]] = {}
    metrics = [population.narrow(metric) for metric in population.metrics]
    total = runs * (len(played) * len(metrics) + len(false))
    with show_progress(total, "judging", "run") as progress:

        def play(drawn: Population, scenario: str) -> list[dict[str, Outcome]]:
            done = []
            for run in simulate(drawn, settings, SCENARIOS[scenario], runs, questions):
                done.append(run)
                progress.advance(note=scenario)
            return done

        for scenario in played:
            for drawn in metrics:
                name, truth = drawn.metrics[0], float(find_truth(drawn, scenario)[0])
                rows[scenario][name] = summarise_runs(play(drawn, scenario), name, truth)
        for scenario in false:
            found = [find_alarms(run, settings) for run in play(population, scenario)]
            alarms[scenario] = tuple(np.mean(found, axis=0).tolist())
    return {"rows": rows, "alarms": alarms}


def describe(population: Population, settings: EvaluateSection, found: dict[str, Any], args: argparse.Namespace) -> str:
    """The result as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "xllamacpp"))
    drawn = {name: population.narrow(name) for name in population.metrics}
    return "\n".join([
        f"{date.today()}, CPU ({platform.machine()}, {platform.system()}), Python {platform.python_version()}, {versions}.",
        f"{args.runs:,} runs of {args.questions} questions each, whole documents drawn from {len(population.groups)} questions "
        f"about {len(set(population.groups))} documents with {len(population.base)} answers of the base; smallest difference "
        f"{settings.smallest_difference:g}, confidence {settings.confidence:.0%}, {settings.bootstrap_samples:,} resamples:",
        "",
        f"| metric | questions | documents in a run | base | {' | '.join(f'{name} | {WORDS[name]}' for name in SCENARIOS)} |",
        f"|---|---|---|---{'|---|---' * len(SCENARIOS)}|",
        *(
            f"| {name} | {len(drawn[name].groups)} | {found['rows']['names swapped'][name].documents:.0f} | "
            + f"{np.nanmean(drawn[name].base):.3f} | "
            + " | ".join(cell for scenario in SCENARIOS for cell in show(scenario, found["rows"][scenario][name])) + " |"
            for name in population.metrics
        ),
        "",
        *(f"- {name}: {MET[met]}" for name, met in check_bars(found, settings.primary_metric).items()),
        *(f"- {scenario}, {line}" for scenario, rows in found["rows"].items() if (line := describe_held(rows))),
        *(
            f"- {name}, first page: another metric called worse in {confirmed:.1%} of the runs as confirmed, in {hinted:.1%} "
            "as a hint at least"
            for name, (confirmed, hinted) in found["alarms"].items()
        ),
    ])


def show(scenario: str, row: Row | None) -> tuple[str, str]:
    """Two cells: false verdicts with and without the smallest difference, or the spread and the lifts found."""
    if row is None:
        return "-", "-"
    return (f"{row.verdicts:.1%}", f"{row.bare:.1%}") if scenario in FALSE else (f"{row.better:.1%}", f"{row.spread:.3f}")


def describe_held(rows: dict[str, Row | None]) -> str:
    """How often the intervals of one scenario hold the true difference; empty where nothing was measured."""
    held = {name: row.held for name, row in rows.items() if row}
    if not held:
        return ""
    least = min(held, key=held.__getitem__)
    return (
        f"the interval holds the true difference in {np.mean(list(held.values())):.1%} of the runs on average of "
        f"{len(held)} metrics, in {held[least]:.1%} at least ({least})"
    )


MET = {True: "met", False: "MISSED", None: "not measured"}


def check_bars(found: dict[str, Any], primary: str) -> dict[str, bool | None]:
    """Each bar in words and whether it is met: by the primary metric, which decides, and by every one that could.

    A lift counts where the paired SD is at most WIDEST. Where a bar is missed its words name the metrics. None: nothing counts.
    """
    bars: dict[str, bool | None] = {}
    for scenario, rows in found["rows"].items():
        counted = {name: row for name, row in rows.items() if row and (scenario in FALSE or row.spread <= WIDEST)}
        if scenario in FALSE:
            bar, missed = f"a verdict in at most {MOST_FALSE:.0%}", {n for n, r in counted.items() if r.verdicts > MOST_FALSE}
        else:
            bar, missed = f"found in at least {LEAST_FOUND:.0%}", {n for n, r in counted.items() if r.better < LEAST_FOUND}
        if primary in rows:
            bars[f"{scenario}, {bar}, {primary}"] = primary not in missed if primary in counted else None
        names = f" ({', '.join(sorted(missed))})" if missed else ""
        bars[f"{scenario}, {bar}, each of {len(counted)} metrics{names}"] = not missed if counted else None
    return bars


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    args = parse_args(arguments)
    config = load_config(args.config)

    # ---------------------------------------------------------------------------
    # Answers
    folder = args.answers or config.work_dir / "calibration"
    if not args.answers:
        require_run(config, args.config)
    rows = load_rows(config)
    if not args.answers:
        record_answers(config, rows, folder, args.temperature)

    # ---------------------------------------------------------------------------
    # Scores, which hold no text, then runs
    population = make_population(config, rows, folder)
    if not args.answers:
        write_json_atomic(folder / "scores.json", population.to_row())
    found = measure(population, config.evaluate, args.runs, args.questions)
    print(describe(population, config.evaluate, found, args))
    return found


if __name__ == "__main__":
    run(main)
