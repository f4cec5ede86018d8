"""A Hugging Face hub on 127.0.0.1: the answers that huggingface_hub asks for, with weights on a second server, as a CDN.

    with HubServer(folder) as hub:      # HF_ENDPOINT=hub.base_url; owner/tiny at hub.commit holds the files of `folder`
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.servers import Handler, Server

NAME = "owner/tiny"
COMMIT = "c0ffee5eed0123456789abcdef0123456789abcd"
MODEL = re.compile(rf"/api/models/{NAME}(?:/(revision|tree)/([^/?]+))?$")
FILE = re.compile(rf"/{NAME}/resolve/([^/]+)/(.+)$")
# What a hub says besides the status, which its library goes by.
CODES = {"gated": (403, "GatedRepo"), "missing": (401, "RepoNotFound"), "refused": (401, ""), "empty": (404, "")}


class CdnServer(Server):
    """Serves weights by their hash, whole or from a byte on. `limit(number)` is how many bytes an answer may have before the
    connection breaks, None for all."""

    def __init__(self, files: dict[str, bytes], limit: Callable[[int], int | None]) -> None:
        super().__init__()
        self.files, self.limit = files, limit

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        data = self.files[path.strip("/")]
        start = int(re.match(r"bytes=(\d+)-", handler.headers.get("Range") or "bytes=0-")[1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        limit = self.limit(number)
        handler.wfile.write(data[start:] if limit is None else data[start : start + limit])
        if limit is not None:
            handler.drop()


class HubServer(Server):
    """The hub. `fault` names one of CODES, which then every answer about files gives; weights are the files at or above
    `large` bytes, which come from `cdn`."""

    def __init__(
        self, folder: Path, fault: str = "", large: int = 5_000_000, limit: Callable[[int], int | None] = lambda number: None
    ) -> None:
        super().__init__()
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.fault, self.large = fault, large
        self.cdn = CdnServer({sha256(data): data for data in self.files.values()}, limit)

    def __enter__(self) -> HubServer:
        self.cdn.__enter__()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.cdn.__exit__()

    def answer(self, handler: Handler, path: str, body: Any, number: int) -> None:
        """Describe the repository, or send one of its files."""
        path = urlsplit(path).path
        if self.fault in CODES and (self.fault != "gated" or not path.startswith("/api/")):
            return send_status(handler, *CODES[self.fault])
        if found := MODEL.match(path):
            revision = found[2] or "main"
            if revision not in ("main", COMMIT):
                return send_status(handler, 404, "RevisionNotFound")
            return handler.reply(self.describe_tree() if found[1] == "tree" else self.describe_model())
        found = FILE.match(path)
        if not found or found[2] not in self.files:
            return send_status(handler, 404, "EntryNotFound" if found else "RepoNotFound")
        return self.send_file(handler, found[2])

    def describe_model(self) -> dict[str, Any]:
        """Commit and files."""
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": sha1(data), **self.describe_weights(data)}
            for name, data in self.files.items()
        ]
        return {"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}

    def describe_tree(self) -> list[dict[str, Any]]:
        """The files, as the library lists them."""
        return [
            {"type": "file", "path": name, "size": len(data), "oid": sha1(data), **self.describe_weights(data, "oid")}
            for name, data in self.files.items()
        ]

    def describe_weights(self, data: bytes, key: str = "sha256") -> dict[str, Any]:
        """What the hub tells of a large file."""
        return {"lfs": {key: sha256(data), "size": len(data), "pointerSize": 134}} if len(data) >= self.large else {}

    def send_file(self, handler: Handler, name: str) -> None:
        """A small file, or for a large one where it is."""
        data = self.files[name]
        large = len(data) >= self.large
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(data)}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            # The library goes on to the same host by itself, whatever the port; a CDN is another one.
            headers |= {"Location": f"{self.cdn.base_url.replace('127.0.0.1', 'localhost')}/{sha256(data)}"}
        handler.send_response(302 if large else 200)
        for key, value in {**headers, "Content-Length": "0" if large else str(len(data))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "GET" and not large:
            handler.wfile.write(data)


def send_status(handler: Handler, status: int, code: str) -> None:
    """A refusal."""
    handler.send_response(status)
    for key, value in {"X-Error-Code": code, "X-Error-Message": f"error {status}", "Content-Length": "0"}.items():
        handler.send_header(key, value)
    handler.end_headers()


def sha256(data: bytes) -> str:
    """As the hub names large files."""
    return hashlib.sha256(data).hexdigest()


def sha1(data: bytes) -> str:
    """As git names small ones."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
