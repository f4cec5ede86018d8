"""llama.cpp in this process, on real GGUF files."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.cases.case_set import Question
from distill.engines.collecting import collect_answers
from distill.engines.embedded import EmbeddedEngine
from distill.engines.engine import make_engine
from distill.engines.models import Model, find_models
from distill.engines.options import make_options
from distill.errors import PipelineError
from distill.files import read_json
from distill.gguf.chat import FORMATS
from tests.engines.worlds import MODEL, OPTIONS, make_set
from tests.finished_stages import BASE, TUNED, write_config, write_modelfile, write_stages

pytest.importorskip("xllamacpp")
ROOT = Path(__file__).parent.parent.parent
EXTRA = "engine: embedded\n  max_tokens: 24\n  stock_model: today.gguf"


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 to 3 done, with three different random models as base, tuned and stock."""
    from distill.gguf.convert import Output, convert
    from tests.tiny_models import write_tiny_phi3

    folder = tmp_path_factory.mktemp("embedded")
    config = write_config(folder, "http://127.0.0.1:9", EXTRA)
    config.gguf_dir.mkdir()
    paths = [config.gguf_dir / f"{name}-q4_k_m.gguf" for name in (BASE, TUNED)]
    for seed, path in enumerate([*paths, folder / "today.gguf"]):
        tiny = write_tiny_phi3(folder / f"tiny-{seed}", seed=seed)
        convert(tiny, None, [Output(path, "f16", path.stem, tuned=False)])
    write_stages(config, 3)
    return folder


@pytest.fixture(scope="module")
def models(work_dir: Path) -> dict[Any, Model]:
    config = write_config(work_dir, "http://127.0.0.1:9", EXTRA)
    return find_models(config, read_json(config.gguf_dir / "manifest.json"))


@pytest.fixture
def questions(work_dir: Path) -> list[Question]:
    return list(make_set(write_config(work_dir, "http://127.0.0.1:9", EXTRA).prompt.system).questions)


@pytest.fixture
def llama(models: dict[Any, Model]) -> Iterator[Any]:
    """The tuned model, without the engine."""
    from distill.llamacpp import LlamaModel

    with LlamaModel(models["tuned"].path, n_ctx=4096) as model:
        yield model


def test_answers_are_the_models_own(models: dict[Any, Model], questions: list[Question], llama: Any) -> None:
    engine = EmbeddedEngine(models, {**OPTIONS, "num_ctx": 4096})
    with engine.load("tuned") as ask:
        answer = ask(questions[0])
    prompt = llama.apply_template(questions[0].messages)
    expected = llama.complete(prompt, temperature=0, top_p=0.9, top_k=40, max_tokens=24, seed=42)
    assert prompt.startswith("<|system|>") and prompt.endswith("<|assistant|>")
    assert answer.text == expected.text.strip() and answer.prompt_tokens == expected.prompt_tokens and not answer.error
    assert 0 < answer.first_token_seconds < answer.seconds and 0 < answer.answer_seconds < answer.seconds


def test_an_opening_is_gone_on_from(models: dict[Any, Model], questions: list[Question], llama: Any) -> None:
    opened = replace(questions[0], opening="The pump needs", max_tokens=5)
    with EmbeddedEngine(models, {**OPTIONS, "num_ctx": 4096}).load("tuned") as ask:
        answer = ask(opened)
    prompt = FORMATS[0].render(opened.messages) + "The pump needs"
    expected = llama.complete(prompt, temperature=0, top_p=0.9, top_k=40, max_tokens=5, seed=42)
    assert answer.text == expected.text.rstrip() and answer.prompt_tokens == len(llama.tokenize(prompt))
    assert answer.answer_tokens <= 5 and answer.options["num_predict"] == 5


def test_all_sets_of_three_models_in_one_load_each(work_dir: Path, models: dict[Any, Model], questions: list[Question]) -> None:
    config = write_config(work_dir, "http://127.0.0.1:9", EXTRA)
    engine = make_engine(config, models)
    engine.require_ready()
    system = config.prompt.system
    sets = [make_set(system), make_set(system, 2, "memory", opening="It is", max_tokens=4)]
    collected = collect_answers(config, engine, models, sets, config.evaluation_dir)
    assert collected.loads == {"base": 1, "tuned": 1, "stock": 1}
    assert list(collected.answers) == [
        ("heldout", "base"), ("memory", "base"), ("heldout", "tuned"), ("memory", "tuned"), ("heldout", "stock")
    ]
    assert not [answer.error for answers in collected.answers.values() for answer in answers if answer.error]
    texts = {tuple(answer.text for answer in collected.answers["heldout", side]) for side in ("base", "tuned", "stock")}
    assert len(texts) == 3
    again = collect_answers(config, make_engine(config, models), models, sets, config.evaluation_dir)
    assert again.answers == collected.answers and again.loads == {"base": 0, "tuned": 0, "stock": 0} and again.cached == 13


