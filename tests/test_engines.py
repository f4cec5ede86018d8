"""One call of either engine, and the embedded engine on real GGUF files."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evaluate
from distill.engines import EmbeddedEngine, Model, Reply, find_models, hash_request, make_ask, make_options, plan_questions
from distill.errors import PipelineError
from distill.files import read_json, read_jsonl
from distill.gguf.chat import FORMATS, ChatFormat
from distill.gguf.modelfile import render_modelfile
from tests.finished_stages import BASE, TUNED, write_config, write_stages

OPTIONS = {"temperature": 0.0, "top_p": 0.9, "top_k": 40, "seed": 42, "num_ctx": 512, "num_predict": 24}
MODEL = Model("student", Path("student.gguf"), "gguf/student.gguf", "ab" * 32, 10, Path("gguf/Modelfile"))
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a valve?"}]


def ask_once(reply: Reply | Exception) -> Any:
    def complete(_: Any) -> Reply:
        if isinstance(reply, Exception):
            raise reply
        return reply

    return make_ask("tuned", OPTIONS, complete)("row-1", MESSAGES)


def test_answer_carries_what_the_report_needs() -> None:
    answer = ask_once(Reply(" A valve.\n", "stop", 30, 4))
    assert (answer.text, answer.error, answer.finish_reason) == ("A valve.", "", "stop")
    assert (answer.example_id, answer.side, answer.prompt_tokens, answer.answer_tokens) == ("row-1", "tuned", 30, 4)
    assert answer.options == OPTIONS


@pytest.mark.parametrize(("reply", "message"), [
    (PipelineError("llama.cpp with a.gguf: too long"), "llama.cpp with a.gguf: too long"),
    (TimeoutError("timed\nout"), "TimeoutError: timed out"),
    (KeyError("choices"), "KeyError: 'choices'"),
    (Reply("", "stop", 30, 0), "empty answer"),
    (Reply(" \n", "stop", 30, 0), "empty answer"),
    (Reply("A valve.", "stop", 489, 4), "the prompt has 489 tokens, but num_ctx 512 leaves 488 beside max_tokens 24"),
    (Reply("A valve.", "stop", 0, 4), "no prompt_eval_count"),
])
def test_whatever_goes_wrong_is_an_error_without_text(reply: Any, message: str) -> None:
    answer = ask_once(reply)
    assert message in answer.error and "\n" not in answer.error and answer.text == ""


@pytest.mark.parametrize("reply", [Reply("", "stop", 30, 1), Reply(" \n", "length", 30, 1)])
def test_a_model_that_says_nothing_has_answered_nothing(reply: Reply) -> None:
    answer = ask_once(reply)
    assert (answer.text, answer.error, answer.answer_tokens) == ("", "", 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_no_failed_call(kind: type[BaseException]) -> None:
    def stop(_: Any) -> Reply:
        raise kind

    with pytest.raises(kind):
        make_ask("base", OPTIONS, stop)("row-1", MESSAGES)


def test_text_that_utf8_cannot_hold_can_be_written() -> None:
    assert ask_once(Reply("a \ud800 b", "stop", 30, 4)).text == "a ? b"


@pytest.mark.parametrize(("engine", "model", "messages", "options"), [
    ("embedded", MODEL, MESSAGES, OPTIONS),
    ("ollama", replace(MODEL, sha256="cd" * 32), MESSAGES, OPTIONS),
    ("ollama", MODEL, MESSAGES[1:], OPTIONS),
    ("ollama", MODEL, MESSAGES, {**OPTIONS, "seed": 43}),
])
def test_request_hash_sees_every_condition(engine: str, model: Model, messages: list, options: dict) -> None:
    assert hash_request(engine, model, messages, options) != hash_request("ollama", MODEL, MESSAGES, OPTIONS)


def test_request_hash_does_not_see_names() -> None:
    renamed = replace(MODEL, name="other", path=Path("elsewhere.gguf"))
    assert hash_request("ollama", renamed, MESSAGES, OPTIONS) == hash_request("ollama", MODEL, MESSAGES, OPTIONS)


# -----------------------------------------------------------------------------
# llama.cpp in this process


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 to 3 done, with two different random models as base and tuned."""
    pytest.importorskip("xllamacpp")
    from distill.gguf.convert import Output, convert
    from tests.tiny_models import write_tiny_phi3

    folder = tmp_path_factory.mktemp("embedded")
    config = write_config(folder, "http://127.0.0.1:9", "engine: embedded\n  max_tokens: 24")
    config.gguf_dir.mkdir()
    for seed, name in enumerate((BASE, TUNED)):
        tiny = write_tiny_phi3(folder / f"tiny-{name}", seed=seed)
        convert(tiny, None, [Output(config.gguf_dir / f"{name}-q4_k_m.gguf", "f16", name, tuned=False)])
        write_modelfile(config.gguf_dir / ("Modelfile" if name == TUNED else "Modelfile.base"), FORMATS[0])
    write_stages(config, 3)
    return folder


