"""Just enough of the curve of Ed25519 (RFC 8032 section 5.1) to make the signatures that no library makes.

Slow, and not constant in time: for test keys only.
"""

import hashlib

from tests.ledger import builders as b

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493

Point = tuple[int, int]
IDENTITY: Point = (0, 1)

_D = -121665 * pow(121666, -1, P) % P


def add(first: Point, second: Point) -> Point:
    """The sum of two points."""
    (x1, y1), (x2, y2) = first, second
    product = _D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def times(number: int, point: Point) -> Point:
    """`point` added to itself, `number` of it."""
    total = IDENTITY
    for bit in f"{number:b}":
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def point_at(y: int) -> Point | None:
    """The point with this y whose x is even; None if the curve has no such point."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (P - x if x % 2 else x), y


def encoded(point: Point) -> bytes:
    """The 32 bytes of a point."""
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _found(y: int) -> Point:
    point = point_at(y)
    assert point is not None
    return point


BASE = _found(4 * pow(5, -1, P) % P)
TORSION = _found(
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
)
assert times(ORDER, BASE) == IDENTITY
assert times(8, TORSION) == IDENTITY != times(4, TORSION)

OFF_CURVE = (2).to_bytes(32, "little")
assert point_at(2) is None


class OddKey:
    """The private key of everyone called `name`, with signatures and a public key that are not as they should be."""

    algorithm = 1

    def __init__(self, name: str, torsion: Point = IDENTITY) -> None:
        """`torsion` is added to the public key."""
        digest = hashlib.sha512(b.seed(name)).digest()
        self._scalar = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
        self._prefix = digest[32:]
        self.public_key = encoded(add(times(self._scalar, BASE), torsion))

    def sign(self, message: bytes, torsion: Point = IDENTITY) -> bytes:
        """The signature over `message`, with `torsion` added to R before it is hashed."""
        nonce = int.from_bytes(hashlib.sha512(self._prefix + message).digest(), "little") % ORDER
        return self.answer(encoded(add(times(nonce, BASE), torsion)), nonce, message)

    def answer(self, commitment: bytes, nonce: int, message: bytes) -> bytes:
        """The signature with the bytes `commitment` for R and the S that belongs to `nonce` times the base point."""
        scalar = (nonce + self.challenge(commitment, message) * self._scalar) % ORDER
        return commitment + scalar.to_bytes(32, "little")

    def challenge(self, commitment: bytes, message: bytes) -> int:
        """The k of RFC 8032."""
        return int.from_bytes(hashlib.sha512(commitment + self.public_key + message).digest(), "little") % ORDER
