"""A sealed batch on the wire, device to aggregator (FORMAT.md section 6).

The envelope is the only place where the batch secret appears. Admission opens it, expands the salts and lets
the secret go: a stored secret would re-derive a salt that was erased.
"""

from dataclasses import dataclass
from typing import Any, cast

from ledger import canonical
from ledger.batch import SECRET_SIZE, Header, NoticeKind, SealedBatch, check_root, expand_salts
from ledger.canonical import Value
from ledger.errors import MalformedError
from ledger.info import BatchInfo, parse_info
from ledger.reading import check_fields

ENVELOPE_VERSION = 1
# Below every common broker's default message limit, and room for 4095 scalar readings.
MAX_ENVELOPE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Envelope:
    """A well-formed envelope: nothing in it is proven yet."""

    header: Header
    header_bytes: bytes
    signature: bytes
    salts: tuple[bytes, ...]
    bodies: tuple[bytes, ...]
    info: BatchInfo

    def check_root(self) -> list[bytes]:
        """The batch's leaf hashes, shown to lead to the signed root; raises VerificationError."""
        return check_root(self.header, self.salts, self.bodies)


def format_envelope(batch: SealedBatch) -> bytes:
    """The envelope of `batch`; raises MalformedError if it would be larger than any receiver accepts."""
    data = _assemble(batch.header, batch.signature, batch.secret, batch.info, batch.readings)
    if len(data) > MAX_ENVELOPE:
        raise MalformedError(f"envelope: {len(data)} bytes, more than the {MAX_ENVELOPE} allowed")
    return data


def split_head(data: bytes) -> tuple[bytes, bytes]:
    """Header and signature as they stand at the beginning of an envelope, of which nothing else is read.

    So that what is not signed by a known key, or is here already, costs no more than this. In an envelope that
    `parse_envelope` accepts they are the same. Raises MalformedError.
    """
    # Canonical form leaves one spelling: array of 6, version 1, bin of 8 or 16 bits of length, bin of 64.
    start = {0xC4: 4, 0xC5: 5}.get(data[2]) if data[:2] == bytes((0x96, ENVELOPE_VERSION)) and len(data) > 4 else None
    if start is None:
        raise MalformedError("envelope: does not begin as one of version 1")
    end = start + int.from_bytes(data[3:start], "big")
    if data[end : end + 2] != b"\xc4\x40" or len(data) < end + 2 + 64:
        raise MalformedError("envelope: no signature behind the header")
    return data[start:end], data[end + 2 : end + 2 + 64]


def parse_envelope(data: bytes) -> Envelope:
    """The envelope in `data`, every reading checked for form, the count and times for truth.

    Raises:
        MalformedError: too large, not canonical, or a field is not what the format says.
    """
    if len(data) > MAX_ENVELOPE:
        raise MalformedError(f"envelope: {len(data)} bytes, more than the {MAX_ENVELOPE} allowed")
    version, header_bytes, signature, secret, info_fields, readings = canonical.fields(
        canonical.unpack(data, "envelope"), 6, "envelope"
    )
    if version != ENVELOPE_VERSION or type(version) is not int:
        raise MalformedError("envelope: not version 1")
    header_bytes = canonical.binary(header_bytes, "envelope: header", 1, MAX_ENVELOPE)
    signature = canonical.binary(signature, "envelope: signature", 64)
    secret = canonical.binary(secret, "envelope: secret", SECRET_SIZE)
    header = Header.decode(header_bytes)
    info = parse_info(info_fields)
    if type(readings) is not tuple or len(readings) != header.count:
        raise MalformedError("envelope: not as many readings as the header counts")
    for fields in readings:
        check_fields(fields)
    if info.window_ns is not None and (header.notice is None or header.notice.kind != NoticeKind.GAP):
        raise MalformedError("envelope: a window without a gap")
    _check_info(info, cast("tuple[tuple[Any, ...], ...]", readings))
    info_bytes = canonical.encode(info_fields)
    encoded = tuple(map(canonical.encode, readings))
    # Types are checked above, so comparing this one re-encoding is all that canonical form needs.
    if _assemble(header_bytes, signature, secret, info_bytes, encoded) != data:
        raise MalformedError("envelope: not the canonical encoding of its value")
    bodies = (info_bytes, *encoded)
    return Envelope(header, header_bytes, signature, tuple(expand_salts(secret, len(bodies))), bodies, info)


def _assemble(header: bytes, signature: bytes, secret: bytes, info: bytes, readings: tuple[bytes, ...]) -> bytes:
    parts: tuple[Value, ...] = (ENVELOPE_VERSION, header, signature, secret)
    return canonical.array([*map(canonical.encode, parts), info, canonical.array(readings)])


def _check_info(info: BatchInfo, readings: tuple[tuple[Any, ...], ...]) -> None:
    times = [fields[2] for fields in readings]
    stated = (info.first_ns, info.last_ns)
    if stated != ((min(times), max(times)) if times else (None, None)):
        raise MalformedError("envelope: first and last time are not those of the readings")
    if {source.source for source in info.sources} != {fields[0] for fields in readings}:
        raise MalformedError("envelope: described sources are not those of the readings")
