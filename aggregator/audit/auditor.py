"""The whole audit, in order: the log, the records, the rows, what is not there.

1  the public log is recomputed from its entries; if it is not sound, nothing can be held against it
2  payloads are shown to lead to the log; batch records and checkpoint records are read and compared
3  every row is judged by the leaf hashes of its batch
4  what is missing is found, and paired with rows that are nothing else
5  what could only be judged with all rows known: names, spans, copies, drawn frames, records asked for
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from aggregator.audit.checkpoints import CheckpointRecords, check_same_log
from aggregator.audit.findings import Book, Unproven, first_few
from aggregator.audit.frames import Frames
from aggregator.audit.private import Private
from aggregator.audit.public import PublicLog
from aggregator.audit.records import BatchRecords
from aggregator.audit.rows import Rows
from aggregator.audit.truth import Tally, Truth
from aggregator.audit.words import counted
from aggregator.timeseries.base import ReadingStore, StoredReading
from ledger import merkle
from ledger.batch import LEAVES_PER_BATCH, leaf_hash
from ledger.errors import LedgerError
from ledger.fsck import Progress
from ledger.note import VerifierKey
from ledger.policy import Policy
from ledger.tiles import Fetch
from vitalseal.errors import UserError

SHOW_EVERY = 1000  # rows between two looks at the progress


@dataclass(frozen=True, slots=True)
class Range:
    """Which entries: from `start` (0, unless an earlier audit passed) to before `until`, None for all there are."""

    start: int = 0
    until: int | None = None


@dataclass(slots=True)
class Outcome:
    """What an audit looked at and what came of it.

    Attributes:
        store: the database's title.
        fault: why the log is not sound; then nothing else was looked at, and `log` is None.
        start, until, root: the entries looked at, and the root of the log's first `until`.
        readings: how many the log commits to in these entries.
        not_checked: what was not looked at, and why; `gaps` of it that leave something unproven.
        tally: which of these readings no row could be held against.
        key_ids: by device, the beginnings of its keys' ids; `named_by` says whose word the devices' names are.
        evidence: readings whose rows are genuine and stand wrong, by ref; some of them.
    """

    store: str
    fault: str | None = None
    log: PublicLog | None = None
    start: int = 0
    until: int = 0
    root: bytes = merkle.EMPTY_ROOT
    readings: int = 0
    book: Book = field(default_factory=Book)
    not_checked: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    tally: Tally | None = None
    key_ids: dict[str, list[str]] = field(default_factory=dict)
    named_by: str = "database"
    evidence: dict[int, StoredReading] = field(default_factory=dict)

    @property
    def is_proven(self) -> bool:
        """Whether everything that was looked at is as the log says, and proven."""
        book = self.book
        return self.fault is None and not (book.findings or book.unproven or book.unchecked or self.gaps)


@dataclass(frozen=True, slots=True)
class Public:
    """Where the public log is read, and by whose keys it is judged; `paths` are its files, if they can be listed."""

    fetch: Fetch
    paths: Iterable[str]
    policy: Policy
    trust: tuple[VerifierKey, ...] | None


def audit(
    public: Public,
    store: ReadingStore,
    private: Private | None,
    span: Range = Range(),
    *,
    check: Callable[[PublicLog], None] = lambda _log: None,
    progress: Callable[[str], Progress] = lambda _what: lambda _done, _all: None,
) -> Outcome:
    """What is to be said of `store`; `private` is None where the database and the public log are all there is.

    `check` is called with the sound log before anything is held against it; a LedgerError from it makes that unsound.

    Raises:
        OSError: the log cannot be read.
        StoreAwayError, UserError: the store cannot.
    """
    outcome = Outcome(store.title)
    # Read before the log is: what the view had come to by then is in the database by now.
    cursor = _view_cursor(store, private, outcome)
    try:
        log = PublicLog(public.fetch, public.paths, public.policy, public.trust, progress("entries"))
        check(log)
    except LedgerError as error:
        outcome.fault = str(error)
        return outcome
    check_same_log(log, store)
    outcome.log = log
    until = min(log.size, log.size if span.until is None else span.until)
    outcome.until = until if cursor is None else min(until, cursor)
    outcome.start = min(span.start, outcome.until)
    outcome.root = merkle.root_at(outcome.until, log.tree.hash_at)
    _tell_limits(outcome, log, store, until, private)
    truth = Truth(log, store, private, outcome.start, outcome.until, until)
    _walk(outcome, truth, store, private, progress("rows"))
    if cursor is not None and private is not None and ((view := private.view()) is None or view.cursor < cursor):
        # What was found missing may only be not there yet; and nobody is told that all is well either.
        raise UserError("the view is made again from the start, which began meanwhile: audit it when that has ended")
    return outcome


def _walk(outcome: Outcome, truth: Truth, store: ReadingStore, private: Private | None, show: Progress) -> None:
    book = outcome.book
    outcome.readings = truth.readings
    refused = {} if private is None else private.refused()
    batches = BatchRecords(truth, store, private, book)
    batches.read()
    checkpoints = CheckpointRecords(truth, store, private, book)
    _recover(truth, store, batches)
    frames = Frames(truth, store) if store.keeps_samples else None
    rows = Rows(truth, batches, checkpoints, book, frames=frames)
    done = 0
    for row in store.rows():
        rows.take(row)
        done += 1
        if not done % SHOW_EVERY:
            show(done, max(done + 1, truth.readings))
    show(done, done)
    rows.finish({point: why for point, why in refused.items() if isinstance(point, int)})
    if frames is not None:
        frames.judge(book, rows.reported)
    lacking = {point[0]: why for point, why in refused.items() if isinstance(point, tuple)}
    checkpoints.judge(batches.judge(rows.spans, lacking))
    outcome.evidence = rows.evidence
    outcome.tally = truth.tally({index: count for index, (count, _) in book.unchecked.items()})
    outcome.key_ids = truth.key_ids()
    outcome.gaps += checkpoints.doubts()
    _tell_gaps(outcome, truth, rows.beyond, batches.lost)


def _recover(truth: Truth, store: ReadingStore, batches: BatchRecords) -> None:
    """Batches whose record lies about leaf hashes are known all the same, if their rows make up for it."""
    unknown = {index: truth.entry(index)[1] for index in batches.unknown()}
    if not unknown:
        return
    found: dict[int, dict[int, bytes]] = {index: {} for index in unknown}
    for row in store.rows():
        if row.ref is None or row.body is None or row.salt is None:
            continue
        index, leaf = divmod(row.ref, LEAVES_PER_BATCH)
        header = unknown.get(index)
        if header is not None and 1 <= leaf <= header.count:
            hashed = leaf_hash(header.key_id, header.epoch, header.seq, leaf, row.salt, row.body)
            found[index].setdefault(leaf, hashed)
    for index, of_rows in found.items():
        batches.recover(index, of_rows)


def _view_cursor(store: ReadingStore, private: Private | None, outcome: Outcome) -> int | None:
    """How far the view had ever come, by the aggregator's word; None where there is no such word on this store."""
    view = None if private is None else private.view()
    if view is None:
        return None
    if view.store != store.title:
        outcome.not_checked.append(
            f"how far the view has come: the aggregator's word is on {view.store}, so everything published is expected"
        )
        return None
    return view.cursor


