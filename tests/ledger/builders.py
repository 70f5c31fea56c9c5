"""Deterministic keys, batches, logs and proofs for the tests of the ledger and for the vector generator.

Every key comes from a name, every time is fixed, and nothing here calls a prover of `ledger.merkle`, `ledger.tiles`
or a signer of cosignatures: what the verifier is shown was made by the naive code below.
"""

import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgpack
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from ledger.batch import Anchor, Header, Notice, SealedBatch, header_hash, seal
from ledger.checkpoint import Checkpoint
from ledger.entry import BatchEntry
from ledger.events import enrol
from ledger.info import BatchInfo, Source
from ledger.keys import Ed25519Signer
from ledger.note import ED25519_COSIGNATURE, Note, NoteSigner, Signature, VerifierKey
from ledger.policy import Policy, parse_policy
from ledger.proof import LeafProof, ReadingProof
from ledger.reading import Absent, Reading, Scalar, Waveform, pack_samples
from ledger.strict import decode_base64

ORIGIN = "log.example.org/vitalseal"
NOW = 1_750_000_000  # 2025-06-15T15:06:40Z
NOW_NS = NOW * 10**9
SOURCE = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
BOOT = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")


def seed(name: str) -> bytes:
    """The private key of everyone called `name`: SHA-256 of a fixed prefix and the name."""
    return hashlib.sha256(f"vitalseal test key: {name}\n".encode()).digest()


