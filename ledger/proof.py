"""The `.tlog-proof` file (C2SP tlog-proof@v1), and the form with one leaf of a batch (FORMAT.md section 8).

    c2sp.org/tlog-proof@v1
    extra <base64>             what leads from the claim to the log's entry; begins with its form
    index <n>                  the entry's place in the log
    <hash>                     inclusion proof of the entry, leaf to root
    <empty line>
    <checkpoint, verbatim>

Stock tlog-proof tools check the lower half. `extra` is unauthenticated input until the verifier has rebuilt the
entry from it and found that entry in the log. Its forms: 1 a leaf, 2 a key's status (`ledger.status`), 3 all of a
device's batches over a range (`ledger.completeness`).
"""

from dataclasses import dataclass

from ledger import canonical
from ledger.batch import MAX_READINGS, SALT_SIZE
from ledger.entry import MAX_HEADER
from ledger.errors import MalformedError
from ledger.leaves import MAX_BODY
from ledger.merkle import MAX_PROOF, join_path, split_path
from ledger.note import Note, parse_note
from ledger.strict import decode_base64, decode_hash, decode_text, encode_base64, parse_decimal

MAX_PROOF_FILE = 512 * 1024  # a note of 256 KB, a waveform in base64, and room
LEAF_FORM = 1

_FIRST_LINE = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class LeafProof:
    """The `extra`: one leaf of a batch, and how it leads to the entry in the log.

    Attributes:
        algorithm, public_key: the device's key, whose id stands in the header.
        header, signature: as logged.
        leaf_index: 0 for the batch info, else the reading's number from 1.
        salt: the leaf's own 16 bytes.
        path: inclusion proof of the leaf in the header's root.
        body: canonical bytes of the reading or the batch info.
    """

    algorithm: int
    public_key: bytes
    header: bytes
    signature: bytes
    leaf_index: int
    salt: bytes
    path: tuple[bytes, ...]
    body: bytes

    def encode(self) -> bytes:
        """The canonical bytes of the `extra`."""
        key = (self.algorithm, self.public_key)
        place = (self.leaf_index, self.salt, join_path(self.path))
        return canonical.encode((LEAF_FORM, *key, self.header, self.signature, *place, self.body))


@dataclass(frozen=True, slots=True)
class ProofFile:
    """A proof file of any form: nothing in it is proven yet."""

    extra: bytes
    index: int
    inclusion: tuple[bytes, ...]
    checkpoint: Note

    @property
    def form(self) -> int:
        """What the `extra` is a proof of; 0 if it is nothing of ours."""
        # Every form is an array of less than 16 items, whose first is a small integer: one byte each.
        return self.extra[1] if len(self.extra) > 1 and self.extra[0] & 0xF0 == 0x90 else 0

    def encode(self) -> bytes:
        """The bytes of the file."""
        lines = [_FIRST_LINE, f"extra {encode_base64(self.extra)}", f"index {self.index}"]
        lines += map(encode_base64, self.inclusion)
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint.encode()


@dataclass(frozen=True, slots=True)
class ReadingProof:
    """A parsed proof of one leaf: nothing in it is proven yet."""

    leaf: LeafProof
    index: int
    inclusion: tuple[bytes, ...]
    checkpoint: Note

    def encode(self) -> bytes:
        """The bytes of the proof file."""
        return ProofFile(self.leaf.encode(), self.index, self.inclusion, self.checkpoint).encode()


def parse_proof_file(data: bytes, *, limit: int = MAX_PROOF_FILE) -> ProofFile:
    """The proof in `data`, its extra unread; raises MalformedError naming the line."""
    text = decode_text(data, "proof", limit=limit)
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if lines[0] != _FIRST_LINE:
        raise MalformedError(f"proof: line 1: not {_FIRST_LINE}")
    if not separator:
        raise MalformedError("proof: no empty line before the checkpoint")
    if len(lines) < 2 or not lines[1].startswith("extra "):
        raise MalformedError("proof: line 2: no extra, so nothing leads from a reading to the log")
    extra = decode_base64(lines[1].removeprefix("extra "), "proof: line 2: extra")
    if len(lines) < 3 or not lines[2].startswith("index "):
        raise MalformedError("proof: line 3: no index")
    index = parse_decimal(lines[2].removeprefix("index "), "proof: line 3: index")
    if len(lines) - 3 > MAX_PROOF:
        raise MalformedError(f"proof: more than {MAX_PROOF} hashes")
    inclusion = tuple(decode_hash(line, f"proof: line {number}") for number, line in enumerate(lines[3:], 4))
    proof = ProofFile(extra, index, inclusion, parse_note(note.encode(), "checkpoint"))
    if proof.encode() != data:
        raise MalformedError("proof: not in the one spelling of its content")
    return proof


def parse_proof(data: bytes) -> ReadingProof:
    """The proof of a leaf in `data`.

    Raises:
        MalformedError: not a tlog-proof, or its `extra` is missing or not that of a leaf; names the line.
    """
    return read_proof(parse_proof_file(data))


def read_proof(file: ProofFile) -> ReadingProof:
    """`file` as the proof of a leaf; raises MalformedError."""
    return ReadingProof(parse_leaf_proof(file.extra), file.index, file.inclusion, file.checkpoint)


def parse_leaf_proof(data: bytes) -> LeafProof:
    """The `extra` in `data`; raises MalformedError."""
    version, algorithm, public_key, header, signature, leaf_index, salt, path, body = canonical.fields(
        canonical.decode(data, "extra"), 9, "extra"
    )
    if version != LEAF_FORM or type(version) is not int:
        raise MalformedError("extra: not of form 1, the proof of a leaf")
    path = canonical.binary(path, "extra: path", 0, 32 * MAX_PROOF)
    return LeafProof(
        canonical.uint(algorithm, "extra: algorithm", 255),
        canonical.binary(public_key, "extra: public key", 1, 128),
        canonical.binary(header, "extra: header", 1, MAX_HEADER),
        canonical.binary(signature, "extra: signature", 64),
        canonical.uint(leaf_index, "extra: leaf index", MAX_READINGS),
        canonical.binary(salt, "extra: salt", SALT_SIZE),
        tuple(split_path(path, "extra: path")),
        canonical.binary(body, "extra: body", 1, MAX_BODY),
    )
