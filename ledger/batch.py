"""The sealed batch: salts, leaves, batch info, and the header that a device signs (FORMAT.md section 5).

    secret --SHAKE-256--> one salt per leaf
    leaf i  = SHA-256(0x00 || label || key id || epoch || seq || i || salt i || bytes i)
    leaf 0  is the batch info, leaves 1 to count are the readings
    header  = version, origin, key id, epoch, seq, previous, count, root, anchor, notice   <- signed

The leaf is bound to its place (key, epoch, seq, index), so nobody can sign a root that someone else published
and open it as his own. It is salted, so nobody can confirm a guessed value. The header is what the public log
shows: nothing in it but numbers and hashes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ledger import canonical, merkle
from ledger.canonical import Value
from ledger.errors import MalformedError, VerificationError
from ledger.info import BatchInfo
from ledger.keys import Signer, check_signature, key_id
from ledger.strict import check_name

FORMAT_VERSION = 1
LEAVES_PER_BATCH = 4096  # a leaf index fits 12 bits, so log index x 4096 + leaf index names a reading for ever
MAX_READINGS = LEAVES_PER_BATCH - 1  # leaf 0 is the batch info
MAX_ORIGIN = 255  # bytes: cosignatures carry the origin's length in one byte
SECRET_SIZE = 32
SALT_SIZE = 16
MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1

_SALT_LABEL = b"vitalseal/v1/salts\n"
_LEAF_LABEL = b"vitalseal/v1/leaf\n"
_HEADER_LABEL = b"vitalseal/v1/header\n"
_PREVIOUS_LABEL = b"vitalseal/v1/previous\n"

_INDEX = tuple(index.to_bytes(4, "big") for index in range(MAX_READINGS + 1))


class NoticeKind(IntEnum):
    """What a header without readings says."""

    HEARTBEAT = 1
    GAP = 2
    OUTBOX_LOST = 3


@dataclass(frozen=True, slots=True)
class Notice:
    """A statement in place of readings. For a gap: `reason`, and readings `lost`, None when unknown."""

    kind: int
    reason: int | None = None
    lost: int | None = None


@dataclass(frozen=True, slots=True)
class Anchor:
    """Size and root of the largest checkpoint that the device had verified when it sealed."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What the device signs; see FORMAT.md section 5.4 for each field."""

    origin: str
    key_id: bytes
    epoch: int
    seq: int
    previous: bytes | None
    count: int
    root: bytes
    anchor: Anchor | None
    notice: Notice | None

    def encode(self) -> bytes:
        """The canonical bytes, which are signed, hashed into the chain and logged.

        Raises:
            MalformedError: the fields do not make a header.
        """
        anchor = None if self.anchor is None else (self.anchor.size, self.anchor.root)
        fields: Value = (
            FORMAT_VERSION,
            self.origin,
            self.key_id,
            self.epoch,
            self.seq,
            self.previous,
            self.count,
            self.root,
            anchor,
            _notice_fields(self.notice),
        )
        _header(fields)
        return canonical.encode(fields)

    @classmethod
    def decode(cls, data: bytes) -> "Header":
        """The header that `data` encodes; raises MalformedError."""
        return _header(canonical.decode(data, "header"))


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A batch that will never change again: these bytes are what is sent, and sent again."""

    header: bytes
    signature: bytes
    secret: bytes
    info: bytes
    readings: tuple[bytes, ...]


def expand_salts(secret: bytes, leaves: int) -> list[bytes]:
    """One 16-byte salt per leaf: SHAKE-256(label || secret), cut in order; one tells nothing about the next."""
    stream = hashlib.shake_256(_SALT_LABEL + secret).digest(SALT_SIZE * leaves)
    return [stream[at : at + SALT_SIZE] for at in range(0, len(stream), SALT_SIZE)]


def leaf_hashes(key: bytes, epoch: int, seq: int, salts: Sequence[bytes], bodies: Sequence[bytes]) -> list[bytes]:
    """The hash of every leaf of the batch (`key`, `epoch`, `seq`), in order; `bodies[0]` is the batch info."""
    if not len(salts) == len(bodies) <= len(_INDEX):
        raise ValueError("one salt per leaf, and at most 4096 leaves")
    prefix = _leaf_prefix(key, epoch, seq)
    sha256 = hashlib.sha256
    return [
        sha256(b"".join((prefix, index, salt, body))).digest()
        for index, salt, body in zip(_INDEX, salts, bodies, strict=False)
    ]


def leaf_hash(key: bytes, epoch: int, seq: int, index: int, salt: bytes, body: bytes) -> bytes:
    """The hash of one leaf, for whoever holds only that one."""
    return hashlib.sha256(_leaf_prefix(key, epoch, seq) + index.to_bytes(4, "big") + salt + body).digest()


def header_hash(header: bytes) -> bytes:
    """What the next header carries as `previous`: SHA-256(label || header), the signature left out."""
    return hashlib.sha256(_PREVIOUS_LABEL + header).digest()


def check_header_signature(header: bytes, signature: bytes, algorithm: int, public_key: bytes) -> None:
    """The holder of `public_key` signed `header`; raises VerificationError or MalformedError (unusable key)."""
    check_signature(algorithm, public_key, signature, _HEADER_LABEL + header)


def seal(
    signer: Signer,
    *,
    origin: str,
    epoch: int,
    seq: int,
    previous: bytes | None,
    anchor: Anchor | None,
    info: BatchInfo,
    readings: Sequence[bytes],
    secret: bytes,
    notice: Notice | None = None,
) -> SealedBatch:
    """`readings` (canonical bytes each) sealed under the next place of the signer's chain.

    `secret` is 32 fresh random bytes, used once; `previous` is `header_hash` of the header before, None for the
    first of an epoch.

    Raises:
        MalformedError: a field is out of the format's range.
    """
    if len(readings) > MAX_READINGS:
        raise MalformedError(f"batch: {len(readings)} readings, more than the {MAX_READINGS} allowed")
    key = key_id(signer.algorithm, signer.public_key)
    bodies = (info.encode(), *readings)
    hashes = leaf_hashes(key, epoch, seq, expand_salts(secret, len(bodies)), bodies)
    header = Header(origin, key, epoch, seq, previous, len(readings), merkle.tree_root(hashes), anchor, notice).encode()
    return SealedBatch(header, signer.sign(_HEADER_LABEL + header), secret, bodies[0], bodies[1:])


def check_root(header: Header, salts: Sequence[bytes], bodies: Sequence[bytes]) -> list[bytes]:
    """The leaf hashes of the whole batch, shown to lead to the header's root; raises VerificationError."""
    hashes = leaf_hashes(header.key_id, header.epoch, header.seq, salts, bodies)
    if merkle.tree_root(hashes) != header.root:
        raise VerificationError("the readings do not lead to the root in the header")
    return hashes


