"""InfluxQL for what a store asks: texts only, nothing is sent from here.

Every condition names its tags by value, the empty text where a point lacks one, so a statement means one series.
"""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence

from aggregator.timeseries.base import Selection
from ledger.batch import LEAVES_PER_BATCH
from ledger.kinds import kind_name
from ledger.reading import MAX_CHANNELS

# The times that InfluxDB can hold, in ns; the two outermost of 64 bits are its own.
MIN_TIME, MAX_TIME = -(2**63) + 2, 2**63 - 2

READING, WAVEFORM, BATCH, CHECKPOINT, CURSOR = (
    "reading",
    "waveform",
    "ledger_batch",
    "ledger_checkpoint",
    "ledger_cursor",
)
MAX_HASHES = 1500  # leaf hashes in one field: 64,000 characters, below the 64 KB that a string field holds

# Our fields, with their types. A statement always names both: InfluxQL gives a field without one a single type for all
# shards that it reads, and what has another one in some shard is not shown, whoever wrote it there.
FIELDS: Mapping[str, Mapping[str, str]] = {
    READING: {"seal": "string", "value": "float", "quality": "integer"},
    WAVEFORM: {**{f"c{channel}": "float" for channel in range(MAX_CHANNELS)}, "ref": "integer"},
    BATCH: {
        **dict.fromkeys(("key", "header", "signature", "inclusion"), "string"),
        **{f"leaves{number}": "string" for number in range(-(-LEAVES_PER_BATCH // MAX_HASHES))},
        **dict.fromkeys(("checkpoint", "first", "last"), "integer"),
    },
    CHECKPOINT: {"note": "string"},
    CURSOR: {"entries": "integer"},
}

# The cursor goes first: whoever is killed while these are dropped must not leave one that counts what is gone.
MEASUREMENTS = (CURSOR, READING, WAVEFORM, BATCH, CHECKPOINT)

_ESCAPED = str.maketrans({"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n"})


def literal(text: str) -> str:
    """`text` as a value."""
    return f"'{text.translate(_ESCAPED)}'"


def identifier(name: str) -> str:
    """`name` as the name of a database, tag or field."""
    return f'"{name.translate(_ESCAPED)}"'


def field(measurement: str, name: str) -> str:
    """One of our fields, of our type."""
    return typed(name, FIELDS[measurement][name])


def typed(name: str, kind: str) -> str:
    """The field `name` where it is of this type; of a number also where it is of another type of numbers."""
    return f"{identifier(name)}::{kind}"


def tagged(tags: Mapping[str, str]) -> str:
    """The condition that a point has exactly these values of these tags; a field of that name is no matter."""
    return " AND ".join(f"{identifier(name)}::tag = {literal(value)}" for name, value in tags.items())


def between(first_ns: int, last_ns: int) -> str:
    """The condition that a time is from `first_ns` to `last_ns`, both included."""
    if first_ns > MAX_TIME or last_ns < MIN_TIME:
        first_ns, last_ns = 1, 0  # as a number these could not be read
    return f"time >= {max(first_ns, MIN_TIME)} AND time <= {min(last_ns, MAX_TIME)}"


def selected(selection: Selection) -> str:
    """The condition that a row's columns are of `selection`."""
    tags = {
        "device": selection.device,
        "source": None if selection.source is None else selection.source.hex(),
        "kind": None if selection.kind is None else kind_name(selection.kind),
    }
    first_ns = MIN_TIME if selection.from_ns is None else selection.from_ns
    last_ns = MAX_TIME if selection.to_ns is None else selection.to_ns - 1
    given = tagged({name: value for name, value in tags.items() if value is not None})
    return " AND ".join(filter(None, (given, between(first_ns, last_ns))))


def sealed_by(log_index: int) -> str:
    """The condition that a `seal` may be of a reading of this entry: never false for one, seldom true for others."""
    # 8 characters are the upper 48 of the 64 bits of a ref: those that every reading of an entry has.
    head = b64encode((log_index * LEAVES_PER_BATCH).to_bytes(8, "big"))[:8].decode("ascii")
    pattern = re.sub("([+/])", r"\\\1", head)
    return f"{field(READING, 'seal')} =~ /^{pattern}/"


def referred(log_index: int) -> str:
    """The condition that a waveform's frame names a reading of this entry."""
    first = log_index * LEAVES_PER_BATCH
    ref = field(WAVEFORM, "ref")
    return f"{ref} >= {first} AND {ref} < {first + LEAVES_PER_BATCH}"


def select(fields: str, measurement: str, *conditions: str, group: str = "*") -> str:
    """A SELECT, of all rows that meet every condition, by the tags `group`."""
    where = f" WHERE {' AND '.join(filter(None, conditions))}" if any(conditions) else ""
    grouped = f" GROUP BY {group}" if group else ""
    return f"SELECT {fields} FROM {measurement}{where}{grouped}"  # noqa: S608 - values come through `literal`


def delete(measurement: str, *conditions: str) -> str:
    """A DELETE of what meets every condition; those can be about tags and time only."""
    return f"DELETE FROM {measurement} WHERE {' AND '.join(conditions)}"  # noqa: S608 - values come through `literal`


def together(statements: Sequence[str]) -> str:
    """`statements` as one request."""
    return "; ".join(statements)
