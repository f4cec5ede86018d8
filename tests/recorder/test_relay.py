"""The relay passes bytes on as they come and lets nobody else in."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from distill.recorder.relay import LARGEST_BODY, Relay
from distill.recorder.relay import Handler as RelayHandler
from distill.recorder.stand_in import answer_alone
from tests.servers import Handler, Server


class Upstream(Server):
    """Answers as the test's function says."""

    def __init__(self, give: Callable[[Handler, str, Any], None]) -> None:
        super().__init__()
        self.give = give
        self._http.handle_error = lambda *_: None  # what it says of callers that hang up is not the relay's

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        self.give(handler, path, body)


def replies(*arguments: Any, **fields: Any) -> Callable[[Handler, str, Any], None]:
    """Always the same answer."""
    return lambda handler, path, body: handler.reply(*arguments, **fields)


@contextmanager
def relaying(forward: str | None = None, notice: Callable[[str, bytes], None] = lambda path, body: None) -> Iterator[int]:
    """The port of a relay at work."""
    relay = Relay(0, forward, notice, lambda path, body: answer_alone(path, json.loads(body or b"null"), []))
    thread = threading.Thread(target=relay.serve, daemon=True)
    thread.start()
    yield int(relay.url.rsplit(":", 1)[1])
    relay.stop()
    thread.join()
    relay.close()


def connect(port: int) -> closing[http.client.HTTPConnection]:
    """A connection that is closed at the end of its block."""
    return closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20))


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """One request on a connection of its own; a list is sent in chunks."""
    with connect(port) as connection:
        chunked = isinstance(body, list)
        connection.request(method, path, iter(body) if chunked else body, headers, encode_chunked=chunked)
        response = connection.getresponse()
        return response, response.read()


