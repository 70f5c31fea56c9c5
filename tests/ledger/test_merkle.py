"""RFC 6962 hashing and proofs, against the published vectors and a naive reading of the RFC."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import merkle
from ledger.errors import MalformedError, VerificationError
from ledger.strict import decode_base64

from . import builders as b
from .published import published
from .strategies import examples, hashes

# Published cases of an empty proof from size 0. Their authors want an error; the witness protocol needs it to be good,
# and so we accept it where the old root is the hash of nothing, which is the case in the second only.
EQUAL_ZERO = "consistency/additional/sizes-are-equal-zero-and-proof-is-empty.json"
ZERO_TO_ONE = "consistency/additional/size1-is-zero-and-size2-is-not-zero.json"
# Its root and leaf are empty strings, where a hash has 32 bytes.
NO_HASHES = "inclusion/single-entry/empty-root-and-leaf.json"


def leaves(count):
    """`count` different leaf hashes."""
    return [b.hash_entry(b"%d" % at) for at in range(count)]


def reader(leaf_hashes):
    """A `ReadHash` over leaf hashes, by the naive definition; refuses what is not a complete subtree."""

    def read(level, index):
        part = leaf_hashes[index << level : (index + 1) << level]
        assert len(part) == 1 << level
        return b.naive_root(part)

    return read


def decoded(items):
    """A list of base64 strings, or nothing, as bytes."""
    return [decode_base64(item, "vector") for item in items or []]


def outcome(check, *arguments):
    """Whether a checker refused."""
    try:
        check(*arguments)
    except VerificationError:
        return True
    return False


def root_of(vector, name):
    """A root of a published vector: absent there means empty."""
    return decode_base64(vector[name] or "", "vector")


@published("rfc6962/inclusion")
def test_inclusion_published(path):
    """Each published inclusion proof is accepted or refused as its authors say."""
    vector = json.loads(path.read_text())
    refused = outcome(
        merkle.check_inclusion,
        vector["leafIdx"],
        vector["treeSize"],
        root_of(vector, "leafHash"),
        decoded(vector["proof"]),
        root_of(vector, "root"),
    )
    assert refused == vector["wantErr"]


@published("rfc6962/consistency")
def test_consistency_published(path):
    """Each published consistency proof is accepted or refused as its authors say, but for those from size 0."""
    vector = json.loads(path.read_text())
    refused = outcome(
        merkle.check_consistency,
        vector["size1"],
        vector["size2"],
        root_of(vector, "root1"),
        root_of(vector, "root2"),
        decoded(vector["proof"]),
    )
    if path.as_posix().endswith((EQUAL_ZERO, ZERO_TO_ONE)):
        assert vector["wantErr"]
        assert refused == (root_of(vector, "root1") != merkle.EMPTY_ROOT)
    else:
        assert refused == vector["wantErr"]


def test_consistency_from_size_zero():
    """The empty proof is good from size 0 to any size, 0 included, and no other proof is."""
    for new in (0, 1, 2, 7):
        root = b.naive_root(leaves(new))
        merkle.check_consistency(0, new, merkle.EMPTY_ROOT, root, [])
        assert outcome(merkle.check_consistency, 0, new, merkle.EMPTY_ROOT, root, [bytes(32)])
        assert outcome(merkle.check_consistency, 0, new, bytes(32), root, [])


@examples
@given(st.integers(0, 300))
def test_root_naive(count):
    """The root is RFC 6962's MTH, by every way of computing it."""
    tree = leaves(count)
    expected = b.naive_root(tree)
    assert merkle.tree_root(tree) == expected
    assert merkle.root_at(count, reader(tree)) == expected


