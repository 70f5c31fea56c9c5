"""Logs to be witnessed, a witness to ask, and cosignatures checked by hand."""

import hashlib
import http.client
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from ledger.checkpoint import Checkpoint
from ledger.note import ED25519_NOTE, Note, NoteSigner, Signature, VerifierKey, parse_vkey
from ledger.service.witness import Logs, known_logs
from ledger.service.witness_app import make_app
from ledger.service.witness_keys import LINES, create_witness, load_signers
from ledger.service.witness_limits import Buckets, Limits
from ledger.service.witness_service import Witness
from ledger.service.witness_store import WitnessStore
from tests.ledger.builders import base64, naive_consistency, naive_root, seed, unbase64
from tests.service.servers import running

NAME = "witness.example/w1"
NOW = 1_764_000_000
UNLIMITED = Limits(1e6, 1e6)


class Log:
    """A log of numbered leaves that may fork: `fork` names the leaves after the first `shared`."""

    def __init__(self, origin: str = "log.example/a", *types: int, shared: int = 0) -> None:
        self.origin = origin
        self.signers = [NoteSigner(origin, seed(f"{origin} {type_}"), type_) for type_ in types or (ED25519_NOTE,)]
        self._shared = shared

    @property
    def vkeys(self) -> list[VerifierKey]:
        """What a witness must know."""
        return [signer.verifier for signer in self.signers]

    def leaves(self, size: int, fork: str = "") -> list[bytes]:
        """The leaf hashes of a tree."""
        names = [f"{'' if at < self._shared else fork} {at}" for at in range(size)]
        return [hashlib.sha256(b"\x00" + name.encode()).digest() for name in names]

    def root(self, size: int, fork: str = "") -> bytes:
        """The root of a tree."""
        return naive_root(self.leaves(size, fork))

    def note(self, size: int, fork: str = "", *, root: bytes | None = None, extra: Sequence[Signature] = ()) -> Note:
        """A signed checkpoint, `extra` lines below the log's."""
        note = Checkpoint(self.origin, size, self.root(size, fork) if root is None else root).sign(
            *self.signers, time=NOW
        )
        return Note(note.text, (*note.signatures, *extra))

    def proof(self, old: int, size: int, fork: str = "") -> list[bytes]:
        """The consistency proof, empty from size 0."""
        return naive_consistency(old, self.leaves(size, fork)) if 0 < old <= size else []

    def body(self, old: int, size: int, fork: str = "", **changes: object) -> bytes:
        """A request to cosign the tree of `size`, with its proof from `old`."""
        note = self.note(size, fork, **changes)
        return body(old, self.proof(old, size, fork), note.encode())


def body(old: object, proof: Sequence[bytes], note: bytes) -> bytes:
    """The body of add-checkpoint as tlog-witness has it."""
    return "".join([f"old {old}\n", *(f"{base64(item)}\n" for item in proof), "\n"]).encode() + note


class Desk:
    """A witness that is served; `ask` submits, `restart` begins again from what is on disk."""

    def __init__(self, data: Path, *logs: Log, limits: Limits = UNLIMITED, now: int = NOW, **changes: object) -> None:
        self.data = data
        self.now = now
        self.stops = 0
        self._changes = {"limits": limits, "clock": lambda: self.now, "stop": self._stopped} | changes
        self._logs = logs
        if not data.exists():
            create_witness(data, NAME, None)

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self.store = self._stack.enter_context(WitnessStore(self.data))
        signers = load_signers(self.data, self.store)
        self.witness = Witness(self.store, signers, logs_of(*self._logs), **self._changes)
        self.url = self._stack.enter_context(running(make_app(self.witness)))
        self.http = self._stack.enter_context(Client(self.url))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        """Ends the witness and starts it with the same directory."""
        self.__exit__()
        self.__enter__()

    def ask(self, request: bytes) -> tuple[int, str]:
        """Status and body of the answer to `request`."""
        status, _, text = self.http.request("POST", "add-checkpoint", request)
        return status, text

    def _stopped(self) -> None:
        self.stops += 1


class Client:
    """One connection to a witness, kept alive."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def request(self, method: str, path: str, data: bytes | None = None) -> tuple[int, http.client.HTTPMessage, str]:
        """Status, headers and body of an answer."""
        self._connection.request(method, f"/{path}", data)
        with self._connection.getresponse() as answer:
            return answer.status, answer.headers, answer.read().decode()


def logs_of(*logs: Log) -> Logs:
    """What a witness knows that was told of `logs`."""
    return known_logs([key for log in logs for key in log.vkeys], ())


def own_keys(data: Path) -> list[VerifierKey]:
    """The keys that a witness tells log operators of."""
    return [parse_vkey(line.split(" ")[2]) for line in (data / LINES).read_text().splitlines()]


def cosigned_at(lines: str, keys: Sequence[VerifierKey], log: Log, size: int, fork: str = "") -> list[int]:
    """The time of each of `lines`, which are cosignatures by each of `keys`, in order of their ids.

    The signed messages are put together here from the text of tlog-cosignature.
    """
    root, origin = log.root(size, fork), log.origin.encode()
    times = []
    for line, key in zip(sorted(lines.splitlines(), key=_line_id), sorted(keys, key=lambda key: key.id), strict=True):
        dash, name, blob = line.split(" ")
        raw = unbase64(blob)
        assert (dash, name, raw[:4]) == ("\u2014", key.name, key.id)
        stamp, signature = raw[4:12], raw[12:]
        time_ = int.from_bytes(stamp, "big")
        if key.type == 4:
            text = f"{log.origin}\n{size}\n{base64(root)}\n"
            message = f"cosignature/v1\ntime {time_}\n{text}".encode()
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, message)
        else:
            names = bytes([len(name)]) + name.encode() + stamp + bytes([len(origin)]) + origin
            message = b"subtree/v1\n\x00" + names + bytes(8) + size.to_bytes(8, "big") + root
            MLDSA44PublicKey.from_public_bytes(key.public_key).verify(signature, message)
        times.append(time_)
    return times


def _line_id(line: str) -> bytes:
    return unbase64(line.split(" ")[2])[:4]


class Time:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def stopped_clock() -> tuple[Time, Buckets]:
    """Buckets, and the clock that fills them."""
    clock = Time()
    return clock, Buckets(clock)


def run_child(arguments: Sequence[str], output: DupFd) -> None:
    """The command line in this process, its stdout and stderr written to `output`."""
    from vitalseal.cli import main

    handle = output.detach()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    sys.exit(main(arguments))


def wait_for(condition: Callable[[], object], limit_s: float = 20) -> None:
    """`condition` holds; fails if it does not within the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "not within the limit"