def device(name: str = "device") -> Ed25519Signer:
    """A device's key."""
    return Ed25519Signer(seed(name))


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class SecureElement:
    """A device's ECDSA P-256 key; its signatures are the same on every run (RFC 6979)."""

    algorithm = 2

    def __init__(self, name: str = "secure element") -> None:
        self._key = ec.derive_private_key(int.from_bytes(seed(name), "big") % P256_ORDER, ec.SECP256R1())
        point = self._key.public_key().public_numbers()
        self.public_key = bytes([2 + point.y % 2]) + point.x.to_bytes(32, "big")

    def sign_pair(self, message: bytes) -> tuple[int, int]:
        """The signature as the library gives it: r, and either of the two s."""
        return decode_dss_signature(self._key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True)))

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`: r || s with the lower s."""
        r, s = self.sign_pair(message)
        return r.to_bytes(32, "big") + min(s, P256_ORDER - s).to_bytes(32, "big")


Device: TypeAlias = Ed25519Signer | SecureElement


def log_signer(origin: str = ORIGIN, name: str = "log") -> NoteSigner:
    """A log's key."""
    return NoteSigner(origin, seed(name))


@dataclass(frozen=True)
class Cosigner:
    """A witness: its key name, and the policy's name for it, which is the last part."""

    name: str

    @property
    def short(self) -> str:
        """The name in a policy."""
        return self.name.rpartition("/")[2]

    @property
    def vkey(self) -> VerifierKey:
        """The witness's public key."""
        public = Ed25519PrivateKey.from_private_bytes(seed(self.name)).public_key().public_bytes_raw()
        return VerifierKey(self.name, ED25519_COSIGNATURE, public)

    def cosign(self, text: str, time: int) -> Signature:
        """The cosignature line over a checkpoint's text, as C2SP tlog-cosignature has it."""
        message = f"cosignature/v1\ntime {time}\n{text}".encode()
        signature = Ed25519PrivateKey.from_private_bytes(seed(self.name)).sign(message)
        return Signature(self.name, self.vkey.id, time.to_bytes(8, "big") + signature)


HOSPITAL, REGULATOR, PATIENTS = (
    Cosigner(f"witness.example.org/{name}") for name in ("hospital", "regulator", "patients")
)
STRANGER = Cosigner("stranger.example.net/nobody")


def policy_text(quorum: str = "none", *, witnesses: Sequence[Cosigner] = (), origin: str = ORIGIN) -> str:
    """A policy for our log; `quorum` may begin with group lines."""
    lines = [f"log {log_signer(origin).verifier}"]
    lines += [f"witness {witness.short} {witness.vkey}" for witness in witnesses]
    return "\n".join([*lines, quorum if "\n" in quorum else f"quorum {quorum}"]) + "\n"


def two_of_three() -> str:
    """The example policy of the formats: two of hospital, regulator and patients."""
    quorum = "group quorate 2 hospital regulator patients\nquorum quorate"
    return policy_text(quorum, witnesses=(HOSPITAL, REGULATOR, PATIENTS))


def policy(text: str) -> Policy:
    """The policy in `text`."""
    return parse_policy(text.encode())


def scalar(
    mantissa: int = 72, exponent: int = 0, *, kind: int = 1, at_ns: int = NOW_NS, ordinal: int = 0, quality: int = 0
) -> Reading:
    """A scalar reading of the default source."""
    return Reading(SOURCE, kind, at_ns, ordinal, 120, 250_000_000, Scalar(mantissa, exponent), quality)


def waveform(samples: Sequence[int] = (0, 1, -1, 300), *, kind: int = 14, width: int = 2, channels: int = 1) -> Reading:
    """A waveform reading of the default source, 130 samples a second."""
    value = Waveform(100_000_000, 13, (1, -3), (0, 0), channels, width, pack_samples(samples, width))
    return Reading(SOURCE, kind, NOW_NS, 0, None, -5, value)


def absent(reason: int = 6, *, kind: int = 2) -> Reading:
    """A reading without a value."""
    return Reading(SOURCE, kind, NOW_NS, 0, -300, 0, Absent(reason), 64)


def info(readings: Sequence[Reading] = (), **changes: object) -> BatchInfo:
    """The batch info that fits `readings`."""
    times = [reading.sensor_time_ns for reading in readings]
    sources = sorted({reading.source for reading in readings})
    fields: dict[str, object] = {
        "boot_id": BOOT,
        "sealed_at_ns": NOW_NS + 10**9,
        "monotonic_ns": 123_456_789,
        "clock": 1,
        "clock_error_ns": 2_000_000,
        "first_ns": min(times) if times else None,
        "last_ns": max(times) if times else None,
        "sources": tuple(Source(source, "Example Strap 10") for source in sources),
        "window_ns": None,
    }
    return BatchInfo(**(fields | changes))


def sealed(
    readings: Sequence[Reading] = (),
    *,
    signer: Device | None = None,
    origin: str = ORIGIN,
    epoch: int = 0,
    seq: int = 0,
    previous: bytes | None = None,
    anchor: Anchor | None = None,
    notice: Notice | None = None,
    batch_info: BatchInfo | None = None,
) -> SealedBatch:
    """A sealed batch of `readings`; its secret follows from its place."""
    if not readings and notice is None:
        notice = Notice(1)
    return seal(
        signer or device(),
        origin=origin,
        epoch=epoch,
        seq=seq,
        previous=previous,
        anchor=anchor,
        info=batch_info or info(readings),
        readings=[reading.encode() for reading in readings],
        secret=hashlib.sha256(f"secret {epoch} {seq}".encode()).digest(),
        notice=notice,
    )


def chain(count: int, *, signer: Device | None = None, origin: str = ORIGIN) -> list[SealedBatch]:
    """`count` batches of a device, each following the one before, every third a heartbeat."""
    batches: list[SealedBatch] = []
    previous = None
    for seq in range(count):
        readings = [] if seq % 3 == 2 else [scalar(60 + seq, at_ns=NOW_NS + seq), absent()]
        batches.append(sealed(readings, signer=signer, origin=origin, seq=seq, previous=previous))
        previous = header_hash(batches[-1].header)
    return batches


def entry_of(batch: SealedBatch) -> bytes:
    """The log entry of a batch."""
    return BatchEntry(batch.header, batch.signature).encode()


def naive_root(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word, over leaf hashes."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = naive_split(len(hashes))
    return hashlib.sha256(b"\x01" + naive_root(hashes[:split]) + naive_root(hashes[split:])).digest()


def naive_path(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1, word for word, over leaf hashes."""
    if len(hashes) == 1:
        return []
    split = naive_split(len(hashes))
    if index < split:
        return [*naive_path(index, hashes[:split]), naive_root(hashes[split:])]
    return [*naive_path(index - split, hashes[split:]), naive_root(hashes[:split])]


def naive_consistency(old: int, hashes: Sequence[bytes], *, complete: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962 section 2.1.2, word for word, over leaf hashes."""
    if old == len(hashes):
        return [] if complete else [naive_root(hashes)]
    split = naive_split(len(hashes))
    if old <= split:
        return [*naive_consistency(old, hashes[:split], complete=complete), naive_root(hashes[split:])]
    return [*naive_consistency(old - split, hashes[split:], complete=False), naive_root(hashes[:split])]


def naive_split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    split = 1
    while split * 2 < count:
        split *= 2
    return split


def key_id(algorithm: int, public_key: bytes) -> bytes:
    """The id of a device key, as FORMAT.md section 3 defines it."""
    return hashlib.sha256(b"vitalseal/v1/key\n" + bytes([algorithm]) + public_key).digest()


def tile_paths(size: int) -> list[str]:
    """The paths of a tree of `size` entries, from the definition in tlog-tiles."""
    paths = []
    for level in ("entries", *range(8)):
        count = size if level == "entries" else size // 256**level
        paths += [naive_tile_path(str(level), at, 256) for at in range(count // 256)]
        if count % 256:
            paths.append(naive_tile_path(str(level), count // 256, count % 256))
    return paths


def hash_entry(entry: bytes) -> bytes:
    """The leaf hash of an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def checkpoint_note(
    size: int, root: bytes, *, origin: str = ORIGIN, cosigned: Sequence[tuple[Cosigner, int]] = ()
) -> Note:
    """A checkpoint signed by the log and cosigned at the given times."""
    note = Checkpoint(origin, size, root).sign(log_signer(origin))
    lines = tuple(witness.cosign(note.text, time) for witness, time in cosigned)
    return Note(note.text, note.signatures + lines)


def leaf_proof(batch: SealedBatch, leaf_index: int, *, signer: Device | None = None) -> LeafProof:
    """The `extra` of one leaf of `batch`."""
    signer = signer or device()
    return LeafProof(
        signer.algorithm,
        signer.public_key,
        batch.header,
        batch.signature,
        leaf_index,
        salts_of(batch)[leaf_index],
        tuple(naive_path(leaf_index, leaves_of(batch))),
        (batch.info, *batch.readings)[leaf_index],
    )


def salts_of(batch: SealedBatch) -> list[bytes]:
    """The salts of a batch, as FORMAT.md section 5.1 defines them."""
    count = len(batch.readings) + 1
    stream = hashlib.shake_256(b"vitalseal/v1/salts\n" + batch.secret).digest(16 * count)
    return [stream[at : at + 16] for at in range(0, 16 * count, 16)]


def leaves_of(batch: SealedBatch) -> list[bytes]:
    """The leaf hashes of a batch, as FORMAT.md section 5.2 defines them."""
    header = Header.decode(batch.header)
    place = header.key_id + header.epoch.to_bytes(4, "big") + header.seq.to_bytes(8, "big")
    bodies = (batch.info, *batch.readings)
    return [
        hashlib.sha256(b"\x00vitalseal/v1/leaf\n" + place + at.to_bytes(4, "big") + salt + body).digest()
        for at, (salt, body) in enumerate(zip(salts_of(batch), bodies, strict=True))
    ]


def envelope(batch: SealedBatch) -> bytes:
    """The envelope of a batch, as FORMAT.md section 6 defines it."""
    info, *readings = (unpack(body) for body in (batch.info, *batch.readings))
    return pack([1, batch.header, batch.signature, batch.secret, info, readings])


pack, unpack = msgpack.packb, msgpack.unpackb


def base64(data: bytes) -> str:
    """Standard base64."""
    return binascii.b2a_base64(data, newline=False).decode()


def unbase64(text: str) -> bytes:
    """The bytes of standard base64."""
    return decode_base64(text, "vector")


def reading_proof(
    batch: SealedBatch,
    leaf_index: int,
    entries: Sequence[bytes],
    index: int,
    *,
    cosigned: Sequence[tuple[Cosigner, int]] = (),
    origin: str = ORIGIN,
    signer: Device | None = None,
) -> ReadingProof:
    """The proof of one leaf of `batch`, which is entry `index` of `entries`."""
    hashes = [hash_entry(entry) for entry in entries]
    note = checkpoint_note(len(entries), naive_root(hashes), origin=origin, cosigned=cosigned)
    return ReadingProof(leaf_proof(batch, leaf_index, signer=signer), index, tuple(naive_path(index, hashes)), note)


def synthetic_path(index: int, size: int, leaf: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """An inclusion proof of made-up siblings in a tree too large to build, and the root that it leads to."""
    path: list[bytes] = []

    def descend(low: int, high: int) -> bytes:
        if high - low == 1:
            return leaf
        middle = low + naive_split(high - low)
        sibling = hashlib.sha256(f"sibling {low} {high}".encode()).digest()
        if index < middle:
            below = descend(low, middle)
            path.append(sibling)
            return hashlib.sha256(b"\x01" + below + sibling).digest()
        below = descend(middle, high)
        path.append(sibling)
        return hashlib.sha256(b"\x01" + sibling + below).digest()

    root = descend(0, size)
    return tuple(path), root


def tile_files(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Every tile and bundle of a log below 256^2 x 256 entries, written from the definition in tlog-tiles."""
    files: dict[str, bytes] = {}
    hashes = [hash_entry(entry) for entry in entries]
    for first in range(0, len(entries), 256):
        bundle = entries[first : first + 256]
        data = b"".join(len(entry).to_bytes(2, "big") + entry for entry in bundle)
        files[naive_tile_path("entries", first // 256, len(bundle))] = data
    for level in range(3):
        span = 256**level
        nodes = [naive_root(hashes[at : at + span]) for at in range(0, len(hashes) // span * span, span)]
        for first in range(0, len(nodes), 256):
            tile = nodes[first : first + 256]
            files[naive_tile_path(str(level), first // 256, len(tile))] = b"".join(tile)
    return files


def naive_tile_path(level: str, index: int, width: int) -> str:
    """The path of a tile: groups of three digits, all but the last behind an x."""
    digits = str(index)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join(["tile", level, *(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == 256 else f"{path}.p/{width}"


def log_files(entries: Sequence[bytes], *, cosigned: Sequence[tuple[Cosigner, int]] = ()) -> dict[str, bytes]:
    """A whole log directory."""
    root = naive_root([hash_entry(entry) for entry in entries])
    note = checkpoint_note(len(entries), root, cosigned=cosigned)
    return tile_files(entries) | {"checkpoint": note.encode()}


def small_log(count: int = 5) -> list[bytes]:
    """The entries of a small sound log: one enrolment, then a device's chain."""
    enrolment = enrol(device(), Ed25519Signer(seed("registrar")), ORIGIN).encode()
    return [enrolment, *(entry_of(batch) for batch in chain(count))]
