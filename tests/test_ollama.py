from __future__ import annotations

import socket

import numpy as np
import pytest

from distill.errors import PipelineError
from distill.ollama import OllamaClient, OllamaError, find_blob, with_tag
from tests.finished_stages import TUNED, ModelServer
from tests.gguf.ollama_registry import RegistryServer
from tests.servers import OllamaServer, embed_words


@pytest.fixture
def unused_url() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_embed_gives_a_vector_per_text() -> None:
    with OllamaServer() as server:
        vectors = OllamaClient(server.base_url).embed("nomic-embed-text", ["one", "two"])
    assert np.allclose(vectors, embed_words(["one", "two"]))


def test_chat_sends_options_and_reads_counts_and_times() -> None:
    with OllamaServer(models=["tuned:latest"], chat=lambda body: "three words here") as server:
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is it"}]
        reply = OllamaClient(server.base_url).chat("tuned", messages, {"num_ctx": 4096, "seed": 1}, keep_alive="5m")
        body = server.requests[0]["body"]
    assert body["messages"] == messages and body["options"] == {"num_ctx": 4096, "seed": 1}
    assert body["stream"] is False and body["keep_alive"] == "5m"
    assert (reply.text, reply.done_reason, reply.prompt_tokens, reply.answer_tokens) == ("three words here", "stop", 5, 3)
    assert reply.total_seconds == pytest.approx(0.002) and reply.answer_seconds == pytest.approx(0.001)


def test_every_time_that_ollama_tells_is_read() -> None:
    with OllamaServer(models=["tuned:latest"]) as server:
        reply = OllamaClient(server.base_url).chat("tuned", [{"role": "user", "content": "Q"}], {})
    assert (reply.load_seconds, reply.prompt_seconds, reply.answer_seconds) == pytest.approx((0.0005, 0.0005, 0.001))


def test_generate_sends_one_prompt_and_no_more() -> None:
    with ModelServer(lambda body: "it is a pump") as server:
        client = OllamaClient(server.base_url)
        reply = client.generate(TUNED, "what is it", {"num_ctx": 4096}, keep_alive="5m")
        client.generate(TUNED, "<|user|>Q<|end|><|assistant|>It", {}, raw=True)
        bodies = [request["body"] for request in server.requests]
    assert bodies[0] == {
        "model": TUNED, "prompt": "what is it", "options": {"num_ctx": 4096}, "stream": False, "keep_alive": "5m"
    }
    assert bodies[1]["raw"] is True and "keep_alive" not in bodies[1]
    assert (reply.text, reply.done_reason, reply.answer_tokens) == ("it is a pump", "stop", 4)
    assert reply.load_seconds == pytest.approx(2) and reply.prompt_seconds == pytest.approx(0.03)


@pytest.mark.parametrize("answer", [{"done": True}, {"response": None}, {"response": "half of it", "done": False}])
def test_a_generated_answer_that_is_none_is_an_error(answer: dict[str, object]) -> None:
    with (
        OllamaServer(fault=lambda *_: (200, answer)) as server,
        pytest.raises(OllamaError, match="answered /api/generate without a finished message"),
    ):
        OllamaClient(server.base_url).generate("tuned", "Q", {})


def test_loading_and_what_is_loaded() -> None:
    with ModelServer(lambda body: "x") as server:
        client = OllamaClient(server.base_url)
        assert client.list_loaded() == []
        client.load(TUNED, {"num_ctx": 2048}, "10m")
        assert client.list_loaded() == [f"{TUNED}:latest"] and server.held == {TUNED: 2048}
        client.unload(TUNED)
        assert client.list_loaded() == [] and server.list_chats() == []


def test_what_ollama_lists_of_a_model() -> None:
    with ModelServer(lambda body: "x") as server:
        client = OllamaClient(server.base_url)
        assert client.find_model(TUNED)["digest"] == client.find_model(f"{TUNED}:latest")["digest"] != ""
        assert client.find_model("stud") == client.find_model(f"{TUNED}:q4") == {}


@pytest.mark.parametrize(("name", "full"), [
    ("phi4-mini", "phi4-mini:latest"), ("mistral:7b", "mistral:7b"), ("host:5000/team/model", "host:5000/team/model:latest"),
    ("hf.co/team/model:Q4_K_M", "hf.co/team/model:Q4_K_M"),
])
def test_a_name_without_a_tag_means_latest(name: str, full: str) -> None:
    assert with_tag(name) == full


def test_looking_at_a_prompt_keeps_the_model_as_it_was_loaded() -> None:
    with ModelServer(lambda body: "x", keep_alive=0) as server:
        client, options = OllamaClient(server.base_url), {"num_ctx": 2048, "seed": 1}
        client.load(TUNED, options, "10m")
        shown = client.render_generate(TUNED, "Q", options, "10m")
        assert client.render_chat(TUNED, [{"role": "user", "content": "Q"}], options, "10m") == shown
        assert shown.endswith("<|user|>Q<|end|><|assistant|>") and server.loads == [TUNED]
        assert server.requests[-1]["body"]["options"] == {"num_ctx": 2048, "seed": 1, "num_predict": 1}


