"""A payload as it is in a backup: leaf hashes in clear, and salts and bytes encrypted under the keys of their subjects.

    sealed payload = [leaf hashes, [group, ...]]          canonical msgpack; the hashes of all leaves, joined
    group          = [key number, leaves, nonce[12], AES-256-GCM(plaintext)]     the associated data: the leaf hashes
    plaintext      = one slot a leaf: u16 leaf index, u16 length of the body, salt[16], body, zeros

One group holds all leaves of one subject. A slot takes a multiple of 96 bytes, so that every reading with one number in
it is as long as every other: a destroyed key leaves the ciphertext, and its length would tell a pulse above 127.

The nonce is the beginning of the plaintext's hash. The salts in it are random, so what has one nonce is one plaintext,
of one batch, with one encryption: a backup of what has not changed is the same bytes, which tools that store
differences like, and no counter has to survive a crash. Everything is bound to its place by the leaf hashes, which lead
to the root in the batch's header (`ledger.leaves.check_leaves`).
"""

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aggregator.backup_keys import SubjectKey
from ledger import canonical
from ledger.batch import LEAVES_PER_BATCH, leaf_hash
from ledger.canonical import Value
from ledger.errors import MalformedError, VerificationError
from ledger.leaves import MAX_BODY, Leaf, Leaves
from ledger.reading import MAX_SOURCE, MIN_INT64

SLOT = 96  # bytes: head, salt and the longest reading that is no waveform
HASH_SIZE, NONCE_SIZE, TAG_SIZE = 32, 12, 16
# A whole batch in the largest slots; only a bound.
MAX_PLAINTEXT = 16 * 1024 * 1024
_HEAD = struct.Struct(">HH16s")
_NONCE_LABEL = b"vitalseal/v1/backup nonce\n"
_SOURCE = b"\x98\xc4"  # how a reading begins: an array of eight, and its first item is bytes of a length below 256

# The key of a number: None if it was destroyed; LookupError if it is not among the keys that there are.
Keys: TypeAlias = Callable[[int], AESGCM | None]


@dataclass(frozen=True, slots=True)
class Split:
    """A payload taken apart: the hashes of its leaves, joined, and how many leaves and which plaintext of a subject."""

    hashes: bytes
    groups: Mapping[bytes, tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Opened:
    """A payload put together: its leaves, and how many stay hashes because their key was destroyed, or is not here."""

    leaves: tuple[Leaf | bytes, ...]
    destroyed: int
    unknown: int


def split_payload(place: tuple[bytes, int, int], leaves: Leaves) -> Split:
    """The payload `leaves` of the batch at `place` (key id, epoch, sequence number), by subject."""
    hashes = []
    slots: dict[bytes, list[bytes]] = {}
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, bytes):
            hashes.append(leaf)
            continue
        hashes.append(leaf_hash(*place, index, leaf.salt, leaf.body))
        subject = source_of(leaf.body) if index else place[0]
        slots.setdefault(subject, []).append(_slot(index, leaf))
    return Split(b"".join(hashes), {subject: (len(kept), b"".join(kept)) for subject, kept in slots.items()})


def seal_payload(split: Split, keys: Mapping[bytes, SubjectKey | None]) -> bytes:
    """The sealed payload. Of a subject whose key is None the hashes alone are in it."""
    groups: list[Value] = []
    for subject, (count, plaintext) in split.groups.items():
        key = keys[subject]
        if key is not None:
            nonce = hashlib.sha256(_NONCE_LABEL + plaintext).digest()[:NONCE_SIZE]
            groups.append((key.number, count, nonce, key.cipher.encrypt(nonce, plaintext, split.hashes)))
    return canonical.encode((split.hashes, tuple(groups)))


def open_payload(data: bytes, keys: Keys) -> Opened:
    """The payload in `data`, as far as there are keys; whether it is the batch's own only `check_leaves` can tell.

    Raises:
        MalformedError: not a sealed payload.
        VerificationError: something does not open with its key.
    """
    hashes, groups = canonical.fields(canonical.decode(data, "sealed payload"), 2, "sealed payload")
    joined = canonical.binary(hashes, "sealed payload: hashes", HASH_SIZE, LEAVES_PER_BATCH * HASH_SIZE)
    if len(joined) % HASH_SIZE or type(groups) is not tuple:
        raise MalformedError("sealed payload: not hashes of leaves and an array of groups")
    leaves: list[Leaf | bytes] = [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]
    destroyed = unknown = 0
    for group in groups:
        number, count, nonce, sealed = canonical.fields(group, 4, "sealed payload: group")
        count = canonical.uint(count, "sealed payload: count", len(leaves))
        try:
            cipher = keys(canonical.uint(number, "sealed payload: key number", -MIN_INT64 - 1))
        except LookupError:
            unknown += count
            continue
        if cipher is None:
            destroyed += count
            continue
        nonce = canonical.binary(nonce, "sealed payload: nonce", NONCE_SIZE)
        sealed = canonical.binary(sealed, "sealed payload: ciphertext", TAG_SIZE, MAX_PLAINTEXT)
        try:
            plaintext = cipher.decrypt(nonce, sealed, joined)
        except InvalidTag:
            raise VerificationError("sealed payload: does not open with its key") from None
        _fill(leaves, plaintext)
    return Opened(tuple(leaves), destroyed, unknown)


def no_keys(number: int) -> None:
    """The `Keys` of whoever has none."""
    raise LookupError(number)


def _slot(index: int, leaf: Leaf) -> bytes:
    slot = _HEAD.pack(index, len(leaf.body), leaf.salt) + leaf.body
    return slot.ljust(-(-len(slot) // SLOT) * SLOT, b"\0")


def _fill(leaves: list[Leaf | bytes], plaintext: bytes) -> None:
    """The leaves in `plaintext` are in their places, instead of their hashes."""
    at = 0
    while at + _HEAD.size < len(plaintext):
        index, length, salt = _HEAD.unpack_from(plaintext, at)
        body = plaintext[at + _HEAD.size : at + _HEAD.size + length]
        if not index < len(leaves) or not 1 <= length <= MAX_BODY:
            raise MalformedError("sealed payload: a slot is of no leaf")
        leaves[index] = Leaf(salt, body)
        at += -(-(_HEAD.size + length) // SLOT) * SLOT


def source_of(body: bytes) -> bytes:
    """The source that the reading `body` names, without decoding the rest."""
    if body[:2] != _SOURCE or not 1 <= body[2] <= MAX_SOURCE:
        raise MalformedError("payload: a leaf is no reading")
    return body[3 : 3 + body[2]]


def subjects_of(splits: Sequence[Split]) -> set[bytes]:
    """Everybody of whom there is something in `splits`."""
    return {subject for split in splits for subject in split.groups}
