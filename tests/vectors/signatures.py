"""The vectors of device keys and their signatures, both algorithms (FORMAT.md section 3)."""

from collections.abc import Iterator

from tests.ledger import builders as b
from tests.vectors import curve, p256

MESSAGE = b"A message."
ORDER = p256.ORDER


def p256_keys() -> Iterator[tuple[str, bytes, bool]]:
    """Names and public keys of algorithm 2, and whether they are usable."""
    point = p256.point_at(p256.SMALL)
    key = b.SecureElement().public_key
    yield "P-256", key, True
    yield "P-256, the base point", p256.encoded(p256.BASE), True
    yield "P-256, least x, even y", p256.encoded(point), True
    yield "P-256, least x, odd y", b"\x03" + p256.encoded(point)[1:], True
    yield "P-256, x not below the order", p256.encoded(p256.point_at(p256.BEYOND)), True
    yield "P-256, no point", b"\x02" + p256.NO_POINT.to_bytes(32, "big"), False
    yield "P-256, no point, odd y", b"\x03" + p256.NO_POINT.to_bytes(32, "big"), False
    yield "P-256, x not reduced", b"\x02" + (p256.SMALL + p256.P).to_bytes(32, "big"), False
    yield "P-256, x = p", b"\x02" + p256.P.to_bytes(32, "big"), False
    yield "P-256, x = 2^256 - 1", b"\x02" + b"\xff" * 32, False
    yield "P-256, uncompressed", p256.encoded(p256.BASE, 4), False
    yield "P-256, hybrid", p256.encoded(p256.BASE, 6), False
    yield "P-256, x alone", key[1:], False
    yield "P-256, infinity", b"\x00", False
    yield "P-256, infinity in 33 bytes", bytes(33), False
    yield "P-256, first byte 1", b"\x01" + key[1:], False
    yield "P-256, first byte 4", b"\x04" + key[1:], False
    yield "P-256, first byte 6", b"\x06" + key[1:], False
    yield "P-256, 32 bytes", key[:-1], False
    yield "P-256, 34 bytes", key + b"\0", False
    yield "P-256, empty", b"", False
    yield "P-256, an Ed25519 key", b.device().public_key, False


def signatures() -> list[dict]:
    """Signatures over a message under a usable key: those that verify, and those that do not."""
    vectors = []

    def add(name: str, algorithm: int, key: bytes, signature: bytes, result: str) -> None:
        fields = {"algorithm": algorithm, "public_key": key.hex(), "message": MESSAGE.hex()}
        vectors.append({"name": name, **fields, "signature": signature.hex(), "result": result})

    for name, key, signature, result in _p256():
        add(f"P-256, {name}", 2, key, signature, result)
    for name, key, signature, result in _ed25519():
        add(f"Ed25519, {name}", 1, key, signature, result)
    return vectors


def _p256() -> Iterator[tuple[str, bytes, bytes, str]]:
    device = b.SecureElement()
    key, (r, s) = device.public_key, device.sign_pair(MESSAGE)
    low, high = sorted((s, ORDER - s))
    yield "low s", key, p256.pair(r, low), "ok"
    yield "high s", key, p256.pair(r, high), "unproven"
    nonce = p256.times(7, p256.BASE)
    x = nonce[0] % ORDER
    half = ORDER // 2
    for name, bound, result in (
        ("s = 1", 1, "ok"),
        ("s = (n - 1)/2", half, "ok"),
        ("s = (n + 1)/2", half + 1, "unproven"),
        ("s = n - 1", ORDER - 1, "unproven"),
    ):
        yield name, p256.encoded(p256.key_for(MESSAGE, nonce, x, bound)), p256.pair(x, bound), result
    beyond = p256.point_at(p256.BEYOND)
    r = p256.BEYOND - ORDER or ORDER
    key = p256.encoded(p256.key_for(MESSAGE, beyond, r, 2))
    yield "commitment whose x is not below the order", key, p256.pair(r, 2), "ok"
    yield "the same, r not reduced", key, p256.pair(p256.BEYOND, 2), "unproven"
    key = device.public_key
    good = device.sign(MESSAGE)
    r = int.from_bytes(good[:32], "big")
    wrong = {
        "r = 0": p256.pair(0, low),
        "s = 0": p256.pair(r, 0),
        "both 0": bytes(64),
        "r = n": p256.pair(ORDER, low),
        "s = n": p256.pair(r, ORDER),
        "r = 2^256 - 1": p256.pair(2**256 - 1, low),
        "r = n - r": p256.pair(ORDER - r, low),
        "r and s exchanged": good[32:] + good[:32],
        "little-endian": good[:32][::-1] + good[32:][::-1],
        "DER": bytes([0x30, 0x44, 2, 32]) + good[:32] + bytes([2, 32]) + good[32:],
        "63 bytes": good[:-1],
        "65 bytes": good + b"\0",
        "empty": b"",
        "over another message": device.sign(MESSAGE + b"\n"),
        "by another key": b.SecureElement("other").sign(MESSAGE),
        "by an Ed25519 key": b.device().sign(MESSAGE),
    }
    for name, signature in wrong.items():
        yield name, key, signature, "unproven"
    # Under this key, u1 times the base point and u2 times the key cancel for every s.
    cancelled = p256.times(-p256.hashed(MESSAGE) * pow(5, -1, ORDER), p256.BASE)
    yield "commitment at infinity", p256.encoded(cancelled), p256.pair(5, 1), "unproven"


def _ed25519() -> Iterator[tuple[str, bytes, bytes, str]]:
    device, odd = b.device(), curve.OddKey("device")
    key, good = device.public_key, device.sign(MESSAGE)
    yield "good", key, good, "ok"
    still = odd.answer(curve.encoded(curve.IDENTITY), 0, MESSAGE)
    yield "R the identity", key, still, "ok"
    raised = int.from_bytes(good[32:], "little") + curve.ORDER
    wrong = {
        "S not reduced": good[:32] + raised.to_bytes(32, "little"),
        "R with a small-order part": odd.sign(MESSAGE, curve.TORSION),
        "R the identity in another spelling": odd.answer((curve.P + 1).to_bytes(32, "little"), 0, MESSAGE),
        "zeros": bytes(64),
        "63 bytes": good[:-1],
        "65 bytes": good + b"\0",
        "empty": b"",
        "over another message": device.sign(MESSAGE + b"\n"),
        "by a P-256 key": b.SecureElement().sign(MESSAGE),
    }
    for name, signature in wrong.items():
        yield name, key, signature, "unproven"
    yield "a key that is no point", curve.OFF_CURVE, good, "unproven"
