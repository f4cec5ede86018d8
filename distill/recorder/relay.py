"""An HTTP server on 127.0.0.1 that stands where Ollama is expected: it passes each request on, or lets a stand-in answer.

Answers only callers that mean this machine. What happens with a request before its reply is the caller's: see Relay.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from distill.config import check_url
from distill.errors import PipelineError
from distill.network import is_loopback, require_allowed
from distill.recorder.stand_in import StandInAnswer

HOST = "127.0.0.1"
FORWARD_SECONDS = 3600  # a large model on a CPU may take minutes before its first word
CALLER_SECONDS = 60  # without a byte of a request: a caller that stopped in the middle must not hold a thread for good
LARGEST_BODY = 64 * 2**20
BLOCK = 65536
# RFC 9110, section 7.6.1: these belong to one connection and are not passed on. The last three are written anew.
CONNECTION_HEADERS = {
    "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "expect", "host", "content-length",
}
Headers = Iterable[tuple[str, str]]


class Relay:
    """`notice(path, body)` is called with each POST before its reply; where it raises OSError the caller gets an error instead.

    `forward` is Ollama's address; `stand_in(path, body)` answers where there is none, and at `own_paths`. `url` is where it
    listens; with `port` 0 any free port is taken. Raises PipelineError when the port cannot be had, or the address not called.
    """

    def __init__(
        self, port: int, forward: str | None, notice: Callable[[str, bytes], None],
        stand_in: Callable[[str, bytes], StandInAnswer], own_paths: Collection[str] = (),
    ) -> None:
        self._upstream = Upstream(forward, port) if forward else None
        self._own_paths = own_paths
        self.notice, self.stand_in = notice, stand_in
        self._server = open_server(port, type("BoundHandler", (Handler,), {"relay": self}))
        self.url = f"http://{HOST}:{self._server.server_address[1]}"

    def find_upstream(self, path: str) -> Upstream | None:
        """Who answers at this path; None for the stand-in."""
        return None if path in self._own_paths else self._upstream

    def serve(self) -> None:
        """Until KeyboardInterrupt, or until `stop` is called from another thread."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Let `serve` return."""
        self._server.shutdown()

    def close(self) -> None:
        """Free the port."""
        self._server.server_close()


# -----------------------------------------------------------------------------
# The two ends


