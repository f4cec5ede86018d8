"""On PYTHONPATH, cuts a Python process and its Python children off from every network but loopback."""

from __future__ import annotations

import sys

LOOPBACK = ("127.0.0.1", "::1", "localhost", "", None)


def forbid_network(event: str, arguments: tuple) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if (host.decode() if isinstance(host, bytes) else host) not in LOOPBACK:
        raise PermissionError(f"no network here: {event} {host}")


sys.addaudithook(forbid_network)
