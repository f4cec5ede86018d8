from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import keyring
import pytest

from distill.errors import PipelineError
from distill.judging.judge import FOLDER, check_judge
from distill.teacher import chat
from distill.teacher.ledger import load_spending
from tests.judges import RIGHT, WRONG, make_config, make_models, make_server, prefer_right, read_answers, run_judge, say
from tests.keyrings import MemoryKeyring
from tests.remote import HOST, RemoteHost
from tests.servers import TeacherServer

KEY = "sk-test-91ab"
DOLLAR_A_TOKEN = {"prompt_usd_per_million": 1e6, "answer_usd_per_million": 1e6}
MIXED = [(WRONG, RIGHT), (RIGHT, WRONG), (WRONG, RIGHT), (WRONG, "Also wrong. 1"), (RIGHT, "Also right. 2")]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing pauses, but from 10 ms on; no switch and no key of whoever runs the tests."""
    monkeypatch.setattr(chat, "FIRST_WAIT_SECONDS", 0.01)
    for name in ("HYBRIDRAG_OFFLINE", "HYBRIDRAG_NETWORK_KILL_SWITCH", "OPENROUTER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def read_log(config: Any, name: str) -> list[dict[str, Any]]:
    """The lines of a file in the judge's folder."""
    text = (config.evaluation_dir / FOLDER / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# -----------------------------------------------------------------------------
# What the figures say


def test_a_good_judge_is_counted_as_it_judges(tmp_path: Path) -> None:
    with make_server() as server:
        found = run_judge(make_config(tmp_path, server.url), MIXED)
        assert len(server.requests) == 10
    assert found is not None and found.pop("interval")[0] < 0.2
    assert found == {
        "model": "judge-1", "host": "127.0.0.1", "questions": 5, "tuned": 2, "base": 1, "tie": 2, "alike": 0, "disagreed": 0,
        "unreadable": 0, "unasked": 0, "documents_tuned": 2, "documents_base": 1, "first_share": 0.5, "p_value": 1.0,
    }


@pytest.mark.parametrize(("winner", "disagreed", "first_share"), [("A", 5, 1.0), ("B", 5, 0.0), ("tie", 0, None)])
def test_a_judge_that_looks_at_the_order_alone_decides_nothing(
    tmp_path: Path, winner: str, disagreed: int, first_share: float | None
) -> None:
    with make_server(lambda body: say(winner)) as server:
        found = run_judge(make_config(tmp_path, server.url), MIXED)
    assert found is not None
    assert (found["tuned"], found["base"], found["tie"], found["disagreed"]) == (0, 0, 5, disagreed)
    assert found["first_share"] == first_share and found["p_value"] == 1.0


def test_a_judge_that_leans_to_the_first_place_is_seen_and_costs_its_near_calls_alone(tmp_path: Path) -> None:
    with make_server(lambda body: prefer_right(body).replace('"tie"', '"A"')) as server:
        found = run_judge(make_config(tmp_path, server.url), MIXED)
    assert found is not None and (found["tuned"], found["base"], found["tie"], found["disagreed"]) == (2, 1, 2, 2)
    assert found["first_share"] == 0.7


def test_eight_documents_that_agree_are_a_clear_preference(tmp_path: Path) -> None:
    with make_server() as server:
        found = run_judge(make_config(tmp_path, server.url), [(WRONG, RIGHT)] * 8)
    assert found is not None and found["tuned"] == 8
    assert found["p_value"] == pytest.approx(2 / 2**8) and found["interval"][0] > 0 and found["interval"][1] == 1.0


def test_equal_answers_are_a_tie_and_nobody_is_asked(tmp_path: Path) -> None:
    with make_server() as server:
        found = run_judge(make_config(tmp_path, server.url), [(RIGHT, RIGHT), (WRONG, RIGHT)])
        assert len(server.requests) == 2
    assert found is not None and (found["questions"], found["tie"], found["alike"], found["tuned"]) == (2, 1, 1, 1)


def test_failed_calls_are_left_out(tmp_path: Path) -> None:
    with make_server() as server:
        found = run_judge(make_config(tmp_path, server.url), [(None, RIGHT), (WRONG, None), (WRONG, RIGHT)])
        assert len(server.requests) == 2
    assert found is not None and (found["questions"], found["tuned"], found["unasked"]) == (1, 1, 0)


def test_only_the_first_questions_are_judged_where_a_number_is_set(tmp_path: Path) -> None:
    with make_server() as server:
        found = run_judge(make_config(tmp_path, server.url, questions=2), MIXED)
        assert len(server.requests) == 4
    assert found is not None and found["questions"] == 2


def test_no_pair_is_no_figure_and_no_error(tmp_path: Path) -> None:
    with make_server() as server:
        found = run_judge(make_config(tmp_path, server.url), [(None, RIGHT)])
    assert found is not None and (found["questions"], found["p_value"], found["interval"]) == (0, None, None)


# -----------------------------------------------------------------------------
# Replies that cannot be used


@pytest.mark.parametrize(("text", "reason"), [
    ("I like the first one.", "names no winner"), ('{"winner": "C"}', "names no winner"),
])
def test_unreadable_replies_are_left_out_and_never_ties(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, reason: str
) -> None:
    with make_server(lambda body: text if "limit 0" in str(body) else prefer_right(body)) as server:
        found = run_judge(make_config(tmp_path, server.url), MIXED)
    assert found is not None and (found["questions"], found["unreadable"], found["tuned"]) == (4, 1, 1)
    assert f"[WARN] judge: 1 questions left out: {reason}" in capsys.readouterr().out


@pytest.mark.parametrize(("fault", "reason"), [
    ("length", "raise evaluate.judge.max_tokens"), ("filtered", "stopped by the judge: content_filter"),
    ("500", "status 500"), ("400", "refused with 400"),
])
def test_calls_that_fail_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, reason: str
) -> None:
    with make_server(fault=lambda number, question: fault if "limit 0" in question else None) as server:
        found = run_judge(make_config(tmp_path, server.url), MIXED)
    assert found is not None and (found["questions"], found["unreadable"]) == (4, 1)
    assert reason in capsys.readouterr().out


