"""The demo from end to end, cut off from the network: what its report must show, and that nothing learned is nothing shown.

Takes some minutes; left out by  pytest -m "not slow".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config import load_config
from distill.records import load_examples
from tests.report.browser import find_browser, take_screenshot

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo"
OFFLINE = Path(__file__).parent / "offline"
SCRIPTS = ("generate_training_data.py", "finetune.py", "export_gguf.py", "evaluate.py")

PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.slow


def run_demo(config: Path) -> str:
    """What `python -m demo` printed, without a network."""
    environment = {**os.environ, "PYTHONPATH": str(OFFLINE), "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--config", str(config)], cwd=ROOT, env=environment, timeout=1800, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def write_config(path: Path, world: Path, **finetune: object) -> Path:
    """demo/config.yaml at another place; index, student and embedder lie in `world`, the stages beside the config."""
    values = yaml.safe_load((DEMO / "config.yaml").read_text(encoding="utf-8"))
    values["work_dir"] = "run"
    values["generate"]["questions_file"] = (DEMO / "questions.yaml").as_posix()
    values["evaluate"]["golden_cases"] = [(DEMO / "golden.json").as_posix()]
    values["generate"]["index_folder"] = (world / "index").as_posix()
    values["finetune"] |= {"base_model": (world / "student").as_posix(), **finetune}
    for section in ("generate", "evaluate"):
        values[section]["embedder"]["model"] = (world / "minilm").as_posix()
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def read_summary(config: Path) -> dict[str, Any]:
    return json.loads((load_config(config).evaluation_dir / "summary.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first demo makes index, student and embedder."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, world: Path) -> tuple[Path, str]:
    """Config and output of one demo with the shipped settings."""
    config = write_config(tmp_path_factory.mktemp("demo") / "shipped" / "config.yaml", world)
    return config, run_demo(config)


def test_demo_types_the_four_commands_and_names_the_report(demo: tuple[Path, str]) -> None:
    config, printed = demo
    places = [printed.index(f"> python {script} --config") for script in SCRIPTS]
    assert places == sorted(places)
    assert printed.rstrip().splitlines()[-1] == f"[OK] Report: {load_config(config).evaluation_dir / 'report.html'}"


def test_tuned_is_better_on_the_metric_named_before_the_run(demo: tuple[Path, str]) -> None:
    config, _ = demo
    summary = read_summary(config)
    deciding = summary["metrics"][load_config(config).evaluate.primary_metric]
    assert summary["verdict"] == "better"
    assert summary["primary_metric"] == load_config(DEMO / "config.yaml").evaluate.primary_metric
    assert deciding["pairs"] >= 30 and deciding["interval"][0] > 0


def test_rows_come_from_hybrid_retrieval_with_near_misses_and_some_lack_their_document(demo: tuple[Path, str]) -> None:
    config = load_config(demo[0])
    assert config.generate.retrieval == "hybrid"
    rows = [row for side in ("train", "heldout") for row in load_examples(config.training_dir / f"{side}.jsonl")]
    answered = [row for row in rows if row.answerable and row.golden]
    assert {[span.chunk_id for span in row.context].index(row.golden[0]) for row in answered} == {0, 1}, "in random places"
    assert all(len({span.source for span in row.context}) == 2 for row in answered), "one source is of another document"
    lacking = [row for row in rows if row.answerable is False and row.category != "Outside the documents"]
    assert len(lacking) > 5 and {row.output for row in lacking} == {config.prompt.refusal}


def test_base_is_trained_well_enough_to_end_its_answers(demo: tuple[Path, str]) -> None:
    assert read_summary(demo[0])["metrics"]["finished"]["base"] >= 0.9


def test_report_shows_both_sides(demo: tuple[Path, str]) -> None:
    folder = load_config(demo[0]).evaluation_dir
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert {answer["side"] for answer in answers} == {"base", "tuned"} and not any(answer["error"] for answer in answers)
    assert page.count("[Source 1]") > 30 and "http://" not in page.replace("http://www.w3.org/", "")


def test_every_set_of_questions_was_asked_in_one_load_of_each_model(demo: tuple[Path, str]) -> None:
    summary = read_summary(demo[0])
    assert summary["conditions"]["loads"] == {"base": 1, "tuned": 1}
    assert set(summary["sets"]) == {"golden", "general", "memory"}
    assert summary["sets"]["memory"]["notes"]["canaries_planted"] == load_config(demo[0]).generate.canaries > 0


@pytest.mark.skipif(not find_browser(), reason="no Chromium is installed")
def test_the_first_page_is_the_picture_in_the_readme(demo: tuple[Path, str], tmp_path: Path) -> None:
    """DISTILL_PICTURE=docs/report.png in the environment puts the new picture there."""
    target = Path(os.environ.get("DISTILL_PICTURE") or tmp_path / "report.png").absolute()
    take_screenshot(load_config(demo[0]).evaluation_dir / "report.html", target)
    taken, pictured = target.read_bytes(), (DEMO.parent / "docs" / "report.png").read_bytes()
    assert taken.startswith(PNG) and taken[16:24] == pictured[16:24], "another size"
    assert len(taken) > 30_000, "an empty page"


def test_demo_keeps_off_folders_that_are_not_its_own(tmp_path: Path) -> None:
    config = write_config(tmp_path / "mine" / "config.yaml", tmp_path / "world")
    answers = config.parent / "run" / "training_data" / "answers.jsonl"
    answers.parent.mkdir(parents=True)
    answers.write_text("paid for", encoding="utf-8")
    command = [sys.executable, "-m", "demo", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "holds files that the demo did not make" in done.stderr
    assert answers.read_text(encoding="utf-8") == "paid for"


def test_learning_rate_zero_shows_no_difference(demo: tuple[Path, str], world: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "zero" / "config.yaml", world, learning_rate=0.0, epochs=1)
    printed = run_demo(config)
    assert "Training a student from scratch" not in printed
    summary = read_summary(config)
    assert summary["verdict"] == "no measurable difference"
    figures = summary["metrics"][summary["primary_metric"]]
    assert (figures["difference"], figures["wins"], figures["losses"]) == (0.0, 0, 0)
    low, high = figures["interval"]
    assert low == -high and high > 0, "equal on these documents is not equal on all"
