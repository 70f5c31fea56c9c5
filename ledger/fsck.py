"""The whole-truth checker: recomputes a log from its entries and finds every byte that does not follow from them.

`fsck` is what an auditor runs on a mirror, and what our own tests call after every step of the writer. It reads
through a `Fetch`, holds one tile per level and one bundle at a time, and trusts nothing but the policy's keys.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ledger import merkle
from ledger.batch import Header, check_header_signature, check_succession, header_hash
from ledger.entry import BatchEntry, Commitment, Enrolment, UnknownEntry, parse_entry
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.note import parse_note
from ledger.policy import Policy, VerifiedCheckpoint, verify_checkpoint
from ledger.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Fetch,
    Tile,
    TileReader,
    format_tile,
    parse_bundle,
    parse_tile_path,
    tile_at,
    tiles_of,
)

CHECKPOINT_PATH = "checkpoint"

# How far it is: entries recomputed, entries in all.
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Chain:
    """Where a device's chain stands after the entries seen so far."""

    epoch: int
    seq: int
    header: bytes


@dataclass(slots=True)
class LogReport:
    """What was found true of the whole log.

    `entries` counts by type name; `readings` is the sum of what the headers count; `chains` maps key id to the
    last header seen of each device; `keys` maps key id to the index of its enrolment.
    """

    checkpoint: VerifiedCheckpoint
    entries: Counter[str] = field(default_factory=Counter)
    readings: int = 0
    chains: dict[bytes, Chain] = field(default_factory=dict)
    keys: dict[bytes, int] = field(default_factory=dict)


def read_checkpoint(fetch: Fetch, policy: Policy) -> VerifiedCheckpoint:
    """The log's published checkpoint, shown to satisfy `policy`; raises MalformedError or VerificationError."""
    data = fetch(CHECKPOINT_PATH)
    if data is None:
        raise VerificationError("checkpoint: missing")
    return verify_checkpoint(parse_note(data, "checkpoint"), policy)


def open_log(fetch: Fetch, policy: Policy) -> tuple[VerifiedCheckpoint, TileReader]:
    """The log's checkpoint and a reader of exactly the tree that it commits to."""
    verified = read_checkpoint(fetch, policy)
    checkpoint = verified.checkpoint
    return verified, TileReader(fetch, checkpoint.size, checkpoint.root)


