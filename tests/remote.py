"""Another host, for tests: a proxy that answers for every https host with its own certificate and passes on to a server here.

    with RemoteHost(server, folder, monkeypatch) as remote:      # https://judge.test/v1 now reaches `server`; remote.hosts
"""

from __future__ import annotations

import datetime
import select
import socket
import socketserver
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import Server

HOST = "judge.test"


class RemoteHost(socketserver.ThreadingTCPServer):
    """`hosts` are those that were connected to, with their ports."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.hosts: list[str] = []
        self.target = server._http.server_address
        certificate = write_certificate(folder)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{self.server_address[1]}")
        for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def __enter__(self) -> RemoteHost:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Tunnel(socketserver.StreamRequestHandler):
    """One CONNECT: TLS towards the client, plain bytes towards the server."""

    server: RemoteHost

    def handle(self) -> None:
        """Answer the CONNECT, then copy until one side closes."""
        line = self.rfile.readline().decode("ascii")
        while self.rfile.readline().strip():
            pass
        self.server.hosts.append(line.split()[1])
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with self.server.context.wrap_socket(self.connection, server_side=True) as client, \
                socket.create_connection(self.server.target) as target:
            copy(client, target)


def copy(client: ssl.SSLSocket, target: socket.socket) -> None:
    """Bytes both ways; what TLS has read already is not seen by select."""
    while True:
        ready: list[Any] = [client] if client.pending() else select.select([client, target], [], [])[0]
        for source in ready:
            if not (data := source.recv(65536)):
                return
            (target if source is client else client).sendall(data)


def write_certificate(folder: Path) -> Path:
    """A certificate for HOST that signs itself, with its key, as one PEM file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name, day = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)]), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
