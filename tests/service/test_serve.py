"""Serving a log: what tlog-tiles allows, with the headers that it asks for, and not a byte beside it."""

import gzip
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ledger.service import http as http_server
from ledger.service.http import ServeError, Server
from ledger.service.http_log import open_url
from ledger.writer.files import list_files
from vitalseal.cli import main

from .servers import PUBLIC, grow_log, make_certificate, make_log, running, serving
from .witnessing import wait_for

TEXT = ("text/plain; charset=utf-8", "no-cache")
OCTETS = ("application/octet-stream", "public, max-age=31536000, immutable")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A log of 700 entries with much beside it that is nobody's business."""
    data = make_log(tmp_path_factory.mktemp("log") / "data", 700)
    public = data / PUBLIC
    (public / ".htpasswd").write_text("secret")
    (public / "notes.txt").write_text("secret")
    (public / "tile/0/.000.new").write_text("secret")
    (data / "sequencer.db").write_text("secret")
    (public / "tile/0/900").symlink_to(data / "sequencer.db")
    (public / "tile/0/901").symlink_to("900")
    (public / "tile/0/902").symlink_to("nowhere")
    (public / "tile/0/903").symlink_to("000")
    (public / "tile/0/904").mkdir()
    os.mkfifo(public / "tile/0/905")
    (public / "tile/7").symlink_to(data)
    (data / "000").write_text("secret")
    return data


@pytest.fixture(scope="module")
def url(data):
    """Where it is served."""
    with serving(data / PUBLIC) as url:
        yield url


def ask(url: str, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """One request, its path sent as it stands; the answer and its body."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_every_file_of_the_log_is_served(data, url):
    """Tiles and bundles, whole and partial, are octets to be kept for ever; the checkpoint is text to ask for again."""
    public = data / PUBLIC
    files = [path for path in list_files(public) if (public / path).is_file() and not (public / path).is_symlink()]
    served = {path for path in files if "secret" not in (public / path).read_text(errors="replace")}
    assert served > {"checkpoint", "tile/0/000", "tile/0/002.p/188", "tile/entries/000", "tile/1/000.p/2"}
    for path in served:
        response, body = ask(url, f"/{path}")
        assert (response.status, body) == (200, (public / path).read_bytes())
        assert response.headers["Content-Length"] == str(len(body))
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        kept = (response.headers["Content-Type"], response.headers["Cache-Control"])
        assert kept == (TEXT if path == "checkpoint" else OCTETS)
        assert response.headers["Vary"] == ("Accept-Encoding" if "entries" in path else None)
        assert response.headers["Content-Encoding"] is None


@pytest.mark.parametrize(
    "path",
    [
        "/notes.txt",
        "/.htpasswd",
        "/log",
        "/tile",
        "/tile/",
        "/tile/0",
        "/tile/0/",
        "/tile/0/000/",
        "/tile/0//000",
        "//tile/0/000",
        "/checkpoint/",
        "/Checkpoint",
        "/tile/0/.000.new",
        "/tile/0/0",
        "/tile/00/000",
        "/tile/8/000",
        "/tile/0/x000/000",
        "/tile/0/000.p/0",
        "/tile/0/000.p/256",
        "/tile/0/000.p/01",
        "/tile/0/002.p/5",
        "/tile/0/002",
        "/tile/0/003",
        "/tile/0/000%00",
        "/tile/0/000%0a",
        "/tile/0/%0a000",
        "/checkpoint%0a",
        "/%0a",
        "/%2f",
        "/tile/0/%D9%A0%D9%A0%D9%A0",
        "/tile/0/../0/../../notes.txt",
        "/../sequencer.db",
        "/tile/../../sequencer.db",
        "/tile/%2e%2e/%2e%2e/sequencer.db",
        "/%2e%2e/sequencer.db",
        "/tile/0/..%2f..%2f..%2fsequencer.db",
        "/tile/%252e%252e/000",
        "/tile/0/..\\..\\000",
        "/tile//etc/passwd",
        "/tile/%2fetc%2fpasswd",
        "//etc/passwd",
        "/tile/0/900",
        "/tile/0/901",
        "/tile/0/902",
        "/tile/0/904",
        "/tile/0/905",
        "/tile/7/000",
        "/tile/entries/000.p/5",
        "/tile/" + "x000/" * 5000 + "000",
    ],
)
def test_anything_else_is_not_found(url, path):
    """No other spelling, no way out of the directory, no link out of it, no partial tile that is gone: 404."""
    response, body = ask(url, path)
    assert response.status == 404
    assert b"secret" not in body
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_link_within_the_log_is_followed(data, url):
    """A mirror may store equal tiles once."""
    assert ask(url, "/tile/0/903")[1] == (data / PUBLIC / "tile/0/000").read_bytes()


def test_partial_tile_makes_way_for_the_full_one(tmp_path):
    """What was there and has been removed is 404 at once, while the full tile is found."""
    data = make_log(tmp_path / "data", 100)
    with serving(data / PUBLIC) as url:
        assert ask(url, "/tile/0/000.p/100")[0].status == 200
        grow_log(data, 300)
        assert ask(url, "/tile/0/000.p/100")[0].status == 404
        assert ask(url, "/tile/0/000")[0].status == 200


@pytest.mark.parametrize("accepted", ["gzip", "GZIP", "br, gzip", "br,gzip;q=0.5", "gzip ; q=1.0", "gzip; q=0.001"])
def test_bundles_are_compressed_for_who_accepts_it(data, url, accepted):
    """A bundle's gzip encoding decodes to the bundle; tiles, which do not compress, and the checkpoint stay."""
    response, body = ask(url, "/tile/entries/000", Accept_Encoding=accepted)
    bundle = (data / PUBLIC / "tile/entries/000").read_bytes()
    assert (response.headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", bundle)
    assert len(body) < len(bundle)
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["Vary"] == "Accept-Encoding"
    for path in ("/tile/0/000", "/checkpoint", "/"):
        assert ask(url, path, Accept_Encoding=accepted)[0].headers["Content-Encoding"] is None


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "gzip; q=0.000", "gzip2", "x, gzip;q=", "*"])
def test_bundles_stay_as_they_are_for_others(data, url, accepted):
    """Who does not accept gzip gets the bundle itself."""
    response, body = ask(url, "/tile/entries/000", Accept_Encoding=accepted)
    assert response.headers["Content-Encoding"] is None
    assert body == (data / PUBLIC / "tile/entries/000").read_bytes()


