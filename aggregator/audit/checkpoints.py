"""Checkpoint records, judged by policy and tree: each must be a checkpoint of this log, as it was published."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from aggregator.audit.findings import FORM, QUORUM, SHOWN, SIGNATURE, About, Book, Fault, Finding, What, first_few
from aggregator.audit.private import Private
from aggregator.audit.public import PublicLog
from aggregator.audit.truth import Truth
from aggregator.audit.words import counted
from aggregator.timeseries.base import ReadingStore
from ledger import merkle
from ledger.batch import Header
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.errors import MalformedError, VerificationError
from ledger.note import parse_note
from ledger.policy import verify_log_signature, verify_quorum
from vitalseal.errors import UserError


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a record is: `fault` None for a sound one; `size` that of the checkpoint in it, if it is of this log."""

    fault: Fault | None
    size: int = 0
    logged_by: int | None = None


class CheckpointRecords:
    """The checkpoint records past `truth`'s start; `judge` when it is known which of them there have to be."""

    def __init__(self, truth: Truth, store: ReadingStore, private: Private | None, book: Book) -> None:
        self._truth, self._private, self._book = truth, private, book
        self._logged_by: dict[int, int | None] = {}  # of those that are sound
        self._bad: dict[int, tuple[Fault, int]] = {}
        self._doubted: dict[int, str] = {}  # as published, and the policy does not take them: why
        log = truth.log
        records = list(store.checkpoints())
        log.look_again()
        for size, note in records:
            if 0 < size <= truth.start or (size > log.size and log.has_grown_past(size - 1)):
                continue
            published = None if private is None else private.note(size)
            verdict = _judge(size, note, log, published)
            if size in self._logged_by or size in self._bad or size in self._doubted:
                self._logged_by.pop(size, None)
                self._doubted.pop(size, None)
                self._bad[size] = (FORM, "there are several of it"), size
            elif verdict.fault is None:
                self._logged_by[size] = verdict.logged_by
            elif note == published and _is_of(log, note, size):
                self._doubted[size] = verdict.fault[1]
            else:
                self._bad[size] = verdict.fault, verdict.size

    def logged_by(self, size: int) -> int | None:
        """The witnesses' time of the checkpoint of `size`; of the published one, if that record is not sound."""
        return self._logged_by.get(size, self._truth.log.report.checkpoint.logged_by)

    def judge(self, wanted: set[int]) -> None:
        """Every record is counted or found; `wanted` are the sizes that there have to be."""
        self._book.sound[About.CHECKPOINT] += len(self._logged_by) + len(self._doubted)
        missing = wanted - self._logged_by.keys() - self._bad.keys() - self._doubted.keys()
        for size, ((step, why), really) in self._bad.items():
            what, where, is_expected = What.EXTRA, f"checkpoint record {size}", self._is_expected(size, wanted)
            if really in missing and not is_expected:
                missing.discard(really)
                detail = f"it stands under size {size}"
                self._book.add(Finding(What.MOVED, About.CHECKPOINT, really, detail, where=where))
                continue
            if is_expected:
                what = What.CHANGED
            self._book.add(Finding(what, About.CHECKPOINT, size, why, where=where, step=step))
        for size in missing:
            detail = "batch records lead to it, or ought to, and the database does not have it"
            self._book.add(Finding(What.MISSING, About.CHECKPOINT, size, detail))

    def doubts(self) -> Iterator[str]:
        """Why records prove nothing that are as they were published: the policy is another one than it was then."""
        for why, number in sorted(Counter(self._doubted.values()).items()):
            sizes = first_few(size for size, reason in self._doubted.items() if reason == why)
            some = counted(number, "checkpoint record")
            are, them = ("is", "it") if number == 1 else ("are", "them")
            yield f"{some} {are} as published, and this policy does not take {them} ({sizes}): {why}"

    def _is_expected(self, size: int, wanted: set[int]) -> bool:
        """Whether a record ought to stand under `size`, as far as can be known."""
        if size in wanted:
            return True
        if self._private is not None:
            return size > 0 and self._private.note(size) is not None
        return 0 < size <= self._truth.log.size


def _judge(size: int, note: bytes, log: PublicLog, published: bytes | None) -> _Verdict:
    """The record under `size`; `published` is what was, None if that is not known."""
    step = FORM
    try:
        parsed = parse_note(note, "checkpoint")
        step = SIGNATURE
        checkpoint, _ = verify_log_signature(parsed, log.policy)
        step = QUORUM
        logged_by, _ = verify_quorum(parsed, log.policy)
    except MalformedError as error:
        return _Verdict((FORM, str(error)))
    except VerificationError as error:
        return _Verdict((step, str(error)))
    if why := _strange(checkpoint, log):
        return _Verdict((SIGNATURE, why))
    if checkpoint.size != size:
        return _Verdict((0, f"it is the checkpoint of size {checkpoint.size}"), checkpoint.size)
    if published is not None and published != note:
        return _Verdict((0, "it is not byte for byte the checkpoint that was published"), size)
    return _Verdict(None, size, logged_by)


def _is_of(log: PublicLog, note: bytes, size: int) -> bool:
    """Whether `note` says of `size` what `log` does, by whomever it is signed."""
    try:
        checkpoint = parse_checkpoint(parse_note(note, "checkpoint").text)
    except MalformedError:
        return False
    return checkpoint.size == size and not _strange(checkpoint, log)


def _strange(checkpoint: Checkpoint, log: PublicLog) -> str:
    """Why a signed checkpoint is not one of `log`; nothing if it is."""
    if checkpoint.origin != log.origin:
        return f"it is of the log {checkpoint.origin!a}"
    if checkpoint.size > log.size:
        return f"it is of size {checkpoint.size}, and the log has {log.size} entries"
    if merkle.root_at(checkpoint.size, log.tree.hash_at) != checkpoint.root:
        return "its root is not of this log's history: A SPLIT VIEW; keep it as evidence"
    return ""


def check_same_log(log: PublicLog, store: ReadingStore) -> None:
    """Raises UserError if `store` has records of another log and not one of `log`: all else would follow from that."""
    others: set[str] = set()
    for _, note in store.checkpoints():
        with suppress(MalformedError):
            others.add(parse_checkpoint(parse_note(note, "checkpoint").text).origin)
        if log.origin in others:
            return
    if others and not any(_is_batch_of(log, store, index) for index in store.batch_indexes()):
        shown = ", ".join(f"{origin!a}" for origin in sorted(others)[:SHOWN])
        raise UserError(f"{store.title}: is a database of another log: of {shown}, and the log given is {log.origin!a}")


def _is_batch_of(log: PublicLog, store: ReadingStore, index: int) -> bool:
    try:
        record = store.batch(index)
        return record is not None and Header.decode(record.header).origin == log.origin
    except MalformedError:
        return False
