"""A monitor in this process, logs and servers that lie to it, and its evidence checked as a stranger would."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from ledger.checkpoint import Checkpoint, parse_checkpoint, verify_signed
from ledger.errors import VerificationError
from ledger.merkle import check_consistency, check_inclusion
from ledger.note import Note, parse_note
from ledger.policy import Policy
from ledger.service.monitor import Monitor
from ledger.service.monitor_alarms import Alarms, Event
from ledger.service.monitor_evidence import BEGIN, END, check_split, parse_claims
from ledger.service.monitor_state import EVIDENCE, MonitorState
from ledger.service.monitor_views import Look, View, look
from tests.ledger import builders as b

STALLED_AFTER_S = 1800
LOG = "https://log.example.org/"
MIRROR = "https://mirror.example.org/"
WITNESS = "https://hospital.example.org"

Files = Mapping[str, bytes | Exception]


def commitments(count: int, fork: str = "", *, shared: int = 0) -> list[bytes]:
    """`count` cheap entries; those after the first `shared` are of the history called `fork`."""
    return [b.pack([6, 1, b.seed(f"{'' if at < shared else fork} {at}")]) for at in range(count)]


def log_of(entries: Sequence[bytes]) -> dict[str, bytes]:
    """The files of a log that a quorum has cosigned at `b.NOW`."""
    return b.log_files(entries, cosigned=[(b.HOSPITAL, b.NOW), (b.REGULATOR, b.NOW)])


class Watch:
    """A monitor with its state in `folder`; use as a context manager, again and again as one that restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        policy: Policy | None = None,
        registrars: Iterable[bytes] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder = folder
        self.policy = policy or b.policy(b.two_of_three())
        self.events: list[Event] = []
        self._registrars = None if registrars is None else frozenset(registrars)
        self._stopped = stopped

    def __enter__(self) -> Self:
        self.state = MonitorState(self.folder, b.ORIGIN, self._registrars)
        self.alarms = Alarms(self.state.evidence, self.events.append)
        self._monitor = Monitor(
            self.policy, self.state, self.alarms, stalled_after_s=STALLED_AFTER_S, stopped=self._stopped
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.state.__exit__()

    def round(
        self, log: Files, *, mirror: Files | None = None, witness: Note | None = None, now: int = b.NOW
    ) -> list[str]:
        """One round over what is shown; what was told in it, as `event kind`."""
        views = [(View(LOG, reader(log)))]
        if mirror is not None:
            views.append(View(MIRROR, reader(mirror)))
        if witness is not None:
            views.append(View(WITNESS, reader({"checkpoint": witness.encode()}), (b.HOSPITAL.vkey,)))
        self.looks: list[Look] = [look(view, self.policy, b.ORIGIN) for view in views]
        told = len(self.events)
        self._monitor.round(self.looks, now)
        return [f"{event.event} {event.kind}" for event in self.events[told:]]

    @property
    def size(self) -> int:
        """How many entries were followed."""
        return self.state.memory.log.size

    def standing(self) -> dict[str, str]:
        """Subject by kind of the alarms that stand."""
        return {alarm.kind: alarm.subject for alarm in self.alarms.standing}

    def evidence(self) -> list[Path]:
        """The files that were kept."""
        return sorted((self.folder / EVIDENCE).glob("*.txt"))


def reader(files: Files) -> Callable[[str], bytes | None]:
    """Reads `files`, and raises what is an exception among them."""

    def fetch(path: str) -> bytes | None:
        found = files.get(path)
        if isinstance(found, Exception):
            raise found
        return found

    return fetch


def signed_notes(text: str) -> list[tuple[Note, Checkpoint]]:
    """The notes in a file of evidence, each shown to be signed by the log's own key."""
    notes = []
    for part in text.split(f"{BEGIN}\n")[1:]:
        note = parse_note(part.partition(f"{END}\n")[0].encode())
        checkpoint = parse_checkpoint(note.text)
        verify_signed(checkpoint, note, [b.log_signer().verifier])
        notes.append((note, checkpoint))
    return notes


def convicts(path: Path) -> bool:
    """Two notes that the log signed, and proofs of different roots for one prefix; raises if a proof does not hold."""
    text = path.read_text()
    (_, one), (_, other) = signed_notes(text)
    claims = []
    for part, checkpoint in zip(text.split(f"{END}\n")[1:], (one, other), strict=True):
        fields = dict(line.split(": ", 1) for line in part.splitlines() if ": " in line)
        size, root = int(fields["prefix size"]), b.unbase64(fields["prefix root"])
        check_consistency(size, checkpoint.size, root, checkpoint.root, hashes(fields["consistency proof"]))
        claims.append((size, root))
    split = claims[0][0] == claims[1][0] and claims[0][1] != claims[1][1]
    try:
        check_split(*parse_claims(path.read_bytes()), [b.log_signer().verifier])
    except VerificationError:
        assert not split
    else:
        assert split
    return split


def exhibited(path: Path) -> tuple[int, bytes]:
    """Index and bytes of the entry in a file of evidence, shown to be in the tree that the log signed."""
    text = path.read_text()
    (_, checkpoint), *_ = signed_notes(text)
    part = text.split(f"{END}\n")[1]
    fields = dict(line.split(": ", 1) if ": " in line else (line, "") for line in part.splitlines())
    entry, index = bytes.fromhex(fields.get("entry", "")), int(fields["entry index"])
    check_inclusion(index, checkpoint.size, b.hash_entry(entry), hashes(fields["inclusion proof"]), checkpoint.root)
    return index, entry


def hashes(text: str) -> list[bytes]:
    """A path out of a file of evidence."""
    return [] if text == "none" else [b.unbase64(item) for item in text.split(" ")]


class Shown:
    """A server that shows `files`, which may be replaced; a path in `held` is answered once it is taken out."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.held = set()
        self.asked = []
        self.changed = threading.Condition()
        shown = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = self.path.removeprefix("/")
                shown.asked.append(path)
                with shown.changed:
                    shown.changed.wait_for(lambda: path not in shown.held)
                content = shown.files.get(path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a client that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def release(self) -> None:
        """Everything that was held is answered."""
        with self.changed:
            self.held.clear()
            self.changed.notify_all()


@contextmanager
def showing(files: Mapping[str, bytes]) -> Iterator[Shown]:
    """A server of `files`, until the context is left."""
    shown = Shown(files)
    thread = threading.Thread(target=shown.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield shown
    finally:
        shown.release()
        shown.server.shutdown()
        thread.join()
        shown.server.server_close()


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """`folder`, with `files` in it."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder
