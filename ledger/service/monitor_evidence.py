"""Evidence against a log, kept so that it convinces others: one text file for each alarm that does not pass by itself.

    vitalseal monitor evidence v1
    kind: split-view
    subject: https://mirror.example/
    found: 2026-01-02T03:04:05Z
    says: the first 7 entries have another root here than in what was followed
    <empty line>
    one or two claims, or an entry

A claim is a note, verbatim, and a prefix of its tree: a size, the root that the tree has there, and the proof that
leads from this root to the note's. Two notes by one log with different roots for one prefix convict it.
Files are written whole and synced, and never overwritten. Who removes one has dealt with it, and ends the alarm.
"""

import datetime as dt
import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ledger.checkpoint import parse_checkpoint, verify_signed
from ledger.errors import MalformedError, VerificationError
from ledger.merkle import check_consistency
from ledger.note import Note, VerifierKey, parse_note
from ledger.strict import decode_hash, decode_text, encode_base64, parse_decimal
from ledger.writer.files import sync_directory, sync_file

TITLE = "vitalseal monitor evidence v1"
BEGIN, END = "-----BEGIN SIGNED NOTE-----", "-----END SIGNED NOTE-----"
_SUFFIX = ".txt"
_MAX_HEAD = 4096
_MAX_FILE = 2 * 1024 * 1024  # two notes, two proofs, an entry in hex


@dataclass(frozen=True, slots=True)
class Claim:
    """A signed checkpoint `note`, and what follows from it: its log's first `size` entries have `root`.

    `proof` is the consistency proof from there to the checkpoint (RFC 6962 section 2.1.2), empty for its own size.
    """

    note: Note
    size: int
    root: bytes
    proof: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return (
            f"{_armour(self.note)}prefix size: {self.size}\nprefix root: {encode_base64(self.root)}\n"
            f"consistency proof: {_path(self.proof)}\n"
        )


@dataclass(frozen=True, slots=True)
class Exhibit:
    """Entry `index` as the log that signed `note` has it; `proof` is its inclusion proof."""

    note: Note
    index: int
    entry: bytes
    proof: tuple[bytes, ...]

    def __str__(self) -> str:
        return (
            f"{_armour(self.note)}entry index: {self.index}\nentry: {self.entry.hex()}\n"
            f"inclusion proof: {_path(self.proof)}\n"
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of one file of the folder; `found` is in Unix seconds."""

    kind: str
    subject: str
    found: int
    says: str
    name: str


class EvidenceFolder:
    """The folder of a monitor's evidence."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        sync_directory(path.parent)

    def names(self) -> set[str]:
        """The files that are there."""
        return {file.name for file in self.path.glob(f"*{_SUFFIX}")}

    def read(self) -> list[Kept]:
        """Every file's head, the oldest first; of one that somebody else put there, as far as it can be told."""
        return sorted(map(self._read, self.names()), key=lambda kept: (kept.found, kept.name))

    def keep(self, kind: str, subject: str, now: int, says: str, parts: Sequence[Claim | Exhibit]) -> Kept:
        """The file with `parts`, durably there."""
        body = "\n".join(map(str, parts))
        head = f"{TITLE}\nkind: {kind}\nsubject: {subject}\nfound: {iso_time(now)}\nsays: {says}\n\n"
        stamp = dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        name = f"{kind}-{stamp}-{hashlib.sha256((head + body).encode()).hexdigest()[:12]}{_SUFFIX}"
        staged = self.path / f".{name}.new"
        staged.write_bytes((head + body).encode())
        sync_file(staged)
        with suppress(FileExistsError):  # of the same content, so there is nothing to write
            os.link(staged, self.path / name)
        staged.unlink()
        sync_directory(self.path)
        return Kept(kind, subject, now, says, name)

    def _read(self, name: str) -> Kept:
        fields = {"kind": name.partition("-")[0], "subject": name, "says": "evidence of an earlier run"}
        try:
            with (self.path / name).open("rb") as file:
                head = file.read(_MAX_HEAD).decode("utf-8", "replace").partition("\n\n")[0]
            found = int((self.path / name).stat().st_mtime)
        except FileNotFoundError:  # removed at this moment
            head, found = "", 0
        for line in head.split("\n")[1:] if head.startswith(TITLE) else []:
            key, _, value = line.partition(": ")
            fields[key] = value
        return Kept(fields["kind"], fields["subject"], found, fields["says"], name)


def parse_claims(data: bytes) -> list[Claim]:
    """The claims in a file of evidence; nothing in them is verified. Raises MalformedError."""
    claims = []
    for part in decode_text(data, "evidence", limit=_MAX_FILE).split(f"{BEGIN}\n")[1:]:
        note, separator, rest = part.partition(f"{END}\n")
        fields = dict(line.split(": ", 1) for line in rest.split("\n") if ": " in line)
        if not separator or "entry index" in fields:
            continue
        try:
            size, root, proof = (fields[name] for name in ("prefix size", "prefix root", "consistency proof"))
        except KeyError as error:
            raise MalformedError(f"evidence: a note without its {error}") from None
        hashes = () if proof == "none" else tuple(decode_hash(item, "evidence: proof") for item in proof.split(" "))
        number = parse_decimal(size, "evidence: prefix size")
        claims.append(Claim(parse_note(note.encode(), "evidence: note"), number, decode_hash(root, "evidence"), hashes))
    return claims


def check_split(one: Claim, other: Claim, keys: Iterable[VerifierKey]) -> None:
    """A log with one of `keys` signed two histories: both claims hold, and they exclude each other.

    Raises:
        MalformedError: a note is no checkpoint.
        VerificationError: a signature or proof does not hold, or both may be of one history.
    """
    keys = tuple(keys)
    for claim in (one, other):
        checkpoint = parse_checkpoint(claim.note.text)
        verify_signed(checkpoint, claim.note, keys)
        check_consistency(claim.size, checkpoint.size, claim.root, checkpoint.root, claim.proof)
    if one.size != other.size or one.root == other.root:
        raise VerificationError("the two checkpoints may be of one history")


def iso_time(seconds: int) -> str:
    """A Unix time as people write it."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _armour(note: Note) -> str:
    return f"{BEGIN}\n{note.encode().decode()}{END}\n"


def _path(hashes: Sequence[bytes]) -> str:
    return " ".join(map(encode_base64, hashes)) or "none"
