"""The leaves of one batch as they are kept and shown: each whole, or its hash alone.

    leaves = [[salt, body] | leaf hash, ...]     leaf 0 is the batch info

A leaf that was erased, or that is not to be disclosed, leaves its hash, which tells nothing without the salt, so that
its neighbours can still be proven.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ledger import canonical, merkle
from ledger.batch import SALT_SIZE, Header, leaf_hash
from ledger.canonical import Value
from ledger.errors import MalformedError, VerificationError
from ledger.reading import MAX_WAVEFORM

MAX_BODY = MAX_WAVEFORM + 256  # a waveform reading with its other fields; the info of 128 sources fits too


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a batch: its salt and its canonical bytes."""

    salt: bytes
    body: bytes


Leaves: TypeAlias = Sequence[Leaf | bytes]


def leaves_value(leaves: Leaves) -> Value:
    """`leaves` as they are encoded."""
    return tuple(leaf if isinstance(leaf, bytes) else (leaf.salt, leaf.body) for leaf in leaves)


def parse_leaves(value: Value, what: str) -> tuple[Leaf | bytes, ...]:
    """The leaves that `leaves_value` gave; raises MalformedError."""
    if type(value) is not tuple:
        raise MalformedError(f"{what}: not an array")
    return tuple(_leaf(item, what) for item in value)


def check_leaves(header: Header, leaves: Leaves) -> list[bytes]:
    """The leaf hashes of a batch, shown to lead to its root; raises VerificationError."""
    place = (header.key_id, header.epoch, header.seq)
    hashes = [
        leaf if isinstance(leaf, bytes) else leaf_hash(*place, index, leaf.salt, leaf.body)
        for index, leaf in enumerate(leaves)
    ]
    if len(hashes) != header.count + 1:
        raise VerificationError(f"{len(hashes)} leaves where the header counts {header.count + 1}")
    if merkle.tree_root(hashes) != header.root:
        raise VerificationError("the leaves do not lead to the root in the header")
    return hashes


def _leaf(item: Value, what: str) -> Leaf | bytes:
    if type(item) is bytes:
        return canonical.binary(item, f"{what}: leaf hash", 32)
    salt, body = canonical.fields(item, 2, f"{what}: leaf")
    return Leaf(
        canonical.binary(salt, f"{what}: salt", SALT_SIZE), canonical.binary(body, f"{what}: body", 1, MAX_BODY)
    )
