"""Who may be called: this machine always, another host unless HybridRAG3's switches forbid it."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from distill.errors import PipelineError

SWITCHES = ("HYBRIDRAG_OFFLINE", "HYBRIDRAG_NETWORK_KILL_SWITCH")
FALSE_VALUES = ("", "0", "false", "no", "off")


def host_of(url: str) -> str:
    """The host name of a URL, lower case, without port."""
    return urlsplit(url).hostname or ""


def is_loopback(url: str) -> bool:
    """Whether a URL stays on this machine: localhost, 127.0.0.0/8 or ::1."""
    host = host_of(url)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_allowed(url: str) -> None:
    """Raises PipelineError for another host while one of HybridRAG3's offline switches is set to anything but a false value."""
    if is_loopback(url):
        return
    for name in SWITCHES:
        if os.environ.get(name, "").strip().lower() not in FALSE_VALUES:
            raise PipelineError(f"{name} is set, so {host_of(url)} is not called: unset it, or use a server on 127.0.0.1")
