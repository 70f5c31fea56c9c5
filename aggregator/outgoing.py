"""What is owed to devices: receipts for committed batches, as soon as a checkpoint covers them.

Sans-I/O; used from any thread. `owe` remembers a committed batch; `due` builds the messages for all that a published
tree covers, one checkpoint and one consistency proof per device, coalesced. A device demands consistency with the
largest checkpoint that it has verified; which one that is it says in its status, and after a receipt we assume that it
verified it.

However long the witnesses are away and nothing is published, a bounded number of batches is remembered of each device.
Of those behind them only the first is, and `refill` finds the others again along the device's chain.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ledger.receipt import MAX_PLACED, Placed, Receipt, split_receipts
from ledger.tiles import TileReader
from ledger.writer.storage import Place

# As many as a device may have in flight: when it says that a receipt did not fit, these are sent again.
RECENT = 256
MAX_OWED = MAX_PLACED  # of one device: what a receipt may name, and then some seconds of the fastest device
Find = Callable[[Place], tuple[int, bytes] | None]


@dataclass(frozen=True, slots=True)
class Owed:
    """A committed batch of a device, without its receipt yet."""

    place: Place
    index: int


@dataclass(slots=True)
class _Device:
    """`owed` is by index; `behind` has, by key, the first batch that found no room there, and `newest` the last one."""

    size: int = 0
    owed: dict[int, Owed] = field(default_factory=dict)
    recent: deque[Owed] = field(default_factory=lambda: deque(maxlen=RECENT))
    behind: dict[bytes, Owed] = field(default_factory=dict)
    newest: dict[bytes, int] = field(default_factory=dict)
    uncounted: int = 0  # how many are behind


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a device gets once the proofs are made, if it has not said anything else by then."""

    device: str
    size: int
    covered: list[Owed]


class Outgoing:
    """Receipts to come, by device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._devices: defaultdict[str, _Device] = defaultdict(_Device)

    def owe(self, device: str, owed: Owed) -> None:
        """`device` gets a receipt for this batch once a checkpoint covers it; owing it twice is owing it once."""
        with self._lock:
            self._owe(self._devices[device], owed)

    def _owe(self, state: _Device, owed: Owed) -> None:
        key_id = owed.place.key_id
        new = owed.index > state.newest.get(key_id, -1)
        if new:
            state.newest[key_id] = owed.index
        first = state.behind.get(key_id)
        if (first is None or owed.index < first.index) and (len(state.owed) < MAX_OWED or owed.index in state.owed):
            state.owed[owed.index] = owed
        elif new:
            # Order: whatever of this chain comes from here on comes behind it, and `refill` meets it there.
            state.behind.setdefault(key_id, owed)
            state.uncounted += 1

    def heard(self, device: str, size: int) -> None:
        """`device` said that the largest checkpoint it has verified is of `size`."""
        with self._lock:
            state = self._devices[device]
            if size != state.size:
                # It has not verified what was sent last: a lost or a misfitting receipt. Send again, from there.
                state.size = size
                state.owed.update((item.index, item) for item in state.recent)
                state.recent.clear()

    def due(self, tree: TileReader, checkpoint: bytes) -> list[tuple[str, Receipt]]:
        """The receipts that can go out now that `checkpoint` of `tree` is published; they are no longer owed."""
        receipts: list[tuple[str, Receipt]] = []
        claims = self._claims(tree.size)
        built: list[tuple[_Claim, list[Receipt]]] = []
        # Reading tiles takes long, and those who answer devices must not wait for it.
        for claim in claims:
            # A device that claims more than there is has another log in mind; it will refuse and say so.
            old = claim.size if claim.size <= tree.size else 0
            placed = [
                Placed(owed.place.epoch, owed.place.seq, owed.index, tuple(tree.prove_inclusion(owed.index)))
                for owed in claim.covered
            ]
            built.append((claim, split_receipts(checkpoint, old, tree.prove_consistency(old), placed)))
        # Only now, when every proof was made: what is owed stays owed if one of them cannot be.
        with self._lock:
            for claim, portions in built:
                state = self._devices[claim.device]
                if state.size != claim.size:
                    continue  # it has said meanwhile that it stands elsewhere; the next receipt starts from there
                for owed in claim.covered:
                    state.owed.pop(owed.index, None)
                state.recent.extend(claim.covered)
                state.size = tree.size
                receipts += [(claim.device, receipt) for receipt in portions]
        return receipts

    def _claims(self, size: int) -> list[_Claim]:
        with self._lock:
            return [
                _Claim(device, state.size, covered)
                for device, state in self._devices.items()
                if (covered := [owed for index, owed in sorted(state.owed.items()) if index < size])
            ]

    def refill(self, find: Find, size: int) -> None:
        """What found no room is owed again as far as there is room, looked up by `find`, once `size` covers it."""
        with self._lock:
            waiting = [
                (state, first)
                for state in self._devices.values()
                for first in state.behind.values()
                if first.index < size and len(state.owed) < MAX_OWED
            ]
        for state, first in waiting:
            self._refill(state, first, find)

    def _refill(self, state: _Device, first: Owed, find: Find) -> None:
        found = [first]
        while len(found) <= MAX_OWED and (after := _after(found[-1].place, find)):
            found.append(after)
        with self._lock:
            room = max(0, MAX_OWED - len(state.owed))
            taken, rest = found[:room], found[room:]
            state.owed.update((owed.index, owed) for owed in taken)
            state.uncounted = max(0, state.uncounted - len(taken))
            # A batch that was committed since the look-up either is found now, or is owed after this lock is free.
            left = rest[0] if rest else _after(found[-1].place, find)
            if left:
                state.behind[first.place.key_id] = left
            else:
                del state.behind[first.place.key_id]

    def waiting(self) -> int:
        """How many batches are committed and without a receipt."""
        with self._lock:
            return sum(len(state.owed) + state.uncounted for state in self._devices.values())


def _after(place: Place, find: Find) -> Owed | None:
    """The next batch of the chain, if the log has one."""
    for at in (Place(place.key_id, place.epoch, place.seq + 1), Place(place.key_id, place.epoch + 1, 0)):
        if found := find(at):
            return Owed(at, found[0])
    return None