def test_checkpoint_is_sent_once_while_it_is_the_same(tmp_path):
    """A client that has the checkpoint hears so, until there is another."""
    data = make_log(tmp_path / "data", 10)
    with serving(data / PUBLIC) as url:
        etag = ask(url, "/checkpoint")[0].headers["ETag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            response, body = ask(url, "/checkpoint", If_None_Match=known)
            assert (response.status, body, response.headers["ETag"]) == (304, b"", etag)
            assert response.headers["Cache-Control"] == "no-cache"
        assert ask(url, "/checkpoint", If_None_Match='"other"')[0].status == 200
        grow_log(data, 11)
        response, body = ask(url, "/checkpoint", If_None_Match=etag)
        assert (response.status, body) == (200, (data / PUBLIC / "checkpoint").read_bytes())
        assert response.headers["ETag"] != etag


@pytest.mark.parametrize("path", ["/", "/checkpoint", "/tile/0/000", "/tile/entries/000", "/tile/0/999"])
def test_head_says_what_get_would(url, path):
    """HEAD has the headers of GET and no body."""
    expected, content = ask(url, path, Accept_Encoding="gzip")
    response, body = ask(url, path, "HEAD", Accept_Encoding="gzip")
    assert (response.status, body) == (expected.status, b"")
    assert response.headers["Content-Length"] == str(len(content))
    assert {name for name, _ in response.getheaders()} == {name for name, _ in expected.getheaders()}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/checkpoint", "/tile/0/000", "/tile/x"])
def test_nothing_can_be_changed(url, path, method):
    """Any method but GET and HEAD is refused, with the two that are allowed."""
    response, _ = ask(url, path, method)
    assert response.status == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_index_page_says_what_is_here(url):
    """A browser is shown origin, size and paths, as plain text."""
    response, body = ask(url, "/")
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert body.startswith(b"log.example.org/vitalseal: 700 entries, root ")
    assert b"tile/entries/<index>[.p/<width>]" in body


def test_directory_without_a_log(tmp_path):
    """Where no checkpoint is, or none that can be read, the index page is not found either."""
    with serving(tmp_path) as url:
        assert [ask(url, path)[0].status for path in ("/", "/checkpoint")] == [404, 404]
        (tmp_path / "checkpoint").write_text("no note")
        response, body = ask(url, "/")
        assert (response.status, body[:30]) == (404, b"no log to be read here: checkp")


def test_answer_under_way_is_finished(tmp_path):
    """A server that is told to stop answers what it has been asked before it ends."""

    async def stop_now(_request):
        server.should_exit = True
        return PlainTextResponse("finished")

    server = Server(Starlette(routes=[Route("/", stop_now)]), "127.0.0.1", 0)
    with socket.create_connection(urlsplit(server.url).netloc.split(":")) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        urls = []
        server.run_until_stopped(urls.append)
        assert client.recv(4096).endswith(b"finished")
    assert urls == [server.url]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(urlsplit(server.url).netloc.split(":"))


@contextmanager
def started(app: Starlette) -> Iterator[Server]:
    """A server of `app` that answers."""
    server = Server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run_until_stopped)
    thread.start()
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join()


