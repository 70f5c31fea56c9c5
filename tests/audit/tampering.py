"""Somebody who changes a database behind our backs, and knows exactly what he did: the list that both stores see.

Each tampering touches rows that no other has touched, and says what an audit has to call them: of a whole data
directory (`full`), and of the database alone (`alone`), which can know less where a batch record was destroyed.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from aggregator.audit.findings import About, What
from aggregator.timeseries.base import ReadingStore, Row
from ledger.batch import LEAVES_PER_BATCH

Key = tuple[About, int | None]


class Database(Protocol):
    """A database past its store: one implementation each, in the store's own language."""

    swapped: What  # what it is if two readings' contents change places
    tables: dict[About, str]
    batch_fields: tuple[str, ...]
    cut: int  # how many entries an older copy of it has

    def shown(self, ref: int, *, value: float | None = None, quality: int | None = None) -> None:
        """The row shows this."""

    def corrupt(self, ref: int, chance: random.Random) -> None:
        """One byte of the row's salt or body is another."""

    def place(self, ref: int, column: str, to: Any) -> None:
        """The row stands at another time, or under another device, source or kind."""

    def delete(self, ref: int) -> None:
        """The row is gone."""

    def insert(self, like: int, ref: int) -> None:
        """There is a row that looks like another, with that ref."""

    def swap(self, one: int, other: int) -> None:
        """What two rows hold changes places."""

    def drop(self, table: str) -> None:
        """The table or measurement is gone."""

    def edit_batch(self, index: int, name: str, chance: random.Random) -> int:
        """One field of the batch record is another; of leaf hashes, which."""

    def delete_batch(self, index: int) -> None:
        """The batch record is gone."""

    def edit_checkpoint(self, size: int, chance: random.Random) -> bool:
        """One byte of the checkpoint is another; whether it is one of its text, and so of what is signed."""

    def delete_checkpoint(self, size: int) -> None:
        """The checkpoint record is gone."""

    def roll_back(self) -> None:
        """It is an older copy of itself."""

    def restore(self) -> None:
        """It is as it was projected."""


@dataclass
class Expected:
    """What an audit has to find, by row."""

    full: dict[Key, What] = field(default_factory=dict)
    alone: dict[Key, What] = field(default_factory=dict)
    perhaps: set[Key] = field(default_factory=set)  # what the database alone may or may not show
    dark: set[int] = field(default_factory=set)  # batches whose rows the database alone cannot judge
    damaged: dict[int, int] = field(default_factory=dict)  # batch: the leaf whose hash in the record is wrong
    unjudged: int = 0  # rows in them
    altered: set[int] = field(default_factory=set)  # refs whose rows do not hash any more, or are gone

    def both(self, key: Key, what: What) -> None:
        self.full[key] = self.alone[key] = what


