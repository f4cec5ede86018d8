"""The key of teacher or judge: from the environment or the system's keyring. Never printed, logged or written to a file."""

from __future__ import annotations

import getpass
import os
from typing import Any
from urllib.parse import urlsplit

from distill.config import ServiceSection
from distill.errors import PipelineError
from distill.network import host_of, is_loopback

SET_KEY = {
    "generate.teacher": "python generate_training_data.py --set-key", "evaluate.judge": "python evaluate.py --set-key",
}
HYBRIDRAG_SERVICE, HYBRIDRAG_NAME = "hybridrag", "azure_api_key"  # where HybridRAG3 keeps its own key


def find_key(section: ServiceSection, first: ServiceSection | None = None) -> str:
    """The key for the section's host, or "" for a server on this machine without one.

    A key in the keyring is filed under its host, so that a changed base_url never sends it elsewhere; one in the environment
    goes to whatever host base_url names, and so does HybridRAG3's own, with use_hybridrag_key alone and where there is no
    other. A variable that `first`, the teacher beside a judge, names too is the key of first's host: another host never gets
    it. Raises PipelineError when another host is named and there is no key.
    """
    return locate_key(section, first)[0]


def describe_key(section: ServiceSection, first: ServiceSection | None = None) -> str:
    """One console line: which key is used, and not a character of it. Raises as `find_key`."""
    key, place = locate_key(section, first)
    host = host_of(section.base_url)
    return f"[OK] the key for {host} is from {place}" if key else f"[OK] {host} is this machine: no key is sent"


def locate_key(section: ServiceSection, first: ServiceSection | None = None) -> tuple[str, str]:
    """The key and where it was found, in words; ("", "") where none is needed."""
    host = host_of(section.base_url)
    place = f"the environment variable {section.api_key_env}"
    foreign = is_foreign(section, first)
    key = "" if foreign else check_key(os.environ.get(section.api_key_env, ""), place)
    if key:
        return key, place
    if is_loopback(section.base_url):
        return "", ""
    entries = [(section.keyring_service, host, f"the keyring's entry for {host}")]
    if section.use_hybridrag_key:
        entries.append((HYBRIDRAG_SERVICE, HYBRIDRAG_NAME, "HybridRAG3's entry in the keyring (teacher.use_hybridrag_key)"))
    for service, name, place in entries:
        try:
            stored = read_keyring(section, service, name)
        except PipelineError:
            if foreign:  # that error says to set the variable, which is another's
                break
            raise
        if key := check_key(stored, place):
            return key, place
    if foreign:
        raise PipelineError(
            f"no key for {host}: {section.api_key_env} is the variable of {host_of(first.base_url)} ({first.place}), so name "
            f"another in {section.place}.api_key_env, or run  {SET_KEY[section.place]}"
        )
    raise PipelineError(
        f"no key for {host}: set the environment variable {section.api_key_env}, or run  {SET_KEY[section.place]}"
    )


def is_foreign(section: ServiceSection, first: ServiceSection | None) -> bool:
    """Whether the section's variable holds the key of `first`, at another host; a server on this machine has none to lose."""
    if first is None or first.api_key_env != section.api_key_env or is_loopback(first.base_url):
        return False
    return host_of(first.base_url) != host_of(section.base_url)


def explain_refused(section: ServiceSection) -> PipelineError:
    """Status 401."""
    return PipelineError(
        f"{host_of(section.base_url)} refuses the key (401): set {section.api_key_env}, or run  {SET_KEY[section.place]}"
    )


def require_https(section: ServiceSection) -> None:
    """Raises PipelineError for an address at which key and documents would cross a network in clear."""
    url = section.base_url
    if urlsplit(url).scheme != "https" and not is_loopback(url):
        raise PipelineError(f"{section.place}.base_url {url} would send key and documents in clear: use https://")


def check_key(key: str, place: str) -> str:
    """The key without white space around it. Raises PipelineError for characters that would break the HTTP header."""
    key = key.strip()
    if any(not 33 <= ord(character) <= 126 for character in key):
        raise PipelineError(f"{place} holds a key with a blank, a line break or a non-ASCII character in it: set it again")
    return key


def read_keyring(section: ServiceSection, service: str, name: str) -> str:
    """An entry of the keyring, or "". Raises PipelineError without a usable keyring."""
    host = host_of(section.base_url)
    keyring = load_keyring(section, host)
    try:
        return keyring.get_password(service, name) or ""
    except keyring.errors.KeyringError as error:
        raise explain_keyring(section, host, error) from None


def store_key(section: ServiceSection) -> None:
    """Ask for the key without showing it and put it into the keyring. Raises PipelineError."""
    host = host_of(section.base_url)
    if is_loopback(section.base_url):
        raise PipelineError(
            f"{host} is this machine and needs no stored key: if it wants one, put it into a "
            f"variable of its own and name that in {section.place}.api_key_env"
        )
    keyring = load_keyring(section, host)
    key = check_key(getpass.getpass(f"Key for {host} (not shown): "), "what was typed")
    if not key:
        raise PipelineError("no key was typed: nothing was stored")
    try:
        keyring.set_password(section.keyring_service, host, key)
    except keyring.errors.KeyringError as error:
        raise explain_keyring(section, host, error) from None
    print(f"[OK] The key for {host} is in the keyring under the service {section.keyring_service}")


def load_keyring(section: ServiceSection, host: str) -> Any:
    """The keyring package. Raises PipelineError when it is not installed."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise PipelineError(
            f"no key for {host}: set the environment variable {section.api_key_env}, or run  pip install keyring"
        ) from None
    return keyring


def explain_keyring(section: ServiceSection, host: str, error: Exception) -> PipelineError:
    """Locked, refused, or (on a server without a desktop) not there at all."""
    return PipelineError(
        f"no key for {host}: the system's keyring cannot be used ({type(error).__name__}), "
        f"so set the environment variable {section.api_key_env}"
    )