def test_hashes_have_their_prefixes():
    """A leaf and a node over the same bytes differ, as RFC 6962 section 2.1 prefixes them."""
    assert merkle.hash_leaf(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert merkle.hash_node(bytes(32), bytes(32)) != merkle.hash_leaf(bytes(64))
    assert merkle.EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_inclusion_of_every_leaf_in_every_small_tree():
    """For sizes 1 to 40 each proof is RFC 6962's PATH, checks, and checks nowhere else."""
    for size in range(1, 41):
        tree = leaves(size)
        root = b.naive_root(tree)
        levels = merkle.tree_levels(tree)
        for index in range(size):
            proof = merkle.prove_inclusion(index, size, reader(tree))
            assert proof == b.naive_path(index, tree)
            assert merkle.level_path(levels, index) == proof
            merkle.check_inclusion(index, size, tree[index], proof, root)
            elsewhere = [
                (other, total)
                for total in range(1, 44)
                for other in range(total)
                if (other, total) != (index, size)
                and not outcome(merkle.check_inclusion, other, total, tree[index], proof, root)
            ]
            # A proof's shape does not always tell the size of a tree: the signed size does. Never the index.
            assert {other for other, total in elsewhere if total == size} == set()


def test_consistency_of_every_pair_of_small_trees():
    """For sizes 0 to 40 each proof is RFC 6962's PROOF, checks, and does not check for another old root."""
    for new in range(41):
        tree = leaves(new)
        for old in range(new + 1):
            proof = merkle.prove_consistency(old, new, reader(tree))
            assert proof == (b.naive_consistency(old, tree) if old else [])
            roots = (b.naive_root(tree[:old]), b.naive_root(tree))
            merkle.check_consistency(old, new, *roots, proof)
            assert outcome(merkle.check_consistency, old, new, bytes(32), roots[1], proof)
            if old:
                assert outcome(merkle.check_consistency, old, new, roots[0], bytes(32), proof)


def corruptions(proof):
    """`proof` with one hash flipped, dropped, doubled or moved."""
    for at, item in enumerate(proof):
        yield [*proof[:at], bytes([item[0] ^ 1]) + item[1:], *proof[at + 1 :]]
        yield [*proof[:at], *proof[at + 1 :]]
        yield [*proof[: at + 1], item, *proof[at + 1 :]]
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]
    if len(proof) > 1:
        yield proof[::-1]


@examples
@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))), hashes)
def test_inclusion_corrupted(place, other):
    """No changed proof, leaf, root or index checks."""
    size, index = place
    tree = leaves(size)
    root = b.naive_root(tree)
    proof = b.naive_path(index, tree)
    for wrong in corruptions(proof):
        assert outcome(merkle.check_inclusion, index, size, tree[index], wrong, root)
    assert outcome(merkle.check_inclusion, index, size, other, proof, root)
    assert outcome(merkle.check_inclusion, index, size, tree[index], proof, other)
    for wrong in (index - 1, index + 1, index ^ 1, size, -1):
        assert outcome(merkle.check_inclusion, wrong, size, tree[index], proof, root)


@examples
@given(st.integers(1, 120).flatmap(lambda new: st.tuples(st.integers(1, new), st.just(new))))
def test_consistency_corrupted(sizes):
    """No changed consistency proof checks, nor the right one between exchanged sizes."""
    old, new = sizes
    tree = leaves(new)
    roots = (b.naive_root(tree[:old]), b.naive_root(tree))
    proof = merkle.prove_consistency(old, new, reader(tree))
    for wrong in corruptions(proof):
        assert outcome(merkle.check_consistency, old, new, *roots, wrong)
    if old != new:
        assert outcome(merkle.check_consistency, new, old, *roots[::-1], proof)


@examples
@given(st.integers(1, 2**63).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_inclusion_in_a_large_tree(place):
    """Proofs in trees of up to 2^63 leaves check, with at most 63 hashes."""
    size, index = place
    path, root = b.synthetic_path(index, size, bytes(32))
    assert len(path) <= merkle.MAX_PROOF
    merkle.check_inclusion(index, size, bytes(32), path, root)


def test_provers_outside_the_tree():
    """Asking for a proof of what is not there is the caller's mistake."""
    with pytest.raises(ValueError, match="no leaf 3"):
        merkle.prove_inclusion(3, 3, reader(leaves(3)))
    with pytest.raises(ValueError, match="does not extend"):
        merkle.prove_consistency(4, 3, reader(leaves(3)))


@pytest.mark.parametrize("length", [1, 31, 33, 64 * 32])
def test_path_of_another_length(length):
    """A joined path is 0 to 63 whole hashes."""
    with pytest.raises(MalformedError):
        merkle.split_path(bytes(length), "path")


@examples
@given(st.lists(hashes, max_size=63))
def test_path_round_trip(path):
    """A path is read back from its bytes."""
    assert merkle.split_path(merkle.join_path(path), "path") == path