def test_the_file_behind_a_model_is_read_from_its_modelfile() -> None:
    digest = "ab" * 32
    assert find_blob({"modelfile": f"# FROM other\nFROM /models/blobs/sha256-{digest}\nTEMPLATE x"}) == digest
    assert find_blob({"modelfile": f"FROM C:\\models\\blobs\\sha256-{digest}"}) == digest
    assert find_blob({"modelfile": "FROM phi4-mini"}) == find_blob({}) == ""


def test_models_and_version() -> None:
    with OllamaServer(models=["base:latest", "tuned:q4"]) as server:
        client = OllamaClient(server.base_url + "/")
        assert client.list_models() == ["base:latest", "tuned:q4"] and client.version() == "0.30.1"
        assert client.has_model("base") and client.has_model("tuned:q4") and not client.has_model("tuned")


def test_unload_asks_for_keep_alive_zero() -> None:
    with OllamaServer(models=["base:latest"]) as server:
        OllamaClient(server.base_url).unload("base")
        assert server.requests[0]["path"] == "/api/generate" and server.requests[0]["body"]["keep_alive"] == 0


def test_a_prompt_is_rendered_and_not_answered() -> None:
    with RegistryServer(render=lambda template, messages: template + repr(messages)) as server:
        server.keep_as("tuned", {"template": "T", "system": "S", "files": {}, "parameters": {}})
        client, said = OllamaClient(server.base_url), [{"role": "user", "content": "Q"}]
        expected = "T" + repr([{"role": "system", "content": "S"}, *said])
        assert client.render_chat("tuned", said) == client.render_generate("tuned", "Q") == expected
        assert all(request["body"]["_debug_render_only"] and not request["body"]["stream"] for request in server.requests)


def test_an_ollama_that_does_not_show_prompts_shows_none() -> None:
    with OllamaServer(models=["tuned:latest"]) as server:
        assert OllamaClient(server.base_url).render_chat("tuned", [{"role": "user", "content": "Q"}]) == ""
        assert server.requests[0]["body"]["options"] == {"num_predict": 1}  # it answers, but not for long


def test_blobs_and_copies() -> None:
    with RegistryServer() as server:
        server.keep_as("tuned", {"files": {}})
        server.files["ab" * 32] = b""
        client = OllamaClient(server.base_url)
        assert client.has_blob("ab" * 32) and not client.has_blob("cd" * 32)
        client.copy("tuned", "tuned:before")
        assert client.list_models() == ["tuned:latest", "tuned:before"]


def test_a_failing_server_is_not_taken_for_a_missing_blob() -> None:
    with OllamaServer(fault=lambda *_: (500, {"error": "disk"})) as server, pytest.raises(OllamaError, match="with 500"):
        OllamaClient(server.base_url).has_blob("ab" * 32)


def test_an_unknown_model_says_what_to_pull() -> None:
    with OllamaServer() as server, pytest.raises(OllamaError, match="run  ollama pull absent") as caught:
        OllamaClient(server.base_url).embed("absent", ["x"])
    assert caught.value.status == 404


def test_nobody_listening_is_one_clear_error(unused_url: str) -> None:
    with pytest.raises(OllamaError, match=f"nothing answers at {unused_url}: start Ollama") as caught:
        OllamaClient(unused_url).version()
    assert caught.value.status == 0


@pytest.mark.parametrize(("fault", "message"), [
    ((500, {"error": "llama runner process has terminated"}), "with 500: llama runner process has terminated"),
    ((503, "<html>busy</html>"), "with 503: <html>busy</html>"),
    ((200, {"error": "out of memory"}), "with an error: out of memory"),
    ((200, "<html>a login page</html>"), "did not answer with JSON"),
    ((200, [1]), "with an error: no JSON object"),
    ((302, {}), "with 302"),
    ((200, {"embeddings": []}), "gave no vector for each text"),
    ((200, {}), "gave no vector for each text"),
    ("drop", r"the connection to Ollama at http://127\.0\.0\.1:\d+ broke"),
])
def test_every_failure_is_an_ollama_error(fault: object, message: str) -> None:
    with OllamaServer(fault=lambda *_: fault) as server, pytest.raises(OllamaError, match=message):  # type: ignore[arg-type,return-value]
        OllamaClient(server.base_url).embed("nomic-embed-text", ["x"])


def test_a_chat_answer_without_message_is_an_error() -> None:
    with OllamaServer(fault=lambda *_: (200, {"done": True})) as server, pytest.raises(OllamaError, match="a finished message"):
        OllamaClient(server.base_url).chat("base", [], {})


def test_a_timeout_names_its_length() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OllamaError, match=r"did not answer /api/version within 0\.2 s"):
            OllamaClient(url, timeout_seconds=0.2).version()


def test_loopback_ignores_proxies(monkeypatch: pytest.MonkeyPatch, unused_url: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, unused_url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with OllamaServer() as server:
        assert OllamaClient(server.base_url).version() == "0.30.1"


def test_the_offline_switch_forbids_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDRAG_OFFLINE", "1")
    with pytest.raises(PipelineError, match="HYBRIDRAG_OFFLINE is set"):
        OllamaClient("http://ollama.example.com:11434")
