"""A service without a broker, its steps taken by hand."""

from collections import Counter
from contextlib import closing, contextmanager

from aggregator.config import AggregatorConfig
from aggregator.mqtt import Message
from aggregator.registry import Registry
from aggregator.service import Service
from ledger.entry import parse_entry
from ledger.messages import Receipt, Reject, Status, parse_message
from ledger.policy import parse_trust
from ledger.writer.create import TRUST
from ledger.writer.local import LocalStorage
from tests.writer.logs import checked, open_writer


class Hands:
    """A service without a broker, its steps taken by hand; `told` is what each device was told."""

    def __init__(self, data, storage, registry, quorum):
        self.data, self.storage, self.quorum = data, storage, quorum
        self.writer = open_writer(storage, data, lambda: 2**60, quorum)
        self.service = Service(AggregatorConfig(data), storage, self.writer, registry, quorum)
        self.told, self.connected = [], True
        self.service._broker.send = lambda device, payload: self.told.append((device, parse_message(payload)))
        self.service._broker.has_room = lambda: self.connected

    def take(self, device, *envelopes):
        """What the device is told of a group of its envelopes, all of which are acknowledged."""
        self.take_all((device, envelope) for envelope in envelopes)
        return [message.reason if isinstance(message, Reject) else type(message) for _, message in self.told]

    def take_all(self, pairs):
        """One group of several devices' envelopes."""
        self.told.clear()
        acknowledged = []
        group = [Message(device.name, "batch", data, lambda: acknowledged.append(1)) for device, data in pairs]
        with self.service._order:
            self.service._ingest.take(group)
        assert len(acknowledged) == len(group)

    def status(self, device, size):
        """The device says that it is there, and which checkpoint it has verified."""
        status = Status(online=True, size=size).encode()
        self.service._ingest._hear(Message(device.name, "status", status, lambda: None))

    def placed(self):
        """The sequence number of each batch in the receipts that were sent, as they came."""
        receipts = [message for _, message in self.told if isinstance(message, Receipt)]
        return [item.seq for receipt in receipts for item in receipt.placed]

    @property
    def counts(self):
        return self.service._ingest.admission.counts

    def scan(self):
        with self.service._order:
            self.service._keys.scan()

    def entries(self, kind):
        entries = map(parse_entry, self.storage.entries(0, self.writer.size))
        return [entry for entry in entries if isinstance(entry, kind)]

    def check(self, **notices):
        """The published log is sound, by its own registrar alone, and reports just these."""
        while self.service._publish_once():
            pass
        report = checked(self.data, parse_trust((self.data / TRUST).read_bytes()))
        assert report.log.size == self.writer.size
        assert report.notices == Counter({name.replace("_", "-"): count for name, count in notices.items()})
        return report.log


@contextmanager
def by_hand(data, quorum=None):
    with LocalStorage(data) as storage, closing(Registry(data)) as registry:
        yield Hands(data, storage, registry, quorum)
