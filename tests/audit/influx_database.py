# ruff: noqa: S608 - the names are ours
"""InfluxDB past the store: line protocol and InfluxQL, as somebody with the token has them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from aggregator.audit.findings import About, What
from ledger.kinds import kind_name
from tests.ledger.builders import base64, unbase64

from .sqlite_database import flipped

MEASUREMENTS = ("reading", "waveform", "ledger_batch", "ledger_checkpoint", "ledger_cursor")
WHOLE = {"quality", "ref", "checkpoint", "first", "last", "entries"}  # fields that are integers
FIELDS = {"public_key": "key", "leaf_hashes": "leaves0", "first_ns": "first", "last_ns": "last"}


@dataclass(frozen=True)
class Point:
    """One point as it stands there."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, Any]
    time_ns: int

    @property
    def ref(self) -> int:
        """Of a reading's point."""
        return int.from_bytes(unbase64(self.fields["seal"])[:8], "big")

    def line(self) -> str:
        tags = "".join(f",{name}={_tag(value)}" for name, value in self.tags.items() if value)
        fields = ",".join(f"{name}={_field(name, value)}" for name, value in self.fields.items())
        return f"{self.measurement}{tags} {fields} {self.time_ns}"


class InfluxDatabase:
    """The database `name` of `server`; `older` is one with the first `cut` entries."""

    swapped = What.MOVED
    tables: ClassVar = {
        About.READING: "reading",
        About.BATCH: "ledger_batch",
        About.CHECKPOINT: "ledger_checkpoint",
    }
    batch_fields = (
        "device",
        "public_key",
        "header",
        "signature",
        "leaf_hashes",
        "inclusion",
        "checkpoint",
        "first_ns",
        "last_ns",
    )

    def __init__(self, server: Any, name: str, older: str, cut: int) -> None:
        self.server, self.name, self.cut = server, name, cut
        self.good = list(self._read(name))
        self._older = list(self._read(older))
        self.points = {point.ref: point for point in self.good if point.measurement == "reading"}
        self._records = {point.time_ns: point for point in self.good if point.measurement == "ledger_batch"}
        self._notes = {point.time_ns: point for point in self.good if point.measurement == "ledger_checkpoint"}

    def frames(self, ref: int) -> list[Point]:
        """The drawn frames of a reading, in the order of time."""
        drawn = [point for point in self.good if point.measurement == "waveform" and point.fields["ref"] == ref]
        return sorted(drawn, key=lambda point: point.time_ns)

    def write(self, *points: Point) -> None:
        """They stand there."""
        self.server.write("\n".join(point.line() for point in points), self.name)

    def remove(self, point: Point) -> None:
        """It does not stand there any more."""
        tags = "".join(f"\"{name}\" = '{value}' AND " for name, value in point.tags.items())
        self.server.query(f"DELETE FROM {point.measurement} WHERE {tags}time = {point.time_ns}", self.name)

    def exchange(self, point: Point, **changes: Any) -> None:
        """One point gives way to another."""
        self.remove(point)
        self.write(replace(point, **changes))

    def shown(self, ref: int, **fields: Any) -> None:
        point = self.points[ref]
        self.write(replace(point, fields=point.fields | fields))

    def corrupt(self, ref: int, chance: random.Random) -> None:
        point = self.points[ref]
        seal = unbase64(point.fields["seal"])
        seal = flipped(seal, chance, chance.randrange(8, len(seal)))
        self.write(replace(point, fields=point.fields | {"seal": base64(seal)}))

    def place(self, ref: int, column: str, to: Any) -> None:
        point = self.points[ref]
        if column == "time":
            self.exchange(point, time_ns=to)
        else:
            text = to.hex() if column == "source" else kind_name(to) if column == "kind" else to
            self.exchange(point, tags=point.tags | {column: text})

    def delete(self, ref: int) -> None:
        self.remove(self.points[ref])

    def insert(self, like: int, ref: int) -> None:
        point = self.points[like]
        seal = ref.to_bytes(8, "big") + unbase64(point.fields["seal"])[8:]
        # Beside it, which another `copy` is: in the same place it would be instead of it.
        self.write(replace(point, tags=point.tags | {"copy": "9"}, fields=point.fields | {"seal": base64(seal)}))

    def swap(self, one: int, other: int) -> None:
        first, second = self.points[one], self.points[other]
        self.exchange(first, fields=second.fields)
        self.exchange(second, fields=first.fields)

    def drop(self, table: str) -> None:
        self.server.query(f"DROP MEASUREMENT {table}", self.name)

    def edit_batch(self, index: int, name: str, chance: random.Random) -> int:
        point = self._records[index]
        if name == "device":
            self.exchange(point, tags=point.tags | {"device": point.tags["device"] + "!"})
            return 0
        name = FIELDS.get(name, name)
        value, at = point.fields[name], 0
        if isinstance(value, str):
            data = unbase64(value) or bytes(32)
            at = chance.randrange(len(data))
            value = base64(flipped(data, chance, at))
        else:
            value += chance.choice([-1, 1])
        self.write(replace(point, fields=point.fields | {name: value}))
        return at // 32

    def delete_batch(self, index: int) -> None:
        self.remove(self._records[index])

    def edit_checkpoint(self, size: int, chance: random.Random) -> bool:
        point = self._notes[size]
        note = unbase64(point.fields["note"])
        at = chance.randrange(chance.choice([note.index(b"\n\n"), len(note)]))
        self.write(replace(point, fields={"note": base64(flipped(note, chance, at))}))
        return at < note.index(b"\n\n")

    def delete_checkpoint(self, size: int) -> None:
        self.remove(self._notes[size])

    def roll_back(self) -> None:
        self._put(self._older)

    def restore(self) -> None:
        self._put(self.good)

    def _put(self, points: list[Point]) -> None:
        self.server.query("; ".join(f"DROP MEASUREMENT {name}" for name in MEASUREMENTS), self.name)
        self.write(*points)

    def _read(self, name: str) -> Iterator[Point]:
        for measurement in MEASUREMENTS:
            for series in self.server.query(f"SELECT * FROM {measurement} GROUP BY *", name):
                for time_ns, *values in series["values"]:
                    fields = dict(zip(series["columns"][1:], values, strict=True))
                    present = {field: value for field, value in fields.items() if value is not None}
                    yield Point(measurement, series.get("tags", {}), present, time_ns)


def _tag(text: str) -> str:
    return text.replace(",", "\\,").replace(" ", "\\ ").replace("=", "\\=")


def _field(name: str, value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value}i" if name in WHOLE else repr(float(value))
