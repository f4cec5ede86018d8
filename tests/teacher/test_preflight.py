from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from distill.config import Config, TeacherSection
from distill.errors import PipelineError
from distill.teacher.audit import Audit
from distill.teacher.preflight import (
    check_teacher,
    describe_account,
    describe_licence,
    explain_unknown,
    fetch,
    fetch_models,
    find_model,
)
from distill.teacher.wire import make_client
from tests.asking import KEY, make_config
from tests.servers import Handler, TeacherServer

# Entries of GET /models as the four kinds of server give them.
OPENROUTER = {
    "id": "teacher-1", "canonical_slug": "teacher-1-2512", "name": "Teacher 1", "created": 1764000000, "context_length": 131072,
    "architecture": {"modality": "text->text", "tokenizer": "Mistral"},
    "pricing": {"prompt": "0.0000005", "completion": "0.0000015", "request": "0", "image": "0"},
    "top_provider": {"context_length": 131072, "max_completion_tokens": None, "is_moderated": False},
    "per_request_limits": None, "supported_parameters": ["max_tokens", "temperature", "structured_outputs"],
}
OPENAI = {"id": "teacher-1", "object": "model", "created": 1764000000, "owned_by": "openai"}
OLLAMA = {"id": "teacher-1:latest", "object": "model", "created": 1764000000, "owned_by": "library"}
LLAMACPP = {
    "id": "../models/phi-4-mini-q8_0.gguf", "object": "model", "created": 1764000000, "owned_by": "llamacpp",
    "meta": {"n_ctx_train": 131072, "n_params": 3836021760},
}


def look(tmp_path: Path, server: TeacherServer, key: str = KEY, **teacher: Any) -> Any:
    """What the preflight finds."""
    return check_teacher(make_config(tmp_path, server.url, **teacher), key)


@pytest.mark.parametrize(("entry", "context_length", "price"), [
    (OPENROUTER, 131072, "the provider's list"), (OPENAI, None, "this machine"), (OLLAMA, None, "this machine"),
])
def test_a_listed_model_is_found_with_its_price(tmp_path: Path, entry: Any, context_length: int | None, price: str) -> None:
    with TeacherServer(models=["another", entry]) as server:
        found = look(tmp_path, server)
        assert [request["path"] for request in server.lookups] == ["/v1/models"] and not server.requests
    assert (found.listed, found.context_length) == (True, context_length)
    assert found.prices and found.prices.source == price
    assert found.lines[0].startswith("[OK] 127.0.0.1 has teacher-1: $") and price in found.lines[0]


def test_llamacpp_serves_its_one_model_under_every_name(tmp_path: Path) -> None:
    with TeacherServer(models=[LLAMACPP]) as server:
        found = look(tmp_path, server)
    assert found.listed is False and "[WARN] 127.0.0.1 serves one model under every name" in found.lines[0]


@pytest.mark.parametrize(("name", "near"), [
    ("mistral-large-2512", "near names: mistralai/mistral-large-2512"),
    ("mistralai/mistral-large-2521", "near names: mistralai/mistral-large-2512"),
    ("zzz", "it has mistralai/mistral-large-2512, openai/gpt-4.1"),
])
def test_an_unknown_model_is_an_error_with_near_names(tmp_path: Path, name: str, near: str) -> None:
    with TeacherServer(models=["mistralai/mistral-large-2512", "openai/gpt-4.1"]) as server, \
            pytest.raises(PipelineError, match=f"127.0.0.1 has no model {name} \\({near}\\): mend generate.teacher.model"):
        look(tmp_path, server, model=name)


def test_many_names_are_not_all_listed() -> None:
    assert explain_unknown(TeacherSection(model="zzz"), ["a1", "b2", "c3", "d4"]).count(",") == 3


@pytest.mark.parametrize(("lookup", "warning"), [
    ({"status": 404, "body": {"error": {"message": "not found"}}}, "does not list its models (status 404)"),
    ({"status": 402, "body": {"error": {"message": "pay"}}}, "does not list its models (status 402)"),
    ({"status": 503, "body": {"error": {"code": 503, "message": "Loading model"}}}, "does not list its models (status 503)"),
    ({"status": 200, "body": "<html>sign in</html>"}, "does not list its models (not JSON)"),
    ({"status": 200, "body": {"object": "list", "data": None}}, "lists no models"),
    ({"status": 200, "body": {"object": "list", "data": ["odd", {"name": "no id"}]}}, "lists no models"),
])
def test_a_server_that_does_not_list_is_a_warning(tmp_path: Path, lookup: dict[str, Any], warning: str) -> None:
    with TeacherServer(lookup=lookup) as server:
        found = look(tmp_path, server)
    assert found.listed is None and found.lines[0].startswith("[WARN]") and warning in found.lines[0]


def test_a_refused_key_is_an_error_and_no_key_a_warning(tmp_path: Path) -> None:
    refused = {"status": 401, "body": {"error": {"message": "wrong key"}}}
    with TeacherServer(lookup=refused) as server:
        with pytest.raises(PipelineError, match=r"refuses the key \(401\): set OPENROUTER_API_KEY, or run"):
            look(tmp_path, server)
        assert "status 401" in look(tmp_path, server, key="").lines[0]


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(PipelineError, match=f"the teacher at {url} cannot be reached"):
        check_teacher(make_config(tmp_path, url), KEY)


