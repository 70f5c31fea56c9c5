"""The right edge of the tile tree in memory, and the files that a longer log changes.

`Edge` holds one unfinished tile per level, at most 255 hashes each. `grow` adds entries and says which files are
new; `restore` reads the edge of a published tree back. Nothing here does I/O but through the `Fetch` it is given.
"""

from collections.abc import Iterable

from ledger import merkle
from ledger.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Fetch,
    Tile,
    format_bundle,
    format_tile,
    parse_bundle,
    parse_tile,
    tile_at,
)

File = tuple[str, bytes]


class Edge:
    """The unfinished tiles of a tree of `size` entries: `hashes[level]`, and the entries of the last bundle."""

    def __init__(self) -> None:
        self.size = 0
        self._entries: list[bytes] = []
        self._hashes: list[list[bytes]] = [[]]

    @classmethod
    def restore(cls, fetch: Fetch, size: int) -> "Edge":
        """The edge of the tree of `size` entries, from its partial tiles; raises MalformedError or KeyError.

        What was read is not trusted: the caller compares `root()` with the recorded one.
        """
        edge = cls()
        edge.size = size
        level = 0
        while (count := size >> (TILE_HEIGHT * level)) or level == 0:
            if level == len(edge._hashes):
                edge._hashes.append([])
            if count % TILE_WIDTH:
                tile = tile_at(level, count // TILE_WIDTH, size)
                edge._hashes[level] = parse_tile(_required(fetch, tile), tile)
            level += 1
        if size % TILE_WIDTH:
            bundle = tile_at(ENTRIES, size // TILE_WIDTH, size)
            edge._entries = parse_bundle(_required(fetch, bundle), bundle)
        return edge

    def grow(self, entries: Iterable[bytes]) -> list[File]:
        """Adds `entries`; returns every full tile and bundle that they complete, lowest first."""
        files: list[File] = []
        for entry in entries:
            self._entries.append(entry)
            self._hashes[0].append(merkle.hash_leaf(entry))
            self.size += 1
            if len(self._entries) == TILE_WIDTH:
                self._close(files)
        return files

    def partials(self) -> list[File]:
        """The partial tiles and bundle of the tree as it is."""
        files = []
        if self._entries:
            files.append((self._tile(ENTRIES, len(self._entries)).path, format_bundle(self._entries)))
        for level, hashes in enumerate(self._hashes):
            if hashes:
                files.append((self._tile(level, len(hashes)).path, format_tile(hashes)))
        return files

    def root(self) -> bytes:
        """The root of the whole tree."""
        below: list[bytes] = []
        for hashes in self._hashes:
            edge = hashes + below
            below = [merkle.tree_root(edge)] if edge else []
        return below[0] if below else merkle.EMPTY_ROOT

    def _tile(self, level: int, width: int) -> Tile:
        return Tile(level, (self.size >> (TILE_HEIGHT * max(level, 0))) // TILE_WIDTH, width)

    def _close(self, files: list[File]) -> None:
        """Emits the tiles that have just become full, and hands each one's root to the level above."""
        index = self.size // TILE_WIDTH - 1
        files.append((Tile(ENTRIES, index).path, format_bundle(self._entries)))
        self._entries.clear()
        level = 0
        while len(self._hashes[level]) == TILE_WIDTH:
            if level + 1 == len(self._hashes):
                self._hashes.append([])
            full = self._hashes[level]
            files.append((Tile(level, index).path, format_tile(full)))
            self._hashes[level + 1].append(merkle.tree_root(full))
            full.clear()
            index //= TILE_WIDTH
            level += 1


def full_between(old: int, new: int) -> list[Tile]:
    """The tiles and bundles that are partial in a tree of `old` entries and full in one of `new`."""
    tiles = []
    for level in range(ENTRIES, TILE_HEIGHT):
        was, now = (size >> (TILE_HEIGHT * max(level, 0)) for size in (old, new))
        if was % TILE_WIDTH and now // TILE_WIDTH > was // TILE_WIDTH:
            tiles.append(Tile(level, was // TILE_WIDTH))
    return tiles


def _required(fetch: Fetch, tile: Tile) -> bytes:
    data = fetch(tile.path)
    if data is None:
        raise KeyError(tile.path)
    return data