class Server(ThreadingHTTPServer):
    """On Windows, SO_REUSEADDR would let two programs listen at one port."""

    allow_reuse_address = sys.platform != "win32"
    daemon_threads = True
    request_queue_size = 128  # socketserver's 5 resets callers that come together

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that hangs up is no error; anything else is ours, and keeps its traceback."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def open_server(port: int, handler: type[Handler]) -> Server:
    """Raises PipelineError when the port cannot be had."""
    try:
        return Server((HOST, port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PipelineError(
            f"port {port} of {HOST} cannot be used ({reason}): end the program that listens there, or record at another port"
        ) from None


class Upstream:
    """Ollama at `url`. Proxy settings are ignored, redirects are not followed."""

    def __init__(self, url: str, own_port: int) -> None:
        try:
            self.url = check_url(url)
            self._parts = urlsplit(self.url)
            port = self._parts.port
        except ValueError as error:
            raise PipelineError(f"prompts cannot be passed on to {url!r}: it {error}") from None
        require_allowed(url)
        if is_loopback(url) and port == own_port:
            raise PipelineError(f"the recorder cannot pass prompts on to itself at {url}: record at another port than Ollama's")

    def ask(
        self, method: str, target: str, headers: Headers, body: bytes
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request on; the answer's body is still to be read. Raises OSError or HTTPException."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=FORWARD_SECONDS)
        try:
            connection.request(method, self._parts.path + target, body or None, dict(keep_headers(headers)))
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise


def keep_headers(headers: Headers) -> list[tuple[str, str]]:
    """The headers that belong to the message, not to the connection."""
    return [(name, value) for name, value in headers if name.lower() not in CONNECTION_HEADERS]


def read_blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body's bytes as they come, still in their content encoding."""
    while block := response.read1(BLOCK):
        yield block


# -----------------------------------------------------------------------------
# One request


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive; the class attribute `relay` is shared by all requests."""

    protocol_version = "HTTP/1.1"
    timeout = CALLER_SECONDS
    disable_nagle_algorithm = True  # a streamed word is a small write: it must not wait for the next
    relay: Relay

    def log_message(self, *_: object) -> None:
        """Whoever listens by `notice` prints what a user wants to know."""

    def handle_request(self) -> None:
        """Refuse, or give notice and then reply."""
        if problem := self.find_problem():
            return self.refuse(*problem)
        body = self.read_body()
        if body is None:
            return None
        path = simplify_path(self.path)
        try:
            if self.command == "POST":
                self.relay.notice(path, body)
        except OSError as error:
            print(f"[FAIL] a prompt could not be written down, so it is not answered: {error.strerror}", file=sys.stderr)
            return self.reply_error(500, f"the recorder could not write the prompt down: {error.strerror}")
        upstream = self.relay.find_upstream(path)
        return self.pass_on(upstream, body) if upstream else self.reply_alone(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_request

    # -------------------------------------------------------------------------
    # Reading

    def find_problem(self) -> tuple[int, str] | None:
        """Why a request is refused: it came by another name for this machine (DNS rebinding), or from another site's page."""
        hosts, origins = self.headers.get_all("Host", [""]), self.headers.get_all("Origin", [])
        if not self.path.startswith("/"):
            return 400, "the recorder is no proxy: set its address as Ollama's"
        if len(hosts) > 1:
            return 400, "a request names one host"
        if not all(map(is_local, [f"http://{hosts[0]}", *origins])):
            return 403, f"the recorder answers only callers on this machine, at {self.relay.url}"
        return None

    def read_body(self) -> bytes | None:
        """The request's body, sent with its length or in chunks; None when it was refused."""
        try:
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                return b"".join(self.read_chunks())
            length = require_length(self.headers.get("Content-Length") or "0", LARGEST_BODY)
            return self.read_exactly(length)
        except ValueError:
            return self.refuse(400, "the request's body cannot be read")
        except OverflowError:
            return self.refuse(413, f"the recorder passes on at most {LARGEST_BODY:,} bytes: send this to Ollama itself")

    def read_chunks(self) -> Iterator[bytes]:
        """The parts of a chunked body (RFC 9112, section 7.1), then its trailers."""
        left = LARGEST_BODY
        while size := require_length(self.rfile.readline(1024).split(b";")[0].decode("latin-1"), left, base=16):
            left -= size
            yield self.read_exactly(size)
            self.read_exactly(2)  # CR LF
        while self.rfile.readline(BLOCK).strip():
            pass

    def read_exactly(self, size: int) -> bytes:
        """Raises ValueError when the caller sends less."""
        data = self.rfile.read(size)
        if len(data) < size:
            raise ValueError("the body broke off")
        return data

    # -------------------------------------------------------------------------
    # Replying

    def pass_on(self, upstream: Upstream, body: bytes) -> None:
        """Ollama's own answer, word by word as it comes; its errors with their status."""
        try:
            connection, response = upstream.ask(self.command, self.path, self.headers.items(), body)
        except (OSError, http.client.HTTPException) as error:
            print(f"[WARN] Ollama at {upstream.url} does not answer ({error}): is it running there?")
            return self.reply_error(502, f"Ollama at {upstream.url} does not answer: {error}")
        with closing(connection):
            if response.status in (301, 302, 303, 307, 308):
                return self.reply_error(502, f"Ollama at {upstream.url} points to another address, which is not followed")
            length = None if response.chunked else response.headers.get("Content-Length")
            try:
                self.send(response.status, keep_headers(response.getheaders()), read_blocks(response), length)
            except (OSError, http.client.HTTPException):
                self.close_connection = True  # it broke off there, so it breaks off here
        return None

    def reply_alone(self, path: str, body: bytes) -> None:
        """The stand-in's answer."""
        answer = self.relay.stand_in(path, body)
        length = None if answer.streamed else str(sum(map(len, answer.parts)))
        self.send(answer.status, [("Content-Type", answer.content_type)], answer.parts, length)

    def reply_error(self, status: int, reason: str) -> None:
        """An error as Ollama writes one."""
        data = json.dumps({"error": reason}).encode()
        self.send(status, [("Content-Type", "application/json; charset=utf-8")], [data], str(len(data)))

    def refuse(self, status: int, reason: str) -> None:
        """An error, and the end of the connection: the rest of the request was not read."""
        self.close_connection = True
        self.reply_error(status, reason)

    def send(self, status: int, headers: Headers, parts: Iterable[bytes], length: str | None) -> None:
        """One answer; without a length it is sent in chunks, to callers of HTTP/1.0 until the connection closes."""
        bare = self.command == "HEAD" or status in (204, 304)
        chunked = length is None and not bare and self.request_version == "HTTP/1.1"
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", length)
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        if self.close_connection or not (chunked or bare or length):
            self.send_header("Connection", "close")
        self.end_headers()
        if not bare:
            self.send_body(parts, chunked, length)

    def send_body(self, parts: Iterable[bytes], chunked: bool, length: str | None) -> None:
        """A body that turns out shorter than its length ends the connection, so that the caller sees it."""
        sent = 0
        for part in parts:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            sent += len(part)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        elif length is not None and sent != int(length):
            self.close_connection = True


def is_local(url: str) -> bool:
    """Whether an address names this machine; False for one with a user name, and for one that cannot be read."""
    try:
        return is_loopback(url) and "@" not in url
    except ValueError:
        return False


def simplify_path(target: str) -> str:
    """A request's path as a server understands it: escapes read, slashes single, none at the end."""
    return re.sub("/+", "/", unquote(urlsplit(target).path)).rstrip("/") or "/"


def require_length(text: str, most: int, base: int = 10) -> int:
    """A count of bytes. Raises ValueError for what is none, OverflowError for more than `most`."""
    length = int(text, base)
    if length < 0:
        raise ValueError("a length below zero")
    if length > most:
        raise OverflowError
    return length