def test_a_model_without_schemas_is_asked_without_one(tmp_path: Path) -> None:
    for name, parameters in (("plain", ["temperature"]), ("able", ["response_format"])):
        models = [{"id": "judge-1", "supported_parameters": parameters}]
        with make_server(models=models) as server:
            found = run_judge(make_config(tmp_path / name, server.url), MIXED)
            assert {"response_format" in request["body"] for request in server.requests} == {name == "able"}
            assert {request["body"]["temperature"] for request in server.requests} == {0.0}
        assert found is not None and found["questions"] == 5


def test_a_prompt_that_the_server_cut_counts_for_nothing_and_is_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = {"prompt_tokens": 4096, "completion_tokens": 9}
    with make_server(usage=lambda body: tokens if "limit 0" in str(body) else {**tokens, "prompt_tokens": 4095}) as server:
        config = make_config(tmp_path, server.url)
        found = run_judge(config, MIXED)
        assert found is not None and (found["questions"], found["unreadable"]) == (4, 1)
        assert "OLLAMA_CONTEXT_LENGTH" in capsys.readouterr().out
        asked = len(server.requests)
        tokens["prompt_tokens"] = 5000
        found = run_judge(config, MIXED)
        assert found is not None and (found["questions"], found["tuned"]) == (5, 2)
        assert len(server.requests) == asked + 2, "the others are not asked again"


# -----------------------------------------------------------------------------
# Money


def count_prompts(server: Any) -> Counter[str]:
    """How often each prompt was sent."""
    return Counter(request["body"]["messages"][-1]["content"] for request in server.requests)


def test_nothing_is_paid_twice_after_a_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broke = {"after": 5}
    with make_server(fault=lambda number, question: "402" if number == broke["after"] else None) as server:
        config = make_config(tmp_path, server.url)
        found = run_judge(config, MIXED)
        assert found is not None and (found["questions"], found["unasked"]) == (2, 3)
        assert "[WARN] judge: stopped early" in capsys.readouterr().out
        found = run_judge(config, MIXED)
        assert found is not None and (found["questions"], found["tuned"], found["base"]) == (5, 2, 1)
        assert len(count_prompts(server)) == 10 and len(server.requests) == 11, "the refused one alone was sent twice"
        assert run_judge(config, MIXED) == found and len(server.requests) == 11
    assert {line["purpose"] for line in read_log(config, "answers")} == {"judge"}


