"""The private half of a batch, kept beside its entry: salt and bytes of every leaf; and the proof of one leaf.

    payload = [[salt, body] | leaf hash, ...]     leaf 0 is the batch info

An erased leaf leaves its hash, which tells nothing without the salt, so that its neighbours can still be proven.
The batch secret is not in it: it would bring an erased salt back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger import canonical, merkle
from ledger.batch import SALT_SIZE, Header, leaf_hash
from ledger.entry import BatchEntry
from ledger.errors import MalformedError, VerificationError
from ledger.keys import key_id
from ledger.note import parse_note
from ledger.proof import LeafProof, ReadingProof
from ledger.tiles import TileReader


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a batch: its salt and its canonical bytes."""

    salt: bytes
    body: bytes


def format_payload(salts: Sequence[bytes], bodies: Sequence[bytes]) -> bytes:
    """The payload of a batch that is whole."""
    return canonical.encode(tuple(zip(salts, bodies, strict=True)))


def parse_payload(data: bytes) -> list[Leaf | bytes]:
    """The leaves in `data`; raises MalformedError."""
    value = canonical.decode(data, "payload")
    if type(value) is not tuple:
        raise MalformedError("payload: not an array")
    leaves: list[Leaf | bytes] = []
    for item in value:
        if type(item) is bytes:
            leaves.append(canonical.binary(item, "payload: leaf hash", 32))
            continue
        salt, body = canonical.fields(item, 2, "payload: leaf")
        leaves.append(
            Leaf(
                canonical.binary(salt, "payload: salt", SALT_SIZE),
                canonical.binary(body, "payload: body", 1, len(data)),
            )
        )
    return leaves


def payload_hashes(header: Header, leaves: Sequence[Leaf | bytes]) -> list[bytes]:
    """The leaf hashes of a batch, shown to lead to its root; raises VerificationError."""
    place = (header.key_id, header.epoch, header.seq)
    hashes = [
        leaf if isinstance(leaf, bytes) else leaf_hash(*place, index, leaf.salt, leaf.body)
        for index, leaf in enumerate(leaves)
    ]
    if len(hashes) != header.count + 1 or merkle.tree_root(hashes) != header.root:
        raise VerificationError("the payload does not lead to the root in the header")
    return hashes


def prove_leaf(
    entry: BatchEntry,
    leaves: Sequence[Leaf | bytes],
    leaf_index: int,
    *,
    algorithm: int,
    public_key: bytes,
) -> LeafProof:
    """The proof of leaf `leaf_index` in the batch `entry`; raises VerificationError if it cannot be proven."""
    header = Header.decode(entry.header)
    if not 0 <= leaf_index <= header.count:
        raise VerificationError(f"leaf {leaf_index}: the batch has leaves 0 to {header.count}")
    if header.key_id != key_id(algorithm, public_key):
        raise VerificationError("the public key is not the one that the header names")
    hashes = payload_hashes(header, leaves)
    leaf = leaves[leaf_index]
    if isinstance(leaf, bytes):
        raise VerificationError(f"leaf {leaf_index} was erased")
    path = merkle.level_path(merkle.tree_levels(hashes), leaf_index)
    return LeafProof(
        algorithm, public_key, entry.header, entry.signature, leaf_index, leaf.salt, tuple(path), leaf.body
    )


def prove_reading(leaf: LeafProof, index: int, tree: TileReader, checkpoint: bytes) -> ReadingProof:
    """The proof file's content for `leaf`, whose entry is at `index` of the published `tree`."""
    return ReadingProof(leaf, index, tuple(tree.prove_inclusion(index)), parse_note(checkpoint, "checkpoint"))
