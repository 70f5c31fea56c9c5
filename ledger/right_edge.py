"""The right edge of a tree that grows entry by entry: of each level the hashes of its unfinished tile."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from ledger import merkle
from ledger.errors import MalformedError, VerificationError
from ledger.tiles import TILE_WIDTH, Tile

# A tile that became full, and its hashes.
OnTile: TypeAlias = Callable[[Tile, list[bytes]], None]


class RightEdge:
    """The tree over the first `size` entries, as far as the next ones need it."""

    def __init__(self) -> None:
        self.size = 0
        self._levels: list[list[bytes]] = [[]]

    def grow(self, data: bytes, on_tile: OnTile | None) -> None:
        """The entry `data` is the tree's last; `on_tile` is called for every tile that it completes, lowest first."""
        self._levels[0].append(merkle.hash_leaf(data))
        self.size += 1
        if not self.size % TILE_WIDTH:
            self._close_tiles(on_tile)

    def check_again(self, entries: Sequence[bytes]) -> None:
        """`entries`, with which a bundle begins, are those that were taken in of the unfinished bundle.

        A bundle that has grown is another file than the one that they were read from. Raises VerificationError.
        """
        known = self._levels[0]
        first = self.size - len(known)
        for index, (entry, leaf_hash) in enumerate(zip(entries, known, strict=True), first):
            if merkle.hash_leaf(entry) != leaf_hash:
                raise VerificationError(f"entry {index}: is not the one that was looked at before")

    def root(self) -> bytes:
        """The root over all entries so far: a level's unfinished tile, completed by what the level below adds."""
        below: list[bytes] = []
        for hashes in self._levels:
            edge = hashes + below
            below = [merkle.tree_root(edge)] if edge else []
        return below[0] if below else merkle.EMPTY_ROOT

    def partial_tiles(self) -> Iterator[tuple[Tile, list[bytes]]]:
        """The unfinished tile of every level that has one."""
        for level, hashes in enumerate(self._levels):
            if hashes:
                yield Tile(level, (self.size >> (8 * level)) // TILE_WIDTH, len(hashes)), hashes

    def _resume(self, size: int, levels: list[list[bytes]]) -> None:
        """The tree is one of `size` entries with these unfinished tiles; raises MalformedError if there is none."""
        widths = [(size >> (8 * level)) % TILE_WIDTH for level in range(len(levels))]
        if not widths or [len(level) for level in levels] != widths or size >> (8 * len(widths)):
            raise MalformedError(f"its tiles are not those of a log of size {size}")
        self.size, self._levels = size, levels

    def _close_tiles(self, on_tile: OnTile | None) -> None:
        level, index = 0, self.size // TILE_WIDTH - 1
        while len(hashes := self._levels[level]) == TILE_WIDTH:
            if on_tile is not None:
                on_tile(Tile(level, index), hashes)
            if level + 1 == len(self._levels):
                self._levels.append([])
            self._levels[level + 1].append(merkle.tree_root(hashes))
            self._levels[level] = []
            level += 1
            index //= TILE_WIDTH