def send_raw(port: int, data: bytes) -> bytes:
    """Everything that comes back for these bytes."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# -----------------------------------------------------------------------------
# Passing on


def test_a_stream_comes_through_word_by_word() -> None:
    go_on = threading.Event()

    def give(handler: Handler, path: str, body: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-ndjson")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b'8\r\n{"a":1}\n\r\n')
        assert go_on.wait(20)
        handler.wfile.write(b'8\r\n{"a":2}\n\r\n0\r\n\r\n')

    with Upstream(give) as upstream, relaying(upstream.base_url) as port, connect(port) as connection:
        connection.request("POST", "/api/generate", b"{}")
        response = connection.getresponse()
        assert response.readline() == b'{"a":1}\n'  # while the second line is not even written
        go_on.set()
        assert response.read() == b'{"a":2}\n' and response.headers["Content-Type"] == "application/x-ndjson"
        connection.request("POST", "/api/generate", b"{}")  # on the same connection
        assert connection.getresponse().readline() == b'{"a":1}\n'


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_errors_come_through_with_status_and_body(status: int) -> None:
    with Upstream(replies({"error": "no model"}, status)) as upstream, relaying(upstream.base_url) as port:
        response, body = ask(port, "POST", "/api/generate", b"{}")
    assert (response.status, json.loads(body)) == (status, {"error": "no model"})


def test_request_and_headers_arrive_as_they_were_sent() -> None:
    with Upstream(replies({"x": 1}, headers={"X-Own": "2"})) as upstream, relaying(upstream.base_url + "/base/") as port:
        response, _ = ask(port, "POST", "/api/other?x=1&y=%20", b'{"a": [1]}', Authorization="Bearer z", TE="x", Expect="")
    request, = upstream.requests
    assert (request["path"], request["body"]) == ("/base/api/other?x=1&y=%20", {"a": [1]})
    assert request["headers"]["authorization"] == "Bearer z" and "te" not in request["headers"]
    assert request["headers"]["host"] == upstream.base_url.removeprefix("http://")
    assert response.headers["X-Own"] == "2"


def test_a_request_in_chunks_is_put_together() -> None:
    noticed = []
    echo = Upstream(lambda handler, path, body: handler.reply(body))
    with echo as upstream, relaying(upstream.base_url, lambda path, body: noticed.append((path, body))) as port:
        _, body = ask(port, "POST", "/api/generate/?a=b", [b'{"pro', b'mpt": "', b'why"}'], Host="localhost")
    assert json.loads(body) == {"prompt": "why"} and noticed == [("/api/generate", b'{"prompt": "why"}')]


@pytest.mark.parametrize("chunked", [False, True])
def test_compressed_answers_stay_compressed(chunked: bool) -> None:
    data = gzip.compress(b'{"response": "real"}' * 50)

    def give(handler: Handler, path: str, body: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(data)))))
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if chunked else data)

    with Upstream(give) as upstream, relaying(upstream.base_url) as port:
        response, body = ask(port, "POST", "/api/generate", b"{}", **{"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip" and body == data
    assert upstream.requests[0]["headers"]["accept-encoding"] == "gzip"


def test_an_answer_without_a_length_ends_where_it_ends() -> None:
    def give(handler: Handler, path: str, body: Any) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"all of it")
        handler.close_connection = True

    with Upstream(give) as upstream, relaying(upstream.base_url) as port:
        assert ask(port, "GET", "/x")[1] == b"all of it"
        old = send_raw(port, b"GET /x HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert old.endswith(b"\r\n\r\nall of it") and b"chunked" not in old


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_that_breaks_off_is_not_passed_for_a_whole_one(chunked: bool) -> None:
    def give(handler: Handler, path: str, body: Any) -> None:
        handler.send_response(200)
        handler.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "100")))
        handler.end_headers()
        handler.wfile.write(b"9\r\n{\"half\":\n\r\n" if chunked else b'{"half":')
        handler.drop()

    with Upstream(give) as upstream, relaying(upstream.base_url) as port, pytest.raises(http.client.IncompleteRead):
        ask(port, "POST", "/api/generate", b"{}")


def test_head_and_empty_answers_have_no_body() -> None:
    def give(handler: Handler, path: str, body: Any) -> None:
        handler.send_response(204)
        handler.end_headers()

    with Upstream(give) as upstream, relaying(upstream.base_url) as port:
        response, body = ask(port, "GET", "/x")
    assert (response.status, body) == (204, b"")
    with relaying() as port:
        response, body = ask(port, "HEAD", "/")
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", "17")


def test_a_redirect_is_not_followed_and_not_handed_on() -> None:
    with Upstream(replies({}, 307, {"Location": "http://evil.example/"})) as upstream, relaying(upstream.base_url) as port:
        response, body = ask(port, "POST", "/api/generate", b"{}")
    assert response.status == 502 and b"not followed" in body and not response.headers.get("Location")
    assert len(upstream.requests) == 1


def test_ollama_that_is_not_there_is_a_502_with_the_reason(capsys: pytest.CaptureFixture) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        free = taken.getsockname()[1]
    with relaying(f"http://127.0.0.1:{free}") as port:
        response, body = ask(port, "GET", "/api/tags")
    assert response.status == 502 and f"127.0.0.1:{free} does not answer" in json.loads(body)["error"]
    assert "is it running there?" in capsys.readouterr().out


def test_proxy_settings_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Upstream(replies({})) as upstream, relaying(upstream.base_url) as port:
        assert ask(port, "GET", "/x")[0].status == 200


def test_a_caller_that_hangs_up_does_no_harm(capfd: pytest.CaptureFixture) -> None:
    def give(handler: Handler, path: str, body: Any) -> None:
        time.sleep(0.2)
        handler.reply({"x": "y" * 1_000_000})

    with Upstream(give) as upstream, relaying(upstream.base_url) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as caller:
            caller.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.5)
        assert ask(port, "GET", "/x")[0].status == 200
    assert "Traceback" not in capfd.readouterr().err


# -----------------------------------------------------------------------------
# Who may ask, and what


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1:11435", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:11435", 200), ("127.9.9.9", 200),
    ("evil.example@127.0.0.1", 403), ("me:secret@localhost:80", 403),
    ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("192.168.1.5:11435", 403), ("0.0.0.0", 403), ("", 403), ("[", 403),
])
def test_only_names_of_this_machine_are_answered(host: str, status: int) -> None:
    noticed = []
    with relaying(notice=lambda path, body: noticed.append(path)) as port:
        answer = send_raw(port, f"POST /api/version HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and len(noticed) == (status == 200)


@pytest.mark.parametrize("second", ["evil.example", "localhost"])
def test_a_request_with_two_hosts_is_refused(second: str) -> None:
    with relaying() as port:
        answer = send_raw(port, f"GET / HTTP/1.1\r\nHost: localhost\r\nHost: {second}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_second_origin_counts_too() -> None:
    with relaying() as port:
        data = b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n\r\n"
        assert send_raw(port, data).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("half", [
    b"", b"POST /api/gen", b"POST /api/generate HTTP/1.1\r\nHo",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
])
def test_a_caller_that_stops_in_the_middle_is_let_go(monkeypatch: pytest.MonkeyPatch, half: bytes) -> None:
    assert 10 <= RelayHandler.timeout <= 120
    monkeypatch.setattr(RelayHandler, "timeout", 0.3)
    noticed = []
    with relaying(notice=lambda path, body: noticed.append(path)) as port:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as caller:
            caller.sendall(half)
            assert caller.recv(1) == b"", "the relay hangs up"
        assert not noticed and ask(port, "GET", "/")[0].status == 200


def test_waiting_long_for_ollama_is_no_stop_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RelayHandler, "timeout", 0.3)

    def give(handler: Handler, path: str, body: Any) -> None:
        time.sleep(1)
        handler.reply({"late": 1})

    with Upstream(give) as upstream, relaying(upstream.base_url) as port:
        assert ask(port, "POST", "/api/generate", b"{}")[1] == b'{"late": 1}'


def test_a_request_without_a_host_is_refused() -> None:
    with relaying() as port:
        assert send_raw(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(("origin", "status"), [
    ("http://localhost:3000", 200), ("http://127.0.0.1", 200), ("https://evil.example", 403), ("null", 403), ("", 403),
])
def test_other_sites_pages_are_refused(origin: str, status: int) -> None:
    with relaying() as port:
        assert ask(port, "POST", "/api/version", b"{}", Origin=origin)[0].status == status


def test_it_is_no_proxy() -> None:
    with relaying() as port:
        answer = send_raw(port, b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_it_listens_on_loopback_alone() -> None:
    relay = Relay(0, None, lambda path, body: None, lambda path, body: answer_alone(path, None, []))
    assert relay._server.server_address[0] == "127.0.0.1" and relay.url.startswith("http://127.0.0.1:")
    relay.close()


@pytest.mark.parametrize(("headers", "body", "status"), [
    ("Content-Length: -1", b"", 400),
    ("Content-Length: x", b"", 400),
    ("Content-Length: 50", b"{}", 400),
    (f"Content-Length: {LARGEST_BODY + 1}", b"", 413),
    ("Transfer-Encoding: chunked", b"z\r\n", 400),
    ("Transfer-Encoding: chunked", b"-5\r\n", 400),
    ("Transfer-Encoding: chunked", b"5\r\nab", 400),
    ("Transfer-Encoding: chunked", b"", 400),
    ("Transfer-Encoding: chunked", f"{LARGEST_BODY + 1:x}\r\n".encode(), 413),
])
def test_a_body_that_cannot_be_read_is_refused(headers: str, body: bytes, status: int) -> None:
    noticed = []
    with relaying(notice=lambda path, data: noticed.append(path)) as port:
        answer = send_raw(port, f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode() + body)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and b"Connection: close" in answer and not noticed


def test_many_small_chunks_are_too_much_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.recorder.relay.LARGEST_BODY", 10)
    with relaying() as port:
        assert ask(port, "POST", "/api/version", [b"{    ", b"    }"])[0].status == 200
        assert ask(port, "POST", "/api/version", [b"{    ", b"     }"])[0].status == 413


def test_several_requests_on_one_connection() -> None:
    head = b"POST /api/version HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    one = head + b"2;x=y\r\n{}\r\n0\r\nTrailer: x\r\n\r\n"
    with relaying() as port:
        assert send_raw(port, one * 3).count(b"HTTP/1.1 200 ") == 3
