"""Readings' rows, judged one by one as the database gives them, and at the end what is not there.

A row is genuine if its bytes and salt are those behind the leaf that its ref names. Whatever else it shows follows from
these bytes: another place, and it was moved; another value, and it was changed. What is not genuine is kept aside, and
paired at the end with what is missing: by the ref that it claims, or by the place where it stands.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile

from aggregator.audit.checkpoints import CheckpointRecords
from aggregator.audit.copies import Copies
from aggregator.audit.findings import LEAF, TIME, About, Book, Finding, Unproven, What
from aggregator.audit.frames import Frames
from aggregator.audit.leaves import Batch
from aggregator.audit.records import BatchRecords
from aggregator.audit.spans import Spans
from aggregator.audit.truth import Truth
from aggregator.audit.words import PLACE, difference, differing
from aggregator.timeseries.base import Row, StoredReading, row_of
from ledger.batch import LEAVES_PER_BATCH
from ledger.errors import MalformedError, VerificationError
from ledger.reading import Reading, check_plausible

# Rows whose genuine bytes are kept, so that a report can show what proves them.
KEPT_AS_EVIDENCE = 1000

_LACKING = "the log commits to it, and no row is it"


class Rows:
    """Takes every row of the database, and then says what came of it."""

    def __init__(
        self,
        truth: Truth,
        batches: BatchRecords,
        checkpoints: CheckpointRecords,
        book: Book,
        *,
        frames: Frames | None,
    ) -> None:
        """`frames` is for a store that is keyed by position and draws waveforms."""
        self._truth, self._batches, self._checkpoints, self._book = truth, batches, checkpoints, book
        self._frames = frames
        self._copies = None if frames is None else Copies()
        self._batch: Batch | None = None
        self._logged_by: int | None = None
        self._strangers: list[tuple[Row, str]] = []
        self._later: list[tuple[Row, int]] = []  # rows beyond the end that the log had, and of which entries
        self._misplaced: dict[int, list[Row]] = {}
        self._numbered: dict[int, Row] = {}  # rows whose copy is not 0, by ref
        self.spans = Spans(truth)
        self.beyond = 0  # rows of entries that were not looked at
        self.reported: set[int] = set()  # refs of which there is a finding
        self.evidence: dict[int, StoredReading] = {}

    def take(self, row: Row) -> None:
        """Judges one row, or keeps it until all are known."""
        if row.ref is None or row.body is None or row.salt is None:
            self._strangers.append((row, "its ref, bytes or salt cannot be read"))
            return
        index, leaf = divmod(row.ref, LEAVES_PER_BATCH)
        batch = self._batch
        if batch is None or batch.index != index:
            if not self._truth.is_batch(index):
                if index < self._truth.log.size:
                    self._outside(row, index)
                else:  # where the log may have come to since: asked when all rows are read
                    self._later.append((row, index))
                return
            batch = self._batch = self._truth.batch(index)
            self._logged_by = self._checkpoints.logged_by(self._batches.checkpoint_of(index))
        if not 1 <= leaf <= batch.header.count:
            self._strangers.append((row, f"entry {index} has leaves 1 to {batch.header.count}"))
        elif (by := self._truth.erased_by(row.ref)) is not None:
            self._extra(row, f"was erased by entry {by}")
        elif not batch.is_known:
            self._truth.see(row.ref)
            self._note_place(row)
            self._book.not_checked(index, self._batches.why_unknown(index))
        elif batch.is_leaf(leaf, row.body, row.salt):
            self._genuine(row, row.ref, StoredReading(row.ref, batch.device, row.body, row.salt))
        else:
            self._strangers.append((row, "its bytes and salt are not those that the batch commits to"))

    def finish(self, refused: dict[int, str]) -> None:
        """Everything that was kept is judged, and what is not there is found. `refused`: why the store lacks a ref."""
        self._truth.learn_erasures()
        if self._later:
            self._truth.log.look_again()
        for row, index in self._later:
            self._outside(row, index)
        moved = list(self._settle_misplaced())
        self._judge_copies(self._learn(self._truth.unseen()))
        # Refs only: a database that was emptied lacks millions, and what each ought to be is found again when told.
        due = self._truth.due * LEAVES_PER_BATCH
        missing = dict.fromkeys(takewhile(lambda ref: ref < due, self._truth.unseen()))
        for found in moved:
            self._book.add(found)
        self._pair(missing, refused)

    def expected(self, ref: int) -> Row | None:
        """The row of a reading as the log says, if its bytes are known from its payload."""
        index, leaf_index = divmod(ref, LEAVES_PER_BATCH)
        batch = self._truth.batch(index)
        leaf = batch.leaf(leaf_index)
        try:
            return None if leaf is None else row_of(StoredReading(ref, batch.device, leaf.body, leaf.salt))
        except MalformedError:
            return None

    def _genuine(self, row: Row, ref: int, stored: StoredReading) -> None:
        try:
            reading = Reading.decode(stored.body)
        except MalformedError as error:
            self._truth.see(ref)
            self._book.sound_reading(stored.device, row.kind)
            self._book.unproven.append(Unproven(ref, stored.device, row.kind, LEAF, str(error)))
            return
        if row != row_of(stored, row.copy, row.where, reading):
            self._misplaced.setdefault(ref, []).append(row)
            self._keep(stored)
            return
        if self._truth.see(ref):
            self._twice(row, ref)
            return
        self._known(ref, stored.device, row, reading)
        self._prove(ref, row, reading)
        if self._frames is not None and ref // LEAVES_PER_BATCH < self._truth.due:
            self._frames.expect(stored, row.copy, reading)
        if row.copy and self._copies is not None:
            self._numbered[ref] = row
            self._copies.hold(row, reading)
        else:
            self._book.sound_reading(row.device, row.kind)

    def _known(self, ref: int, device: str, row: Row, reading: Reading) -> None:
        """A reading's bytes are known, whatever became of its row."""
        self.spans.add(ref // LEAVES_PER_BATCH, reading.sensor_time_ns)
        if self._copies is not None:
            self._copies.note((device, reading.source.hex(), row.kind), reading)

    def _prove(self, ref: int, row: Row, reading: Reading) -> None:
        """The one step that a row can fail although it is what the log commits to."""
        if self._logged_by is not None:
            try:
                check_plausible(reading, self._logged_by)
            except VerificationError as error:
                self._book.unproven.append(Unproven(ref, row.device, row.kind, TIME, str(error)))

    def _twice(self, row: Row, ref: int) -> None:
        """The reading stands there already: the one with the smaller copy number is the one that ought to."""
        other = self._numbered.get(ref)
        self._extra(other if other is not None and other.copy > row.copy else row, "stands there twice")

    def _outside(self, row: Row, index: int) -> None:
        if self._truth.is_looked_at(index):
            self._strangers.append((row, self._truth.why_none(index)))
        else:
            self.beyond += 1
            self._note_place(row)

    def _note_place(self, row: Row) -> None:
        """A row that is not judged takes its place all the same, as far as it tells which."""
        if self._copies is None or row.body is None:
            return
        try:
            self._copies.note((row.device, row.source, row.kind), Reading.decode(row.body))
        except MalformedError:
            return

    def _settle_misplaced(self) -> Iterator[Finding]:
        for ref, rows in sorted(self._misplaced.items()):
            batch = self._truth.batch(ref // LEAVES_PER_BATCH)
            rows.sort(key=lambda row: row.where)
            for row in rows:
                if row.body is None or row.salt is None:
                    continue
                stored = StoredReading(ref, batch.device, row.body, row.salt)
                reading = Reading.decode(row.body)
                right = row_of(stored, row.copy, row.where, reading)
                if self._truth.see(ref):
                    self._extra(row, "a copy of a reading that stands where it ought to")
                    continue
                self._known(ref, batch.device, right, reading)
                what = What.MOVED if differing(row, right, PLACE) else What.CHANGED
                detail = difference(row, right)
                self.reported.add(ref)
                yield Finding(what, About.READING, ref, detail, right.device, right.kind, right.time_ns, row.where)

    def _learn(self, missing: Iterable[int]) -> Counter[str]:
        """What is known of readings that have no row; and how many there are, by device, whose place nobody knows."""
        unknown: Counter[str] = Counter()
        for ref in missing:
            row = self.expected(ref)
            if row is not None and row.body is not None:
                self._known(ref, row.device, row, Reading.decode(row.body))
            else:
                unknown[self._truth.batch(ref // LEAVES_PER_BATCH).device] += 1
        unknown.update(self._truth.batch(ref // LEAVES_PER_BATCH).device for ref in self._truth.erased())
        for index in self._truth.lost:
            unknown[self._truth.batch(index).device] += self._truth.count(index)
        return unknown

    def _judge_copies(self, unknown: Counter[str]) -> None:
        if self._copies is None:
            return
        for row, can_be in self._copies.judge(unknown):
            if can_be:
                self._book.sound_reading(row.device, row.kind)
            elif row.ref is not None:
                detail = "tags: some that no reading has"
                if row.copy > 0:
                    detail = f"copy: {row.copy}, where no more than that many readings meet"
                self.reported.add(row.ref)
                self._book.add(_finding(What.MOVED, row, detail))

    def _pair(self, missing: dict[int, None], refused: dict[int, str]) -> None:
        """Rows that are not genuine, with the readings in whose place they stand."""
        left = []
        for row, why in self._strangers:
            if row.ref is not None and row.ref in missing:
                del missing[row.ref]
                self._changed(row.ref, row, why)
            else:
                left.append((row, why))
        places: dict[tuple[str, str, str, int], list[int]] = {}
        for ref in missing if left else ():
            if (expected := self.expected(ref)) is not None:
                places.setdefault(_place(expected), []).append(ref)
        for row, why in left:
            if refs := places.get(_place(row)):
                ref = refs.pop(0)
                del missing[ref]
                self._changed(ref, row, why)
            else:
                self._extra(row, why)
        for ref in missing:
            self._lack(ref, refused.get(ref))

    def _changed(self, ref: int, row: Row, why: str) -> None:
        expected, detail = self.expected(ref), why
        if expected is not None and (differs := difference(row, expected)):
            detail = f"{why}; {differs}"
        shown = expected or row
        self.reported.add(ref)
        found = Finding(
            What.CHANGED, About.READING, ref, detail, shown.device, shown.kind, shown.time_ns, row.where, LEAF
        )
        self._book.add(found)

    def _lack(self, ref: int, why: str | None) -> None:
        expected = self.expected(ref)
        detail = _LACKING if why is None else f"{_LACKING}; the store refused it: {why}"
        self.reported.add(ref)
        if expected is None:
            device = self._truth.batch(ref // LEAVES_PER_BATCH).device
            self._book.add(Finding(What.MISSING, About.READING, ref, detail, device))
        else:
            place = (expected.device, expected.kind, expected.time_ns)
            self._book.add(Finding(What.MISSING, About.READING, ref, detail, *place))

    def _extra(self, row: Row, why: str) -> None:
        self._book.add(_finding(What.EXTRA, row, why))

    def _keep(self, stored: StoredReading) -> None:
        if len(self.evidence) < KEPT_AS_EVIDENCE:
            self.evidence[stored.ref] = stored


def _finding(what: What, row: Row, detail: str) -> Finding:
    return Finding(what, About.READING, row.ref, detail, row.device, row.kind, row.time_ns, row.where)


def _place(row: Row) -> tuple[str, str, str, int]:
    return row.device, row.source, row.kind, row.time_ns
