"""A quorum in this process: one witness with a key of either kind, of which each may be silent."""

from collections.abc import Callable, Iterable

from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.merkle import EMPTY_ROOT, check_consistency
from ledger.note import ED25519_COSIGNATURE, ML_DSA_44, Note, NoteSigner
from ledger.policy import Witness
from ledger.writer.storage import StorageError
from ledger.writer.witness_health import WitnessState
from tests.ledger.builders import seed

BOTH = frozenset({ED25519_COSIGNATURE, ML_DSA_44})
NAME, URL = "hospital", "https://witness.example/hospital"
SIGNERS = tuple(NoteSigner("witness.example/hospital", seed(f"hospital {type_}"), type_) for type_ in sorted(BOTH))
WITNESSES = tuple(Witness(NAME, signer.verifier, URL) for signer in SIGNERS)


class Cosigners:
    """A `Quorum` that cosigns, as a witness does, only what extends what it saw.

    `silent` are the types of its keys that do not answer, `answers` is what it says before the first signature;
    `offered` is every note that it was asked about.
    """

    def __init__(self, time_s: int = 1_764_000_000, *, silent: Iterable[int] = (), answers: bool = True) -> None:
        self.time_s = time_s
        self.silent = frozenset(silent)
        self.answers = answers
        self.offered: list[Note] = []
        self.seen = Checkpoint("", 0, EMPTY_ROOT)

    def cosign(self, note: Note, prove: Callable[[int], list[bytes]]) -> Note:
        self.offered.append(note)
        checkpoint = parse_checkpoint(note.text)
        answering = [signer for signer in SIGNERS if signer.verifier.type not in self.silent]
        if answering:
            check_consistency(self.seen.size, checkpoint.size, self.seen.root, checkpoint.root, prove(self.seen.size))
            self.seen = checkpoint
        missing = [signer for signer in answering if not note.by(signer.verifier)]
        lines = tuple(checkpoint.signature(signer, self.time_s) for signer in missing)
        return Note(note.text, note.signatures + lines)

    def satisfied(self, note: Note) -> bool:
        return all(note.by(signer.verifier) for signer in SIGNERS)

    def confirm(self, checkpoint: Checkpoint, root_at: Callable[[int], bytes]) -> bool:
        if self.seen.size > checkpoint.size or root_at(self.seen.size) != self.seen.root:
            raise StorageError(f"the witness {NAME} has cosigned a checkpoint of size {self.seen.size}")
        return self.answers

    def states(self) -> list[WitnessState]:
        ok = not self.silent
        return [WitnessState(NAME, URL, ok, "" if ok else "gave no answer in time", self.seen.size, 0.0, 0.0)]
