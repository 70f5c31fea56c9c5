"""The right edge of the tile tree in memory, and the files that a longer log changes.

`Edge` holds one unfinished tile per level, at most 255 hashes each. `grow` adds entries and says which files are
new; `restore` reads the edge of a published tree back. Nothing here does I/O but through the `Fetch` it is given.
"""

from collections.abc import Iterable

from ledger import merkle
from ledger.errors import VerificationError
from ledger.tiles import (
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Fetch,
    Tile,
    format_bundle,
    format_tile,
    parse_tile,
    read_tile,
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
    def restore(cls, fetch: Fetch, size: int, entries: Iterable[bytes]) -> "Edge":
        """The edge of the tree of `size` entries, from its partial tiles and the `entries` of its last bundle.

        The entries come from the database: bytes from the public tree must not find their way back into it. What
        the tiles say is not trusted either: the caller compares `root()` with the recorded one.

        Raises:
            LedgerError: a partial tile is missing, malformed, or not that of the entries.
        """
        edge = cls()
        edge.size = size
        edge._entries = list(entries)
        level = 0
        while (count := size >> (TILE_HEIGHT * level)) or level == 0:
            if level == len(edge._hashes):
                edge._hashes.append([])
            if count % TILE_WIDTH:
                tile = tile_at(level, count // TILE_WIDTH, size)
                edge._hashes[level] = parse_tile(read_tile(fetch, tile), tile)
            level += 1
        if [merkle.hash_leaf(entry) for entry in edge._entries] != edge._hashes[0]:
            raise VerificationError(f"the last tile of a tree of {size} is not that of its entries")
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
