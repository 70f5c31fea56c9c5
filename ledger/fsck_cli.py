"""`vitalseal ledger fsck`: recompute a log.

With `--state` the check of a big log may be stopped and taken up again. What is saved is how far everything followed
from the entries: a bundle's end, behind which nothing was looked at yet. It is trusted as far as its owner trusts the
directory that it lies in.
"""

import argparse
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ledger.console import OK, UNPROVEN, WRONG, fail, parse_file, show_progress
from ledger.errors import LedgerError, MalformedError
from ledger.findings import Finding
from ledger.follow import Follower
from ledger.fsck import LogReport, fsck, read_checkpoint
from ledger.note import VerifierKey
from ledger.policy import parse_policy, parse_trust
from ledger.service.fetch import log_reader
from ledger.writer.files import replace_file

STATE_VERSION = 1
# A state is some hundred bytes for each device; writing it and waiting for the disk should not be what takes the time.
SAVE_EVERY_S = 5.0
MAX_STATE = 1 << 30  # of a million devices


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Recompute a whole log from its entries: every tile, hash, chain and device signature."
    parser.epilog = (
        "With --state a check that was stopped goes on where it was; what lies before is not checked again, and it "
        "says so. Exit codes: 0 everything follows, 1 something does not, 2 the call is wrong."
    )
    parser.add_argument(
        "log", metavar="DIR|URL", help="the log's public directory (with `checkpoint` in it), or where it is served"
    )
    parser.add_argument("--policy", type=Path, required=True, help="tlog-policy that the checkpoint must satisfy")
    parser.add_argument("--trust", type=Path, help="vkeys of the registrars whose enrolments count (without: any)")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="keep here how far it is, and begin there; made if it is not there"
    )
    parser.set_defaults(run=_fsck)


class _State:
    """How far a check is, in memory and in a file, if there is one; `notices` are those of all of it."""

    def __init__(self, path: Path | None, trust: tuple[VerifierKey, ...] | None) -> None:
        """Raises MalformedError if there is a state that this check cannot go on from."""
        self.log: Follower | None = None
        self.notices: Counter[str] = Counter()
        self.stopped = False
        self._path = path
        self._trust = None if trust is None else sorted(key.public_key.hex() for key in trust)
        self._sound_at: int | None = None  # the size at which all of the log so far was last found sound
        self._saved_at: int | None = None
        self._saved_s = float("-inf")
        if path is not None:
            if not path.absolute().parent.is_dir():
                raise MalformedError(f"{path}: there is no such directory for the state")
            if path.exists():
                registrars = None if trust is None else frozenset(key.public_key for key in trust)
                self.log = parse_file(path, lambda data: self._parse(data, registrars), MAX_STATE)

    def tell(self, finding: Finding) -> None:
        """Counts a notice."""
        self.notices[finding.kind] += 1

    def save(self, log: Follower) -> None:
        """`log` is sound so far: written down if that is a while ago, or the check ends here (KeyboardInterrupt)."""
        self.log, self._sound_at = log, log.size
        if self.stopped or time.monotonic() - self._saved_s >= SAVE_EVERY_S:
            self.write()
        if self.stopped:
            raise KeyboardInterrupt

    def write(self) -> None:
        """The file holds how far it is, unless it is in the middle of a bundle: then where it was last written."""
        log = self.log
        if self._path is None or log is None or log.size != self._sound_at or log.size == self._saved_at:
            return
        state = {"fsck": STATE_VERSION, "trust": self._trust, "notices": self.notices, "log": log.dump()}
        replace_file(self._path, json.dumps(state).encode())
        self._saved_at, self._saved_s = log.size, time.monotonic()

    def saved(self) -> str:
        """What the next run will find, in words."""
        if self._path is None:
            return "nothing was saved, for want of --state"
        return f"{self._path} is as it was" if self._saved_at is None else f"goes on at entry {self._saved_at}"

    def _parse(self, data: bytes, registrars: frozenset[bytes] | None) -> Follower:
        try:
            state = json.loads(data)
            version, trust, notices, log = (state[name] for name in ("fsck", "trust", "notices", "log"))
            self.notices.update({str(kind): int(count) for kind, count in notices.items()})
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise MalformedError("is not a state of `ledger fsck`; remove it to begin anew") from None
        if version != STATE_VERSION:
            raise MalformedError(f"is a state of version {version!r}, not {STATE_VERSION}; remove it to begin anew")
        if trust != self._trust:
            raise MalformedError("was made under another --trust; name the same, or remove it to begin anew")
        return Follower.load(str(log), registrars)


def _fsck(args: argparse.Namespace) -> int:
    try:
        policy = parse_file(args.policy, parse_policy)
        trust = None if args.trust is None else parse_file(args.trust, parse_trust)
        state = _State(args.state, trust)
    except MalformedError as error:
        return fail(error, WRONG)
    resumed_at = state.log.size if state.log else 0
    try:
        with log_reader(args.log) as (fetch, paths), _stopping(state):
            if state.log is not None:
                origin = read_checkpoint(fetch, policy).checkpoint.origin
                if state.log.origin != origin:
                    return fail(f"{args.state}: is a state of the log {state.log.origin}, this is {origin}", WRONG)
                print(f"{origin}: goes on at entry {resumed_at} of {args.state}", flush=True)
            report = fsck(
                fetch,
                policy,
                trust=trust,
                paths=paths,
                progress=show_progress(),
                tell=state.tell,
                resume=state.log,
                save=state.save,
            )
        state.write()
    except KeyboardInterrupt:
        fail(f"{args.log}: stopped; {state.saved()}", UNPROVEN)
        raise
    except LedgerError as error:
        state.write()
        before = f" (entries before {resumed_at} are as {args.state} has them)" if resumed_at else ""
        return fail(f"{args.log}: {error}{before}", UNPROVEN)
    except OSError as error:
        state.write()
        return fail(error, WRONG)
    _show(report, state.notices, resumed_at)
    return OK


@contextmanager
def _stopping(state: _State) -> Iterator[None]:
    """The first SIGINT or SIGTERM inside ends the check behind the bundle it is at, the second at once."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if state.stopped:
            raise KeyboardInterrupt
        state.stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(report: LogReport, notices: Counter[str], resumed_at: int) -> None:
    checkpoint, log = report.checkpoint.checkpoint, report.log
    print(f"{checkpoint.origin}: size {checkpoint.size}, root {checkpoint.root.hex()}")
    print(f"  entries: {', '.join(f'{count} {name}' for name, count in sorted(log.entries.items())) or 'none'}")
    if log.size:
        print(f"  {log.bytes / log.size:.0f} bytes an entry")
    print(f"  readings committed to: {log.readings}, by {len(log.chains)} of {len(log.keys)} enrolled keys")
    if log.erased:
        print(f"  leaves erased by the operator: {log.erased}; their hashes stand, and every proof of other readings")
    for key, chain in sorted(log.chains.items()):
        print(f"  key {key.hex()[:16]}: unbroken to epoch {chain.epoch} seq {chain.seq}")
    if notices:
        print(f"  reported: {', '.join(f'{count} {kind}' for kind, count in sorted(notices.items()))}")
    if report.ahead:
        print(
            f"  {report.ahead} tiles lie ahead of the checkpoint: one is about to be published, or a writer was stopped"
        )
    print("  every tile, bundle, chain and signature follows from the entries")
    if resumed_at:
        print(f"  entries before {resumed_at} and their tiles were checked by an earlier run, and not again")
