"""What a log sends to a witness (C2SP tlog-witness v1.0.0): the body of `add-checkpoint`.

    old 20852014
    <hash>                  consistency proof from the old size to the checkpoint's, 0 to 63 lines
    <empty line>
    <checkpoint, verbatim>

Log and witness share this codec; what a witness answers to it is in `ledger.service.witness`.
"""

from dataclasses import dataclass

from ledger.errors import MalformedError
from ledger.merkle import MAX_PROOF
from ledger.note import MAX_NOTE, Note, parse_note
from ledger.strict import decode_hash, decode_text, encode_base64, parse_decimal

MAX_BODY = MAX_NOTE + 64 * 45 + 64  # a note, 63 hashes in base64, the old size


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A parsed request: nothing in it is verified yet."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: Note

    def encode(self) -> bytes:
        """The request's body."""
        lines = [f"old {self.old_size}", *map(encode_base64, self.proof)]
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint.encode()


def parse_add_checkpoint(data: bytes) -> AddCheckpoint:
    """The request in `data`; raises MalformedError naming the line."""
    text = decode_text(data, "add-checkpoint", limit=MAX_BODY)
    head, separator, note = text.partition("\n\n")
    if not separator:
        raise MalformedError("add-checkpoint: no empty line before the checkpoint")
    old, *hashes = head.split("\n")
    if not old.startswith("old "):
        raise MalformedError("add-checkpoint: line 1: not 'old' and a size")
    old_size = parse_decimal(old.removeprefix("old "), "add-checkpoint: line 1: old size")
    if len(hashes) > MAX_PROOF:
        raise MalformedError(f"add-checkpoint: more than {MAX_PROOF} hashes")
    proof = tuple(decode_hash(line, f"add-checkpoint: line {number}") for number, line in enumerate(hashes, 2))
    return AddCheckpoint(old_size, proof, parse_note(note.encode(), "add-checkpoint: checkpoint"))
