"""Static tiles (C2SP tlog-tiles v0.1.0): paths, hash tiles, entry bundles, and proofs read from them.

    tile/<level>/<index>[.p/<width>]      256 hashes x 32 bytes; level l+1 holds the roots of full level-l tiles
    tile/entries/<index>[.p/<width>]      256 entries, each after its length in 2 bytes

The index is cut into groups of three digits, all but the last behind an `x`: 1234067 -> x001/x234/067.
A tree of 70,000 entries has 273 full level-0 tiles and 0/273.p/112, one full level-1 tile and 1/001.p/17,
and 2/000.p/1.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from ledger import merkle
from ledger.errors import MalformedError, VerificationError

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
HASH_SIZE = 32
MAX_TILE_LEVEL = 7  # 256^8 entries are more than a 64-bit size can count
MAX_PATH = 64  # the longest path of a tree whose size fits 64 bits is shorter
ENTRIES = -1  # the "level" of entry bundles

# The bytes at a path of the log, or None where there is nothing.
Fetch: TypeAlias = Callable[[str], bytes | None]

_PATH = re.compile(r"tile/(entries|[0-7])((?:/x[0-9]{3})*/[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A place in the tree: `level` 0 to 7, or `ENTRIES` for a bundle; `width` 1 to 256, 256 being a full tile."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Where the tile lies, relative to the log's root."""
        groups = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            groups.append(f"x{rest % 1000:03d}")
            rest //= 1000
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"


def parse_tile_path(path: str) -> Tile:
    """The tile at `path`; raises MalformedError unless `Tile.path` writes exactly this."""
    match = _PATH.fullmatch(path) if len(path) <= MAX_PATH else None
    if not match or int(match[3] or 1) >= TILE_WIDTH:
        raise MalformedError(f"tile path {path[:80]!r} is not of the form tile/<level>/<index>[.p/<width>]")
    level = ENTRIES if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(match[2].replace("/", "").replace("x", "")), int(match[3] or TILE_WIDTH))
    if tile.path != path:
        raise MalformedError(f"tile path {path[:80]!r} is not the one spelling of its tile")
    return tile


def tiles_of(size: int) -> Iterator[Tile]:
    """Every tile and bundle that a tree of `size` entries has, each level's full tiles before its partial one."""
    for level in range(ENTRIES, MAX_TILE_LEVEL + 1):
        count = size >> (TILE_HEIGHT * max(level, 0))
        if not count:
            return
        for index in range(count // TILE_WIDTH):
            yield Tile(level, index)
        if count % TILE_WIDTH:
            yield Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)


def tile_at(level: int, index: int, size: int) -> Tile:
    """Tile `index` of `level` as a tree of `size` entries has it: full, or as wide as it is there."""
    count = size >> (TILE_HEIGHT * max(level, 0))
    return Tile(level, index, min(TILE_WIDTH, count - index * TILE_WIDTH))


def format_tile(hashes: Sequence[bytes]) -> bytes:
    """A hash tile's bytes."""
    return b"".join(hashes)


def parse_tile(data: bytes, tile: Tile) -> list[bytes]:
    """The hashes of `tile`; raises MalformedError unless there are exactly as many as its width says."""
    if len(data) != tile.width * HASH_SIZE:
        raise MalformedError(f"{tile.path}: {len(data)} bytes where {tile.width * HASH_SIZE} are due")
    return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]


def format_bundle(entries: Sequence[bytes]) -> bytes:
    """An entry bundle's bytes: each entry after its length as two big-endian bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def parse_bundle(data: bytes, tile: Tile) -> list[bytes]:
    """The entries of the bundle `tile`; raises MalformedError unless there are exactly as many as its width."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise MalformedError(f"{tile.path}: cut short in entry {len(entries)}")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != tile.width:
        raise MalformedError(f"{tile.path}: {len(entries)} entries where {tile.width} are due")
    return entries


class TileReader:
    """Hashes and entries of one published tree, read through `fetch`, a few tiles kept.

    Nothing read is trusted: whoever asks for a proof checks it against the root (`prove_*` below do).
    """

    def __init__(self, fetch: Fetch, size: int, root: bytes) -> None:
        self.size = size
        self.root = root
        self._fetch = fetch
        self._levels = lru_cache(maxsize=256)(self._read_levels)
        self._bundle = lru_cache(maxsize=16)(self._read_bundle)

    def hash_at(self, level: int, index: int) -> bytes:
        """The hash over the 2^level leaves from index x 2^level (a `merkle.ReadHash`)."""
        tile_level, inner = divmod(level, TILE_HEIGHT)
        first = index << inner
        tile = tile_at(tile_level, first // TILE_WIDTH, self.size)
        return self._levels(tile)[inner][index % (TILE_WIDTH >> inner)]

    def entry(self, index: int) -> bytes:
        """Entry `index`, checked against the leaf hash in its tile."""
        if not 0 <= index < self.size:
            raise VerificationError(f"entry {index} is outside a log of size {self.size}")
        entry = self._bundle(tile_at(ENTRIES, index // TILE_WIDTH, self.size))[index % TILE_WIDTH]
        if merkle.hash_leaf(entry) != self.hash_at(0, index):
            raise VerificationError(f"entry {index} does not have the hash in its tile")
        return entry

    def prove_inclusion(self, index: int) -> list[bytes]:
        """The inclusion proof of entry `index`, shown to lead to the root; raises VerificationError."""
        if not 0 <= index < self.size:
            raise VerificationError(f"entry {index} is outside a log of size {self.size}")
        proof = merkle.prove_inclusion(index, self.size, self.hash_at)
        merkle.check_inclusion(index, self.size, self.hash_at(0, index), proof, self.root)
        return proof

    def prove_consistency(self, old: int) -> list[bytes]:
        """The proof that this tree extends its own first `old` entries, shown to lead to the root."""
        if not 0 <= old <= self.size:
            raise VerificationError(f"a log of size {self.size} has no prefix of {old} entries")
        proof = merkle.prove_consistency(old, self.size, self.hash_at)
        merkle.check_consistency(old, self.size, merkle.root_at(old, self.hash_at), self.root, proof)
        return proof

    def _read_levels(self, tile: Tile) -> list[list[bytes]]:
        """Every hash inside `tile`, made once: the proofs of neighbours ask for the same ones."""
        return merkle.tree_levels(parse_tile(read_tile(self._fetch, tile), tile))

    def _read_bundle(self, tile: Tile) -> list[bytes]:
        return parse_bundle(read_tile(self._fetch, tile), tile)


def read_tile(fetch: Fetch, tile: Tile) -> bytes:
    """The bytes at `tile`'s place; raises VerificationError if there are none.

    A partial tile may go once the full one is published (tlog-tiles), so the full one's beginning stands in for it.
    """
    data = fetch(tile.path)
    if data is None and tile.width < TILE_WIDTH:
        full = Tile(tile.level, tile.index)
        data = beginning(fetch(full.path), full, tile)
    if data is None:
        raise VerificationError(f"{tile.path}: missing")
    return data


def beginning(data: bytes | None, wider: Tile, tile: Tile) -> bytes | None:
    """What `tile` holds, from the `data` of a `wider` one at its place; None of None."""
    if data is None or tile.level != ENTRIES:
        return data and data[: tile.width * HASH_SIZE]
    return format_bundle(parse_bundle(data, wider)[: tile.width])