@pytest.mark.parametrize("num_ctx", [64, 256])
def test_a_prompt_that_does_not_fit_is_a_failure(models: dict[Any, Model], num_ctx: int) -> None:
    long = Question("heldout", "row", ({"role": "user", "content": "Which valve? " * num_ctx},))
    with EmbeddedEngine(models, {**OPTIONS, "num_ctx": num_ctx}).load("base") as ask:
        answer = ask(long)
    assert answer.error and not answer.text


def test_answers_end_at_the_modelfiles_stops(
    work_dir: Path, models: dict[Any, Model], questions: list[Question], tmp_path: Path
) -> None:
    options = {**OPTIONS, "num_ctx": 4096}
    with EmbeddedEngine(models, options).load("base") as ask:
        whole = ask(questions[0]).text
    stop = re.search(r"[A-Za-z]{2}", whole[3:])[0]  # white space could also have stood before the answer
    config = write_config(work_dir, "http://127.0.0.1:9", EXTRA)
    write_modelfile(config, tmp_path / "Modelfile", "a.gguf", replace(FORMATS[0], stops=(stop,)))
    changed = {"base": replace(models["base"], modelfile=tmp_path / "Modelfile")}
    with EmbeddedEngine(changed, options).load("base") as ask:
        assert ask(questions[0]).text == whole.partition(stop)[0].strip()


def test_a_missing_modelfile_stops_before_a_load(models: dict[Any, Model], tmp_path: Path) -> None:
    engine = EmbeddedEngine({"base": replace(models["base"], modelfile=tmp_path / "Modelfile")}, OPTIONS)
    with pytest.raises(PipelineError, match="Modelfile is missing"):
        engine.require_ready()


def test_a_template_unlike_the_ggufs_own_ends_the_run(work_dir: Path, models: dict[Any, Model], tmp_path: Path) -> None:
    phi4 = next(known for known in FORMATS if known.name == "phi-4")
    write_modelfile(write_config(work_dir, "http://127.0.0.1:9", EXTRA), tmp_path / "Modelfile", "a.gguf", phi4)
    engine = EmbeddedEngine({"base": replace(models["base"], modelfile=tmp_path / "Modelfile")}, OPTIONS)
    engine.require_ready()
    with pytest.raises(PipelineError, match=f"{BASE} is asked with other prompts than it was trained"), engine.load("base"):
        pass


def test_a_file_that_llamacpp_refuses_ends_the_run(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF but not really")
    engine = EmbeddedEngine({"base": replace(MODEL, path=damaged, modelfile=None)}, OPTIONS)
    with pytest.raises(PipelineError, match=r"can not load .*damaged\.gguf"), engine.load("base"):
        pass
    assert engine.loads["base"] == 0


def test_options_reach_llama_cpp(work_dir: Path, models: dict[Any, Model], questions: list[Question]) -> None:
    warm = {"temperature": 1.5, "top_p": 1.0, "top_k": 500}
    options = {**make_options(write_config(work_dir, "http://127.0.0.1:9", EXTRA)), **warm}
    texts = []
    for seed in (1, 1, 2):
        with EmbeddedEngine(models, {**options, "seed": seed}).load("base") as ask:
            texts.append(ask(questions[0]).text)
    assert texts[0] == texts[1] != texts[2]


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from distill.config import load_config
from distill.engines.collecting import collect_answers
from distill.engines.engine import make_engine
from distill.engines.models import find_models
from distill.files import read_json
from tests.engines.worlds import make_set

folder = Path(sys.argv[1])
config = load_config(folder / "config.yaml")
models = find_models(config, read_json(config.gguf_dir / "manifest.json"))
print("asking", flush=True)
sets = [make_set("", 200, max_tokens=3000)]
collect_answers(config, make_engine(config, models), models, sets, folder / "stopped")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_the_process(work_dir: Path, models: dict[Any, Model]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(work_dir)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        process.stdout.readline()
        wait_for_file(work_dir / "stopped" / "cache.jsonl")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    finally:
        process.kill()
        process.communicate()


def wait_for_file(path: Path) -> None:
    """Until something stands in it."""
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.05)
