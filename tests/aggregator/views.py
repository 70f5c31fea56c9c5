"""Logs to be projected, stores that fail on purpose, and what a view without any fault would hold."""

from contextlib import closing, contextmanager
from itertools import count

from aggregator.patience import Patience
from aggregator.projection import Projection
from aggregator.registry import Registry
from aggregator.timeseries.base import Refused
from aggregator.timeseries.embedded import EmbeddedStore
from aggregator.view import ViewRecord
from ledger import canonical
from ledger.batch import Header, leaf_hash
from ledger.entry import Commitment, Erased, parse_entry
from ledger.leaves import Leaf, leaves_value
from ledger.reading import Reading, Waveform, pack_samples
from ledger.writer.local import LocalStorage
from ledger.writer.payload import parse_payload
from ledger.writer.storage import Submission

from .devices import Device
from .test_admission import Gate


@contextmanager
def gate_of(data):
    """The log in `data`, open for batches; what is in it afterwards is published."""
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        gate = Gate(data, storage, registry)
        yield gate
        gate.writer.publish()


def fill(data, devices, batches, readings=3):
    """So many batches of each device more, each followed by an entry that is none; the size of the log."""
    with gate_of(data) as gate:
        for _ in range(batches):
            for device in devices:
                gate.take(device.name, device.batch(readings))
            gate.writer.append([Submission(Commitment(bytes(32)).encode())])
        return gate.writer.size


def say_erased(data, log_index, *leaves):
    """The log says that these leaves are erased; their payload is as it was."""
    with gate_of(data) as gate:
        gate.writer.append([Submission(Erased(log_index, leaves).encode())])


def erase_payload(data, log_index, *leaves):
    """Salt and body of these leaves are gone from the payload."""
    with LocalStorage(data) as storage:
        header = Header.decode(parse_entry(next(storage.entries(log_index, log_index + 1))).header)
        place = (header.key_id, header.epoch, header.seq)
        kept = [
            leaf_hash(*place, at, leaf.salt, leaf.body) if isinstance(leaf, Leaf) and at in leaves else leaf
            for at, leaf in enumerate(parse_payload(storage.payload(log_index)))
        ]
        payload = canonical.encode(leaves_value(kept))
        storage._writing.execute("UPDATE payloads SET payload = ? WHERE idx = ?", (payload, log_index))


def batch_indexes(data):
    """The log index of every batch."""
    with LocalStorage(data) as storage:
        entries = map(parse_entry, storage.entries(0, storage.size()))
        return [at for at, entry in enumerate(entries) if hasattr(entry, "signature")]


def project(data, store=None, stopping=None):
    """One projection, just started, has caught up; how many entries it projected."""
    with EmbeddedStore(data) as own:
        patience = stopping and Patience(ViewRecord(data), stopping)
        with closing(Projection(data, store or own, patience)) as projection:
            return projection.catch_up()


def contents(store):
    """Everything in a store that a projection wrote, however it numbers copies and rows."""
    rows = sorted(
        (row.ref, row.device, row.source, row.kind, row.time_ns, row.quality, row.value, row.body, row.salt)
        for row in store.rows()
    )
    return store.cursor(), rows, [store.batch(index) for index in store.batch_indexes()]


def contents_of(data):
    """As `contents`, of the embedded store of `data`."""
    with EmbeddedStore(data, readonly=True) as store:
        return contents(store)


def faultless(data, directory):
    """What a view of the log in `data` holds that was made at once and without any fault; made in `directory`."""
    directory.mkdir()
    with EmbeddedStore(directory) as store, closing(Projection(data, store)) as projection:
        projection.catch_up()
        return contents(store)


class Cardiograph(Device):
    """A device whose readings are a second of three channels each."""

    def reading(self, at_ns, value):
        samples = pack_samples([value + at for at in range(3 * 250)], 2)
        return Reading(self.source, 14, at_ns, 0, None, 5, Waveform(4_000_000, 1, (1, -3), (0, 0), 3, 2, samples))


class Killed(BaseException):
    """SIGKILL, at a call of the store."""


class Trap:
    """A store that `fault` is asked about at each call, by its number, before and after it is done."""

    METHODS = ("cursor", "write", "erase", "clear", "batch", "batch_indexes")

    def __init__(self, store, fault):
        self._store, self._fault, self._number = store, fault, count()
        self.calls = []

    def __getattr__(self, name):
        found = getattr(self._store, name)
        if name not in self.METHODS:
            return found

        def call(*arguments):
            self.calls.append((name, arguments))
            self._fault(next(self._number), name)
            result = found(*arguments)
            self._fault(next(self._number), name)
            return result

        return call


class Picky:
    """A store that will not have the readings at `refs`."""

    def __init__(self, store, *refs):
        self._store, self.refs = store, set(refs)

    def __getattr__(self, name):
        return getattr(self._store, name)

    def write(self, batches, readings, cursor):
        self._store.write(batches, [item for item in readings if item.ref not in self.refs], cursor)
        return tuple(
            Refused(item.log_index, item.ref, "it is refused on purpose") for item in readings if item.ref in self.refs
        )
