"""The same entries in pymerkle: its `SqliteTree`, set up as it comes, which is durable.

It keeps entries and leaf hashes in one table and makes the inner hashes when asked. It writes no tiles, signs nothing,
and gives no entry a second index, so the rates are not of the same work; what they show is how each grows.
"""

import random
from importlib.metadata import version
from pathlib import Path

from pymerkle import SqliteTree  # type: ignore[import-untyped]  # the library ships no types

from bench.fill import GROUP, entry, fill, show_rates
from bench.table import latency, row, seconds, section
from ledger import merkle
from ledger.tiles import TileReader

_PRAGMAS = ("journal_mode", "synchronous")
_LIMIT_S = 120.0
_PROOFS = 1000


def measure_pymerkle(database: Path, count: int, ours: TileReader) -> None:
    """Prints what pymerkle makes of `count` entries, or of as many as it takes in within `_LIMIT_S`.

    Raises:
        RuntimeError: its root is not that of `ours`.
    """
    with SqliteTree(str(database)) as tree:
        settings = ", ".join(f"{name} {tree.con.execute(f'PRAGMA {name}').fetchone()}" for name in _PRAGMAS)
        section(f"the same in pymerkle {version('pymerkle')}, {GROUP} a commit ({settings})")
        windows = fill(range(count), entry, tree.append_entries, tree.get_root, limit_s=_LIMIT_S)
        show_rates(windows)
        size = tree.get_size()
        row("    entries in it", size, "")
        if tree.get_root() != merkle.root_at(size, ours.hash_at):
            raise RuntimeError(f"pymerkle has another root at size {size}")
    row("start-up", seconds(lambda: SqliteTree(str(database)).close()), "s")
    with SqliteTree(str(database)) as tree:
        random_ = random.Random(1)
        indices = [random_.randrange(size) + 1 for _ in range(_PROOFS)]
        row("inclusion proof, made, the first after a start", seconds(tree.prove_inclusion, indices[0]) * 1e3, "ms")
        latency("    later ones", (seconds(tree.prove_inclusion, index) for index in indices))
        latency("    the same again", (seconds(tree.prove_inclusion, index) for index in indices))
        latency("consistency proof", (seconds(tree.prove_consistency, index) for index in indices))
    row("database", database.stat().st_size / size, "bytes/entry")
