"""Both reading stores, empty, to be opened as often as a test wants, and readings to put into them."""

import secrets

import pytest

from aggregator.timeseries.base import StoredBatch, StoredReading
from aggregator.timeseries.embedded import EmbeddedStore
from aggregator.timeseries.influx import InfluxStore
from ledger.batch import LEAVES_PER_BATCH
from ledger.reading import Reading
from tests.ledger import builders as b


class Place:
    """Where a store of one kind is: `open` opens it."""

    def __init__(self, name, opener):
        self.name = name
        self._opener = opener

    def open(self, *, readonly=False):
        return self._opener(readonly)


@pytest.fixture(params=["embedded", "influx"])
def place(request, tmp_path):
    """An empty store of each kind in turn."""
    if request.param == "embedded":
        return Place("embedded", lambda readonly: EmbeddedStore(tmp_path, readonly=readonly))
    server = request.getfixturevalue("influx_server")
    config = server.config(server.fresh_database())
    return Place("influx", lambda readonly: InfluxStore(config, readonly=readonly))


@pytest.fixture
def store(place):
    """That store, open."""
    with place.open() as store:
        yield store


def stored(log_index, readings, device="wrist-1", first_leaf=1):
    """`readings` as they are stored of an entry."""
    return [
        StoredReading(log_index * LEAVES_PER_BATCH + leaf, device, reading.encode(), secrets.token_bytes(16))
        for leaf, reading in enumerate(readings, first_leaf)
    ]


def batch_of(log_index, readings, device="wrist-1", *, leaves=None, size=None):
    """A batch record for `readings` (stored); the hashes in it are random."""
    times = [Reading.decode(reading.body).sensor_time_ns for reading in readings]
    root = secrets.token_bytes(32)
    return StoredBatch(
        log_index,
        device,
        1,
        secrets.token_bytes(32),
        secrets.token_bytes(150),
        secrets.token_bytes(64),
        tuple(secrets.token_bytes(32) for _ in range((len(readings) + 1) if leaves is None else leaves)),
        tuple(secrets.token_bytes(32) for _ in range(5)),
        b.checkpoint_note(log_index + 1 if size is None else size, root).encode(),
        (min(times), max(times)) if times else None,
    )


def shown(rows):
    """`rows` by ref, without what differs between stores: how they are found."""
    return sorted(((row.ref, row.copy, *_columns(row)) for row in rows), key=lambda row: (row[0] is None, row))


def _columns(row):
    return (row.device, row.source, row.kind, row.time_ns, row.quality, row.value, row.body, row.salt)
