"""Stage 4 against a real HTTP server that stands in for Ollama, on hand-made results of stages 1 to 3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import evaluate
from distill.config import load_config
from distill.errors import PipelineError
from distill.files import read_jsonl, sha256_text, write_json_atomic
from distill.records import TrainingExample
from tests.finished_stages import BASE, STOCK, TUNED, ModelServer, hash_models, list_spellings, write_config, write_stages
from tests.leaks import find_traces, make_surroundings

ROOT = Path(__file__).parent.parent
RAMBLING = "It depends on many things; in general one asks the supplier. [Source 9]"


class World:
    """A work folder with stages 1 to 3 done, and a server; `references` are the held-out answers by user message."""

    def __init__(self, folder: Path, server: ModelServer) -> None:
        self.folder, self.server = folder, server
        self.config = write_config(folder, server.base_url)
        self.examples = self.write()

    def write(self, **fields: Any) -> list[TrainingExample]:
        examples = write_stages(self.config, **fields)
        self.references = {example.instruction: example.output for example in examples}
        self.server.blobs = hash_models(self.config)
        return examples

    def answer(self, body: Any) -> str:
        """Tuned says what the reference says, base rambles."""
        return self.references.get(body["messages"][-1]["content"], RAMBLING) if body["model"] == TUNED else RAMBLING

    def run(self, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--config", str(self.folder / "config.yaml"), *options])
        evaluate.main()

    def read_json(self, name: str) -> Any:
        return json.loads((self.folder / "evaluation" / name).read_text(encoding="utf-8"))

    def read_report(self) -> str:
        return (self.folder / "evaluation" / "report.html").read_text(encoding="utf-8")

    def read_answers(self) -> list[dict[str, Any]]:
        return [row for _, row in read_jsonl(self.folder / "evaluation" / "answers.jsonl")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ModelServer(lambda body: RAMBLING) as server:
        made = World(tmp_path, server)
        server.reply = made.answer
        yield made


def fail_for(world: World, rows: set[int], failure: Any, model: str = TUNED) -> Callable[[Any], Any]:
    """The world's answers, but `failure` for some rows of one model."""
    failing = {world.examples[row].instruction for row in rows}

    def reply(body: Any) -> Any:
        return failure if body["model"] == model and body["messages"][-1]["content"] in failing else world.answer(body)

    return reply


# -----------------------------------------------------------------------------
# Verdict and outputs


