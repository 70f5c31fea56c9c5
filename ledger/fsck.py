"""The whole-truth checker: recomputes a log from its entries and finds every byte that does not follow from them.

`fsck` is what an auditor runs on a mirror, and what our own tests call after every step of the writer. It reads
through a `Fetch` and trusts nothing but the policy's keys. It holds one tile per level, one bundle, and what grows with
the number of devices and of distinct anchors, not with that of entries.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from ledger.errors import VerificationError
from ledger.findings import Finding
from ledger.follow import Follower
from ledger.note import VerifierKey, parse_note
from ledger.policy import Policy, VerifiedCheckpoint, verify_checkpoint
from ledger.tiles import (
    ENTRIES,
    HASH_SIZE,
    TILE_HEIGHT,
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
class LogReport:
    """What was found true of the whole log.

    `log` has followed every entry: it knows the counts, the keys and the chains. `notices` counts, by kind, what the
    log properly reports of devices. `ahead` is the number of tiles behind the right edge, which a writer makes just
    before it publishes the checkpoint that covers them.
    """

    checkpoint: VerifiedCheckpoint
    log: Follower
    notices: Counter[str] = field(default_factory=Counter)
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
    tell: Callable[[Finding], None] = lambda _finding: None,
    resume: Follower | None = None,
    save: Callable[[Follower], None] = lambda _log: None,
) -> LogReport:
    """What is true of the log after everything in it was recomputed from its entries.

    Checked: the checkpoint under `policy`; every tile and bundle that its size implies, byte for byte; the root;
    every entry's form; each batch's origin, enrolment, device signature and place in its device's chain; every key
    event's signatures, every key state, every evidence of equivocation, every erasure. `paths` are all files below the
    log, if they can be listed: each must be the checkpoint or a tile, and where it overlaps the tree it must agree with
    it, left-over partial tiles included. With `trust`, only key events by these registrars count; without, any
    registrar's.
    `tell` hears what the log reports of devices: gaps, clones, revocations, erased readings.

    `save` is given the follower after every full tile; handed in again as `resume`, it goes on from there. Before it
    nothing is checked a second time, but for the bundle and tiles that were not full, which are other files now.

    Raises:
        LedgerError: the first thing that is missing, malformed or does not follow, with its path or index.
    """
    verified = read_checkpoint(fetch, policy)
    checkpoint = verified.checkpoint
    registrars = None if trust is None else frozenset(key.public_key for key in trust)
    log = resume or Follower(checkpoint.origin, registrars)
    _check_resumed(log, verified)
    report = LogReport(verified, log)
    extras = _extra_tiles(paths, checkpoint.size, log.size)

    def on_tile(tile: Tile, hashes: list[bytes]) -> None:
        _check_tile(fetch, tile, hashes, extras)

    tree = TileReader(fetch, checkpoint.size, checkpoint.root)
    start = log.size - log.size % TILE_WIDTH
    for first in range(start, checkpoint.size, TILE_WIDTH):
        bundle = tile_at(ENTRIES, first // TILE_WIDTH, checkpoint.size)
        entries = parse_bundle(read_tile(fetch, bundle), bundle)
        known = log.size - first
        log.check_again(entries[:known])
        for entry in entries[known:]:
            for finding in log.add(entry, on_tile):
                _judge(finding, report, tell)
        _check_other_bundles(fetch, bundle, entries, extras)
        if bundle.width == TILE_WIDTH:
            for finding in log.look_back(tree):
                _judge(finding, report, tell)
            save(log)
        progress(log.size, checkpoint.size)
    for tile, hashes in log.partial_tiles():
        _check_tile(fetch, tile, hashes, extras)
    if log.root() != checkpoint.root:
        raise VerificationError(f"the entries do not lead to the root of the checkpoint of size {checkpoint.size}")
    report.ahead = _check_ahead(fetch, [tile for tiles in extras.values() for tile in tiles])
    for finding in log.look_back(tree):
        _judge(finding, report, tell)
    save(log)
    return report


def _check_resumed(log: Follower, verified: VerifiedCheckpoint) -> None:
    checkpoint = verified.checkpoint
    if log.origin != checkpoint.origin:
        raise VerificationError(f"the saved state is of the log {log.origin}, this is {checkpoint.origin}")
    if log.size > checkpoint.size:
        raise VerificationError(f"the log shrank from size {log.size}, where the saved state is, to {checkpoint.size}")


def _judge(finding: Finding, report: LogReport, tell: Callable[[Finding], None]) -> None:
    if finding.fault:
        raise finding.error()
    report.notices[finding.kind] += 1
    tell(finding)


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


def _extra_tiles(paths: Iterable[str], size: int, checked: int) -> Extras:
    """Tiles on disk that the size does not imply, by level and index: left over, or made ahead.

    Those that lie whole within the first `checked` entries were looked at when these were.
    """
    extras: Extras = {}
    for path in paths:
        if path != CHECKPOINT_PATH:
            tile = parse_tile_path(path)
            if (tile.index + 1) << (TILE_HEIGHT * (max(tile.level, 0) + 1)) <= checked:
                continue
            if tile.width != tile_at(tile.level, tile.index, size).width:
                extras.setdefault((tile.level, tile.index), []).append(tile)
    return extras


def _check_ahead(fetch: Fetch, tiles: Collection[Tile]) -> int:
    """Tiles behind the right edge, of a checkpoint that is not published yet, have at least a tile's form."""
    for tile in tiles:
        parse = parse_bundle if tile.level == ENTRIES else parse_tile
        parse(read_tile(fetch, tile), tile)
    return len(tiles)
