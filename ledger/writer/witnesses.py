"""Witnesses: asks every witness of a log's policies, at once, to cosign its checkpoints.

All that is decided is decided in the calling thread, proofs included; a pool's thread takes bytes to one URL and
brings bytes back. So a late or hostile witness holds up a thread of its own and nothing else: the caller goes on
without it, hears a late answer at the next call for what it says of the witness, and cuts what takes too long.
"""

import functools
import hashlib
import random
import socket
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from ledger.add_checkpoint import AddCheckpoint
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.errors import VerificationError
from ledger.note import Note, Signature, VerifierKey
from ledger.policy import Policy, Witness, verify_quorum
from ledger.writer.storage import StorageError
from ledger.writer.witness_health import LATE, WitnessFault, WitnessState
from ledger.writer.witness_peer import MAX_ANSWER, Dialogue, Peer, Question, Reply, T, base_url, peers_of, reached
from ledger.writer.witness_talk import Talk, hear

_CHUNK = 16 * 1024  # one TLS record


class Witnesses:
    """The witnesses that a log's policies name with a URL, and the quorum that these policies ask for.

    One thread at a time may ask; `states` may be called from any, and `timeout_s` set.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        timeout_s: float = 5.0,
        grace_s: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`clock` and `jitter` (0 to 1) are for back-off only.

        Raises:
            StorageError: a witness's URL cannot be asked, or those that have one cannot make up a quorum.
        """
        self._policies = tuple(policies)
        self.timeout_s = timeout_s
        self._grace_s = grace_s
        self._peers = peers_of(self._policies, clock, jitter)
        if not self._reached(lambda witness: witness.url is not None):
            raise StorageError("policy: its quorum cannot be reached by witnesses with a URL; give them theirs")
        self._links = {peer.url: _Link(peer.url) for peer in self._peers}
        self._pool = ThreadPoolExecutor(max(1, len(self._peers)), thread_name_prefix="witness")
        self._late: list[Talk[Any]] = []
        self._confirmed: set[str] = set()

    def cosign(self, note: Note, prove: Callable[[int], list[bytes]]) -> Note:
        """`note` with every cosignature that could be had now, each verified; it may lack a quorum.

        `prove(old)` is the consistency proof from size `old` to the checkpoint's, and is called in this thread.
        Witnesses that have signed `note` already, or failed a moment ago, are not asked. Returns when all have
        answered or failed, the quorum is there for `grace_s`, or `timeout_s` are over.
        """
        checkpoint = parse_checkpoint(note.text)
        keys = self._log_keys(checkpoint.origin)

        @functools.cache  # most witnesses have the same size
        def body(question: Question) -> bytes | None:
            old = question.old_size
            return None if old is None else AddCheckpoint(old, tuple(prove(old)), note).encode()

        peers = [peer for peer in self._free() if not peer.has_signed(note)]
        ends_at = until = time.monotonic() + self.timeout_s
        cosigned, graced = note, False
        with self._talks(peers, checkpoint.origin, ends_at, lambda peer: peer.cosign(checkpoint, keys), body) as talks:
            while talks and time.monotonic() < until:
                if not graced and self._has_quorum(cosigned):
                    graced, until = True, min(until, time.monotonic() + self._grace_s)
                for talk in hear(talks, until):
                    cosigned = _add(cosigned, talk.said or ())
        return cosigned

    def satisfied(self, note: Note) -> bool:
        """Every policy's quorum is satisfied by `note`."""
        try:
            for policy in self._policies:
                verify_quorum(note, policy)
        except VerificationError:
            return False
        return True

    def confirm(self, checkpoint: Checkpoint, root_at: Callable[[int], bytes]) -> bool:
        """Enough witnesses for a quorum have said, in this call or one before, that they saw nothing else.

        The question before the first signature; `checkpoint` is the newest of the log, `root_at` gives its root at a
        smaller size. A witness that never saw the log has answered, too; one whose answer does not verify has not.

        Raises:
            StorageError: a witness cosigned a larger size or another root; to go on would fork the log.
        """
        peers = [peer for peer in self._free() if peer.url not in self._confirmed]
        with closing(self._latest(peers, checkpoint.origin)) as talks:
            for talk in talks:
                if talk.said is not None:
                    talk.peer.check_history(talk.said, checkpoint, root_at)
                if talk.answered:
                    self._confirmed.add(talk.peer.url)
        return self._answered(self._confirmed)

    def latest(self, origin: str) -> tuple[dict[str, Checkpoint | None], bool]:
        """What every witness that answers cosigned last of the log `origin`, None if it never saw it; is it a quorum?

        By the name of the witness, for people. Each of the checkpoints is verified under the log's keys and its own.
        """
        said, urls = {}, set()
        for talk in self._latest(self._free(), origin):
            if talk.answered:
                said[str(talk.peer)] = talk.said
                urls.add(talk.peer.url)
        return said, self._answered(urls)

    def states(self) -> list[WitnessState]:
        """How every witness does, in the order of the policies."""
        return [peer.state() for peer in self._peers]

    def close(self) -> None:
        """Every connection is closed and every thread has ended; nothing may be asked any more."""
        for link in self._links.values():
            link.stop()
        self._pool.shutdown(cancel_futures=True)
        for link in self._links.values():
            link.close()

    def _latest(self, peers: Iterable[Peer], origin: str) -> Generator[Talk[Checkpoint | None], None, None]:
        """The dialogues with `peers` about their latest checkpoint of `origin` that end in time, as they end."""
        keys = self._log_keys(origin)
        ends_at = time.monotonic() + self.timeout_s
        with self._talks(peers, origin, ends_at, lambda peer: peer.latest(origin, keys)) as talks:
            while talks and time.monotonic() < ends_at:
                yield from hear(talks, ends_at)

    def _answered(self, urls: Container[str]) -> bool:
        """The witnesses behind `urls` make up a quorum of every policy."""
        return self._reached(lambda witness: witness.url is not None and base_url(witness.url) in urls)

    @contextmanager
    def _talks(
        self,
        peers: Iterable[Peer],
        origin: str,
        ends_at: float,
        dialogue: Callable[[Peer], Dialogue[T]],
        body: Callable[[Question], bytes | None] = lambda _question: None,
    ) -> Iterator[list[Talk[T]]]:
        """A dialogue with each of `peers`, its first question under way; a question with no `body` is a GET.

        Those that are in the list at the end are heard at the next call.
        """
        latest = f"/{hashlib.sha256(origin.encode()).hexdigest()}/checkpoint"

        def send(peer: Peer, question: Question) -> Future[Reply]:
            data = body(question)
            path = latest if data is None else "/add-checkpoint"
            return self._pool.submit(self._links[peer.url].ask, path, data, ends_at)

        talks: list[Talk[T]] = []
        try:
            for peer in peers:
                talks.append(Talk(peer, dialogue(peer), send, ends_at))  # noqa: PERF401 - one that fails loses no other
            yield talks
        finally:
            self._leave(talks)

    def _free(self) -> list[Peer]:
        """The peers that can be asked now, after what came late has been heard."""
        left = []
        for talk in self._late:
            if talk.reply.done():
                talk.hear()  # a further question is not put: the one that it belongs to has been given up
            else:
                left.append(talk)
        self._late = []
        self._leave(left)
        busy = {talk.peer.url for talk in self._late}
        return [peer for peer in self._peers if peer.due() and peer.url not in busy]

    def _leave(self, talks: Iterable[Talk[Any]]) -> None:
        """`talks` are heard at the next call; those past their time have failed, and their requests end."""
        for talk in talks:
            if time.monotonic() >= talk.ends_at:
                talk.give_up()
                self._links[talk.peer.url].cut()
            self._late.append(talk)

    def _reached(self, has: Callable[[Witness], bool]) -> bool:
        return all(reached(policy.quorum, has) for policy in self._policies)

    def _has_quorum(self, note: Note) -> bool:
        return self._reached(lambda witness: bool(note.by(witness.key)))

    def _log_keys(self, origin: str) -> tuple[VerifierKey, ...]:
        return tuple(dict.fromkeys(key for policy in self._policies for key in policy.log_keys(origin)))