def test_an_unreadable_reply_is_not_paid_for_again(tmp_path: Path) -> None:
    with make_server(lambda body: "no idea") as server:
        config = make_config(tmp_path, server.url)
        first, asked = run_judge(config, MIXED), len(server.requests)
        assert run_judge(config, MIXED) == first and len(server.requests) == asked == 5


def test_a_changed_answer_is_judged_anew_and_the_others_are_not(tmp_path: Path) -> None:
    with make_server() as server:
        config = make_config(tmp_path, server.url)
        run_judge(config, MIXED)
        found = run_judge(config, [(WRONG, "It is right now."), *MIXED[1:]])
        assert len(server.requests) == 12 and found is not None and found["questions"] == 5


def test_the_budget_is_kept_and_what_was_judged_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def usage(body: Any) -> dict[str, Any]:
        return {"prompt_tokens": 300, "completion_tokens": 100}

    with make_server(usage=usage) as server:
        config = make_config(tmp_path, server.url, budget_usd=4000, **DOLLAR_A_TOKEN)
        found = run_judge(config, MIXED)
        sent = len(server.requests)
    printed = capsys.readouterr().out
    assert found is not None and 0 < found["questions"] < 5 and found["unasked"] == 5 - found["questions"]
    assert load_spending(config.evaluation_dir / FOLDER, None).most_usd == 400 * sent <= 4000
    assert "evaluate.judge.budget_usd 4000 is reached" in printed and "10 of 10 requests" in printed


def test_a_judge_that_goes_away_ends_itself_and_not_the_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with make_server(fault=lambda number, question: "drop" if number > 3 else None) as server:
        found = run_judge(make_config(tmp_path, server.url, max_attempts=1), [(WRONG, RIGHT)] * 60)
    assert found is not None and found["questions"] == 2 and found["unasked"] > 0
    assert "calls to the judge failed" in capsys.readouterr().out


# -----------------------------------------------------------------------------
# Who is asked


def test_a_judge_that_is_not_wanted_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make_server() as server:
        assert run_judge(make_config(tmp_path, server.url, enabled=False), MIXED) is None
        assert server.requests == server.lookups == []
    assert capsys.readouterr().out == "[SKIP] judge: evaluate.judge.enabled is false\n"
    assert not (tmp_path / "evaluation").exists()


def test_without_a_control_there_is_nothing_to_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make_server() as server:
        models = {"tuned": make_models()["tuned"]}
        assert check_judge(make_config(tmp_path, server.url), tmp_path, models) is None
    assert capsys.readouterr().out.startswith("[SKIP] judge: there is no base model")


@pytest.mark.parametrize("switch", ["HYBRIDRAG_OFFLINE", "HYBRIDRAG_NETWORK_KILL_SWITCH"])
def test_offline_no_other_host_is_called_and_a_judge_on_this_machine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], switch: str
) -> None:
    monkeypatch.setenv(switch, "1")
    with make_server() as server, RemoteHost(server, tmp_path, monkeypatch) as remote:
        assert run_judge(make_config(tmp_path, f"https://{HOST}/v1", api_key_env="JUDGE_KEY"), MIXED) is None
        assert remote.hosts == [] and server.requests == server.lookups == []
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("[SKIP] judge:") and switch in line and HOST in line
        found = run_judge(make_config(tmp_path, server.url), MIXED)
        assert found is not None and found["questions"] == 5 and remote.hosts == []


@pytest.mark.parametrize("name", ["mine", "mine:latest", "Mine", "mine-base", "mine.Q4_K_M", "mine-base.q4_k_m.gguf"])
def test_no_model_judges_itself(tmp_path: Path, name: str) -> None:
    with make_server(models=None) as server:
        with pytest.raises(PipelineError, match=rf"evaluate\.judge\.model {name} is the \w+ model that is judged"):
            run_judge(make_config(tmp_path, server.url, model=name), MIXED)
        assert server.requests == []


