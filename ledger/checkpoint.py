"""Checkpoints (C2SP tlog-checkpoint v1.0.0) and cosignatures over them (tlog-cosignature, Ed25519).

    example.org/log     origin, also the name of the log's key
    42                  tree size
    <base64>            root hash

Our logs write no extension lines, and none are accepted: a line that nobody reads is a place to hide one.
"""

from dataclasses import dataclass

from ledger.batch import MAX_ORIGIN
from ledger.errors import MalformedError, VerificationError
from ledger.note import Note, NoteSigner, Signature, VerifierKey, sign_note
from ledger.strict import check_name, decode_hash, encode_base64, parse_decimal

MAX_TIME = 2**63 - 1  # tlog-cosignature


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log commits to: all of its first `size` entries, by one root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text of this checkpoint."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"

    def sign(self, signer: NoteSigner) -> Note:
        """The note that publishes this checkpoint."""
        return sign_note(self.text(), [signer])


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


def check_cosignature(note: Note, line: Signature, key: VerifierKey) -> int:
    """The time (Unix seconds) at which the witness `key` says it had seen `note`, by its cosignature `line`.

    Raises:
        VerificationError: the line is not a timestamped signature of that key over this text.
    """
    if len(line.signature) != 72:
        raise VerificationError(f"cosignature of {key.name} has {len(line.signature)} bytes where 72 are due")
    time = int.from_bytes(line.signature[:8], "big")
    if time > MAX_TIME:
        raise VerificationError(f"cosignature of {key.name} has a time beyond 2^63 - 1")
    key.check(line.signature[8:], _cosigned(note.text, time))
    return time


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()
