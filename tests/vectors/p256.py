"""Just enough of P-256 (SEC 2, secp256r1) to make the keys and signatures that no library makes.

Slow, and not constant in time: for test keys only.
"""

import hashlib

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

Point = tuple[int, int] | None  # None is infinity
BASE: Point = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def add(first: Point, second: Point) -> Point:
    """The sum of two points."""
    if first is None or second is None:
        return first or second
    (x1, y1), (x2, y2) = first, second
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, P) if first == second else (y2 - y1) * pow(x2 - x1, -1, P)
    x = (slope * slope - x1 - x2) % P
    return x, (slope * (x1 - x) - y1) % P


def times(number: int, point: Point) -> Point:
    """`point` added to itself, `number` of it."""
    total: Point = None
    for bit in f"{number % ORDER:b}":
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def point_at(x: int) -> Point:
    """The point with this x whose y is even; None if the curve has no such point."""
    square = (x**3 - 3 * x + _B) % P
    y = pow(square, (P + 1) // 4, P)
    if y * y % P != square:
        return None
    return x, P - y if y % 2 else y


def encoded(point: Point, form: int = 0) -> bytes:
    """The compressed form of a point; with `form` 4 the uncompressed one, with 6 the hybrid one (SEC 1 2.3.3)."""
    assert point is not None
    x, y = point
    if form:
        return bytes([form | (y % 2 if form == 6 else 0)]) + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    return bytes([2 + y % 2]) + x.to_bytes(32, "big")


def hashed(message: bytes) -> int:
    """The e of ECDSA."""
    return int.from_bytes(hashlib.sha256(message).digest(), "big")


def pair(r: int, s: int) -> bytes:
    """A signature's bytes."""
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def key_for(message: bytes, commitment: Point, r: int, s: int) -> Point:
    """The public key under which (r, s) is the signature over `message` whose commitment is this point."""
    inverse = pow(r, -1, ORDER)
    return add(times(s * inverse, commitment), times(-hashed(message) * inverse, BASE))


def _first(xs: range, *, found: bool) -> int:
    return next(x for x in xs if (point_at(x) is not None) == found)


SMALL = _first(range(1, 100), found=True)  # the least x of a point, so that x + P fits 32 bytes too
NO_POINT = _first(range(1, 100), found=False)
BEYOND = _first(range(ORDER, ORDER + 100), found=True)  # the least x of a point that is not below the order
assert times(ORDER - 1, BASE) == (BASE[0], P - BASE[1])