class OllamaJudge(TeacherServer):
    """An Ollama that lists the digests of its models."""

    def __init__(self, digests: dict[str, str]) -> None:
        super().__init__(text=prefer_right, models=("judge-1",))
        self.digests = digests

    def answer(self, handler: Any, path: str, body: Any, number: int) -> None:
        """/api/tags too."""
        if path == "/api/tags":
            return handler.reply({"models": [{"name": name, "digest": digest} for name, digest in self.digests.items()]})
        return super().answer(handler, path, body, number)


@pytest.mark.parametrize("side", ["mine", "mine-base"])
def test_no_model_judges_itself_under_the_name_of_a_copy(tmp_path: Path, side: str) -> None:
    with OllamaJudge({"judge-1:latest": "aa", f"{side}:latest": "aa"}) as server:
        with pytest.raises(PipelineError, match=r"evaluate\.judge\.model judge-1 is the \w+ model that is judged"):
            run_judge(make_config(tmp_path, server.url), MIXED)
        assert server.requests == []


@pytest.mark.parametrize("digests", [
    {"judge-1:latest": "aa", "mine:latest": "bb"}, {"judge-1:latest": "", "mine:latest": ""}, {"mine:latest": "aa"}, {},
])
def test_another_model_in_the_same_ollama_may_judge(tmp_path: Path, digests: dict[str, str]) -> None:
    with OllamaJudge(digests) as server:
        found = run_judge(make_config(tmp_path, server.url), MIXED)
    assert found is not None and found["questions"] == 5


@pytest.mark.parametrize(("change", "message"), [
    ({"model": "judge-2"}, r"has no model judge-2 .*mend evaluate\.judge\.model"),
    ({"base_url": "http://judge.test/v1"}, r"evaluate\.judge\.base_url http://judge.test/v1 would send"),
    ({"base_url": "http://127.0.0.1:9/v1"}, "the judge at http://127.0.0.1:9/v1 cannot be reached"),
    ({"budget_usd": 1, "base_url": "https://judge.test/v1", "api_key_env": "JUDGE_KEY"}, r"evaluate\.judge\.budget_usd"),
])
def test_a_judge_that_cannot_be_asked_stops_before_the_first_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with make_server() as server, RemoteHost(server, tmp_path, monkeypatch):
        with pytest.raises(PipelineError, match=message):
            run_judge(make_config(tmp_path, **{"url": server.url, **rename(change)}), MIXED)
        assert server.requests == []


def rename(change: dict[str, Any]) -> dict[str, Any]:
    """For make_config, which calls the address url."""
    return {"url" if key == "base_url" else key: value for key, value in change.items()}


# -----------------------------------------------------------------------------
# What is sent, and where


PERSONAL = [("Call 555-123-4567.", "Write to jo@example.com."), (WRONG, RIGHT)]


