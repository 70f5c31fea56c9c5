"""Telling devices which of their batches were erased from, so that their outboxes forget them too.

A device answers nothing, so it is told whenever it connects: all of its erasures of the last `TELL_FOR_NS`, some at a
time, in the order of the log, and again from the first if it connected anew meanwhile. What the log says while it is
there it is told as soon as that is published. Nothing of it is remembered over a restart: then all devices connect.
"""

import threading
import time
from dataclasses import dataclass

from aggregator.enrolment import Keys
from aggregator.meter import Meter
from aggregator.mqtt import BrokerConnection
from aggregator.notices import ERASURE
from aggregator.outgoing import Outgoing
from aggregator.registry import Registry
from ledger.entry import Erased, parse_entry
from ledger.messages import ErasedBatch
from ledger.splitting import split_erased
from ledger.tiles import TileReader
from ledger.writer.storage import Storage

# A gateway that was away for more than a year is set up anew by hand; until then its outbox may have anything.
TELL_FOR_NS = 400 * 86_400 * 10**9
AT_ONCE = 32  # batches told of to one device in a turn: one message, or some if whole large batches were erased
DEVICES_AT_ONCE = 64  # in a turn; a proof takes a millisecond, and receipts wait as long


@dataclass(slots=True)
class _Telling:
    """Entries before `at` were told of; `again` if a connection began since the first of them was."""

    at: int = 0
    again: bool = False


class ErasedNotices:
    """Who has still to be told of what; `heard` is called from any thread, `tell` from that of the registry."""

    def __init__(
        self,
        registry: Registry,
        storage: Storage,
        keys: Keys,
        outgoing: Outgoing,
        meter: Meter,
        broker: BrokerConnection,
    ) -> None:
        self._registry = registry
        self._storage = storage
        self._keys = keys
        self._outgoing = outgoing
        self._meter = meter
        self._broker = broker
        self._lock = threading.Lock()
        self._telling: dict[str, _Telling] = {}
        # What the log said before, devices are told when they connect.
        published = storage.published()
        with registry.reading() as database:
            (walked,) = database.execute("SELECT coalesce(max(at), 0) FROM walked").fetchone()
        self._seen = min(walked, published.size if published else 0)

    def heard(self, device: str) -> None:
        """`device` says that it is there: it is told of everything."""
        with self._lock:
            self._telling.setdefault(device, _Telling()).again = True

    def tell(self, tree: TileReader, checkpoint: bytes) -> None:
        """Some devices that are there are told of some of their batches, under the published `checkpoint` of `tree`.

        Raises:
            LedgerError: the tree does not prove what the log says.
            UserError: the registry cannot be had now.
        """
        self._look_for_new(tree.size)
        online = set(self._meter.online())
        with self._lock:
            devices = [device for device in self._telling if device in online][:DEVICES_AT_ONCE]
        for device in devices:
            if not self._broker.has_room():
                return
            # Before it has the receipt of a batch, a device does not know which entry is meant.
            if not self._outgoing.owes(device, tree.size):
                self._tell(device, tree, checkpoint)

    def _look_for_new(self, size: int) -> None:
        """Devices of whose batches the log says something new, below `size`, are to be told."""
        query = f"SELECT log_index, key_id FROM notices WHERE log_index >= ? AND log_index < ? AND kind = {ERASURE}"  # noqa: S608 - a constant
        with self._registry.reading() as database:
            rows = database.execute(query, (self._seen, size)).fetchall()
        for index, key_id in rows:
            self._seen = max(self._seen, index + 1)
            key = self._keys.find(key_id)
            if key is not None:
                with self._lock:
                    self._telling.setdefault(key.device, _Telling(index))

    def _tell(self, device: str, tree: TileReader, checkpoint: bytes) -> None:
        with self._lock:
            telling = self._telling[device]
            at = telling.at
            if at == 0:
                telling.again = False
        rows = self._erasures(device, at, tree.size)
        batches = [item for row in rows if (item := self._batch(tree, *row))]
        if batches and not self._send(device, tree, checkpoint, batches):
            return  # it has said meanwhile that it stands elsewhere: so it is told from there, the next time
        with self._lock:
            del self._telling[device]
            # At the end, so that each of many devices has its turn.
            if len(rows) == AT_ONCE:
                self._telling[device] = _Telling(rows[-1][0] + 1, telling.again)
            elif telling.again:
                self._telling[device] = _Telling()

    def _erasures(self, device: str, at: int, size: int) -> list[tuple[int, int, int]]:
        """Index, epoch and sequence number of the next erasures of the device's batches, below `size`."""
        rows: list[tuple[int, int, int]] = []
        query = (
            f"SELECT log_index, epoch, seq FROM notices WHERE kind = {ERASURE} AND key_id = ?"  # noqa: S608 - a constant
            " AND log_index >= ? AND log_index < ? ORDER BY log_index LIMIT ?"
        )
        with self._registry.reading() as database:
            for key_id in self._keys.of(device):
                rows += database.execute(query, (key_id, at, size, AT_ONCE)).fetchall()
        return sorted(rows)[:AT_ONCE]

    def _batch(self, tree: TileReader, index: int, epoch: int, seq: int) -> ErasedBatch | None:
        """The erasure at `index` with its proof; None if that was too long ago."""
        covering = self._storage.first_covering(index)
        if covering is None or time.time_ns() - covering.recorded_at_ns > TELL_FOR_NS:
            return None
        (data,) = self._storage.entries(index, index + 1)
        entry = parse_entry(data)
        if not isinstance(entry, Erased):
            return None  # a registry of another log; the aggregator walks its own only
        return ErasedBatch(epoch, seq, index, entry, tuple(tree.prove_inclusion(index)))

    def _send(self, device: str, tree: TileReader, checkpoint: bytes, batches: list[ErasedBatch]) -> bool:
        stands = self._outgoing.stands(device)
        # As with receipts: who claims more than there is has another log in mind, and will refuse.
        old = stands if stands is not None and stands <= tree.size else 0
        notices = split_erased(checkpoint, old, tree.prove_consistency(old), batches)
        if not self._outgoing.moves(device, stands, tree.size):
            return False
        for notice in notices:
            self._broker.send(device, notice.encode())
        return True
