# ruff: noqa: S608 - the columns are ours
"""The embedded store's file, past the store: plain SQL."""

import random
import shutil
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from aggregator.audit.findings import About, What


class SqliteDatabase:
    """`readings.db` of `data`; `older` is a copy with the first `cut` entries."""

    swapped = What.CHANGED
    tables: ClassVar = {About.READING: "readings", About.BATCH: "batches", About.CHECKPOINT: "checkpoints"}
    batch_fields = (
        "device",
        "algorithm",
        "public_key",
        "header",
        "signature",
        "leaf_hashes",
        "inclusion",
        "checkpoint",
        "first_ns",
        "last_ns",
    )

    def __init__(self, data: Path, older: Path, cut: int) -> None:
        self.path, self.older, self.cut = data / "readings.db", older, cut
        self.good = data / "readings.good"
        self._copy(self.path, self.good)

    @contextmanager
    def _open(self):
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")
            yield db

    def _do(self, query: str, *values: Any) -> None:
        with self._open() as db:
            assert db.execute(query, values).rowcount == 1, query

    def shown(self, ref: int, **columns: Any) -> None:
        for name, value in columns.items():
            self._do(f"UPDATE readings SET {name} = ? WHERE ref = ?", value, ref)

    def corrupt(self, ref: int, chance: random.Random) -> None:
        column = chance.choice(["body", "salt"])
        with self._open() as db:
            (data,) = db.execute(f"SELECT {column} FROM readings WHERE ref = ?", (ref,)).fetchone()
        self._do(f"UPDATE readings SET {column} = ? WHERE ref = ?", flipped(data, chance), ref)

    def place(self, ref: int, column: str, to: Any) -> None:
        name = {"time": "sensor_time_ns"}.get(column, column)
        self._do(f"UPDATE readings SET {name} = ? WHERE ref = ?", to, ref)

    def delete(self, ref: int) -> None:
        self._do("DELETE FROM readings WHERE ref = ?", ref)

    def insert(self, like: int, ref: int) -> None:
        columns = "device, source, kind, sensor_time_ns, quality, value, body, salt"
        self._do(f"INSERT INTO readings SELECT ?, {columns} FROM readings WHERE ref = ?", ref, like)

    def renumber(self, ref: int, new: int) -> None:
        """The row claims another ref."""
        self._do("UPDATE readings SET ref = ? WHERE ref = ?", new, ref)

    def swap(self, one: int, other: int) -> None:
        columns = ("device", "source", "kind", "sensor_time_ns", "quality", "value", "body", "salt")
        with self._open() as db:
            rows = [
                db.execute(f"SELECT {', '.join(columns)} FROM readings WHERE ref = ?", (ref,)).fetchone()
                for ref in (one, other)
            ]
        settings = ", ".join(f"{name} = ?" for name in columns)
        for ref, row in zip((other, one), rows, strict=True):
            self._do(f"UPDATE readings SET {settings} WHERE ref = ?", *row, ref)

    def drop(self, table: str) -> None:
        with self._open() as db:
            db.execute(f"DROP TABLE {table}")

    def edit_batch(self, index: int, name: str, chance: random.Random) -> int:
        with self._open() as db:
            (value,) = db.execute(f"SELECT {name} FROM batches WHERE log_index = ?", (index,)).fetchone()
        leaf = 0
        if isinstance(value, bytes) and value:
            leaf = chance.randrange(len(value))
            value = flipped(value, chance, leaf)
        elif isinstance(value, bytes):
            value = bytes(32)
        else:
            value = f"{value}!" if isinstance(value, str) else value + chance.choice([-1, 1])
        self._do(f"UPDATE batches SET {name} = ? WHERE log_index = ?", value, index)
        return leaf // 32

    def delete_batch(self, index: int) -> None:
        self._do("DELETE FROM batches WHERE log_index = ?", index)

    def edit_checkpoint(self, size: int, chance: random.Random) -> bool:
        with self._open() as db:
            (note,) = db.execute("SELECT note FROM checkpoints WHERE size = ?", (size,)).fetchone()
        at = chance.randrange(chance.choice([note.index(b"\n\n"), len(note)]))
        self._do("UPDATE checkpoints SET note = ? WHERE size = ?", flipped(note, chance, at), size)
        return at < note.index(b"\n\n")

    def delete_checkpoint(self, size: int) -> None:
        self._do("DELETE FROM checkpoints WHERE size = ?", size)

    def roll_back(self) -> None:
        self._copy(self.older, self.path)

    def restore(self) -> None:
        self._copy(self.good, self.path)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        for suffix in ("-wal", "-shm"):
            Path(f"{target}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(source, target)


def flipped(data: bytes, chance: random.Random, at: int | None = None) -> bytes:
    """`data` with one bit of one byte another."""
    at = chance.randrange(len(data)) if at is None else at
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