@pytest.mark.parametrize("name", ["HYBRIDRAG_OFFLINE", "HYBRIDRAG_NETWORK_KILL_SWITCH"])
def test_the_offline_switches_forbid_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(PipelineError, match=f"{name} is set"):
        check_teacher(make_config(tmp_path, "https://openrouter.ai/api/v1"), KEY)


# -----------------------------------------------------------------------------
# Licence, structured replies, account


@pytest.mark.parametrize(("trainable", "line"), [
    (True, "[OK] 127.0.0.1 says that the answers of teacher-1 may be used for training"),
    (False, "[WARN] 127.0.0.1 says that the answers of teacher-1 may not be used for training: take another model"),
    (None, "[WARN] whether the licence of teacher-1 allows training on its answers is not known: read it"),
])
def test_the_licence_is_told_and_recorded(tmp_path: Path, trainable: bool | None, line: str) -> None:
    with TeacherServer(models=[{**OPENROUTER, "is_trainable_text": trainable}]) as server:
        found = look(tmp_path, server)
    assert line in found.lines
    recorded = found.to_manifest()
    assert recorded["trainable_text"] is trainable and recorded["prices"]["prompt_usd"] == 0.0000005
    assert json.loads(json.dumps(recorded)) == recorded


def test_openrouter_is_told_to_see_to_the_licence() -> None:
    (line,) = describe_licence(TeacherSection(), None, distillable_only=True)
    assert line.startswith("[OK] openrouter.ai is told") and "enforce_distillable_text" in line


@pytest.mark.parametrize(("parameters", "generate", "warned"), [
    (["temperature"], {"checks": {"judge": True}}, True),
    (["temperature"], {"documents": {"sets": 3}}, True),
    (["temperature"], {}, False),
    (["structured_outputs"], {"checks": {"judge": True}}, False),
    (None, {"checks": {"judge": True}}, False),
])
def test_a_model_without_structured_replies_is_a_warning_where_they_are_wanted(
    tmp_path: Path, parameters: list[str] | None, generate: dict[str, Any], warned: bool
) -> None:
    with TeacherServer(models=[{**OPENROUTER, "supported_parameters": parameters}]) as server:
        plain = make_config(tmp_path, server.url).model_dump()
        config = Config.model_validate({**plain, "generate": {**plain["generate"], **generate}})
        lines = check_teacher(config, KEY).lines
    assert any("gives no structured replies" in line for line in lines) is warned


@pytest.mark.parametrize(("account", "line"), [
    (None, []),
    ({"data": {"label": "sk-or-v1-...", "limit": None, "limit_remaining": None, "usage": 0.1}}, ["[OK] the key is accepted"]),
    ({"data": {"limit": 5, "limit_remaining": 4.9, "usage": 0.1}}, ["[OK] the key is accepted, $4.90 of its limit are left"]),
    ("status 500", ["[WARN] openrouter.ai does not say whether the key is good"]),
])
def test_what_openrouter_says_of_the_key(account: Any, line: list[str]) -> None:
    assert describe_account(TeacherSection(), account) == line


def test_a_key_without_money_is_an_error() -> None:
    with pytest.raises(PipelineError, match=r"nothing is left of the key's limit at openrouter\.ai"):
        describe_account(TeacherSection(), {"data": {"limit": 5, "limit_remaining": 0}})


# -----------------------------------------------------------------------------
# Lists of several pages, names


class PagedServer(TeacherServer):
    """A list of models in two pages, linked as OpenRouter links them, and an account."""

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        """Page by page."""
        pages = {
            "/v1/models": {"data": [{"id": "first"}], "links": {"next": "/api/v1/models?offset=1&limit=1"}},
            "/v1/models?offset=1&limit=1": {"data": [{"id": "teacher-1"}], "links": {"next": None}},
            "/v1/key": {"data": {"limit_remaining": 3}},
        }
        handler.reply(pages.get(path, {"error": "not found"}), 200 if path in pages else 404)


def test_every_page_of_the_list_is_read(tmp_path: Path) -> None:
    with PagedServer() as server:
        assert look(tmp_path, server).listed is True
        assert [request["path"] for request in server.lookups] == ["/v1/models", "/v1/models?offset=1&limit=1"]


def test_the_account_of_a_key_is_asked_for_with_the_key(tmp_path: Path) -> None:
    async def ask(config: Config) -> Any:
        section = config.generate.teacher
        with Audit(tmp_path, section.model) as audit:
            client = make_client(section, KEY, audit)
            try:
                return await fetch(section, client, KEY, "/key"), await fetch_models(section, client, KEY)
            finally:
                await client.close()

    with PagedServer() as server:
        account, listing = asyncio.run(ask(make_config(tmp_path, server.url)))
        assert server.lookups[0]["headers"]["authorization"] == f"Bearer {KEY}"
    assert account == {"data": {"limit_remaining": 3}} and len(listing.entries) == 2


@pytest.mark.parametrize(("name", "found"), [
    ("mistral-small", "mistral-small"), ("mistral-small:free", "mistral-small:free"), ("mistral-small:nitro", "mistral-small"),
    ("mistral-small:floor", "mistral-small"), ("mistral-small-2503", "mistral-small"), ("phi4", "phi4:latest"),
    ("phi4:14b", None), ("mistral", None),
])
def test_a_name_is_found_as_the_provider_takes_it(name: str, found: str | None) -> None:
    entries = [
        {"id": "mistral-small:free"}, {"id": "mistral-small", "canonical_slug": "mistral-small-2503"}, {"id": "phi4:latest"},
    ]
    entry = find_model(TeacherSection(model=name), entries)
    assert (entry or {}).get("id") == found
