"""The teacher's key: from an environment variable, or from the system's keyring. Never printed, logged or written to a file."""

from __future__ import annotations

import getpass
import os
from typing import Any
from urllib.parse import urlsplit

from distill.config import TeacherSection
from distill.errors import PipelineError
from distill.network import host_of, is_loopback

SET_KEY = "python generate_training_data.py --set-key"
HYBRIDRAG_SERVICE, HYBRIDRAG_NAME = "hybridrag", "azure_api_key"  # where HybridRAG3 keeps its own key


def find_key(section: TeacherSection) -> str:
    """The key for the teacher's host, or "" for a server on this machine without one.

    A key in the keyring is filed under its host, so that a changed base_url never sends it elsewhere; one in the environment
    goes to whatever host base_url names, and so does HybridRAG3's own, with use_hybridrag_key alone and where there is no
    other. Raises PipelineError when another host is named and there is no key.
    """
    return locate_key(section)[0]


def describe_key(section: TeacherSection) -> str:
    """One console line: which key is used, and not a character of it. Raises as `find_key`."""
    key, place = locate_key(section)
    host = host_of(section.base_url)
    return f"[OK] the key for {host} is from {place}" if key else f"[OK] {host} is this machine: no key is sent"


def locate_key(section: TeacherSection) -> tuple[str, str]:
    """The key and where it was found, in words; ("", "") where none is needed."""
    host = host_of(section.base_url)
    place = f"the environment variable {section.api_key_env}"
    key = check_key(os.environ.get(section.api_key_env, ""), place)
    if key:
        return key, place
    if is_loopback(section.base_url):
        return "", ""
    entries = [(section.keyring_service, host, f"the keyring's entry for {host}")]
    if section.use_hybridrag_key:
        entries.append((HYBRIDRAG_SERVICE, HYBRIDRAG_NAME, "HybridRAG3's entry in the keyring (teacher.use_hybridrag_key)"))
    for service, name, place in entries:
        if key := check_key(read_keyring(section, service, name), place):
            return key, place
    raise PipelineError(f"no key for {host}: set the environment variable {section.api_key_env}, or run  {SET_KEY}")


def require_https(url: str) -> None:
    """Raises PipelineError for an address at which key and documents would cross a network in clear."""
    if urlsplit(url).scheme != "https" and not is_loopback(url):
        raise PipelineError(f"generate.teacher.base_url {url} would send key and documents in clear: use https://")


def check_key(key: str, place: str) -> str:
    """The key without white space around it. Raises PipelineError for characters that would break the HTTP header."""
    key = key.strip()
    if any(not 33 <= ord(character) <= 126 for character in key):
        raise PipelineError(f"{place} holds a key with a blank, a line break or a non-ASCII character in it: set it again")
    return key


def read_keyring(section: TeacherSection, service: str, name: str) -> str:
    """An entry of the keyring, or "". Raises PipelineError without a usable keyring."""
    host = host_of(section.base_url)
    keyring = load_keyring(section, host)
    try:
        return keyring.get_password(service, name) or ""
    except keyring.errors.KeyringError as error:
        raise explain_keyring(section, host, error) from None


def store_key(section: TeacherSection) -> None:
    """Ask for the key without showing it and put it into the keyring. Raises PipelineError."""
    host = host_of(section.base_url)
    if is_loopback(section.base_url):
        raise PipelineError(f"{host} is this machine and needs no stored key: if it wants one, set {section.api_key_env}")
    keyring = load_keyring(section, host)
    key = check_key(getpass.getpass(f"Key for {host} (not shown): "), "what was typed")
    if not key:
        raise PipelineError("no key was typed: nothing was stored")
    try:
        keyring.set_password(section.keyring_service, host, key)
    except keyring.errors.KeyringError as error:
        raise explain_keyring(section, host, error) from None
    print(f"[OK] The key for {host} is in the keyring under the service {section.keyring_service}")


def load_keyring(section: TeacherSection, host: str) -> Any:
    """The keyring package. Raises PipelineError when it is not installed."""
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise PipelineError(
            f"no key for {host}: set the environment variable {section.api_key_env}, or run  pip install keyring"
        ) from None
    return keyring


def explain_keyring(section: TeacherSection, host: str, error: Exception) -> PipelineError:
    """Locked, refused, or (on a server without a desktop) not there at all."""
    return PipelineError(
        f"no key for {host}: the system's keyring cannot be used ({type(error).__name__}), "
        f"so set the environment variable {section.api_key_env}"
    )