def connect(stack: ExitStack, url: str, sent: bytes) -> socket.socket:
    """A connection on which `sent` was sent, open while `stack` is."""
    host, port = urlsplit(url).netloc.split(":")
    client = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
    client.sendall(sent)
    return client


def read_to_end(client: socket.socket) -> bytes:
    """What comes until the server closes the connection, in whichever way; TimeoutError if it does not."""
    data = b""
    try:
        while more := client.recv(1 << 20):
            data += more
    except ConnectionError:
        pass
    return data


async def short(_request: Request) -> PlainTextResponse:
    """An answer that fits into a packet."""
    return PlainTextResponse("short")


async def long(_request: Request) -> PlainTextResponse:
    """An answer that fits into no socket's buffers."""
    return PlainTextResponse(LONG)


async def echo(request: Request) -> PlainTextResponse:
    """The body of the request."""
    return PlainTextResponse(await request.body())


LONG = b"x" * (24 << 20)
APP = Starlette(routes=[Route("/", short), Route("/long", long), Route("/echo", echo, methods=["POST"])])
ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POSTED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
# What clients send that then say nothing more, or read nothing.
SILENT = {
    "nothing": b"",
    "part of a head": b"GET / HTT",
    "part of the next head": ASKED + b"GET",
    "part of a body that nobody waits for": POSTED + b"x",
    "part of a body": POSTED.replace(b"/", b"/echo", 1) + b"x",
    "nothing read": ASKED.replace(b"/", b"/long", 1),
    "nothing read, twice": ASKED.replace(b"/", b"/long", 1) * 2,
}


@pytest.mark.parametrize("sent", SILENT.values(), ids=SILENT)
def test_client_that_keeps_us_waiting_is_left(monkeypatch, sent):
    """Each wait has an end: for a head, from the first connection on, for a body, and for an answer to be taken."""
    monkeypatch.setattr(http_server, "HEAD_WITHIN_S", 0.5)
    monkeypatch.setattr(http_server, "ANSWERED_WITHIN_S", 0.1)
    with started(APP) as server, ExitStack() as stack:
        client = connect(stack, server.url, sent)
        wait_for(lambda: server.server_state.total_requests or not sent.endswith(b"\r\n\r\n"))
        wait_for(lambda: not server.server_state.connections)
        assert len(read_to_end(client)) < len(LONG)


def test_client_that_begins_no_tls_handshake_is_left(tmp_path, monkeypatch):
    """Before there is a connection that could be counted."""
    monkeypatch.setattr(http_server, "HEAD_WITHIN_S", 0.5)
    with running(APP, **make_certificate(tmp_path)) as url, ExitStack() as stack:
        assert read_to_end(connect(stack, url, b"")) == b""


@pytest.mark.parametrize("sent", SILENT.values(), ids=SILENT)
def test_silent_clients_do_not_keep_others_out(monkeypatch, sent):
    """When all connections are taken, the one that has waited longest for its client makes room."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(http_server, "MAX_BUSY", 8)
    with started(APP) as server, ExitStack() as stack:
        silent = []
        for _ in range(12):
            silent.append(connect(stack, server.url, sent))
            assert ask(server.url, "/")[0].status == 200
        assert len(read_to_end(silent[0])) < len(LONG)
        assert len(server.server_state.connections) <= 4


def test_request_at_work_makes_room_for_nobody(monkeypatch):
    """It is answered, however many came after it; with all at work, the next one is told so."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(http_server, "MAX_BUSY", 3)
    begun, finish = threading.Semaphore(0), threading.Event()

    def work(_request: Request) -> PlainTextResponse:
        begun.release()
        finish.wait(20)
        return PlainTextResponse("done")

    with started(Starlette(routes=[Route("/", short), Route("/work", work)])) as server, ExitStack() as stack:
        request = b"GET /work HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        working = [connect(stack, server.url, request)]
        begun.acquire(timeout=20)
        for _ in range(12):
            connect(stack, server.url, b"")
        assert ask(server.url, "/")[0].status == 200
        working.append(connect(stack, server.url, request))
        begun.acquire(timeout=20)
        assert ask(server.url, "/")[0].status == 503
        finish.set()
        assert [read_to_end(client)[-4:] for client in working] == [b"done", b"done"]


