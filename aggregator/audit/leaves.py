"""What is known of one batch's leaves, and what they have to lead to."""

from dataclasses import dataclass

from ledger import merkle
from ledger.batch import Header, leaf_hash
from ledger.errors import LedgerError, VerificationError
from ledger.leaves import Leaf
from ledger.writer.payload import parse_payload


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as it ought to be: `leaves` (of its payload) or `hashes` lead to the root, or neither is known."""

    index: int
    header: Header
    device: str
    leaves: tuple[Leaf | bytes, ...] | None
    hashes: tuple[bytes, ...] | None

    @property
    def is_known(self) -> bool:
        """Whether a row of it can be judged."""
        return self.leaves is not None or self.hashes is not None

    def is_leaf(self, leaf: int, body: bytes, salt: bytes) -> bool:
        """Whether these are the bytes behind leaf `leaf`."""
        known = self.leaves[leaf] if self.leaves is not None else None
        if isinstance(known, Leaf):
            return known.body == body and known.salt == salt
        expected = known if self.hashes is None else self.hashes[leaf]
        header = self.header
        return expected == leaf_hash(header.key_id, header.epoch, header.seq, leaf, salt, body)

    def leaf(self, leaf: int) -> Leaf | None:
        """A leaf's bytes, if its payload has them."""
        known = self.leaves[leaf] if self.leaves is not None else None
        return known if isinstance(known, Leaf) else None


def sound_leaves(payload: bytes, header: Header, hashes: tuple[bytes, ...]) -> tuple[Leaf | bytes, ...] | None:
    """Of a payload that does not lead to the log, the leaves that do, among `hashes`; None if it cannot be read."""
    try:
        leaves = parse_payload(payload)
    except LedgerError:
        return None
    place = (header.key_id, header.epoch, header.seq)
    sound: list[Leaf | bytes] = list(hashes)
    for at, (leaf, expected) in enumerate(zip(leaves, hashes, strict=False)):
        if isinstance(leaf, Leaf) and leaf_hash(*place, at, leaf.salt, leaf.body) == expected:
            sound[at] = leaf
    return tuple(sound)


def check_hashes(header: Header, hashes: tuple[bytes, ...]) -> None:
    """Leaf hashes lead to the root that the device signed; raises VerificationError."""
    if len(hashes) != header.count + 1 or any(len(item) != 32 for item in hashes):
        raise VerificationError(f"not {header.count + 1} leaf hashes")
    if merkle.tree_root(hashes) != header.root:
        raise VerificationError("the leaf hashes do not lead to the root that the device signed")