def write_modelfile(path: Path, format: ChatFormat) -> None:
    """A Modelfile of the format."""
    path.write_text(
        render_modelfile("a.gguf", format=format, system="", temperature=0, top_p=1, top_k=40, num_ctx=512), encoding="utf-8"
    )


def make_embedded(folder: Path, **options: Any) -> tuple[EmbeddedEngine, list]:
    """The engine on the folder's files, and its questions."""
    config = write_config(folder, "http://127.0.0.1:9", "engine: embedded\n  max_tokens: 24")
    models = find_models(config, read_json(config.gguf_dir / "manifest.json"))
    examples = evaluate.load_heldout(config.training_dir / "heldout.jsonl", None)
    return EmbeddedEngine(models, {**make_options(config), **options}), plan_questions(config, models["base"], examples)


def test_embedded_answers_are_the_models_own(work_dir: Path) -> None:
    from distill.llamacpp import LlamaModel

    engine, questions = make_embedded(work_dir)
    texts = {}
    for side in ("base", "tuned"):
        with engine.load(side) as ask:
            texts[side] = [ask(question.example_id, question.messages) for question in questions]
    assert not [answer.error for answers in texts.values() for answer in answers if answer.error]
    assert all(answer.answer_tokens <= 24 for answer in texts["base"])
    assert [answer.text for answer in texts["base"]] != [answer.text for answer in texts["tuned"]]
    with LlamaModel(work_dir / "gguf" / f"{TUNED}-q4_k_m.gguf", n_ctx=4096) as model:
        prompt = model.apply_template(questions[0].messages)
        expected = model.complete(prompt, temperature=0, top_p=0.9, top_k=40, max_tokens=24, seed=42)
    assert prompt.startswith("<|system|>") and prompt.endswith("<|assistant|>")
    assert texts["tuned"][0].text == expected.text.strip() and texts["tuned"][0].prompt_tokens == expected.prompt_tokens


@pytest.mark.parametrize("num_ctx", [64, 256])
def test_embedded_prompt_that_does_not_fit_is_a_failure(work_dir: Path, num_ctx: int) -> None:
    engine, _ = make_embedded(work_dir, num_ctx=num_ctx)
    with engine.load("base") as ask:
        long = [{"role": "user", "content": "Which valve? " * num_ctx}]
        assert ask("row", long).error and not ask("row", long).text


def test_embedded_answers_end_at_the_modelfiles_stops(work_dir: Path, tmp_path: Path) -> None:
    engine, questions = make_embedded(work_dir)
    with engine.load("base") as ask:
        whole = ask("row", questions[0].messages).text
    stop = re.search(r"[A-Za-z]{2}", whole[3:])[0]  # white space could also have stood before the answer
    write_modelfile(tmp_path / "Modelfile", replace(FORMATS[0], stops=(stop,)))
    models = {"base": replace(engine._models["base"], modelfile=tmp_path / "Modelfile")}
    with EmbeddedEngine(models, engine._options).load("base") as ask:
        assert ask("row", questions[0].messages).text == whole.partition(stop)[0].strip()


def test_embedded_without_a_modelfile_ends_the_run(work_dir: Path, tmp_path: Path) -> None:
    engine, _ = make_embedded(work_dir)
    models = {"base": replace(engine._models["base"], modelfile=tmp_path / "Modelfile")}
    with pytest.raises(PipelineError, match="Modelfile is missing"), EmbeddedEngine(models, OPTIONS).load("base"):
        pass


def test_embedded_file_that_llamacpp_refuses_ends_the_run(work_dir: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF but not really")
    write_modelfile(tmp_path / "Modelfile", FORMATS[0])
    engine = EmbeddedEngine({"base": replace(MODEL, path=damaged, modelfile=tmp_path / "Modelfile")}, OPTIONS)
    with pytest.raises(PipelineError, match=r"can not load .*damaged\.gguf"), engine.load("base"):
        pass


def test_stage_4_runs_without_a_server(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.index import embedders
    from tests.report.answers import WordEmbedder

    monkeypatch.setattr(embedders, "make_embedder", lambda section: WordEmbedder())
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--config", str(work_dir / "config.yaml"), "--overwrite"])
    evaluate.main()
    rows = [row for _, row in read_jsonl(work_dir / "evaluation" / "answers.jsonl")]
    assert [row["side"] for row in rows] == ["base"] * 3 + ["tuned"] * 3
    assert all(row["text"] and not row["error"] for row in rows)
    assert read_json(work_dir / "evaluation" / "summary.json")["conditions"]["engine"] == "embedded"
