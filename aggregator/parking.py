"""Batches that came before their predecessor: kept in memory until it is there, within bounds.

Nothing depends on them being kept. They are acknowledged to the broker and not answered, so the device has them still
and sends them again; a batch that finds no room here is only admitted later than it might be.

Sans-I/O. One device's batches take no room from another's: where all is full, whoever has most gives way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from aggregator.decisions import OBJECTS, Candidate
from ledger.writer.storage import Place

# What a device may have under way before it hears of a batch (`edge.window`): all but the first of them may be early.
LOT_BATCHES = 256
LOT_BYTES = 4 * 1024 * 1024 + LOT_BATCHES * OBJECTS
TOTAL_BYTES = 64 * 1024 * 1024
# So long the missing one may be on its way; after that its device is told what is next, as if nothing were parked.
HINT_AFTER_S = 1.0
# A device sends what has no answer at least every two minutes; what it does not send for so long it has given up.
FORGET_AFTER_S = 600.0


@dataclass(slots=True)
class _Lot:
    """The parked batches of one key; `since_s` is when its chain moved last, or the first of them came."""

    device: str
    since_s: float
    batches: dict[tuple[int, int], Candidate] = field(default_factory=dict)
    size: int = 0
    hinted: bool = False


class Parking:
    """Parked batches by key; used from one thread. `now_s` is a monotonic clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lots: dict[bytes, _Lot] = {}
        self.size = 0

    def __len__(self) -> int:
        return sum(len(lot.batches) for lot in list(self._lots.values()))

    def find(self, place: Place) -> Candidate | None:
        """The batch that is parked for `place`."""
        lot = self._lots.get(place.key_id)
        return lot.batches.get((place.epoch, place.seq)) if lot else None

    def has_room(self, key_id: bytes, size: int) -> bool:
        """Whether a batch of this key with `size` bytes can be parked, which may cost another key's last ones."""
        lot = self._lots.get(key_id)
        if lot and (len(lot.batches) >= LOT_BATCHES or lot.size + size > LOT_BYTES):
            return False
        if self.size + size <= TOTAL_BYTES:
            return True
        return self._largest().size > (lot.size if lot else 0) + size

    def put(self, device: str, place: Place, batch: Candidate) -> None:
        """Parks `batch`, for which there is room."""
        while self.size + batch.size > TOTAL_BYTES:
            largest = self._largest()
            key_id = next(key for key, lot in self._lots.items() if lot is largest)
            # Its last ones: those nearest to its chain's end are the first that can be admitted.
            self.remove(Place(key_id, *max(largest.batches)))
        lot = self._lots.setdefault(place.key_id, _Lot(device, self._now_s()))
        lot.batches[place.epoch, place.seq] = batch
        lot.size += batch.size
        self.size += batch.size

    def remove(self, place: Place) -> Candidate | None:
        """The batch at `place`, which is parked no longer."""
        lot = self._lots.get(place.key_id)
        batch = lot.batches.pop((place.epoch, place.seq), None) if lot else None
        if lot is None or batch is None:
            return None
        lot.size -= batch.size
        self.size -= batch.size
        if not lot.batches:
            del self._lots[place.key_id]
        return batch

    def moved(self, place: Place) -> None:
        """The chain has come to `place`: what was parked for places up to it can never be admitted."""
        lot = self._lots.get(place.key_id)
        if lot is None:
            return
        lot.since_s, lot.hinted = self._now_s(), False
        for at in [at for at in lot.batches if at <= (place.epoch, place.seq)]:
            self.remove(Place(place.key_id, *at))

    def tire(self) -> list[tuple[str, Place]]:
        """The first parked place of each device that has waited too long, told once; what nobody misses is gone."""
        now = self._now_s()
        for key_id, lot in list(self._lots.items()):
            if now - lot.since_s >= FORGET_AFTER_S:
                for at in list(lot.batches):
                    self.remove(Place(key_id, *at))
        waiting = []
        for key_id, lot in self._lots.items():
            if not lot.hinted and now - lot.since_s >= HINT_AFTER_S:
                lot.hinted = True
                waiting.append((lot.device, Place(key_id, *min(lot.batches))))
        return waiting

    def _largest(self) -> _Lot:
        return max(self._lots.values(), key=lambda lot: lot.size)
