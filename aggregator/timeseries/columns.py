"""Which columns of a measurement are asked for, so that nobody's points hide ours, and none of them is hidden itself.

Our fields are asked for with our types, so they are read whatever else is there. Everything else that the measurement
has in any shard, other fields and ours with other types, has a column of its own beside them: `NAME as TYPE`.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aggregator.timeseries import influxql as ql
from aggregator.timeseries.parsing import Found, plain
from ledger.reading import MAX_INT64, MIN_INT64

_NUMBERS, _REST = frozenset({"float", "integer", "unsigned"}), frozenset({"string", "boolean"})


class Asked(Protocol):
    """Asks a server InfluxQL; `timed`: see `parse_answer`."""

    def __call__(self, text: str, *, timed: bool = True) -> Iterable[Found]:
        """The answers."""
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one `measurement`: our fields `ours`, and `others`, each a name with a type."""

    measurement: str
    ours: Sequence[str]
    others: Sequence[tuple[str, str]]

    def selected(self, without: Container[str] = ()) -> str:
        """All of them for a SELECT, but for those of ours that are in `without`."""
        ours = [ql.field(self.measurement, name) for name in self.ours if name not in without]
        others = [f"{ql.typed(*other)} AS {ql.identifier(_title(*other))}" for other in self.others]
        return ", ".join(ours + others)

    def settled(self, found: Found) -> Found:
        """What was found, where a field of ours with another type stands in the place of what ought to be there."""
        at = {name: number for number, name in enumerate(found.columns)}
        pairs = [
            (at[name], at[_title(name, kind)]) for name, kind in self.others if name in at and _title(name, kind) in at
        ]
        if not pairs:
            return found
        values = [list(row) for row in found.values]
        for row in values:
            for ours, other in pairs:
                if _is_same(row[ours], row[other]):
                    row[other] = None
                elif row[other] is not None:
                    row[ours] = row[other]
        return Found(found.statement, found.tags, found.columns, values)


def columns_of(query: Asked, measurement: str) -> Columns:
    """The columns of `measurement` as it is now."""
    fields = ql.FIELDS[measurement]
    known: dict[str, set[str]] = defaultdict(set)
    for found in query(f"SHOW FIELD KEYS FROM {measurement}", timed=False):
        for name, kind in found.columned("fieldKey", "fieldType"):
            if isinstance(name, str) and isinstance(kind, str):
                known[plain(name)].add(kind)
    others = [(name, kind) for name, kinds in known.items() for kind in _kinds(kinds, fields.get(name))]
    ours = list(fields)
    if measurement == ql.WAVEFORM:
        # Of millions of frames few have more than one channel, and a column of nothing costs as much as any.
        ours = [name for name in fields if name in known] or ours
    return Columns(measurement, ours, sorted(others))


def _kinds(kinds: set[str], ours: str | None) -> set[str]:
    """The types to ask for so that a field of these types is all seen, besides our own."""
    others = kinds - {ours}
    numbers = others & _NUMBERS
    if not numbers:
        return others & _REST
    # Numbers are read as any type of numbers, and lose least as ours, or as a float.
    read = set() if ours == "float" else numbers if numbers == {"integer"} else {"float"}
    return others & _REST | read


def _is_same(ours: object, other: object) -> bool:
    """Whether `other` is the whole number `ours`, as a float has it."""
    return type(ours) is int and MIN_INT64 <= ours <= MAX_INT64 and float(ours) == other


def _title(name: str, kind: str) -> str:
    return f"{name} as {kind}"
