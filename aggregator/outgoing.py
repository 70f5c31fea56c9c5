"""What is owed to devices: receipts for committed batches, as soon as a checkpoint covers them.

Sans-I/O; used from any thread. `owe` remembers a committed batch; `due` builds the messages for what a published tree
covers, a portion of it at a time, one checkpoint and one consistency proof per device, coalesced. A device demands
consistency with the largest checkpoint that it has verified; which one that is it says in its status, and after a
receipt we assume that it verified it. Where it says otherwise, every batch that its checkpoint does not cover is owed
again (`owe_since`): after a restart, or when receipts were lost on their way.

However long the witnesses or a device are away, a bounded number of batches is remembered of each device. Of those
behind them only the first is, and `refill` finds the others again along the device's chain.
"""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from ledger.messages import Placed, Receipt
from ledger.splitting import split_receipts
from ledger.tiles import TileReader
from ledger.writer.storage import Place

# Of one device, 200 bytes each: what it may have in flight. A fleet of 10,000 without a quorum takes 500 MB.
MAX_OWED = 256
PORTION = 4096  # receipts of all devices built at a time, some 4 MB: after an outage all of them would fill the memory
Find = Callable[[Place], tuple[int, bytes] | None]
Follow = Callable[[Place, int], list[tuple[int, Place]]]


@dataclass(frozen=True, slots=True)
class Owed:
    """A committed batch of a device, without its receipt yet."""

    place: Place
    index: int


@dataclass(slots=True)
class _Device:
    """`owed` is by index; `behind` has, by key, the first batch that found no room there, and `newest` the last one."""

    size: int | None = None  # that it has verified; None until we heard of it
    owed: dict[int, Owed] = field(default_factory=dict)
    behind: dict[bytes, Owed] = field(default_factory=dict)
    newest: dict[bytes, int] = field(default_factory=dict)
    uncounted: int = 0  # how many are behind


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a device gets once the proofs are made, if it has not said anything else by then."""

    device: str
    size: int | None
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

    def heard(self, device: str, size: int) -> bool:
        """`device` said that the largest checkpoint it has verified is of `size`; whether we did not know.

        Then it has not verified what was sent last, if anything was: what that checkpoint does not cover is owed again.
        """
        with self._lock:
            state = self._devices[device]
            known, state.size = state.size, size
        return size != known

    def owe_since(self, device: str, first: Owed, newest: Owed) -> None:
        """`device` gets receipts, in order, for `first` and all that follows in its chain, so far up to `newest`."""
        key_id = first.place.key_id
        with self._lock:
            state = self._devices[device]
            # `refill` meets these again, in their order.
            state.owed = {
                index: owed for index, owed in state.owed.items() if owed.place.key_id != key_id or index < first.index
            }
            behind = state.behind.get(key_id)
            if behind is None or first.index < behind.index:
                state.behind[key_id] = first
                end = newest.place.seq + 1 if behind is None else behind.place.seq
                state.uncounted += end - first.place.seq
            state.newest[key_id] = max(newest.index, state.newest.get(key_id, -1))

    def due(self, tree: TileReader, checkpoint: bytes) -> list[tuple[str, Receipt]]:
        """The receipts that can go out now that `checkpoint` of `tree` is published; they are no longer owed.

        A portion of them: the devices that it leaves out are first the next time.
        """
        receipts: list[tuple[str, Receipt]] = []
        claims = self._claims(tree.size)
        built: list[tuple[_Claim, list[Receipt]]] = []
        # Reading tiles takes long, and those who answer devices must not wait for it.
        for claim in claims:
            # A device that claims more than there is has another log in mind; it will refuse and say so.
            old = claim.size if claim.size is not None and claim.size <= tree.size else 0
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
                state.size = tree.size
                receipts += [(claim.device, receipt) for receipt in portions]
        return receipts

    def stands(self, device: str) -> int | None:
        """The size of the largest checkpoint that `device` has verified, as far as we know; None before it said so."""
        with self._lock:
            state = self._devices.get(device)
            return state.size if state else None

    def owes(self, device: str, size: int) -> bool:
        """Whether `device` still has to get a receipt that a tree of `size` entries proves."""
        with self._lock:
            state = self._devices.get(device)
            if state is None:
                return False
            return any(index < size for index in state.owed) or any(one.index < size for one in state.behind.values())

    def moves(self, device: str, old: int | None, new: int) -> bool:
        """`device`, which stood at `old`, is sent what leads it to `new`; False if it has said otherwise since."""
        with self._lock:
            state = self._devices[device]
            if state.size != old:
                return False
            state.size = new
            return True

    def _claims(self, size: int) -> list[_Claim]:
        claims, room = [], PORTION
        with self._lock:
            for device, state in list(self._devices.items()):
                covered = [owed for index, owed in sorted(state.owed.items()) if index < size][:room]
                if covered:
                    claims.append(_Claim(device, state.size, covered))
                    room -= len(covered)
                    self._devices[device] = self._devices.pop(device)  # at the end
                if not room:
                    break
        return claims

    def refill(self, follow: Follow, size: int) -> None:
        """What found no room is owed again as far as there is room, looked up by `follow`, once `size` covers it."""
        with self._lock:
            waiting = [
                (state, first)
                for state in self._devices.values()
                for first in state.behind.values()
                if first.index < size and len(state.owed) < MAX_OWED
            ]
        for state, first in waiting:
            self._refill(state, first, follow)

    def _refill(self, state: _Device, first: Owed, follow: Follow) -> None:
        found = [first, *_after(first, MAX_OWED, follow)]
        with self._lock:
            if state.behind.get(first.place.key_id) is not first:
                return  # meanwhile the device said that it stands further back
            room = max(0, MAX_OWED - len(state.owed))
            taken, rest = found[:room], found[room:]
            state.owed.update((owed.index, owed) for owed in taken)
            state.uncounted = max(0, state.uncounted - len(taken))
            # A batch that was committed since the look-up either is found now, or is owed after this lock is free.
            left = rest or _after(found[-1], 1, follow)
            if left:
                state.behind[first.place.key_id] = left[0]
            else:
                del state.behind[first.place.key_id]

    def waiting(self) -> int:
        """How many batches are committed and without a receipt."""
        with self._lock:
            return sum(len(state.owed) + state.uncounted for state in self._devices.values())


def since(size: int, head: Place, find: Find) -> tuple[Owed, Owed] | None:
    """The first and the last batch of the epoch that ends in `head` that are at or after index `size`, if any are.

    Of the epochs before, the device has lost what had no receipt.
    """

    def at(seq: int) -> Owed:
        place = Place(head.key_id, head.epoch, seq)
        found = find(place)
        if found is None:
            raise LookupError(f"epoch {head.epoch} seq {seq} is not on the log, and seq {head.seq} is")
        return Owed(place, found[0])

    newest = at(head.seq)
    if newest.index < size:
        return None  # nearly always, so nothing else is looked up
    # Of one device the order of the chain is that of the log.
    first = bisect_left(range(head.seq), size, key=lambda seq: at(seq).index)
    return at(first), newest


def _after(owed: Owed, count: int, follow: Follow) -> list[Owed]:
    """The next batches of the chain, as many as the log has."""
    return [Owed(place, index) for index, place in follow(owed.place, count)]