def test_tuned_is_better(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    world.write(count=24)
    world.run(monkeypatch)
    summary, printed = world.read_json("summary.json"), capsys.readouterr().out
    assert summary["verdict"] == "better" and summary["primary_metric"] == "correctness"
    primary = summary["metrics"]["correctness"]
    assert (primary["pairs"], primary["groups"], primary["wins"], primary["tuned"]) == (24, 8, 24, 1.0)
    assert 0 < primary["interval"][0] <= primary["difference"] <= primary["interval"][1]
    assert summary["metrics"]["citation_validity"]["difference"] == 1.0
    assert "*correctness" in printed and "[OK] Tuned is better: " in printed and "report.html" in printed
    assert printed.isascii()
    report = (world.folder / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert report.count("<article") == 24 and "Tuned is better" in report


def test_equal_answers_are_no_measurable_difference(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.server.reply = lambda body: RAMBLING
    world.run(monkeypatch)
    summary = world.read_json("summary.json")
    assert summary["verdict"] == "no measurable difference"
    low, high = summary["metrics"]["correctness"]["interval"]
    assert summary["metrics"]["correctness"]["difference"] == 0 and low < 0 < high, "equal here is not equal everywhere"
    assert "[WARN] No measurable difference: " in capsys.readouterr().out


def test_worse_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write(count=24)
    world.server.reply = lambda body: world.answer({**body, "model": BASE if body["model"] == TUNED else TUNED})
    world.run(monkeypatch)
    assert world.read_json("summary.json")["verdict"] == "worse"


def test_manifest_and_privacy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    manifest, folder = world.read_json("manifest.json"), world.folder / "evaluation"
    assert {entry["path"] for entry in manifest["outputs"]} == {f"evaluation/{name}" for name in evaluate.OUTPUTS}
    assert set(manifest["manifests"]) == {"training_data/manifest.json", "gguf/manifest.json"}
    assert manifest["details"]["models"]["base"]["sha256"] == hash_models(world.config)[BASE]
    for name in ("manifest.json", "summary.json"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not [spelling for spelling in list_spellings(world.folder) if spelling in text]
        assert "Source 9" not in text and "units" not in text
    if sys.platform != "win32":
        assert all((folder / name).stat().st_mode & 0o077 == 0 for name in ("answers.jsonl", "report.html"))


# -----------------------------------------------------------------------------
# Encryption


def evaluate_apart(world: World, around: dict[str, str], *options: str) -> str:
    """evaluate.py as a process whose temporary and cache files lie where `around` says; returns what it printed."""
    command = [sys.executable, "evaluate.py", "--config", str(world.folder / "config.yaml"), *options]
    environment = {**os.environ, **around}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_encrypted_rows_are_asked_and_no_plain_copy_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of questions, sources, reference answers and answers: not in answers.jsonl, the report, a cache or a temporary file."""
    traces = [b"antenna gain", b"link margin", b"normal load", b"depends on many things"]
    around = make_surroundings(world.folder / "around")
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", around["HYBRIDRAG_DISTILL_KEY"])
    evaluate_apart(world, around)
    plain = world.read_json("summary.json")
    found = ["evaluation/answers.jsonl", "evaluation/cache.jsonl", "evaluation/report.html", "training_data/heldout.jsonl"]
    assert find_traces(world.folder, traces) == found

    add_to_config(world, "encrypt: true")
    world.config = load_config(world.folder / "config.yaml")
    world.write()
    printed = evaluate_apart(world, around, "--overwrite")
    assert find_traces(world.folder, traces) == [] and "antenna" not in printed
    assert len(world.read_answers()) == 24 and RAMBLING in {row["text"] for row in world.read_answers()}
    assert world.read_json("summary.json")["metrics"] == plain["metrics"]
    report = (world.folder / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "python -m distill.encryption show evaluation/answers.jsonl" in report and "<article" not in report


def test_an_encrypted_run_that_was_stopped_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_DISTILL_KEY", make_surroundings(world.folder / "around")["HYBRIDRAG_DISTILL_KEY"])
    world.server.reply = fail_for(world, {7, 8}, (500, {"error": "out of memory"}))
    with pytest.raises(PipelineError, match="failed"):
        world.run(monkeypatch)
    assert b"depends on" in (world.folder / "evaluation" / "cache.jsonl").read_bytes()
    add_to_config(world, "encrypt: true")
    world.server.requests.clear()
    world.server.reply = world.answer
    world.run(monkeypatch)
    assert len(world.server.list_chats()) == 12 - 7  # what was answered in plain is not asked again
    for name in ("answers.jsonl", "cache.jsonl"):
        assert b"depends on" not in (world.folder / "evaluation" / name).read_bytes()


# -----------------------------------------------------------------------------
# The same conditions


def test_both_sides_get_the_same_one_after_the_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    chats = world.server.list_chats()
    assert [body["model"] for body in chats] == [BASE] * 12 + [TUNED] * 12
    base, tuned = ([{**body, "model": ""} for body in chats[start : start + 12]] for start in (0, 12))
    assert base == tuned
    first = base[0]
    assert first["messages"] == [
        {"role": "system", "content": world.config.prompt.system}, {"role": "user", "content": world.examples[0].instruction}
    ]
    assert first["options"] == {
        "temperature": 0.0, "top_p": 0.9, "top_k": 40, "seed": 42, "num_ctx": 4096, "num_predict": 512
    }
    assert first["stream"] is False
    # base is freed before tuned is loaded: each model is in memory once
    assert world.server.loads == [BASE, TUNED]
    assert world.read_json("summary.json")["conditions"]["loads"] == {"base": 1, "tuned": 1}


def test_every_set_is_asked_in_one_load_of_each_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = world.folder / "mine.jsonl"
    cases.write_text(json.dumps({"instruction": "What does the duplexer do?", "output": "It parts two bands."}) + "\n")
    extra = "own_cases: [mine.jsonl]\n  stock_model: phi4-mini\n  max_failed_share: 0"
    write_config(world.folder, world.server.base_url, extra, general=True, probes=5)
    world.run(monkeypatch)
    assert world.server.loads == [BASE, TUNED, STOCK]
    summary = world.read_json("summary.json")
    assert {"own", "general"} <= set(summary["sets"]) and summary["sets"]["own"]["questions"] == 1
    assert summary["sets"]["general"]["questions"] >= 80
    assert summary["metrics"]["correctness"]["stock"] == summary["metrics"]["correctness"]["base"]
    assert {row["side"] for row in world.read_answers()} == {"base", "tuned", "stock"}
    assert "mine.jsonl" in {entry["path"] for entry in world.read_json("manifest.json")["inputs"]}


def test_without_a_control_nothing_is_compared_and_the_report_says_so_first(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.write(export_base=False)
    world.run(monkeypatch)
    summary = world.read_json("summary.json")
    assert summary["verdict"] == "no control" and summary["first_page"][0]["kind"] == "control"
    assert [body["model"] for body in world.server.list_chats()] == [TUNED] * 12
    printed = capsys.readouterr().out
    assert "[WARN] There is no base model to compare with" in printed and "correctness" in printed


# -----------------------------------------------------------------------------
# Votes, side by side, switch


def write_votes(world: World, vote: str, path: Path, **models: str) -> Path:
    """What the report exports after everybody voted the same way."""
    texts = {(row["side"], row["example_id"]): row["text"] for row in world.read_answers()}
    digests = hash_models(world.config)
    votes = [
        {"set": "heldout", "id": example.id, "vote": vote, "left": "base"}
        | {f"{side}_sha256": sha256_text(texts[side, example.id]) for side in ("base", "tuned")}
        for example in world.examples
    ]
    ballot = {"kind": "blind votes", "version": 1, "voter": "one", "made_at": "2026-11-23T10:00:00Z", "votes": votes}
    write_json_atomic(path, {**ballot, "models": {"base": digests[BASE], "tuned": digests[TUNED], **models}})
    return path


def test_votes_are_folded_in_and_nothing_is_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    before = world.read_json("summary.json")
    world.server.requests.clear()
    world.run(monkeypatch, "--votes", str(write_votes(world, "base", world.folder / "votes.json")))
    summary = world.read_json("summary.json")
    assert (summary["votes"]["base"], summary["votes"]["tuned"], summary["votes"]["stale"]) == (12, 0, 0)
    assert world.server.list_chats() == [] and summary["metrics"] == before["metrics"]
    assert "votes.json" in {entry["path"] for entry in world.read_json("manifest.json")["inputs"]}
    with pytest.raises(PipelineError, match="holds a finished run"):
        world.run(monkeypatch)


def test_votes_on_other_models_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    path = write_votes(world, "tuned", world.folder / "votes.json", tuned="0" * 64)
    with pytest.raises(PipelineError, match=r"votes\.json holds votes of another evaluation"):
        world.run(monkeypatch, "--votes", str(path))
    assert world.read_json("summary.json")["votes"] is None and (world.folder / "evaluation" / "manifest.json").exists()


def test_votes_before_an_evaluation_name_what_to_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match=r"evaluation.manifest\.json is missing: run  python evaluate\.py  first"):
        world.run(monkeypatch, "--votes", "votes.json")


def test_switch_writes_the_name_of_the_tuned_model_or_of_its_base(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.folder / "hybridrag.yaml"
    path.write_text("modes:\n  offline:\n    ollama:\n      model: phi4-mini  # ours\n")
    for side, name in (("tuned", TUNED), ("base", BASE)):
        world.run(monkeypatch, "--switch", side, "--hybridrag-config", str(path))
        assert path.read_text() == f"modes:\n  offline:\n    ollama:\n      model: {name}  # ours\n"
    world.write(export_base=False)
    with pytest.raises(PipelineError, match=r"gguf/ holds no base model: set export\.export_base: true"):
        world.run(monkeypatch, "--switch", "base", "--hybridrag-config", str(path))


def test_switch_needs_the_path(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        world.run(monkeypatch, "--switch", "tuned")


def test_a_judge_on_this_machine_needs_no_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="is this machine and needs no stored key"):
        world.run(monkeypatch, "--set-key")


# -----------------------------------------------------------------------------
# Failures

FAILURES = [
    ((500, {"error": "out of memory"}), "out of memory"),
    ((200, {"error": "model runner has stopped"}), "model runner has stopped"),
    ((200, "<html>sign in</html>"), "did not answer with JSON"),
    ((200, {"message": None, "done": True}), "without a finished message"),
    ("", "empty answer"),
    (" \n ", "empty answer"),
    ((200, {"message": {"content": "x"}, "done": True}), "no prompt_eval_count"),
    ((200, {"message": {"content": "x"}, "done": True, "prompt_eval_count": 3585}), "num_ctx 4096 leaves 3584"),
    ((200, {"message": {"content": "x"}, "done": True, "prompt_eval_count": 4096}), "num_ctx 4096 leaves 3584"),
]


@pytest.mark.parametrize(("failure", "message"), FAILURES)
def test_failed_call_is_no_answer(world: World, monkeypatch: pytest.MonkeyPatch, failure: Any, message: str) -> None:
    write_config(world.folder, world.server.base_url, "max_failed_share: 0.1")
    world.server.reply = fail_for(world, {3}, failure)
    world.run(monkeypatch)
    asked = Counter((body["model"], body["messages"][-1]["content"]) for body in world.server.list_chats())
    assert asked.pop((TUNED, world.examples[3].instruction)) == 2 and set(asked.values()) == {1}
    [failed] = [row for row in world.read_answers() if row["error"]]
    assert message in failed["error"] and (failed["text"], failed["side"], failed["example_id"]) == ("", "tuned", "row-3")
    summary = world.read_json("summary.json")
    assert summary["failures"] == {"base": 0, "tuned": 1} and summary["answered_by_both"] == 11
    assert max(metric["pairs"] for metric in summary["metrics"].values() if metric) == 11
    report = (world.folder / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "No answer, the call failed: " in report and "0 / 1" in report


def test_longest_prompt_that_fits_is_answered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = {"message": {"content": "x"}, "done": True, "done_reason": "length", "prompt_eval_count": 3584}
    world.server.reply = lambda body: (200, fitting)
    world.run(monkeypatch)
    assert world.read_json("summary.json")["metrics"]["finished"]["tuned"] == 0.0


def test_second_try_can_succeed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: Counter[str] = Counter()

    def reply(body: Any) -> Any:
        key = body["model"] + body["messages"][-1]["content"]
        tries[key] += 1
        return world.answer(body) if tries[key] == 2 else (503, {"error": "busy"})

    world.server.reply = reply
    world.run(monkeypatch)
    assert world.read_json("summary.json")["failures"] == {"base": 0, "tuned": 0}


def test_too_many_failures_stop_and_keep_the_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.server.reply = fail_for(world, {7, 8}, (500, {"error": "out of memory"}))
    message = r"1 of 12 held-out questions to the tuned model failed.*max_failed_share 0\.05.*out of memory"
    with pytest.raises(PipelineError, match=message):
        world.run(monkeypatch)
    assert not (world.folder / "evaluation" / "manifest.json").exists()
    assert len([row for _, row in read_jsonl(world.folder / "evaluation" / "cache.jsonl")]) == 12 + 7
    world.server.requests.clear()
    world.server.reply = world.answer
    world.run(monkeypatch)
    asked = [(body["model"], body["messages"][-1]["content"]) for body in world.server.list_chats()]
    assert asked == [(TUNED, example.instruction) for example in world.examples[7:]]
    rows = world.read_answers()
    assert len(rows) == 24 and not [row for row in rows if row["error"]]


def test_server_that_is_gone_stops_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(world.folder, "http://127.0.0.1:9")
    with pytest.raises(PipelineError, match=r"nothing answers at http://127\.0\.0\.1:9"):
        world.run(monkeypatch)


# -----------------------------------------------------------------------------
# Going on


def test_killed_run_asks_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached, gate = threading.Event(), threading.Event()

    def reply(body: Any) -> Any:
        if body["model"] == TUNED and body["messages"][-1]["content"] == world.examples[4].instruction and not gate.is_set():
            reached.set()
            gate.wait(60)
        return world.answer(body)

    world.server.reply = reply
    command = [sys.executable, "evaluate.py", "--config", str(world.folder / "config.yaml")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert reached.wait(60)
    process.kill()
    process.wait()
    gate.set()
    log = world.folder / "evaluation" / "cache.jsonl"
    before = log.read_text(encoding="utf-8")
    assert before.count("\n") == 16
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"example_id": "row-4", "side": "tun')  # a kill in the middle of a write
    world.server.requests.clear()
    world.run(monkeypatch)
    assert "[OK] 16 of 24 answers are known from an earlier run" in capsys.readouterr().out
    asked = [(body["model"], body["messages"][-1]["content"]) for body in world.server.list_chats()]
    assert asked == [(TUNED, example.instruction) for example in world.examples[4:]]  # base is not even loaded
    assert world.read_json("summary.json")["answered_by_both"] == 12


def test_other_options_make_other_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    (world.folder / "evaluation" / "manifest.json").unlink()  # as if it had been killed just before the end
    world.server.requests.clear()
    world.run(monkeypatch)
    assert world.server.list_chats() == []
    (world.folder / "evaluation" / "manifest.json").unlink()
    write_config(world.folder, world.server.base_url, "max_tokens: 256")
    world.run(monkeypatch)
    assert {body["options"]["num_predict"] for body in world.server.list_chats()} == {256}
    assert len(world.server.list_chats()) == len(world.read_answers()) == 24


def test_finished_run_is_refused_or_overwritten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    with pytest.raises(PipelineError, match=r"holds a finished run: .*--overwrite"):
        world.run(monkeypatch)
    world.server.requests.clear()
    world.run(monkeypatch, "--overwrite")
    assert world.server.list_chats() == [] and len(world.read_answers()) == 24


def test_a_metric_chosen_after_the_answers_is_on_the_first_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    assert "were written down before the first question was asked" in world.read_report()
    write_config(world.folder, world.server.base_url, "primary_metric: grounding")
    world.run(monkeypatch, "--overwrite")
    (finding,) = [found for found in world.read_json("summary.json")["first_page"] if found["kind"] == "rules"]
    assert "primary_metric was correctness" in finding["text"]
    assert "written down before the first" not in world.read_report()


def test_after_another_training_the_control_is_not_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    (world.config.gguf_dir / "student-q4_k_m.gguf").write_bytes(b"trained once more")
    world.write()
    world.server.requests.clear()
    world.run(monkeypatch, "--overwrite")
    assert [body["model"] for body in world.server.list_chats()] == [TUNED] * 12
    assert world.server.loads == [BASE, TUNED, TUNED]


def test_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch, "--limit", "3")
    summary = world.read_json("summary.json")
    assert len(world.server.list_chats()) == 6
    assert summary["verdict"] == "no measurable difference" and "a verdict needs at least 6" in summary["reason"]


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_limit_below_1_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: str
) -> None:
    with pytest.raises(SystemExit):
        world.run(monkeypatch, "--limit", limit)
    assert "--limit must be at least 1" in capsys.readouterr().err


def test_dry_run_asks_nothing(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    world.run(monkeypatch, "--dry-run")
    assert world.server.list_chats() == [] and not (world.folder / "evaluation").exists()
    printed = capsys.readouterr().out
    assert "[OK] Held-out questions: 12" in printed and "smoke run" not in printed
    assert f"[OK] Inherited base_model={world.config.value_of('finetune.base_model')} from gguf/manifest.json" in printed


def test_smoke_run_is_told(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = world.config.gguf_dir / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["details"]["smoke_run"] = True
    path.write_text(json.dumps(manifest), encoding="utf-8")
    world.run(monkeypatch, "--dry-run")
    assert "[WARN] adapters/ come from a smoke run (--limit): for trying out only" in capsys.readouterr().out


# -----------------------------------------------------------------------------
# Inputs that stop it


def list_files(world: World) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (world.folder / "evaluation").iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(("settings", "told"), [
    ("max_tokens: 4096", r"config.yaml evaluate.max_tokens is 4096, but the models read and write 4096 tokens in all"),
    ("primary_metric: nonsense", "did you mean"),
])
@pytest.mark.parametrize("options", [["--overwrite"], ["--overwrite", "--dry-run"]])
def test_what_cannot_be_done_costs_no_finished_report(
    world: World, monkeypatch: pytest.MonkeyPatch, settings: str, told: str, options: list[str]
) -> None:
    world.run(monkeypatch)
    before = list_files(world)
    write_config(world.folder, world.server.base_url, settings)
    with pytest.raises(PipelineError, match=told):
        world.run(monkeypatch, *options)
    assert list_files(world) == before


def test_a_run_that_fails_while_it_asks_leaves_the_finished_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    before = world.read_report()
    write_config(world.folder, world.server.base_url, "max_tokens: 100")
    world.server.reply = lambda body: (500, {"error": "out of memory"})
    with pytest.raises(PipelineError, match="out of memory"):
        world.run(monkeypatch, "--overwrite")
    assert world.read_report() == before and (world.folder / "evaluation" / "manifest.json").exists()


def test_a_dry_run_looks_at_what_a_finished_run_needs_too(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(monkeypatch)
    world.run(monkeypatch, "--dry-run")
    assert "[OK] dry run: nothing was asked" in capsys.readouterr().out
    (world.folder / "evaluation" / "cache.jsonl").write_text("{broken\n{}\n", encoding="utf-8")
    with pytest.raises(PipelineError, match=r"cache\.jsonl:1"):
        world.run(monkeypatch, "--dry-run")


def test_votes_are_added_to_the_run_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    path = write_votes(world, "base", world.folder / "votes.json")
    write_config(world.folder, world.server.base_url, "max_tokens: 50")
    with pytest.raises(PipelineError, match=r"evaluate.max_tokens is '50' but was '512' in the finished run"):
        world.run(monkeypatch, "--votes", str(path))


def test_votes_that_replace_others_are_told(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run(monkeypatch)
    path = str(write_votes(world, "base", world.folder / "votes.json"))
    world.run(monkeypatch, "--votes", path)
    assert "are replaced" not in capsys.readouterr().out
    world.run(monkeypatch, "--votes", path)
    assert "[WARN] the votes that were counted before are replaced" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--ask", "x", "--dry-run"], ["--votes", "v.json", "--dry-run"], ["--ask", "--set-key"]])
def test_two_things_at_once_are_refused(world: World, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    with pytest.raises(SystemExit):
        world.run(monkeypatch, *options)


def add_to_config(world: World, line: str) -> None:
    with open(world.folder / "config.yaml", "a", encoding="utf-8") as file:
        file.write(line + "\n")


def touch_gguf(world: World) -> None:
    (world.config.gguf_dir / "student-q4_k_m.gguf").write_bytes(b"another")


def set_metric(world: World, name: str) -> None:
    write_config(world.folder, world.server.base_url, f"primary_metric: {name}")


STOPS = [
    (lambda world: (world.config.training_dir / "manifest.json").unlink(), r"generate_training_data\.py  first"),
    (lambda world: (world.config.gguf_dir / "manifest.json").unlink(), r"gguf/manifest.json is missing: run  python export"),
    (lambda world: (world.config.training_dir / "heldout.jsonl").write_text("{}"), "heldout.jsonl has changed"),
    (touch_gguf, "student-q4_k_m.gguf has changed"),
    (lambda world: add_to_config(world, "prompt: {system: Other.}"), r"prompt.system is 'Other.' but .* was made with 'You"),
    (lambda world: add_to_config(world, "finetune: {base_model: a/b}"), r"base_model is 'a/b' but gguf/manifest.json was made"),
    (lambda world: world.write(trained_on="a held-out question"), "was trained on another training_data/train.jsonl"),
    (lambda world: world.write(count=0), "holds no rows"),
    (lambda world: set_metric(world, "correctnes"), "did you mean correctness"),
    (lambda world: set_metric(world, "tutorial_score"), "must not decide"),
    (lambda world: world.server.models.remove("student-base:latest"),
     r'has no model student-base: run  ollama create student-base -f ".*gguf.Modelfile.base"'),
    (lambda world: world.server.blobs.update({TUNED: "0" * 64}), r"student in Ollama was not made from the present gguf/stud"),
    (lambda world: world.server.templates.update({BASE: "{{ .Prompt }}"}),
     "student-base in Ollama has another TEMPLATE than .*Modelfile.base"),
    (lambda world: world.server.stops.update({TUNED: ["<|end|>"]}), "base and tuned have different PARAMETER lines in Ollama"),
    (lambda world: world.server.models.remove("nomic-embed-text:latest"), "has no model nomic-embed-text: run  ollama pull"),
]


@pytest.mark.parametrize(("change", "message"), STOPS, ids=[message[:30] for _, message in STOPS])
def test_stops_before_a_question_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, change: Callable[[World], Any], message: str
) -> None:
    change(world)
    with pytest.raises(PipelineError, match=message) as caught:
        world.run(monkeypatch)
    assert world.server.list_chats() == [] and "\n" not in str(caught.value)


def test_newer_adapters_are_only_a_warning(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.config.adapters_dir / "manifest.json").unlink()
    world.run(monkeypatch, "--dry-run")
    assert "[WARN] adapters/manifest.json is not the one that gguf/ was made from" in capsys.readouterr().out


def test_a_report_claims_no_unseen_questions_where_nobody_knows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    assert "which neither saw in training" in world.read_report()
    (world.config.adapters_dir / "manifest.json").unlink()
    world.run(monkeypatch, "--overwrite")
    assert "seen" in [finding["kind"] for finding in world.read_json("summary.json")["first_page"]]
    assert "which neither saw in training" not in world.read_report()


def test_command_line_prints_one_line_and_exits_1(world: World) -> None:
    world.server.models.remove("student:latest")
    command = [sys.executable, "evaluate.py", "--config", str(world.folder / "config.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("[FAIL] Ollama at http://127.0.0.1:")


def test_metric_cannot_be_changed_once_answers_are_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(monkeypatch)
    (world.folder / "evaluation" / "manifest.json").unlink()  # as if it had been killed just before the end
    write_config(world.folder, world.server.base_url, "smallest_difference: 0.3")
    with pytest.raises(PipelineError, match=r"smallest_difference is 0\.3 but was .* when this run began.*--overwrite"):
        world.run(monkeypatch)
    world.run(monkeypatch, "--overwrite")
    assert world.read_json("summary.json")["smallest_difference"] == 0.3
