"""An old copy of a log's database, brought up to what the world has seen of the log before anything is signed.

A log that is restored from a backup has forgotten what it signed since. If it went on from there, its next checkpoint
would be a second history under the same name. So whoever restores asks first who has seen what (`Known`), takes the
entries in between from the public log, where every one of them is, and lets them be those of exactly these roots. What
was committed after the last checkpoint that anybody has seen is in no history: no device has a receipt for it, so the
devices send it again, and it may get another index now.

The payloads are not public. A batch that was replayed has none, until its device sends it again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ledger.batch import Header
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import LedgerError
from ledger.note import NoteSigner
from ledger.tiles import ENTRIES, TILE_WIDTH, Fetch, parse_bundle, read_tile, tile_at
from ledger.writer.local import LocalStorage
from ledger.writer.storage import Place, Recorded, Submission
from ledger.writer.tree import Edge

_PORTION = 16 * TILE_WIDTH  # entries in one transaction: bounds memory


class TooOldError(Exception):
    """The copy cannot be brought up to what is known of the log; one line that says what is missing, or differs."""


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint that this log signed, and who has it, in words."""

    who: str
    checkpoint: Checkpoint


def catch_up(
    storage: LocalStorage,
    known: Sequence[Known],
    published: Recorded | None,
    fetch: Fetch | None,
    sign: Callable[[Checkpoint], Recorded],
    progress: Callable[[int, int], None],
) -> int:
    """The database holds every entry that a `known` checkpoint covers, and stands for the largest; how many are new.

    `published` is the largest that is known to satisfy the log's policies, if one is; a larger one, `sign`ed anew,
    waits for its quorum then. `fetch` reads the public log or a mirror of it.

    Raises:
        TooOldError: entries are not to be had, or lead to another root. The database is of no use then.
    """
    recorded = storage.recorded()
    start = recorded.size if recorded else -1
    before = storage.size()
    newest = max((item.checkpoint for item in known), key=lambda checkpoint: checkpoint.size)
    _replay(storage, sorted(known, key=lambda item: item.checkpoint.size), fetch, progress)
    if newest.size > start:
        storage.mark_replayed(max(start, 0), newest.size)
    if published is not None and published.size > start:
        # The guard never goes back, not even until the next line but one: it may be the only one who knows of `newest`.
        storage.record(published, newest.text())
        storage.publish(published)
    elif published is not None and recorded is not None and published.size == start and not recorded.published:
        storage.publish(published)
    if newest.size > max(start, published.size if published else 0, 0):
        storage.record(sign(newest), newest.text())
    return storage.size() - before


def sign_again(signers: Sequence[NoteSigner], now_ns: int) -> Callable[[Checkpoint], Recorded]:
    """Signs a checkpoint that the log has signed before: the same text, so no second history."""

    def sign(checkpoint: Checkpoint) -> Recorded:
        note = checkpoint.sign(*signers, time=now_ns // 10**9).encode()
        return Recorded(checkpoint.size, checkpoint.root, note, now_ns)

    return sign


def _replay(
    storage: LocalStorage, known: Sequence[Known], fetch: Fetch | None, progress: Callable[[int, int], None]
) -> None:
    """Every entry up to the last of `known`, which are in order of size, is there and leads to each of their roots."""
    end = known[-1].checkpoint.size
    have = storage.size()
    edge = Edge()
    heads: dict[bytes, Place | None] = {}
    for item in known:
        size = item.checkpoint.size
        while edge.size < size:
            high = min(edge.size + _PORTION, size)
            if edge.size < have:
                edge.grow(storage.entries(edge.size, min(high, have)))
            else:
                if fetch is None:
                    raise TooOldError(f"{known[-1].who} has size {end}, the backup {have} entries, and no log is named")
                # Appended before their root is known: if it is another one, the copy is thrown away.
                entries = list(_entries(fetch, edge.size, high, known[-1]))
                edge.grow(entries)
                storage.append([_submission(entry, heads, storage) for entry in entries])
            progress(edge.size, end)
        if edge.root() != item.checkpoint.root:
            raise TooOldError(
                f"the entries of backup and log do not lead to the root that {item.who} has for size {size}"
            )


def _entries(fetch: Fetch, start: int, end: int, target: Known) -> Iterator[bytes]:
    """The entries [start, end) of the public log, in the bundles of a tree as large as `target`."""
    size = target.checkpoint.size
    for first in range(start - start % TILE_WIDTH, end, TILE_WIDTH):
        tile = tile_at(ENTRIES, first // TILE_WIDTH, size)
        try:
            bundle = parse_bundle(read_tile(fetch, tile), tile)
        except LedgerError as error:
            raise TooOldError(f"{target.who} has size {size}, and the log that was named does not: {error}") from None
        yield from bundle[max(start - first, 0) : end - first]


def _submission(data: bytes, heads: dict[bytes, Place | None], storage: LocalStorage) -> Submission:
    """The entry, the next of its device's chain if it is a batch; `heads` are the ends of the chains met so far."""
    try:
        entry = parse_entry(data)
        if not isinstance(entry, BatchEntry):
            return Submission(data)
        header = Header.decode(entry.header)
    except LedgerError as error:
        raise TooOldError(f"the log that was named holds something that is no entry: {error}") from None
    place = Place(header.key_id, header.epoch, header.seq)
    if place.key_id not in heads:
        heads[place.key_id] = storage.head_place(place.key_id)
    head = heads[place.key_id]
    if head and (place.epoch, place.seq) <= (head.epoch, head.seq):
        raise TooOldError(f"the log that was named holds epoch {place.epoch} seq {place.seq} of one key twice")
    heads[place.key_id] = place
    return Submission(data, place)