def _tell_limits(outcome: Outcome, log: PublicLog, store: ReadingStore, until: int, private: Private | None) -> None:
    say = outcome.not_checked.append
    if outcome.start:
        say(f"entries before {outcome.start}: an earlier audit passed there, and THEIR ROWS WERE NOT LOOKED AT AGAIN")
    if outcome.until < until:
        # Whoever may write the aggregator's word on it could have rows overlooked: those that are there are not.
        say(
            f"whether all of entries {outcome.until} to {until - 1} is there: the view has not come to them yet, by "
            "the aggregator's own word; what is there of them was looked at"
        )
    if until < log.size:
        say(f"entries {until} to {log.size - 1}")
    outcome.named_by = "database" if private is None else "directory's registry"
    say(f"how devices are called: that is the own word of the {outcome.named_by}; what is proven is which key signed")
    if private is None:
        say("payloads: none at hand, so of a reading without a row nothing is known but that it is missing")
        if (end := store.cursor()) < outcome.until:
            say(f"why everything from entry {end} on is missing: the database says itself that it ends there")


def _tell_gaps(outcome: Outcome, truth: Truth, beyond: int, lost: list[int]) -> None:
    """What was not looked at after all, and what leaves something unproven."""
    unchecked = outcome.book.unchecked
    if beyond:
        outcome.not_checked.append(f"{counted(beyond, 'row')} of entries before {truth.start} or from {truth.until} on")
    if lost:
        outcome.gaps.append(
            f"{counted(len(lost), 'batch', 'batches')} whose payload is lost and of which the database has no record"
            f" (entries {first_few(lost)})"
        )
    for why in sorted({why for _, why in unchecked.values()}):
        there = [index for index, (_, reason) in unchecked.items() if reason == why]
        count = sum(unchecked[index][0] for index in there)
        outcome.gaps.append(f"{counted(count, 'reading')}: {why} (entries {first_few(there)})")
    outcome.gaps += _unproven_in_words(outcome.book.unproven)


def _unproven_in_words(unproven: list[Unproven]) -> list[str]:
    reasons = Counter((item.step, item.reason) for item in unproven)
    return [
        f"{counted(count, 'reading')} as logged, and not proven: step {step}: {reason}"
        for (step, reason), count in sorted(reasons.items())
    ]
