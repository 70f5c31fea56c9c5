"""What is owed to devices: receipts for committed batches, as soon as a checkpoint covers them.

Sans-I/O. `owe` remembers a committed batch; `due` builds the messages for all that a published tree covers, one
checkpoint and one consistency proof per device, coalesced. A device demands consistency with the largest checkpoint
that it has verified; which one that is it says in its status, and after a receipt we assume that it verified it.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field

from ledger.receipt import Placed, Receipt, split_receipts
from ledger.tiles import TileReader

# As many as a device may have in flight: when it says that a receipt did not fit, these are sent again.
RECENT = 256


@dataclass(frozen=True, slots=True)
class Owed:
    """A committed batch of a device, without its receipt yet."""

    epoch: int
    seq: int
    index: int


@dataclass(slots=True)
class _Device:
    size: int = 0
    owed: dict[int, Owed] = field(default_factory=dict)
    recent: deque[Owed] = field(default_factory=lambda: deque(maxlen=RECENT))


class Outgoing:
    """Receipts to come, by device; used under the service's lock."""

    def __init__(self) -> None:
        self._devices: defaultdict[str, _Device] = defaultdict(_Device)

    def owe(self, device: str, owed: Owed) -> None:
        """`device` gets a receipt for this batch once a checkpoint covers it; owing it twice is owing it once."""
        self._devices[device].owed[owed.index] = owed

    def heard(self, device: str, size: int) -> None:
        """`device` said that the largest checkpoint it has verified is of `size`."""
        state = self._devices[device]
        if size != state.size:
            # It has not verified what was sent last: a lost or a misfitting receipt. Send again, from there.
            state.size = size
            state.owed.update((item.index, item) for item in state.recent)
            state.recent.clear()

    def due(self, tree: TileReader, checkpoint: bytes) -> list[tuple[str, Receipt]]:
        """The receipts that can go out now that `checkpoint` of `tree` is published; they are no longer owed."""
        receipts: list[tuple[str, Receipt]] = []
        settled: list[tuple[_Device, list[Owed]]] = []
        for device, state in self._devices.items():
            covered = [owed for index, owed in sorted(state.owed.items()) if index < tree.size]
            if not covered:
                continue
            # A device that claims more than there is has another log in mind; it will refuse and say so.
            old = state.size if state.size <= tree.size else 0
            placed = [Placed(o.epoch, o.seq, o.index, tuple(tree.prove_inclusion(o.index))) for o in covered]
            consistency = tree.prove_consistency(old)
            receipts += [(device, receipt) for receipt in split_receipts(checkpoint, old, consistency, placed)]
            settled.append((state, covered))
        # Only now, when every proof was made: what is owed stays owed if one of them cannot be.
        for state, covered in settled:
            for owed in covered:
                del state.owed[owed.index]
            state.recent.extend(covered)
            state.size = tree.size
        return receipts

    def waiting(self) -> int:
        """How many batches are committed and without a receipt."""
        return sum(len(state.owed) for state in self._devices.values())
