"""Servers for tests of programs around a log: ours in a thread, and one that answers byte for byte as told."""

import datetime as dt
import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ledger.entry import Commitment
from ledger.service.http import Server
from ledger.service.serve import make_app
from tests.ledger import builders as b

PUBLIC, POLICY = "log", "policy.txt"


def make_log(data: Path, size: int) -> Path:
    """A directory with the log of `size` entries in its PUBLIC, and the POLICY for it."""
    (data / PUBLIC).mkdir(parents=True)
    (data / POLICY).write_text(b.policy_text())
    grow_log(data, size)
    return data


def grow_log(data: Path, size: int) -> None:
    """The log has `size` entries; partial tiles of smaller sizes are gone where the full tile is there."""
    public = data / PUBLIC
    files = b.log_files([Commitment(number.to_bytes(32, "big")).encode() for number in range(size)])
    for path, content in files.items():
        file = public / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    for file in public.rglob("*.p/*"):
        if file.parent.with_suffix("").exists():
            file.unlink()


@contextmanager
def running(app: object, **tls: Path) -> Iterator[str]:
    """The URL under which `app` is served on a free port of the loopback interface until the context is left."""
    server = Server(app, "127.0.0.1", 0, **tls)
    thread = threading.Thread(target=server.run_until_stopped)
    thread.start()
    try:
        yield server.url
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(public: Path, **tls: Path) -> Iterator[str]:
    """The URL of the log in `public`."""
    with running(make_app(public), **tls) as url:
        yield url


def ok(body: bytes, *headers: str) -> bytes:
    """A sound answer with `body`, further header lines beside its length."""
    return answer("200 OK", f"Content-Length: {len(body)}", *headers) + body


def answer(status: str, *headers: str) -> bytes:
    """The head of an answer, the last one on its connection."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]).encode()


# What is sent to the client, or what is done with the connection to it.
Reply = bytes | Callable[[socket.socket], None]


class Scripted:
    """Answers the n-th connection with the n-th reply, the last one again and again, and notes what was asked for."""

    def __init__(self, *replies: Reply) -> None:
        self.asked: list[str] = []
        script = self
        left = list(replies)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                script.asked.append(self.rfile.readline().decode().strip())
                while self.rfile.readline().strip():
                    pass
                reply = left.pop(0) if len(left) > 1 else left[0]
                try:
                    if isinstance(reply, bytes):
                        self.wfile.write(reply)
                    else:
                        reply(self.connection)
                except OSError:
                    pass  # the client has left, as it may

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def say_nothing_more(beginning: bytes) -> Reply:
    """`beginning`, then nothing until the client goes."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while connection.recv(1024):
            pass

    return reply


def say_for_ever(beginning: bytes, more: bytes) -> Reply:
    """`beginning`, then `more` again and again until the client goes."""

    def reply(connection: socket.socket) -> None:
        connection.sendall(beginning)
        while True:
            connection.sendall(more)

    return reply


def make_certificate(directory: Path) -> dict[str, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key, as `running` takes them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    files = {"tls_cert": directory / "cert.pem", "tls_key": directory / "key.pem"}
    files["tls_cert"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files["tls_key"].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
