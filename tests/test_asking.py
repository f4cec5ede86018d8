"""--ask: against a server that behaves as Ollama does, and with real GGUF files over a real index."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.asking import ask_loop, to_characters, to_printable
from distill.cases.retrieving import Retriever
from distill.config import Config
from distill.engines.engine import make_engine
from distill.engines.models import find_models
from distill.errors import PipelineError
from distill.files import read_json
from distill.gguf.chat import FORMATS
from distill.gguf.convert import Output, convert
from distill.gguf.modelfile import render_modelfile
from tests.cases.worlds import make_index
from tests.finished_stages import BASE, STOCK, TUNED, ModelServer, hash_models, write_config, write_gguf, write_stages
from tests.tiny_models import write_tiny_phi3

QUESTION = "What is the pump limit?"


def answer_by_model(body: Any) -> str:
    """The tuned model reads its sources; the base cites one that does not exist."""
    sources, _, question = body["messages"][-1]["content"].rpartition("Question: ")
    if body["model"] == TUNED:
        found = re.search(rf"The {' '.join(question.rstrip('?').split()[-2:])} is [^.]+\.", sources)
        assert found, sources
        return f"{found[0]} [Source {sources[: found.start()].count('[Source ') - 1}]"  # the template names a tag too
    return "The pump limit is 99 degrees. [Source 7]"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_index(tmp_path_factory.mktemp("index"))


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(answer_by_model) as server:
        yield server


def with_index(config: Config, index: Path, url: str, **generate: Any) -> Config:
    """The config, with an index that is embedded at an address."""
    values = config.model_dump()
    values["generate"] |= {"index_folder": index, "top_k": 2, "min_score": 0.1, "retrieval": "vector", **generate}
    values["generate"]["embedder"]["base_url"] = url
    return Config.model_validate(values)


@pytest.fixture
def config(tmp_path: Path, server: ModelServer, index: Path) -> Config:
    """Stages 1 to 3 done, both models in that Ollama."""
    config = write_config(tmp_path, server.base_url)
    write_stages(config, 1)
    server.blobs = hash_models(config)
    return with_index(config, index, server.base_url)


def ask(config: Config, question: str | None) -> dict[str, int]:
    """As evaluate.py --ask does; returns how often each model was loaded."""
    models = find_models(config, read_json(config.gguf_dir / "manifest.json"))
    engine = make_engine(config, models)
    engine.require_ready()
    ask_loop(config, engine, models, Retriever(config), question)
    return dict(engine.loads)


def type_lines(monkeypatch: pytest.MonkeyPatch, lines: Sequence[str | type[BaseException]]) -> None:
    """Somebody at the keyboard."""
    left = list(lines)

    def read(prompt: str = "") -> str:
        print(prompt, end="")
        line = left.pop(0)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(builtins, "input", read)


def list_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_question_shows_both_answers_with_their_figures(
    config: Config, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(config, QUESTION)
    shown = capsys.readouterr().out
    base, tuned = shown.index(f"base: {BASE}\n"), shown.index(f"tuned: {TUNED}\n")
    assert shown.index(r"source 1  ") < base < tuned and r"D:\docs\pump.md" in shown[:base]
    assert "The pump limit is 99 degrees." in shown[base:tuned] and "The pump limit is 20 degrees" in shown[tuned:]
    assert "[WARN] cites source 7, which does not exist" in shown[base:tuned] and "cites no source" in shown[base:tuned]
    assert re.search(r"cites source [12]\n", shown[tuned:]) and "[WARN]" not in shown[tuned:]
    for part in (shown[base:tuned], shown[tuned:]):
        assert "words, " in part and "tokens/s, first token after 0.0" in part
    assert "grounding 1.00" in shown[tuned:] and "guard would show it" in shown[tuned:]
    assert "grounding 1.00" not in shown[base:tuned], "99 degrees stand in no source"
    assert server.loads == [BASE, TUNED], "one after the other, each once"


def test_both_are_asked_the_prompt_that_is_served(config: Config, server: ModelServer) -> None:
    ask(config, QUESTION)
    base, tuned = server.list_chats()
    assert base["messages"] == tuned["messages"] and base["options"] == tuned["options"]
    system, user = base["messages"]
    assert system["content"] == config.prompt.system
    assert user["content"] == Retriever(config).render(QUESTION).instruction


def test_the_stock_model_answers_too_where_one_is_set(
    config: Config, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    values = config.model_dump()
    values["evaluate"]["stock_model"] = STOCK
    ask(Config.model_validate(values), QUESTION)
    assert f"stock: {STOCK}\n" in capsys.readouterr().out and server.loads == [BASE, TUNED, STOCK]


def test_without_a_control_the_tuned_model_answers_alone(
    config: Config, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gguf(config, {"tuned": TUNED})
    ask(config, QUESTION)
    shown = capsys.readouterr().out
    assert "tuned: " in shown and "base: " not in shown and server.loads == [TUNED]


def test_nothing_is_written(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, index: Path) -> None:
    type_lines(monkeypatch, [QUESTION, ""])
    before = list_files(tmp_path), list_files(index)
    ask(config, QUESTION)
    ask(config, None)
    assert (list_files(tmp_path), list_files(index)) == before


@pytest.mark.parametrize("end", ["", "   ", EOFError, KeyboardInterrupt])
def test_the_loop_answers_until_it_is_ended_and_frees_the_models(
    config: Config, server: ModelServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: Any
) -> None:
    server.room = 2
    type_lines(monkeypatch, [QUESTION, "What is the valve colour?", end])
    loads = ask(config, None)
    shown = capsys.readouterr().out
    assert shown.count(f"tuned: {TUNED}\n") == 2 and "The valve colour is shade 1" in shown
    assert server.loads == [BASE, TUNED] and loads == {"base": 1, "tuned": 1}, "each is loaded once"
    assert server.held == {}, "and let go at the end"


def test_ctrl_c_while_a_model_answers_ends_the_loop_and_frees_the_models(
    config: Config, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(retriever: Retriever, question: str) -> Any:
        raise KeyboardInterrupt

    type_lines(monkeypatch, [QUESTION, QUESTION])
    server.reply = lambda body: monkeypatch.setattr(Retriever, "find", stop) or "An answer."
    ask(config, None)
    assert len(server.list_chats()) == 2 and server.held == {}


def test_a_failed_call_is_a_line_and_the_other_model_still_answers(
    config: Config, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda body: (500, {"error": "out of \x1b[31mmemory"}) if body["model"] == BASE else "Fine. [Source 1]"
    with pytest.raises(PipelineError, match="base gave no answer"):
        ask(config, QUESTION)
    shown = capsys.readouterr().out
    assert "[FAIL] " in shown and "out of ?[31mmemory" in shown and "\x1b" not in shown and "Fine. [Source 1]" in shown


def test_bytes_that_are_no_text_end_nothing() -> None:
    typed = b"What is caf\xe9 \xc3\xa9?".decode("utf-8", "surrogateescape")  # as Python reads a pipe
    assert to_characters(typed) == "What is caf\ufffd \u00e9?"


def test_where_nothing_is_near_no_model_is_asked(
    config: Config, server: ModelServer, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(with_index(config, index, server.base_url, min_score=1.0), QUESTION)
    assert "[WARN] nothing in the index is near that question" in capsys.readouterr().out
    assert server.list_chats() == server.loads == []


def test_without_an_index_there_is_one_line(config: Config, server: ModelServer, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="nowhere"):
        ask(with_index(config, tmp_path / "nowhere", server.base_url), QUESTION)


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[2Jgone", "?[2Jgone"), ("a\r\nb\tc", "a\nb\tc"), ("bell\x07\u202eright", "bell??right"),
    ("55\u00a0\u00b0C", "55\u00a0\u00b0C"),
])
def test_nothing_that_a_model_says_steers_the_terminal(text: str, shown: str) -> None:
    assert to_printable(text) == shown


# -----------------------------------------------------------------------------
# For real


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Config]:
    """A work folder with two tiny GGUF files of a random Phi-4-mini."""
    folder = tmp_path_factory.mktemp("students")
    config = write_config(folder, "http://127.0.0.1:9", "engine: embedded\n  max_tokens: 24")
    config.gguf_dir.mkdir()
    for seed, name in enumerate((BASE, TUNED)):
        tiny = write_tiny_phi3(folder / f"tiny-{name}", seed=seed)
        convert(tiny, None, [Output(config.gguf_dir / f"{name}-q4_k_m.gguf", "f16", name, tuned=False)])
        modelfile = render_modelfile(
            "a.gguf", format=FORMATS[0], system=config.prompt.system, temperature=0, top_p=1, top_k=40, num_ctx=4096
        )
        (config.gguf_dir / ("Modelfile" if name == TUNED else "Modelfile.base")).write_text(modelfile, encoding="utf-8")
    write_stages(config, 1)
    return lambda url: write_config(folder, url, "engine: embedded\n  max_tokens: 24")


def test_real_models_answer_over_a_real_index(
    students: Callable[[str], Config], server: ModelServer, index: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = with_index(students("http://127.0.0.1:9"), index, server.base_url)
    ask(config, QUESTION)
    once = capsys.readouterr().out
    assert "[FAIL]" not in once and r"D:\docs\pump.md" in once and "tokens/s, first token after" in once
    assert once.index(f"base: {BASE}") < once.index(f"tuned: {TUNED}")
    type_lines(monkeypatch, [QUESTION, QUESTION, ""])
    assert ask(config, None) == {"base": 1, "tuned": 1}
    looped = capsys.readouterr().out
    first, second = list_answers(once)
    assert first != second and list_answers(looped) == [first, second] * 2


def list_answers(text: str) -> list[str]:
    """What the models said."""
    return [part.split("\n\n[OK]")[0] for part in text.split("-" * 80 + "\n") if "\n\n[OK]" in part]
