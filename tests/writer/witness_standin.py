"""A log of numbered leaves, and a witness on a free port that cosigns it: truly, until it is told to do otherwise.

What a stand-in is told (`told`) is done once each, in order, instead of its true answer to the next requests.
"""

import hashlib
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from ledger.add_checkpoint import parse_add_checkpoint
from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signed
from ledger.errors import VerificationError
from ledger.merkle import check_consistency
from ledger.note import ED25519_COSIGNATURE, Note, NoteSigner, Signature
from tests.ledger.builders import NOW, ORIGIN, hash_entry, log_signer, naive_consistency, naive_root, seed

# Who waits longer than this for another thread waits for ever.
PATIENCE_S = 20


class Log:
    """A log whose leaf n is the number n, behind the name of its history."""

    def __init__(self, history: str = "") -> None:
        self._history = history
        self.proved: list[int] = []

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(ORIGIN, size, self.root_at(size))

    def note(self, size: int, *lines: Signature) -> Note:
        note = self.checkpoint(size).sign(log_signer())
        return Note(note.text, (*note.signatures, *lines))

    def root_at(self, size: int) -> bytes:
        return naive_root(self._hashes(size))

    def prover(self, size: int) -> Callable[[int], list[bytes]]:
        """Consistency proofs to `size`; which were asked for is in `proved`."""

        def prove(old: int) -> list[bytes]:
            self.proved.append(old)
            return [] if old in (0, size) else naive_consistency(old, self._hashes(size))

        return prove

    def _hashes(self, size: int) -> list[bytes]:
        return [hash_entry(f"{self._history} {number}".encode()) for number in range(size)]


class StandIn:
    """A witness of that log with a key of each of `types`; use as a context manager."""

    def __init__(self, name: str, *types: int, tls_cert: Path | None = None, tls_key: Path | None = None) -> None:
        self.name = name
        self.signers = [
            NoteSigner(f"witness.example.org/{name}", seed(f"{name} {type_}"), type_)
            for type_ in types or (ED25519_COSIGNATURE,)
        ]
        self.asked: list[str] = []
        self.told: list[Act] = []
        self.cosigned: Note | None = None
        self.connections = 0
        self.hangs = threading.Event()
        self.released = threading.Event()
        witness = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = PATIENCE_S

            def setup(self) -> None:
                super().setup()
                witness.connections += 1

            def do_GET(self) -> None:
                self.answer("GET", b"")

            def do_POST(self) -> None:
                self.answer("POST", self.rfile.read(int(self.headers["Content-Length"])))

            def answer(self, method: str, body: bytes) -> None:
                act = witness.told.pop(0) if witness.told else truly
                with suppress(OSError):  # the client has left, as it may
                    act(witness, Request(self, method, body))

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        if tls_cert:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls_cert, tls_key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls_cert else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def lines(self, checkpoint: Checkpoint) -> tuple[Signature, ...]:
        """Its cosignatures."""
        return tuple(checkpoint.signature(signer, NOW) for signer in self.signers)

    def saw(self, note: Note) -> None:
        """It cosigned `note` at some time before."""
        self.cosigned = Note(note.text, (*note.signatures, *self.lines(parse_checkpoint(note.text))))


class Request:
    """A request that was read, and its connection."""

    def __init__(self, handler: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        self.handler = handler
        self.method = method
        self.path = handler.path
        self.body = body

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """One response in one write."""
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def send(self, data: bytes) -> None:
        self.handler.wfile.write(data)

    def hang_up(self) -> None:
        self.handler.close_connection = True


Act = Callable[[StandIn, Request], None]


def truly(witness: StandIn, request: Request) -> None:
    """The answer of a sound witness (C2SP tlog-witness)."""
    if request.method == "GET":
        witness.asked.append("latest")
        assert request.path == f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint"
        return request.reply(200, witness.cosigned.encode()) if witness.cosigned else request.reply(404)
    assert request.path == "/add-checkpoint"
    asked = parse_add_checkpoint(request.body)
    witness.asked.append(f"from {asked.old_size}")
    checkpoint = parse_checkpoint(asked.checkpoint.text)
    verify_signed(checkpoint, asked.checkpoint, [log_signer().verifier])
    old = parse_checkpoint(witness.cosigned.text) if witness.cosigned else Checkpoint(ORIGIN, 0, naive_root([]))
    if asked.old_size != old.size:
        return request.reply(409, f"{old.size}\n".encode(), Content_Type="text/x.tlog.size")
    try:
        check_consistency(old.size, checkpoint.size, old.root, checkpoint.root, asked.proof)
    except VerificationError:
        return request.reply(422)
    witness.saw(asked.checkpoint)
    return request.reply(200, "".join(map(str, witness.lines(checkpoint))).encode())


def saying(status: int, body: bytes = b"", **headers: str) -> Act:
    """This response."""
    return lambda _witness, request: request.reply(status, body, **headers)


def sending(data: bytes) -> Act:
    """These bytes, and the end of the connection."""

    def act(_witness: StandIn, request: Request) -> None:
        request.send(data)
        request.hang_up()

    return act


def once(event: threading.Event) -> Act:
    """The true answer, once `event` is set."""

    def act(witness: StandIn, request: Request) -> None:
        assert event.wait(PATIENCE_S)
        truly(witness, request)

    return act


def before(event: threading.Event) -> Act:
    """The true answer, after which `event` is set."""

    def act(witness: StandIn, request: Request) -> None:
        truly(witness, request)
        event.set()

    return act


def together(barrier: threading.Barrier) -> Act:
    """The true answer, when as many as the barrier counts have been asked."""

    def act(witness: StandIn, request: Request) -> None:
        barrier.wait(PATIENCE_S)
        truly(witness, request)

    return act


def adding(*lines: Signature) -> Act:
    """The true answer to a first checkpoint, these lines before its own."""

    def act(witness: StandIn, request: Request) -> None:
        note = parse_add_checkpoint(request.body).checkpoint
        own = witness.lines(parse_checkpoint(note.text))
        witness.saw(note)
        request.reply(200, "".join(map(str, (*lines, *own))).encode())

    return act


def forging(witness: StandIn, request: Request) -> None:
    """Its own lines, the last one over another checkpoint."""
    checkpoint = parse_checkpoint(parse_add_checkpoint(request.body).checkpoint.text)
    *right, _ = witness.lines(checkpoint)
    *_, wrong = witness.lines(Checkpoint(ORIGIN, checkpoint.size, bytes(32)))
    request.reply(200, "".join(map(str, (*right, wrong))).encode())


def hanging(witness: StandIn, request: Request) -> None:
    """Nothing at all until the end of the test."""
    witness.hangs.set()
    witness.released.wait(PATIENCE_S)
    request.hang_up()


def trickling(beginning: bytes) -> Act:
    """`beginning`, then a byte every now and then."""

    def act(witness: StandIn, request: Request) -> None:
        request.send(beginning)
        while not witness.released.wait(0.01):
            request.send(b"x")
        request.hang_up()

    return act


def leaving(_witness: StandIn, request: Request) -> None:
    """No answer, and the end of the connection."""
    request.hang_up()