class Process:
    """`vitalseal ledger serve` as a process of its own, the URL that it prints once it serves."""

    def __init__(self, *words: object) -> None:
        command = [sys.executable, "-m", "vitalseal", "ledger", "serve", *map(str, words)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[-1] if self.line else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self, number: int) -> tuple[int, str, str]:
        """Exit code and what else it said, after a signal."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_serves_until_a_signal(data, number):
    """The command prints one line with its URL when it can be asked, and exits 0 at SIGTERM or SIGINT."""
    with Process(data / PUBLIC, "--port", 0) as server:
        assert server.line == f"serving {data / PUBLIC} at {server.url}\n"
        assert server.url.startswith("http://127.0.0.1:")
        with open_url(server.url) as log:
            assert log("checkpoint") == (data / PUBLIC / "checkpoint").read_bytes()
            assert server.stop(number) == (0, "", "")


def test_command_serves_over_tls(data, tmp_path, monkeypatch):
    """With a certificate and its key the URL is https, and answers to those who trust it."""
    tls = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls["tls_cert"]))
    files = ["--tls-cert", tls["tls_cert"], "--tls-key", tls["tls_key"]]
    with Process(data / PUBLIC, "--host", "127.0.0.1", "--port", 0, *files) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with open_url(server.url) as log:
            assert log("checkpoint") == (data / PUBLIC / "checkpoint").read_bytes()
        assert server.stop(signal.SIGTERM) == (0, "", "")


def said(capsys, *words: object) -> str:
    """What the command says on stderr, in one line, with exit code 2."""
    assert main(["ledger", "serve", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_command_on_what_is_no_log(data, tmp_path, capsys):
    """A directory that is missing, or without a checkpoint, is named, with the one that is meant."""
    assert "none: is not a directory" in said(capsys, tmp_path / "none")
    assert "has no checkpoint; name a log's public directory (DATA/log)" in said(capsys, data)


def test_command_on_an_address_that_cannot_be_had(data, capsys):
    """A port in use, beyond the range or on an address of others is one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: cannot be served from: Address already in use" in said(
            capsys, data / PUBLIC, "--port", port
        )
    for port in (-1, 65_536):
        assert f"port {port}: is not between 0 and 65535" in said(capsys, data / PUBLIC, "--port", port)
    assert "192.0.2.1:0: cannot be served from" in said(capsys, data / PUBLIC, "--host", "192.0.2.1", "--port", 0)
    assert "cannot be served from" in said(capsys, data / PUBLIC, "--host", "no host", "--port", 0)


def test_command_with_tls_files_that_cannot_be_used(data, tmp_path, capsys):
    """What is wrong with the certificate or its key is said before anything listens."""
    tls = make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    key = serialization.load_pem_private_key(other["tls_key"].read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"word")
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    cert, none = tls["tls_cert"], tmp_path / "none.pem"

    def refused(*files: object) -> str:
        return said(capsys, data / PUBLIC, "--port", 0, *files)

    assert "TLS needs both" in refused("--tls-cert", cert)
    assert "TLS needs both" in refused("--tls-key", tls["tls_key"])
    assert "none.pem: No such file" in refused("--tls-cert", none, "--tls-key", tls["tls_key"])
    assert "key values mismatch" in refused("--tls-cert", cert, "--tls-key", other["tls_key"])
    for key in (cert, locked, data / PUBLIC / "checkpoint"):
        assert "are not a PEM certificate and its unencrypted key" in refused("--tls-cert", cert, "--tls-key", key)


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "{library}":
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize("library", ["starlette", "uvicorn"])
def test_command_without_its_libraries(data, tmp_path, library):
    """The bare install says which extra is missing."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT.format(library=library))
    command = [sys.executable, "-m", "vitalseal", "ledger", "serve", str(data / PUBLIC)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"vitalseal: `vitalseal ledger serve` needs {library}: in vitalseal's clone, type  pip install '.[witness]'\n"
    )


def test_server_on_ipv6():
    """An IPv6 address is in brackets in the URL, as a URL has it."""
    app = Starlette(routes=[Route("/", lambda _request: PlainTextResponse("six"))])
    try:
        server = Server(app, "::1", 0)
    except ServeError:
        pytest.skip("this machine has no ::1")
    assert server.url.startswith("http://[::1]:")
    server._socket.close()


def test_answers_do_not_wait_for_acknowledgements():
    """The bound socket has Nagle's algorithm off, and hands that on to each connection."""
    server = Server(Starlette(), "127.0.0.1", 0)
    with server._socket, socket.create_connection(urlsplit(server.url).netloc.split(":")):
        accepted, _ = server._socket.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_servers_on_free_ports():
    """Port 0 is another port for each, bound from the moment the server is made."""
    app = Starlette()
    with running(app) as one, running(app) as other:
        assert one != other
        assert [ask(url, "/")[0].status for url in (one, other)] == [404, 404]
        with pytest.raises(ServeError, match="Address already in use"):
            Server(app, "127.0.0.1", urlsplit(one).port)
