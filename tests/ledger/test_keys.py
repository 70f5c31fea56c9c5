"""Ed25519 and P-256 as the ledger accepts them: published edge cases, small-order keys, other spellings."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import MalformedError, VerificationError
from ledger.keys import (
    ALGORITHM_NAMES,
    ECDSA_P256,
    ED25519,
    EcdsaP256Signer,
    Ed25519Signer,
    check_public_key,
    check_signature,
    key_id,
    raw_signature,
)
from ledger.note import NoteSigner
from tests.vectors import p256

from . import builders as b
from .published import published
from .strategies import examples

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def cases(path):
    """Every case of a Wycheproof file with the key of its group."""
    for group in json.loads(path.read_text())["testGroups"]:
        for case in group["tests"]:
            yield bytes.fromhex(group["publicKey"]["pk"]), case


@published("ed25519")
def test_signature_published(path):
    """Wycheproof's valid signatures are accepted and its invalid ones refused; it has no acceptable ones here."""
    wrong = []
    for public_key, case in cases(path):
        try:
            check_signature(ED25519, public_key, bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            result = "valid"
        except VerificationError:
            result = "invalid"
        if result != case["result"]:
            wrong.append((case["tcId"], case["flags"], result))
    assert wrong == []


def small_order_points():
    """The eight points whose order divides 8, computed: 8P = identity for P = (L-multiple of anything)."""

    def add(first, second):
        (x1, y1), (x2, y2) = first, second
        product = D * x1 * x2 * y1 * y2 % P
        x3 = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
        return x3, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P

    def times(number, point):
        total = (0, 1)
        while number:
            if number & 1:
                total = add(total, point)
            point = add(point, point)
            number >>= 1
        return total

    order = 2**252 + 27742317777372353535851937790883648493
    found = set()
    for y in range(2, 60):
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        if x * x % P == square:
            found.add(times(order, (x, y)))
    return found


def spelled(x, y):
    """The encoding of a point (RFC 8032 section 5.1.2)."""
    return (y | (x & 1) << 255).to_bytes(32, "little")


def test_public_key_of_small_order():
    """Each of the eight points of small order is refused, under either sign bit."""
    points = small_order_points()
    assert len(points) == 8
    for x, y in points:
        for sign in (0, 1):
            with pytest.raises(MalformedError, match="small order"):
                check_public_key(ED25519, spelled(x ^ (x & 1) ^ sign, y))


@pytest.mark.parametrize("y", [P, P + 1, 2**255 - 1])
def test_public_key_in_another_spelling(y):
    """A coordinate not reduced modulo the field's prime is refused."""
    with pytest.raises(MalformedError, match="not the canonical encoding"):
        check_public_key(ED25519, y.to_bytes(32, "little"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_public_key_of_another_length(length):
    """An Ed25519 key has 32 bytes."""
    with pytest.raises(MalformedError, match=f"has {length} bytes"):
        check_public_key(ED25519, bytes(length))


@pytest.mark.parametrize("algorithm", [0, 3, 255])
def test_public_key_of_another_algorithm(algorithm):
    """An algorithm that this version does not know is refused, not guessed."""
    with pytest.raises(MalformedError, match=f"algorithm {algorithm} "):
        check_public_key(algorithm, b.device().public_key)


def test_public_key_that_is_no_point():
    """A key that is on no curve verifies nothing."""
    with pytest.raises(VerificationError):
        check_signature(ED25519, (2).to_bytes(32, "little"), bytes(64), b"")


def test_signature_of_a_small_order_key():
    """The signature that verifies every message under the identity point is refused with its key."""
    identity = (1).to_bytes(32, "little")
    with pytest.raises(MalformedError):
        check_signature(ED25519, identity, identity + bytes(32), b"anything")


def test_signature_plus_the_group_order():
    """The other S of a signature, S + L, is refused: one message, one key, one signature."""
    signer = b.device()
    good = signer.sign(b"message")
    order = 2**252 + 27742317777372353535851937790883648493
    other = good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
    check_signature(ED25519, signer.public_key, good, b"message")
    with pytest.raises(VerificationError):
        check_signature(ED25519, signer.public_key, other, b"message")


def test_key_id_binds_the_algorithm():
    """A key id is SHA-256 over label, algorithm and key, so one key under two algorithms has two ids."""
    key = b.device().public_key
    assert key_id(1, key) == hashlib.sha256(b"vitalseal/v1/key\n\x01" + key).digest()
    assert key_id(1, key) != key_id(2, key)
    assert ALGORITHM_NAMES == {1: "Ed25519", 2: "ECDSA P-256"}


def test_signer_known_answer():
    """RFC 8032 section 7.1, test 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    signer = Ed25519Signer(seed)
    assert signer.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert signer.sign(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974")


@examples
@given(st.binary(max_size=40), st.integers(1, b.P256_ORDER - 1))
def test_p256_signature_has_one_spelling(message, scalar):
    """What our P-256 signer signs verifies, with the lower s; with the other s, or another byte, it does not."""
    signer = EcdsaP256Signer(scalar.to_bytes(32, "big"))
    assert signer.public_key == p256.encoded(p256.times(scalar, p256.BASE))
    signature = signer.sign(message)
    check_signature(ECDSA_P256, signer.public_key, signature, message)
    s = int.from_bytes(signature[32:], "big")
    assert s <= b.P256_ORDER // 2
    other = signature[:32] + (b.P256_ORDER - s).to_bytes(32, "big")
    for wrong in (other, signature[:-1], signature + b"\0", signature[:-1] + bytes([signature[-1] ^ 1])):
        with pytest.raises(VerificationError):
            check_signature(ECDSA_P256, signer.public_key, wrong, message)
    assert raw_signature(encode_dss_signature(int.from_bytes(signature[:32], "big"), s)) == signature
    assert raw_signature(encode_dss_signature(int.from_bytes(signature[:32], "big"), b.P256_ORDER - s)) == signature


@examples
@given(st.binary(min_size=33, max_size=33))
def test_p256_key_as_the_curve_says(data):
    """Of 33 bytes behind 2 or 3, exactly the x coordinates of points, in their one spelling, are keys."""
    key = bytes([2 + data[0] % 2]) + data[1:]
    x = int.from_bytes(key[1:], "big")
    if x < p256.P and p256.point_at(x) is not None:
        check_public_key(ECDSA_P256, key)
    else:
        with pytest.raises(MalformedError, match="not a point"):
            check_public_key(ECDSA_P256, key)


def test_post_quantum_key_signs_only_checkpoints():
    """A note key of another type than 0x01 signs neither a text nor a key event."""
    for kind in (4, 6):
        signer = NoteSigner("example.org", b.seed("log"), kind)
        with pytest.raises(ValueError, match="0x01"):
            signer.sign("text\n")
        with pytest.raises(ValueError, match="0x01"):
            _ = signer.key