def fsck(
    fetch: Fetch, policy: Policy, *, paths: Iterable[str] = (), progress: Progress = lambda _done, _all: None
) -> LogReport:
    """What is true of the log after everything in it was recomputed from its entries.

    Checked: the checkpoint under `policy`; every tile and bundle that its size implies, byte for byte; the root;
    every entry's form; each batch's origin, enrolment, device signature and place in its device's chain; every
    enrolment's two signatures. `paths` are all files below the log, if they can be listed: each must be the
    checkpoint or a tile, and every tile among them must follow from the entries, left-over partial ones included.

    Raises:
        LedgerError: the first thing that is missing, malformed or does not follow, with its path or index.
    """
    verified = read_checkpoint(fetch, policy)
    size = verified.checkpoint.size
    report = LogReport(verified)
    extras = _extra_tiles(paths, size)
    levels: list[list[bytes]] = [[]]
    chains = _Chains(report)
    for start in range(0, size, TILE_WIDTH):
        bundle = tile_at(ENTRIES, start // TILE_WIDTH, size)
        data = _read(fetch, bundle)
        entries = parse_bundle(data, bundle)
        for index, entry in enumerate(entries, start):
            chains.add(index, entry)
            levels[0].append(merkle.hash_leaf(entry))
        _check_extra_bundles(fetch, bundle, data, entries, extras)
        if bundle.width == TILE_WIDTH:
            _close_tiles(fetch, levels, start // TILE_WIDTH, extras)
        progress(start + bundle.width, size)
    for level, hashes in enumerate(levels):
        if hashes:
            _check_tile(fetch, Tile(level, _tile_index(level, size), len(hashes)), hashes, extras)
    root = _root(levels)
    if root != verified.checkpoint.root:
        raise VerificationError(f"the entries do not lead to the root of the checkpoint of size {size}")
    if extras:
        raise VerificationError(f"{min(extras).path}: does not belong to a tree of size {size}")
    return report


def _close_tiles(fetch: Fetch, levels: list[list[bytes]], leaf_tile: int, extras: set[Tile]) -> None:
    """Checks each tile that became full, lowest first, and hands its root to the level above."""
    level = 0
    index = leaf_tile
    while len(levels[level]) == TILE_WIDTH:
        _check_tile(fetch, Tile(level, index), levels[level], extras)
        if level + 1 == len(levels):
            levels.append([])
        levels[level + 1].append(merkle.tree_root(levels[level]))
        levels[level].clear()
        level += 1
        index //= TILE_WIDTH


def _root(levels: list[list[bytes]]) -> bytes:
    """The root over all right edges: a level's unfinished tile, completed by what the level below adds to it."""
    below: bytes | None = None
    for hashes in levels:
        edge = [*hashes, below] if below is not None else hashes
        if edge:
            below = merkle.tree_root(edge)
    return merkle.EMPTY_ROOT if below is None else below


def _check_tile(fetch: Fetch, tile: Tile, hashes: list[bytes], extras: set[Tile]) -> None:
    expected = format_tile(hashes)
    if _read(fetch, tile) != expected:
        raise VerificationError(f"{tile.path}: differs from what the entries give")
    for extra in _partials(tile, extras):
        if _read(fetch, extra) != format_tile(hashes[: extra.width]):
            raise VerificationError(f"{extra.path}: differs from what the entries give")


def _check_extra_bundles(fetch: Fetch, bundle: Tile, data: bytes, entries: list[bytes], extras: set[Tile]) -> None:
    for extra in _partials(bundle, extras):
        length = sum(2 + len(entry) for entry in entries[: extra.width])
        if _read(fetch, extra) != data[:length]:
            raise VerificationError(f"{extra.path}: differs from what the entries give")


def _partials(tile: Tile, extras: set[Tile]) -> list[Tile]:
    """The narrower partials of `tile`'s place that are on disk, taken out of `extras`."""
    found = [extra for extra in extras if (extra.level, extra.index) == (tile.level, tile.index)]
    narrower = [extra for extra in found if extra.width < tile.width]
    extras.difference_update(narrower)
    return narrower


def _extra_tiles(paths: Iterable[str], size: int) -> set[Tile]:
    """Tiles on disk that the size does not imply: left-over partials, or strangers."""
    found = {parse_tile_path(path) for path in paths if path != CHECKPOINT_PATH}
    return found.difference(tiles_of(size)) if found else found


def _tile_index(level: int, size: int) -> int:
    return (size >> (8 * level)) // TILE_WIDTH


def _read(fetch: Fetch, tile: Tile) -> bytes:
    data = fetch(tile.path)
    if data is None:
        raise VerificationError(f"{tile.path}: missing")
    return data


class _Chains:
    """Follows what entries say of one another: enrolments, then unbroken chains of batches."""

    def __init__(self, report: LogReport) -> None:
        self._report = report
        self._origin = report.checkpoint.checkpoint.origin
        self._keys: dict[bytes, Enrolment] = {}

    def add(self, index: int, data: bytes) -> None:
        try:
            self._check(index, data)
        except MalformedError as error:
            raise MalformedError(f"entry {index}: {error}") from None
        except LedgerError as error:
            raise VerificationError(f"entry {index}: {error}") from None

    def _check(self, index: int, data: bytes) -> None:
        entry = parse_entry(data)
        match entry:
            case BatchEntry():
                self._check_batch(entry)
            case Enrolment():
                self._check_enrolment(index, entry)
            case Commitment() | UnknownEntry():
                pass
        self._report.entries[type(entry).__name__] += 1

    def _check_enrolment(self, index: int, entry: Enrolment) -> None:
        if entry.origin != self._origin:
            raise VerificationError(f"enrolment for the log {entry.origin}")
        entry.check()
        if entry.key_id in self._keys:
            raise VerificationError(f"key {entry.key_id.hex()} is enrolled already")
        self._keys[entry.key_id] = entry
        self._report.keys[entry.key_id] = index

    def _check_batch(self, entry: BatchEntry) -> None:
        header = Header.decode(entry.header)
        if header.origin != self._origin:
            raise VerificationError(f"batch for the log {header.origin}")
        key = self._keys.get(header.key_id)
        if key is None:
            raise VerificationError(f"batch by key {header.key_id.hex()}, which is not enrolled before it")
        check_header_signature(entry.header, entry.signature, key.algorithm, key.public_key)
        last = self._report.chains.get(header.key_id)
        check_succession(header, None if last is None else (last.epoch, last.seq, header_hash(last.header)))
        self._report.chains[header.key_id] = Chain(header.epoch, header.seq, entry.header)
        self._report.readings += header.count