class _Link:
    """The way to one witness: a connection kept alive between requests. One thread asks; any may cut it off."""

    def __init__(self, url: str) -> None:
        from urllib3.connection import HTTPConnection, HTTPSConnection

        parts = urlsplit(url)
        self._prefix = parts.path
        self._stopped = Event()
        # Ours, because a connection forgets its socket once a response says that it is the last one.
        self._socket: socket.socket | None = None
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection: HTTPConnection = kind(parts.hostname or "", parts.port)

    def ask(self, path: str, body: bytes | None, ends_at: float) -> Reply:
        """The response to a POST of `body`, to a GET without one; raises WitnessFault.

        Every wait ends at `ends_at`. A server that feeds a response's head byte by byte gets past that, until `cut`.
        """
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        try:
            return self._ask(path, body, ends_at)
        except (TimeoutError, ReadTimeoutError):
            self._drop()
            raise WitnessFault(LATE) from None
        except (HTTPError, HTTPException, OSError, WitnessFault) as error:
            self._drop()  # what is left unread on it would be taken for the next response
            raise WitnessFault(_one_line(error)) from None

    def cut(self) -> None:
        """The request under way, if there is one, fails now."""
        if (sock := self._socket) is not None:
            with suppress(OSError):  # closed meanwhile
                # Not SSLSocket's own, which takes the TLS state away under the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def stop(self) -> None:
        """No request succeeds any more."""
        self._stopped.set()
        self.cut()

    def close(self) -> None:
        """The connection is closed; no request may be under way."""
        self._drop()

    def _ask(self, path: str, body: bytes | None, ends_at: float) -> Reply:
        if self._connection.is_connected:
            with suppress(ConnectionError):
                # The server may close an idle connection at this very moment; to ask twice changes nothing there.
                return self._exchange(path, body, ends_at)
        self._drop()
        self._wait_until(ends_at)
        self._connection.connect()
        # From here on `cut` finds the socket; what it could not cut before has no time left.
        self._socket = self._connection.sock
        return self._exchange(path, body, ends_at)

    def _exchange(self, path: str, body: bytes | None, ends_at: float) -> Reply:
        self._wait_until(ends_at)
        self._connection.request(
            "GET" if body is None else "POST",
            self._prefix + path,
            body,
            {"Accept-Encoding": "identity", "User-Agent": "vitalseal"},
            preload_content=False,
            decode_content=False,
        )
        response = self._connection.getresponse()
        try:
            content = bytearray()
            while not response.closed:
                self._wait_until(ends_at)
                content += response.read1(_CHUNK)
                if len(content) > MAX_ANSWER:
                    raise WitnessFault(f"answers with more than {MAX_ANSWER} bytes")
            return Reply(response.status, bytes(content), response.headers.get("Retry-After", ""))
        finally:
            response.close()

    def _wait_until(self, ends_at: float) -> None:
        """The next wait for the server ends at `ends_at`; raises WitnessFault if that was before."""
        left_s = ends_at - time.monotonic()
        if left_s <= 0 or self._stopped.is_set():
            raise WitnessFault(LATE)
        self._connection.timeout = left_s
        if self._socket is not None:
            self._socket.settimeout(left_s)

    def _drop(self) -> None:
        self._socket = None
        self._connection.close()


def _add(note: Note, lines: Iterable[Signature]) -> Note:
    """`note` with those of `lines` whose key has none in it."""
    signed = {(line.name, line.key_id) for line in note.signatures}
    return Note(note.text, (*note.signatures, *(line for line in lines if (line.name, line.key_id) not in signed)))


def _one_line(error: Exception) -> str:
    """What went wrong, as one line that every terminal can show; a server's own words may be in it."""
    text = str(error) or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in text)[:300]