def test_a_judge_elsewhere_is_sent_nothing_unmasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with make_server() as server, RemoteHost(server, tmp_path, monkeypatch) as remote:
        config = make_config(
            tmp_path, f"https://{HOST}/v1", api_key_env="JUDGE_KEY", generate={"masking": {"patterns": {"BADGE": r"B-\d{4}"}}}
        )
        found = run_judge(config, PERSONAL, source="Badge B-1234, ann@example.com, 45 degrees.")
        sent = b"".join(server.bodies).decode("utf-8")
        assert {request["headers"]["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert found is not None and found["questions"] == 2 and found["host"] == HOST
    assert set(remote.hosts) == {f"{HOST}:443"}
    for secret in ("555-123-4567", "jo@example.com", "ann@example.com", "B-1234"):
        assert secret not in sent
    assert all(tag in sent for tag in ("[PHONE]", "[EMAIL]", "[BADGE]")) and "45 degrees" in sent
    assert "[OK] judge: masked before it is sent: 2 BADGE, 3 EMAIL, 1 PHONE" in capsys.readouterr().out


def test_a_judge_on_this_machine_sees_everything(tmp_path: Path) -> None:
    with make_server() as server:
        run_judge(make_config(tmp_path, server.url), PERSONAL, source="ann@example.com")
        sent = b"".join(server.bodies).decode("utf-8")
    assert "555-123-4567" in sent and "ann@example.com" in sent and "[EMAIL]" not in sent


def test_the_teachers_key_never_goes_to_a_judge_at_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)  # the variable that both sections name until somebody changes one
    with make_server() as server:
        run_judge(make_config(tmp_path, server.url), MIXED)
        headers = [entry["headers"] for entry in (*server.requests, *server.lookups)]
        assert headers and not any(KEY in str(each) for each in headers)
        with RemoteHost(server, tmp_path, monkeypatch) as remote:
            monkeypatch.setattr(keyring.core, "_keyring_backend", MemoryKeyring())
            with pytest.raises(PipelineError, match=rf"no key for {HOST}: OPENROUTER_API_KEY is .* of openrouter\.ai"):
                run_judge(make_config(tmp_path, f"https://{HOST}/v1"), MIXED)
            assert remote.hosts == []


def test_a_key_of_the_judges_own_is_sent_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = MemoryKeyring()
    ring.entries["hybridrag-distill", HOST] = "from-the-keyring"
    ring.entries["hybridrag-distill", "openrouter.ai"] = KEY
    monkeypatch.setattr(keyring.core, "_keyring_backend", ring)
    with make_server() as server, RemoteHost(server, tmp_path, monkeypatch):
        run_judge(make_config(tmp_path, f"https://{HOST}/v1"), MIXED)
        assert {request["headers"]["authorization"] for request in server.requests} == {"Bearer from-the-keyring"}


def test_neither_model_is_named_and_both_orders_are_asked(tmp_path: Path) -> None:
    with make_server() as server:
        run_judge(make_config(tmp_path, server.url), [(WRONG, RIGHT)])
        shown = [read_answers(request["body"]) for request in server.requests]
        sent = b"".join(server.bodies).decode("utf-8")
    assert shown == [(WRONG, RIGHT), (RIGHT, WRONG)]
    assert "mine" not in sent and "tuned" not in sent
    assert "The limit is 45 degrees." in sent and "Prefer the answer that an engineer could act on" in sent


# -----------------------------------------------------------------------------
# What is left on the disk


def test_every_request_is_in_the_judges_own_audit_before_it_counts(tmp_path: Path) -> None:
    with make_server() as server:
        config = make_config(tmp_path, server.url)
        run_judge(config, MIXED)
        digests = [hashlib.sha256(body).hexdigest() for body in server.bodies]
    lines = [line for line in read_log(config, "audit") if line["method"] == "POST"]
    assert [line["sha256"] for line in lines] == digests
    assert lines[0]["rows"] == ["q0"] and {line["model"] for line in lines} == {"judge-1"}
    assert not (tmp_path / "training_data").exists(), "stage 1's account is another"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists")
def test_replies_are_private(tmp_path: Path) -> None:
    with make_server() as server:
        config = make_config(tmp_path, server.url)
        run_judge(config, MIXED)
    files = list((config.evaluation_dir / FOLDER).iterdir())
    assert {path.name for path in files} == {"answers.jsonl", "ledger.jsonl", "audit.jsonl"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_replies_are_encrypted_where_the_config_says_so_and_are_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring.core, "_keyring_backend", MemoryKeyring())
    with make_server() as server:
        plain, sealed = make_config(tmp_path, server.url), make_config(tmp_path, server.url, encrypt=True)
        run_judge(plain, MIXED[:2])
        assert "The first source says so." in (plain.evaluation_dir / FOLDER / "answers.jsonl").read_text(encoding="utf-8")
        first = run_judge(sealed, MIXED)
        for path in (sealed.evaluation_dir / FOLDER).iterdir():
            assert "The first source says so." not in path.read_text(encoding="utf-8"), path
        assert run_judge(sealed, MIXED) == first and len(server.requests) == 10


def test_what_was_set_aside_in_plain_is_encrypted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring.core, "_keyring_backend", MemoryKeyring())
    with make_server(usage=lambda body: {"prompt_tokens": 4096, "completion_tokens": 9}) as server:
        run_judge(make_config(tmp_path, server.url), MIXED[:2])
        (kept,) = (tmp_path / "evaluation" / FOLDER).glob("answers-*.jsonl")
        assert "The first source says so." in kept.read_text(encoding="utf-8")
        run_judge(make_config(tmp_path, server.url, encrypt=True), MIXED[:2])
        assert "The first source says so." not in kept.read_text(encoding="utf-8")
