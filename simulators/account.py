"""The account of a run: what devices accepted, held against what is read back and verified.

    accepted    every reading body in every device's outbox
    read back   every reading in the reading store, its proof put together from the store alone
    verified    that proof, as bytes, through the verifier that auditors use, every one of its steps: under the log's
                policy, with its registrars and the status of the device's key

Nothing is taken from what a running program said of itself. The log is recomputed from its entries besides, so that
the store cannot leave out what the log holds.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregator.timeseries.base import StoredBatch, StoredReading, prove
from aggregator.timeseries.embedded import EmbeddedStore
from edge.outbox_reader import OutboxReader
from ledger import merkle
from ledger.checkpoint import parse_checkpoint
from ledger.errors import LedgerError, VerificationError
from ledger.fsck import LogReport, fsck, open_log
from ledger.kinds import kind_name
from ledger.note import VerifierKey, parse_note
from ledger.policy import Policy, parse_policy, parse_trust
from ledger.reading import Reading
from ledger.status import KeyStatus, verify_status
from ledger.tiles import TileReader
from ledger.verify import verify_proof
from ledger.writer.create import POLICY, POLICY_PQ, TRUST
from ledger.writer.files import list_files, read_file
from ledger.writer.prove import Prover
from ledger.writer.reader import PUBLIC, LocalReader

PROOFS = "proofs"
SUFFIX = ".tlog-proof"
# Problems told in full; a broken run has thousands of one kind.
MAX_TOLD = 5

# How far it is: readings verified, readings in all.
Progress = Callable[[int, int], None]
# Device and hash of a reading's bytes: a long demo has millions, and waveforms are kilobytes.
_Mark = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Account:
    """What came out. `problems` is empty exactly if everything held."""

    readings: int
    batches: int
    entries: int
    verified: int
    lost: int
    duplicates: int
    proofs: tuple[Path, ...]
    problems: tuple[str, ...]

    def line(self) -> str:
        """The summary that scripts read."""
        return (
            f"readings={self.readings} batches={self.batches} entries={self.entries} "
            f"verified={self.verified} lost={self.lost} duplicates={self.duplicates}"
        )


def settle(data: Path, outboxes: Mapping[str, Path], progress: Progress) -> Account:
    """The account of the run whose aggregator's data is in `data` and whose outboxes, by device, are given.

    Writes one proof of each kind of reading to `data`/proofs. Nothing may be running any more.
    """
    problems: list[str] = []
    accepted, kinds = _accepted(outboxes)
    policy = parse_policy((data / POLICY).read_bytes())
    trust = parse_trust((data / TRUST).read_bytes())
    report, tree = _check_log(data, policy, trust, problems)
    proofs = data / PROOFS
    proofs.mkdir(exist_ok=True)
    statuses = _key_statuses(data, policy, proofs, problems)
    found = _ReadBack(policy, trust, statuses, problems)
    with EmbeddedStore(data, readonly=True) as store:
        total = sum(accepted.values())
        batch: StoredBatch | None = None
        for stored in store.readings():
            # Readings come by place, so each batch is fetched once.
            if batch is None or batch.log_index != stored.log_index:
                batch = store.batch(stored.log_index)
            found.check(stored, batch)
            progress(found.readings, max(total, found.readings))
    if tree is not None:
        _check_checkpoints(found.checkpoints, tree, problems)
    paths = found.write_proofs(proofs)
    _check_post_quantum(data, paths, problems)
    lost, duplicates = _compare(accepted, found.marks, problems)
    if missing := kinds - set(found.first_of_kind):
        problems.append(f"no proof of {', '.join(sorted(missing))}")
    if report is not None and report.log.readings != found.readings:
        problems.append(f"the log commits to {report.log.readings} readings, the store holds {found.readings}")
    if not found.readings:
        problems.append("no reading was read back")
    return Account(
        readings=found.readings,
        batches=len(found.batches),
        entries=report.log.size if report else 0,
        verified=found.verified,
        lost=lost,
        duplicates=duplicates,
        proofs=paths,
        problems=tuple(problems),
    )


class _ReadBack:
    """What the store holds, reading by reading."""

    def __init__(
        self, policy: Policy, trust: Sequence[VerifierKey], statuses: Sequence[KeyStatus], problems: list[str]
    ) -> None:
        self._policy = policy
        self._trust = trust
        self._statuses = statuses
        # Without a witness there is no time that step 8 could compare with.
        self._strict = policy.quorum is not None
        self._problems = problems
        self.readings = 0
        self.verified = 0
        self.batches: set[int] = set()
        self.marks: Counter[_Mark] = Counter()
        self.first_of_kind: dict[str, bytes] = {}
        self.checkpoints: set[bytes] = set()

    def check(self, stored: StoredReading, batch: StoredBatch | None) -> None:
        """Counts `stored`, and counts it as verified if its proof is."""
        self.readings += 1
        self.marks[_mark(stored.device, stored.body)] += 1
        try:
            if batch is None:
                raise VerificationError("the store has no batch record")
            self.checkpoints.add(batch.checkpoint)
            proof = prove(stored, batch).encode()
            reading = verify_proof(
                proof, self._policy, trust=self._trust, statuses=self._statuses, strict=self._strict
            ).reading
            if reading is None or reading.encode() != stored.body:
                raise VerificationError("the proof is of something else")
        except (LedgerError, IndexError) as error:
            if self.readings - self.verified <= MAX_TOLD:
                self._problems.append(f"reading {stored.ref} of {stored.device} is not proven: {error}")
            return
        self.verified += 1
        self.batches.add(stored.log_index)
        self.first_of_kind.setdefault(kind_name(reading.kind), proof)

    def write_proofs(self, folder: Path) -> tuple[Path, ...]:
        """One file a kind, with the first proof of it."""
        paths = []
        for kind, proof in sorted(self.first_of_kind.items()):
            path = folder / f"{kind.replace(' ', '_')}{SUFFIX}"
            path.write_bytes(proof)
            paths.append(path)
        return tuple(paths)


def _accepted(outboxes: Mapping[str, Path]) -> tuple[Counter[_Mark], set[str]]:
    """Every accepted reading, and the kinds there are."""
    accepted: Counter[_Mark] = Counter()
    kinds: set[str] = set()
    for device, path in outboxes.items():
        with OutboxReader(path) as reader:
            for body in reader.bodies():
                accepted[_mark(device, body)] += 1
                kinds.add(kind_name(Reading.decode(body).kind))
    return accepted, kinds


def _key_statuses(data: Path, policy: Policy, proofs: Path, problems: list[str]) -> list[KeyStatus]:
    """The proven status of every key, each written to `proofs` for whoever verifies with `--trust`."""
    statuses = []
    with LocalReader(data) as log:
        prover = Prover(log, policy.logs[0][0].name)
        for record in prover.keys:
            try:
                file = prover.status(record.key_id)
                statuses.append(verify_status(file, policy))
            except LedgerError as error:
                problems.append(f"status of key {record.key_id.hex()[:16]}: {error}")
            else:
                (proofs / f"key-{record.key_id.hex()[:16]}{SUFFIX}").write_bytes(file.encode())
    return statuses


def _check_post_quantum(data: Path, paths: Sequence[Path], problems: list[str]) -> None:
    """The proofs hold under the policy that counts post-quantum signatures only."""
    policy = parse_policy((data / POLICY_PQ).read_bytes())
    for path in paths:
        try:
            verify_proof(path.read_bytes(), policy)
        except LedgerError as error:
            problems.append(f"{path.name} under {POLICY_PQ}: {error}")


def _check_log(
    data: Path, policy: Policy, trust: Sequence[VerifierKey], problems: list[str]
) -> tuple[LogReport | None, TileReader | None]:
    public = data / PUBLIC

    def fetch(path: str) -> bytes | None:
        return read_file(public, path)

    try:
        return fsck(fetch, policy, trust=trust, paths=list_files(public)), open_log(fetch, policy)[1]
    except LedgerError as error:
        problems.append(f"fsck: {error}")
        return None, None


def _check_checkpoints(notes: Iterable[bytes], tree: TileReader, problems: list[str]) -> None:
    """Every checkpoint that a stored proof ends in is of the history that the log shows."""
    for note in notes:
        shown = parse_checkpoint(parse_note(note, "checkpoint").text)
        if shown.size > tree.size or merkle.root_at(shown.size, tree.hash_at) != shown.root:
            problems.append(f"the store holds a checkpoint of size {shown.size} that is not of this log's history")


def _compare(accepted: Counter[_Mark], found: Counter[_Mark], problems: list[str]) -> tuple[int, int]:
    """How many accepted readings are in no leaf, and how many leaves hold one once more."""
    missing, surplus = accepted - found, found - accepted
    duplicates = sum(count for mark, count in surplus.items() if mark in accepted)
    if strangers := sum(surplus.values()) - duplicates:
        problems.append(f"{strangers} readings that no device accepted")
    if missing:
        problems.append(f"lost: {_by_device(missing.elements())}")
    if duplicates:
        problems.append(f"logged more than once: {duplicates} readings")
    return sum(missing.values()), duplicates


def _by_device(marks: Iterable[_Mark]) -> str:
    counts = Counter(device for device, _ in marks)
    return ", ".join(f"{count} of {device}" for device, count in sorted(counts.items()))


def _mark(device: str, body: bytes) -> _Mark:
    return device, hashlib.sha256(body).digest()
