"""Small logs on a disk: entries to put on them, their writer, and the whole truth of what they published."""

from collections.abc import Callable, Iterable
from pathlib import Path

from ledger import fsck as checker
from ledger.entry import Closing, Commitment
from ledger.note import NoteSigner, VerifierKey
from ledger.policy import parse_policy
from ledger.writer.create import POLICY, POLICY_PQ, load_log_keys
from ledger.writer.files import list_files, read_file
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter, Quorum
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import Submission

ORIGIN = "test.example/log"
NOW_NS = 1_764_000_000 * 10**9


def commitments(start: int, count: int) -> list[Submission]:
    """Small distinct entries."""
    return [Submission(Commitment(number.to_bytes(32, "big")).encode()) for number in range(start, start + count)]


def closing() -> Submission:
    """The last entry of a log that another goes on from."""
    successor = "next.example/log"
    return Submission(Closing(successor, (str(NoteSigner(successor, bytes(32)).verifier),)).encode())


def open_writer(
    storage: LocalStorage, data: Path, now_ns: Callable[[], int] = lambda: NOW_NS, quorum: Quorum | None = None
) -> LogWriter:
    """The writer of the log in `data`, by the keys that are there."""
    keys = load_log_keys(data)
    return LogWriter(storage, keys.signers, now_ns, quorum=quorum, retired=keys.retired)


def grown(data: Path, count: int) -> None:
    """The log has `count` entries more, published."""
    with LocalStorage(data) as storage:
        writer = open_writer(storage, data)
        writer.append(commitments(writer.size, count))
        writer.publish()


def fsck(data: Path, trust: Iterable[VerifierKey] | None = None) -> int:
    """The size of the published log: all of it recomputed from its entries, and both its policies satisfied."""
    return checked(data, trust).checkpoint.checkpoint.size


def checked(data: Path, trust: Iterable[VerifierKey] | None = None) -> checker.LogReport:
    """What `fsck` finds true of the published log."""
    public = data / PUBLIC

    def fetch(path: str) -> bytes | None:
        return read_file(public, path)

    checker.read_checkpoint(fetch, parse_policy((data / POLICY_PQ).read_bytes()))
    policy = parse_policy((data / POLICY).read_bytes())
    return checker.fsck(fetch, policy, trust=trust, paths=list_files(public))
