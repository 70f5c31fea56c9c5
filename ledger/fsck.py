"""The whole-truth checker: recomputes a log from its entries and finds every byte that does not follow from them.

`fsck` is what an auditor runs on a mirror, and what our own tests call after every step of the writer. It reads
through a `Fetch` and trusts nothing but the policy's keys. It holds one tile per level, one bundle, and what grows with
the number of devices and of distinct anchors, not with that of entries.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from ledger import merkle
from ledger.batch import Anchor, Header, check_header_signature, check_succession, header_hash
from ledger.entry import BatchEntry, Commitment, Enrolment, Entry, UnknownEntry, parse_entry
from ledger.errors import LedgerError, MalformedError, VerificationError
from ledger.note import VerifierKey, parse_note
from ledger.policy import Policy, VerifiedCheckpoint, verify_checkpoint
from ledger.tiles import (
    ENTRIES,
    HASH_SIZE,
    TILE_WIDTH,
    Fetch,
    Tile,
    TileReader,
    format_tile,
    parse_bundle,
    parse_tile,
    parse_tile_path,
    read_tile,
    tile_at,
)

CHECKPOINT_PATH = "checkpoint"

# Tiles that are on disk and not implied by the size, by (level, index).
Extras: TypeAlias = dict[tuple[int, int], list[Tile]]

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
    last header seen of each device; `keys` maps key id to the index of its enrolment; `ahead` is the number of
    tiles behind the right edge, which a writer makes just before it publishes the checkpoint that covers them.
    """

    checkpoint: VerifiedCheckpoint
    entries: Counter[str] = field(default_factory=Counter)
    readings: int = 0
    chains: dict[bytes, Chain] = field(default_factory=dict)
    keys: dict[bytes, int] = field(default_factory=dict)
    ahead: int = 0


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
    fetch: Fetch,
    policy: Policy,
    *,
    trust: Iterable[VerifierKey] | None = None,
    paths: Iterable[str] = (),
    progress: Progress = lambda _done, _all: None,
) -> LogReport:
    """What is true of the log after everything in it was recomputed from its entries.

    Checked: the checkpoint under `policy`; every tile and bundle that its size implies, byte for byte; the root;
    every entry's form; each batch's origin, enrolment, device signature and place in its device's chain; every
    enrolment's two signatures. `paths` are all files below the log, if they can be listed: each must be the
    checkpoint or a tile, and where it overlaps the tree it must agree with it, left-over partial tiles included.
    With `trust`, only enrolments by these registrars count; without it, any registrar's.

    Raises:
        LedgerError: the first thing that is missing, malformed or does not follow, with its path or index.
    """
    verified = read_checkpoint(fetch, policy)
    size = verified.checkpoint.size
    report = LogReport(verified)
    extras = _extra_tiles(paths, size)
    levels: list[list[bytes]] = [[]]
    chains = _Chains(report, None if trust is None else {key.public_key for key in trust})
    for start in range(0, size, TILE_WIDTH):
        bundle = tile_at(ENTRIES, start // TILE_WIDTH, size)
        entries = parse_bundle(read_tile(fetch, bundle), bundle)
        for index, entry in enumerate(entries, start):
            chains.add(index, entry)
            levels[0].append(merkle.hash_leaf(entry))
        _check_other_bundles(fetch, bundle, entries, extras)
        if bundle.width == TILE_WIDTH:
            _close_tiles(fetch, levels, start // TILE_WIDTH, extras)
        progress(start + bundle.width, size)
    for level, hashes in enumerate(levels):
        if hashes:
            _check_tile(fetch, Tile(level, _tile_index(level, size), len(hashes)), hashes, extras)
    root = _root(levels)
    if root != verified.checkpoint.root:
        raise VerificationError(f"the entries do not lead to the root of the checkpoint of size {size}")
    ahead = [tile for tiles in extras.values() for tile in tiles]
    _check_ahead(fetch, ahead)
    report.ahead = len(ahead)
    chains.check_anchors(TileReader(fetch, size, root))
    return report


def _close_tiles(fetch: Fetch, levels: list[list[bytes]], leaf_tile: int, extras: Extras) -> None:
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


def _check_tile(fetch: Fetch, tile: Tile, hashes: list[bytes], extras: Extras) -> None:
    expected = format_tile(hashes)
    if read_tile(fetch, tile) != expected:
        raise VerificationError(f"{tile.path}: differs from what the entries give")
    for other in _others(tile, extras):
        common = min(other.width, tile.width) * HASH_SIZE
        data = read_tile(fetch, other)
        if len(data) != other.width * HASH_SIZE or data[:common] != expected[:common]:
            raise VerificationError(f"{other.path}: differs from what the entries give")


def _check_other_bundles(fetch: Fetch, bundle: Tile, entries: list[bytes], extras: Extras) -> None:
    for other in _others(bundle, extras):
        common = min(other.width, bundle.width)
        if parse_bundle(read_tile(fetch, other), other)[:common] != entries[:common]:
            raise VerificationError(f"{other.path}: differs from what the entries give")


def _others(tile: Tile, extras: Extras) -> list[Tile]:
    """The tiles of another width at `tile`'s place that are on disk, taken out of `extras`."""
    return extras.pop((tile.level, tile.index), [])


def _extra_tiles(paths: Iterable[str], size: int) -> Extras:
    """Tiles on disk that the size does not imply, by level and index: left over, or made ahead."""
    extras: Extras = {}
    for path in paths:
        if path != CHECKPOINT_PATH:
            tile = parse_tile_path(path)
            if tile.width != tile_at(tile.level, tile.index, size).width:
                extras.setdefault((tile.level, tile.index), []).append(tile)
    return extras


def _check_ahead(fetch: Fetch, tiles: Iterable[Tile]) -> None:
    """Tiles behind the right edge, of a checkpoint that is not published yet, have at least a tile's form."""
    for tile in tiles:
        parse = parse_bundle if tile.level == ENTRIES else parse_tile
        parse(read_tile(fetch, tile), tile)


def _tile_index(level: int, size: int) -> int:
    return (size >> (8 * level)) // TILE_WIDTH


_NAMES: dict[type[Entry], str] = {
    BatchEntry: "batches",
    Enrolment: "enrolments",
    Commitment: "commitments",
    UnknownEntry: "entries of other versions",
}


class _Chains:
    """Follows what entries say of one another: enrolments, then unbroken chains of batches."""

    def __init__(self, report: LogReport, registrars: set[bytes] | None) -> None:
        self._report = report
        self._registrars = registrars
        self._origin = report.checkpoint.checkpoint.origin
        self._keys: dict[bytes, Enrolment] = {}
        # Each anchor once, with the first entry that carries it: a checkpoint is the anchor of many batches.
        self._anchors: dict[Anchor, int] = {}

    def add(self, index: int, data: bytes) -> None:
        try:
            self._check(index, data)
        except MalformedError as error:
            raise MalformedError(f"entry {index}: {error}") from None
        except LedgerError as error:
            raise VerificationError(f"entry {index}: {error}") from None

    def check_anchors(self, tree: TileReader) -> None:
        """Every checkpoint that a device had verified when it sealed is a prefix of this log."""
        for anchor, index in self._anchors.items():
            if merkle.root_at(anchor.size, tree.hash_at) != anchor.root:
                raise VerificationError(
                    f"entry {index}: its anchor, which the device had verified, has another root for size {anchor.size}"
                    ": a split view"
                )

    def _check(self, index: int, data: bytes) -> None:
        entry = parse_entry(data)
        match entry:
            case BatchEntry():
                self._check_batch(index, entry)
            case Enrolment():
                self._check_enrolment(index, entry)
            case Commitment() | UnknownEntry():
                pass
        self._report.entries[_NAMES[type(entry)]] += 1

    def _check_enrolment(self, index: int, entry: Enrolment) -> None:
        if entry.origin != self._origin:
            raise VerificationError(f"enrolment for the log {entry.origin}")
        entry.check()
        if self._registrars is not None and entry.registrar_key not in self._registrars:
            raise VerificationError("enrolment by a registrar that is not trusted")
        if entry.key_id in self._keys:
            raise VerificationError(f"key {entry.key_id.hex()} is enrolled already")
        self._keys[entry.key_id] = entry
        self._report.keys[entry.key_id] = index

    def _check_batch(self, index: int, entry: BatchEntry) -> None:
        header = Header.decode(entry.header)
        if header.origin != self._origin:
            raise VerificationError(f"batch for the log {header.origin}")
        key = self._keys.get(header.key_id)
        if key is None:
            raise VerificationError(f"batch by key {header.key_id.hex()}, which is not enrolled before it")
        check_header_signature(entry.header, entry.signature, key.algorithm, key.public_key)
        if header.anchor is not None:
            if header.anchor.size > index:
                raise VerificationError(f"anchored to size {header.anchor.size}, which came after it")
            self._anchors.setdefault(header.anchor, index)
        last = self._report.chains.get(header.key_id)
        check_succession(header, None if last is None else (last.epoch, last.seq, header_hash(last.header)))
        self._report.chains[header.key_id] = Chain(header.epoch, header.seq, entry.header)
        self._report.readings += header.count
