"""RFC 6962 Merkle trees: hashing, inclusion and consistency, as pure functions over plain values.

`prove_*` and `check_*` are mirrored pairs. Provers read hashes of complete subtrees through a
`ReadHash(level, index)`: the hash over the leaves from index x 2^level, 2^level of them. Where the hashes live
(memory, tiles on disk, HTTP) is the caller's business. Checkers raise and never return a bool.

The published vectors of transparency-dev/merkle are run by `tests/ledger/test_merkle.py`.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ledger.errors import MalformedError, VerificationError

EMPTY_ROOT = hashlib.sha256(b"").digest()

# 63 levels over a leaf: the limit of tlog-witness and tlog-proof, and more than 2^62 entries.
MAX_PROOF = 63

ReadHash: TypeAlias = Callable[[int, int], bytes]

_sha256 = hashlib.sha256


def hash_leaf(entry: bytes) -> bytes:
    """The hash of an entry as a leaf: SHA-256(0x00 || entry) (RFC 6962 section 2.1)."""
    return _sha256(b"\x00" + entry).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: SHA-256(0x01 || left || right) (RFC 6962 section 2.1)."""
    return _sha256(b"\x01" + left + right).digest()


def tree_levels(leaf_hashes: Sequence[bytes]) -> list[list[bytes]]:
    """Every level of a tree of at least one leaf, leaves first, root alone last; an odd node moves up as it is."""
    levels = [list(leaf_hashes)]
    while len(below := levels[-1]) > 1:
        pairs = zip(below[::2], below[1::2], strict=False)
        above = [_sha256(b"\x01" + left + right).digest() for left, right in pairs]
        if len(below) % 2:
            above.append(below[-1])
        levels.append(above)
    return levels


def tree_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over `leaf_hashes` in order; SHA-256 of nothing for none."""
    return tree_levels(leaf_hashes)[-1][0] if leaf_hashes else EMPTY_ROOT


def level_path(levels: Sequence[Sequence[bytes]], index: int) -> list[bytes]:
    """The inclusion proof of leaf `index` out of `tree_levels`."""
    path = []
    for level in levels[:-1]:
        if (sibling := index ^ 1) < len(level):
            path.append(level[sibling])
        index >>= 1
    return path


def range_hash(low: int, high: int, read: ReadHash) -> bytes:
    """The root over the leaves [low, high), where `low` is a multiple of the span's largest power of two."""
    roots = []
    while low < high:
        level = (high - low).bit_length() - 1
        roots.append(read(level, low >> level))
        low += 1 << level
    total = roots.pop()
    while roots:
        total = hash_node(roots.pop(), total)
    return total


def root_at(size: int, read: ReadHash) -> bytes:
    """The root of the tree's first `size` leaves."""
    return range_hash(0, size, read) if size else EMPTY_ROOT


def prove_inclusion(index: int, size: int, read: ReadHash) -> list[bytes]:
    """The audit path of leaf `index` in the tree of `size` leaves, from the leaf up (RFC 6962 section 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    low, high, path = 0, size, []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(range_hash(middle, high, read))
            high = middle
        else:
            path.append(range_hash(low, middle, read))
            low = middle
    return path[::-1]


def prove_consistency(old: int, new: int, read: ReadHash) -> list[bytes]:
    """The proof that the tree of `new` leaves extends the one of `old` (RFC 6962 section 2.1.2); empty for 0."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not extend one of {old}")
    if old == 0:
        return []
    low, high, path = 0, new, []
    while high != old:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(range_hash(middle, high, read))
            high = middle
        else:
            path.append(range_hash(low, middle, read))
            low = middle
    if low:
        # The old tree is not a complete subtree from 0, so the verifier cannot know its last part's hash.
        path.append(range_hash(low, high, read))
    return path[::-1]


def check_inclusion(index: int, size: int, leaf_hash: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Leaf `index` of the tree with `size` leaves and `root` has `leaf_hash`.

    Raises:
        VerificationError: the index is outside the tree, the proof's length is not the one that index and
            size demand, or it leads to another root.
    """
    if not 0 <= index < size:
        raise VerificationError(f"index {index} is outside a tree of size {size}")
    if len(leaf_hash) != 32 or len(root) != 32:
        raise VerificationError("a leaf hash and a root have 32 bytes")
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    if len(proof) != inner + border:
        raise VerificationError(f"inclusion proof has {len(proof)} hashes where {inner + border} are due")
    computed = leaf_hash
    for level, sibling in enumerate(proof[:inner]):
        computed = hash_node(sibling, computed) if index >> level & 1 else hash_node(computed, sibling)
    for sibling in proof[inner:]:
        computed = hash_node(sibling, computed)
    if computed != root:
        raise VerificationError("inclusion proof leads to another root")


def check_consistency(  # noqa: C901 - one derivation, which pieces would hide
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """The tree (`new`, `new_root`) extends the tree (`old`, `old_root`).

    Raises:
        VerificationError: the sizes are the wrong way round, the proof has another length than the sizes
            demand, or does not lead from one root to the other.
    """
    if not 0 <= old <= new:
        raise VerificationError(f"size {old} is not a prefix of size {new}")
    if old in (0, new):
        if proof:
            raise VerificationError("consistency proof must be empty for these sizes")
        if old == new and old_root != new_root:
            raise VerificationError(f"two roots for the same size {new}")
        if old == 0 and old_root != EMPTY_ROOT:
            raise VerificationError("size 0 with a root that is not the hash of nothing")
        return
    shift = (old & -old).bit_length() - 1
    inner = ((old - 1) ^ (new - 1)).bit_length() - shift
    border = ((old - 1) >> (inner + shift)).bit_count()
    seeded = old != 1 << shift
    if len(proof) != seeded + inner + border:
        raise VerificationError(f"consistency proof has {len(proof)} hashes where {seeded + inner + border} are due")
    seed = proof[0] if seeded else old_root
    path = proof[seeded:]
    mask = (old - 1) >> shift
    was = now = seed
    for level, sibling in enumerate(path[:inner]):
        if mask >> level & 1:
            was, now = hash_node(sibling, was), hash_node(sibling, now)
        else:
            now = hash_node(now, sibling)
    for sibling in path[inner:]:
        was, now = hash_node(sibling, was), hash_node(sibling, now)
    if was != old_root:
        raise VerificationError("consistency proof does not start at the old root")
    if now != new_root:
        raise VerificationError("consistency proof does not lead to the new root")


def join_path(path: Sequence[bytes]) -> bytes:
    """A path as one byte string, as our binary formats carry it."""
    return b"".join(path)


def split_path(joined: bytes, what: str) -> list[bytes]:
    """The path that `join_path` made: a multiple of 32 bytes, at most `MAX_PROOF` hashes."""
    if len(joined) % 32 or len(joined) > 32 * MAX_PROOF:
        raise MalformedError(f"{what}: {len(joined)} bytes are not 0 to {MAX_PROOF} hashes")
    return [joined[at : at + 32] for at in range(0, len(joined), 32)]


def _split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << ((count - 1).bit_length() - 1)