def check_succession(header: Header, last: tuple[int, int, bytes] | None) -> None:
    """`header` is the next of its device's chain after `last` = (epoch, seq, header hash), None before the first.

    Raises:
        VerificationError: it is not.
    """
    epoch, seq, previous = last or (0, -1, None)
    if (header.epoch, header.seq) == (epoch, seq + 1):
        if header.previous != previous:
            raise VerificationError(f"epoch {epoch} seq {header.seq} does not continue the header before it")
    elif header.epoch <= epoch or header.seq != 0:
        raise VerificationError(f"epoch {header.epoch} seq {header.seq} follows epoch {epoch} seq {seq}")


def _leaf_prefix(key: bytes, epoch: int, seq: int) -> bytes:
    return b"\x00" + _LEAF_LABEL + key + epoch.to_bytes(4, "big") + seq.to_bytes(8, "big")


def _header(value: Value) -> Header:
    version, *rest = canonical.fields(value, 10, "header")
    if version != FORMAT_VERSION or type(version) is not int:
        raise MalformedError("header: not format version 1")
    origin, key, epoch, seq, previous, count, root, anchor, notice = rest
    header = Header(
        check_origin(origin),
        canonical.binary(key, "header: key id", 32),
        canonical.uint(epoch, "header: epoch", MAX_UINT32),
        canonical.uint(seq, "header: sequence number", MAX_UINT64),
        None if previous is None else canonical.binary(previous, "header: previous hash", 32),
        canonical.uint(count, "header: count", MAX_READINGS),
        canonical.binary(root, "header: root", 32),
        None if anchor is None else _anchor(anchor),
        None if notice is None else _notice(notice),
    )
    if (header.previous is None) != (header.seq == 0):
        raise MalformedError("header: the previous hash is nil exactly at sequence number 0")
    if (header.notice is None) != (header.count > 0):
        raise MalformedError("header: a header has either readings or a notice")
    lost = header.notice is not None and header.notice.kind == NoticeKind.OUTBOX_LOST
    if lost != (header.epoch > 0 and header.seq == 0):
        raise MalformedError("header: 'outbox lost' stands exactly at the start of an epoch after the first")
    return header


def check_origin(value: Value) -> str:
    """`value` as a log origin: a key name (signed-note) in ASCII, 1 to 255 bytes; raises MalformedError."""
    return check_name(canonical.text(value, "origin", MAX_ORIGIN), "origin")


def _anchor(value: Value) -> Anchor:
    size, root = canonical.fields(value, 2, "header anchor")
    anchor_size = canonical.uint(size, "header: anchor size", MAX_UINT64)
    return Anchor(anchor_size, canonical.binary(root, "header: anchor root", 32))


def _notice_fields(notice: Notice | None) -> Value:
    if notice is None:
        return None
    kind = int(notice.kind)
    if kind != NoticeKind.GAP and notice.reason is None and notice.lost is None:
        return (kind,)
    return (kind, None if notice.reason is None else int(notice.reason), notice.lost)


def _notice(value: Value) -> Notice:
    match value:
        case (int(kind),) if kind in (NoticeKind.HEARTBEAT, NoticeKind.OUTBOX_LOST):
            return Notice(kind)
        case (NoticeKind.GAP, reason, lost):
            return Notice(
                NoticeKind.GAP,
                canonical.integer(reason, "header: gap reason", 1, 255),
                None if lost is None else canonical.integer(lost, "header: readings lost", 1, MAX_UINT64),
            )
        case _:
            raise MalformedError("header: notice is neither a heartbeat, a gap nor 'outbox lost'")