class Tamperer:
    """Tampers with `database`, whose untouched content `store` shows."""

    def __init__(self, database: Database, store: ReadingStore, size: int) -> None:
        self.database, self.size = database, size
        rows = [row for row in store.rows() if row.ref is not None]
        self.rows: dict[int, Row] = {row.ref: row for row in rows}
        self.batches = list(store.batch_indexes())
        self.counts = {index: sum(ref // LEAVES_PER_BATCH == index for ref in self.rows) for index in self.batches}
        self.records = {index: store.batch(index) for index in self.batches}
        self.sizes = [size for size, _ in store.checkpoints()]
        self._places: dict[tuple, list[int]] = defaultdict(list)
        for ref, row in self.rows.items():
            self._places[_place(row)].append(ref)

    def tamper(
        self, chance: random.Random, count: int, names: Iterable[str] | None = None
    ) -> tuple[list[str], Expected]:
        """Does `count` things, or those named; what they were, and what is to be found of them."""
        self.free = set(self.rows)
        self.free_batches, self.free_sizes, self.free_keys = set(self.batches), set(self.sizes), set(self._keys())
        self.end = self.size
        self.taken: set[int] = set()
        expected = Expected()
        done = list(names or chance.choices(list(self.all), k=count))
        done.sort(key=lambda name: ("roll back", *self.drops).index(name) if name in ("roll back", *self.drops) else 9)
        done = [name for at, name in enumerate(done) if name not in {"roll back", *self.drops} or name not in done[:at]]
        for name in done:
            self.all[name](self, chance, expected)
        self.settle(expected)
        return done, expected

    # One method a tampering; each takes what nobody has touched yet, or does nothing.

    def edit_value(self, chance: random.Random, expected: Expected) -> None:
        for ref in self._take(chance, 1):
            value = self.rows[ref].value
            self.database.shown(ref, value=1.0 if value is None else value + chance.choice([1.0, -0.5, 1e-9]))
            expected.both((About.READING, ref), What.CHANGED)

    def edit_quality(self, chance: random.Random, expected: Expected) -> None:
        for ref in self._take(chance, 1):
            self.database.shown(ref, quality=(self.rows[ref].quality or 0) ^ 8)
            expected.both((About.READING, ref), What.CHANGED)

    def corrupt(self, chance: random.Random, expected: Expected) -> None:
        for ref in self._take(chance, 1):
            self.database.corrupt(ref, chance)
            expected.both((About.READING, ref), What.CHANGED)
            expected.altered.add(ref)

    def edit_time(self, chance: random.Random, expected: Expected) -> None:
        for ref in self._take(chance, 1):
            self.database.place(
                ref, "time", self.rows[ref].time_ns + chance.choice([-1, 1]) * chance.randrange(1, 10**9)
            )
            expected.both((About.READING, ref), What.MOVED)

    def edit_device(self, chance: random.Random, expected: Expected) -> None:
        others = {row.device for row in self.rows.values()}
        for ref in self._take(chance, 1):
            to = chance.choice(sorted(others - {self.rows[ref].device} | {"nobody", "<script>"}))
            self.database.place(ref, "device", to)
            expected.both((About.READING, ref), What.MOVED)

    def edit_source(self, chance: random.Random, expected: Expected) -> None:
        for ref in self._take(chance, 1):
            self.database.place(ref, "source", chance.randbytes(8))
            expected.both((About.READING, ref), What.MOVED)

    def edit_kind(self, chance: random.Random, expected: Expected) -> None:
        for ref in self._take(chance, 1):
            self.database.place(ref, "kind", 4)  # nobody here measures a temperature
            expected.both((About.READING, ref), What.MOVED)

    def delete(self, chance: random.Random, expected: Expected) -> None:
        for ref in self._take(chance, chance.randrange(1, 4)):
            self.database.delete(ref)
            expected.both((About.READING, ref), What.MISSING)
            expected.altered.add(ref)

    def insert(self, chance: random.Random, expected: Expected) -> None:
        for like in self._take(chance, 1):
            new = self._nowhere(like, chance)
            self.database.insert(like, new)
            expected.both((About.READING, new), What.EXTRA)

    def swap_all(self, chance: random.Random, expected: Expected) -> None:
        pair = self._take(chance, 2)
        if len(pair) == 2 and _place(self.rows[pair[0]]) != _place(self.rows[pair[1]]):
            self.database.swap(*pair)
            for ref in pair:
                expected.both((About.READING, ref), self.database.swapped)
            if self.database.swapped is What.CHANGED:
                expected.altered.update(pair)

    def swap_values(self, chance: random.Random, expected: Expected) -> None:
        pair = [ref for ref in self._take(chance, 2) if self.rows[ref].value is not None]
        if len(pair) == 2 and self.rows[pair[0]].value != self.rows[pair[1]].value:
            for ref, other in zip(pair, reversed(pair), strict=True):
                self.database.shown(ref, value=self.rows[other].value)
                expected.both((About.READING, ref), What.CHANGED)

    def edit_batch(self, chance: random.Random, expected: Expected) -> None:
        for index in self._take_batches(chance):
            self.edit_batch_field(index, chance.choice(self.database.batch_fields), chance, expected)

    def edit_batch_field(self, index: int, name: str, chance: random.Random, expected: Expected) -> None:
        """Edits one field, and says what comes of it."""
        record = self.records[index]
        if name == "device":
            # Alone, most of a key's records say how its device is called: two of four must not say otherwise.
            if record.public_key not in self.free_keys:
                return
            self.free_keys.discard(record.public_key)
        if name in {"first_ns", "last_ns"} and record.span_ns is None:
            return
        leaf = self.database.edit_batch(index, name, chance)
        if name == "leaf_hashes":
            expected.damaged[index] = leaf
        if name in {"first_ns", "last_ns"}:
            expected.perhaps.add((About.BATCH, index))
        expected.both((About.BATCH, index), What.CHANGED)

    def delete_batch(self, chance: random.Random, expected: Expected) -> None:
        for index in self._take_batches(chance):
            self.database.delete_batch(index)
            expected.both((About.BATCH, index), What.MISSING)
            expected.dark.add(index)

    def edit_checkpoint(self, chance: random.Random, expected: Expected) -> None:
        for size in self._take_sizes(chance):
            if not self.database.edit_checkpoint(size, chance):
                # Of a line that the policy does not name, only what was published tells.
                expected.perhaps.add((About.CHECKPOINT, size))
            expected.both((About.CHECKPOINT, size), What.CHANGED)

    def delete_checkpoint(self, chance: random.Random, expected: Expected) -> None:
        for size in self._take_sizes(chance):
            self.database.delete_checkpoint(size)
            expected.both((About.CHECKPOINT, size), What.MISSING)
            expected.perhaps.add((About.CHECKPOINT, size))  # if no record that is left leads to it

    def drop_readings(self, _: random.Random, expected: Expected) -> None:
        self.database.drop(self.database.tables[About.READING])
        for ref in self.rows:
            self._gone(expected, ref)
        self.free.clear()

    def drop_batches(self, _: random.Random, expected: Expected) -> None:
        self.database.drop(self.database.tables[About.BATCH])
        expected.dark.update(index for index in self.batches if index < self.end)
        for index in self.batches:
            expected.both((About.BATCH, index), What.MISSING)
        for size in self.sizes:
            expected.perhaps.add((About.CHECKPOINT, size))
        self.free_batches.clear()

    def drop_checkpoints(self, _: random.Random, expected: Expected) -> None:
        self.database.drop(self.database.tables[About.CHECKPOINT])
        for size in self.sizes:
            expected.both((About.CHECKPOINT, size), What.MISSING)
            expected.perhaps.add((About.CHECKPOINT, size))
        self.free_sizes.clear()

    def roll_back(self, _: random.Random, expected: Expected) -> None:
        self.database.roll_back()
        self.end = cut = self.database.cut
        for ref in self.rows:
            if ref >= cut * LEAVES_PER_BATCH:
                self._gone(expected, ref)
                self.free.discard(ref)
        for index in self.batches:
            if index >= cut:
                expected.both((About.BATCH, index), What.MISSING)
                self.free_batches.discard(index)
        for size in self.sizes:
            if size > cut:
                expected.full[About.CHECKPOINT, size] = What.MISSING
                self.free_sizes.discard(size)

    drops = ("drop readings", "drop batches", "drop checkpoints")
    all: ClassVar[dict[str, Callable[["Tamperer", random.Random, Expected], None]]] = {
        "edit value": edit_value,
        "edit quality": edit_quality,
        "corrupt": corrupt,
        "edit time": edit_time,
        "edit device": edit_device,
        "edit source": edit_source,
        "edit kind": edit_kind,
        "delete": delete,
        "insert": insert,
        "swap all": swap_all,
        "swap values": swap_values,
        "edit batch": edit_batch,
        "delete batch": delete_batch,
        "edit checkpoint": edit_checkpoint,
        "delete checkpoint": delete_checkpoint,
        "drop readings": drop_readings,
        "drop batches": drop_batches,
        "drop checkpoints": drop_checkpoints,
        "roll back": roll_back,
    }

    def _gone(self, expected: Expected, ref: int) -> None:
        """A row is gone, whatever else was done to it before."""
        expected.both((About.READING, ref), What.MISSING)
        expected.altered.add(ref)

    def _take(self, chance: random.Random, count: int) -> list[int]:
        """`count` rows that nobody touched, nor any that stands in the same place."""
        taken = []
        for _ in range(count):
            if self.free:
                ref = chance.choice(sorted(self.free))
                self.free.difference_update(self._places[_place(self.rows[ref])])
                taken.append(ref)
        return taken

    def _take_batches(self, chance: random.Random) -> list[int]:
        chosen = chance.sample(sorted(self.free_batches), min(1, len(self.free_batches)))
        self.free_batches.difference_update(chosen)
        return chosen

    def _take_sizes(self, chance: random.Random) -> list[int]:
        chosen = chance.sample(sorted(self.free_sizes), min(1, len(self.free_sizes)))
        self.free_sizes.difference_update(chosen)
        return chosen

    def _nowhere(self, like: int, chance: random.Random) -> int:
        """A ref that no reading has."""
        index = like // LEAVES_PER_BATCH
        places = [
            (index, 0),
            (index, self.counts[index] + 1),
            (index, LEAVES_PER_BATCH - 1),
            (0, like % LEAVES_PER_BATCH),  # the first entry enrols somebody
            (self.size + 5, like),
        ]
        refs = [index * LEAVES_PER_BATCH + leaf for index, leaf in places]
        ref = chance.choice([ref for ref in refs if ref not in self.taken])
        self.taken.add(ref)  # two that are inserted must not be the same row
        return ref

    def _keys(self) -> set[bytes]:
        return {record.public_key for record in self.records.values()}

    def settle(self, expected: Expected) -> None:
        """What the database alone cannot say any more."""
        for index, leaf in expected.damaged.items():
            refs = {ref for ref in self.rows if ref // LEAVES_PER_BATCH == index}
            present = {ref for ref in refs if expected.alone.get((About.READING, ref)) is not What.MISSING}
            damaged = index * LEAVES_PER_BATCH + leaf
            if leaf == 0 or damaged not in present or present & expected.altered:
                expected.dark.add(index)
        missing = {
            ref for (about, ref), what in expected.alone.items() if (about, what) == (About.READING, What.MISSING)
        }
        expected.unjudged = sum(ref // LEAVES_PER_BATCH in expected.dark and ref not in missing for ref in self.rows)
        for (about, number), what in list(expected.alone.items()):
            if about is not About.READING or number is None or what is What.MISSING:
                continue
            if number in self.rows and number // LEAVES_PER_BATCH in expected.dark:
                del expected.alone[about, number]


def _place(row: Row) -> tuple:
    return row.device, row.source, row.kind, row.time_ns
