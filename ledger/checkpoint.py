"""Checkpoints (C2SP tlog-checkpoint v1.0.0) and signatures over them (signed-note, tlog-cosignature).

    example.org/log     origin, also the name of the log's key
    42                  tree size
    <base64>            root hash

Our logs write no extension lines, and none are accepted: a line that nobody reads is a place to hide one. So
origin, size and root are the whole text, and what each type of key signs follows from them and a time:

    0x01  the text
    0x04  "cosignature/v1", the time, the text
    0x06  "subtree/v1", key name, time, origin, 0, size, root     (ML-DSA-44: a log's own or a witness's)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ledger.batch import MAX_ORIGIN
from ledger.errors import MalformedError, VerificationError
from ledger.note import ED25519_COSIGNATURE, ED25519_NOTE, ML_DSA_44, Note, NoteSigner, Signature, VerifierKey
from ledger.strict import check_name, decode_hash, encode_base64, parse_decimal

MAX_TIME = 2**63 - 1  # tlog-cosignature
SIGNATURE_SIZES = {ED25519_COSIGNATURE: 64, ML_DSA_44: 2420}

_SUBTREE_LABEL = b"subtree/v1\n\0"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: all of its first `size` entries, by one root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text of this checkpoint."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"

    def sign(self, *signers: NoteSigner, time: int = 0) -> Note:
        """This checkpoint signed by each of `signers` at `time` (Unix seconds), in order."""
        return Note(self.text(), tuple(self.signature(signer, time) for signer in signers))

    def signature(self, signer: NoteSigner, time: int) -> Signature:
        """The line by which `signer` says that it saw this checkpoint at `time`, Unix seconds (0x01 has no time)."""
        stamp = b"" if signer.verifier.type == ED25519_NOTE else time.to_bytes(8, "big")
        return signer.line(stamp + signer.sign_bytes(self._message(signer.verifier, time)))

    def _message(self, key: VerifierKey, time: int) -> bytes:
        if key.type == ED25519_NOTE:
            return self.text().encode()
        if key.type == ED25519_COSIGNATURE:
            return f"cosignature/v1\ntime {time}\n{self.text()}".encode()
        return b"".join(
            (
                _SUBTREE_LABEL,
                _counted(key.name.encode()),
                time.to_bytes(8, "big"),
                _counted(self.origin.encode()),
                bytes(8),
                self.size.to_bytes(8, "big"),
                self.root,
            )
        )

    def check(self, line: Signature, key: VerifierKey) -> int | None:
        """The time (Unix seconds) of the signature `line` by `key` over this checkpoint; None for type 0x01.

        Raises:
            VerificationError: it does not verify.
        """
        if key.type == ED25519_NOTE:
            key.check(line.signature, self._message(key, 0))
            return None
        due = 8 + SIGNATURE_SIZES[key.type]
        if len(line.signature) != due:
            raise VerificationError(f"cosignature of {key.name} has {len(line.signature)} bytes where {due} are due")
        time = int.from_bytes(line.signature[:8], "big")
        if time > MAX_TIME:
            raise VerificationError(f"cosignature of {key.name} has a time beyond 2^63 - 1")
        key.check(line.signature[8:], self._message(key, time))
        return time


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text; raises MalformedError naming the line."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise MalformedError(f"checkpoint: {len(lines) - 1} lines where origin, size and root are due")
    origin = check_name(lines[0], "checkpoint: line 1: origin")
    if len(origin.encode()) > MAX_ORIGIN:
        raise MalformedError(f"checkpoint: line 1: origin is longer than {MAX_ORIGIN} bytes")
    size = parse_decimal(lines[1], "checkpoint: line 2: size")
    return Checkpoint(origin, size, decode_hash(lines[2], "checkpoint: line 3: root"))


def verify_signed(checkpoint: Checkpoint, note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """The keys among `keys` that signed `checkpoint`, which is the text of `note`; at least one.

    Raises:
        VerificationError: a line by one of the keys does not verify, or there is none by any.
    """
    signed = []
    for key in keys:
        lines = note.by(key)
        for line in lines:
            checkpoint.check(line, key)
        if lines:
            signed.append(key)
    if not signed:
        raise VerificationError("no signature by a known key")
    return tuple(signed)


def _counted(data: bytes) -> bytes:
    """`data` after its length in one byte; a longer name than that is no cosigner's (raises VerificationError)."""
    if not 0 < len(data) < 256:
        raise VerificationError(f"a name of {len(data)} bytes cannot stand in an ML-DSA-44 cosignature")
    return bytes([len(data)]) + data
