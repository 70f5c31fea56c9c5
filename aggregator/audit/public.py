"""The public log for an audit: recomputed once, then read again, and the same bytes both times."""

import hashlib
from collections.abc import Callable, Iterable

from ledger.errors import VerificationError
from ledger.fsck import CHECKPOINT_PATH, LogReport, Progress, fsck, read_checkpoint
from ledger.note import VerifierKey
from ledger.policy import Policy
from ledger.tiles import Fetch, TileReader


class Pinned:
    """A `Fetch` that gives the same bytes for a path whenever it is asked, or raises.

    A log is read twice, to recompute it and to hold the database against it; whoever serves it must not show two. Of
    full tiles the hash is kept; a partial one itself, because it may be gone when the log has grown.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._hashes: dict[str, bytes] = {}
        self._kept: dict[str, bytes | None] = {}

    def __call__(self, path: str) -> bytes | None:
        """What stood at `path` when it was first asked for."""
        if path in self._kept:
            return self._kept[path]
        data = self._fetch(path)
        if data is None or path == CHECKPOINT_PATH or ".p/" in path:
            self._kept[path] = data
            return data
        digest = hashlib.sha256(data).digest()
        if self._hashes.setdefault(path, digest) != digest:
            raise VerificationError(f"{path}: changed while it was audited")
        return data


class PublicLog:
    """A log that is sound: everything in it follows from its entries.

    `report` is what `fsck` found, `tree` reads it, `note` is its checkpoint as published.
    """

    def __init__(
        self,
        fetch: Fetch,
        paths: Iterable[str],
        policy: Policy,
        trust: Iterable[VerifierKey] | None,
        progress: Progress,
    ) -> None:
        """Raises LedgerError if it is not sound, OSError if it cannot be read."""
        self.policy = policy
        self._fetch = fetch
        pinned = Pinned(fetch)
        self.report: LogReport = fsck(pinned, policy, trust=trust, paths=paths, progress=progress)
        checkpoint = self.report.checkpoint.checkpoint
        self.tree = TileReader(pinned, checkpoint.size, checkpoint.root)
        self.note = pinned(CHECKPOINT_PATH) or b""
        self._grown = self.size

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.report.checkpoint.checkpoint.origin

    @property
    def size(self) -> int:
        """How many entries were recomputed."""
        return self.tree.size

    @property
    def root(self) -> bytes:
        """Their root."""
        return self.tree.root

    @property
    def public_key(self) -> Callable[[bytes], tuple[int, bytes] | None]:
        """Algorithm and public key of an enrolled key, by its id."""
        return self.report.log.keys.public_key

    def has_grown_past(self, index: int) -> bool:
        """Whether entry `index`, beyond what was recomputed, had been published when that was last looked at."""
        return index < self._grown

    def look_again(self) -> None:
        """How far the log has come by now is known: it goes on growing under a long audit.

        To be called when rows were read and before they are judged: what they are of was published before they were.
        """
        self._grown = read_checkpoint(self._fetch, self.policy).checkpoint.size
