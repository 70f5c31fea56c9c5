"""The private half of a batch, kept beside its entry: salt and bytes of every leaf; and proofs made from it.

The batch secret is not in it: it would bring an erased salt back.
"""

from collections.abc import Sequence

from ledger import canonical, merkle
from ledger.batch import Header
from ledger.entry import BatchEntry
from ledger.errors import VerificationError
from ledger.keys import key_id
from ledger.leaves import Leaf, Leaves, check_leaves, parse_leaves
from ledger.note import parse_note
from ledger.proof import LeafProof, ReadingProof
from ledger.tiles import TileReader


def format_payload(salts: Sequence[bytes], bodies: Sequence[bytes]) -> bytes:
    """The payload of a batch that is whole."""
    return canonical.encode(tuple(zip(salts, bodies, strict=True)))


def parse_payload(data: bytes) -> tuple[Leaf | bytes, ...]:
    """The leaves in `data`; raises MalformedError."""
    return parse_leaves(canonical.decode(data, "payload"), "payload")


def prove_leaf(
    entry: BatchEntry,
    leaves: Leaves,
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
    hashes = check_leaves(header, leaves)
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
