"""Drawn waveforms, held against the readings that they were drawn from.

One day of an electrocardiogram has millions of frames, so none is remembered: the frames that a reading ought to have,
and those that claim to be its own, are each added up to one number, and only where the two differ both are read again.
A frame's share of the sum is the interpreter's hash of bytes that say all that it shows: 64 bits under a key of this
process, which nobody who made a database could know. (Its hash of numbers has no key: of 1.0 and 2.0 ** 61 it is one.)
"""

import marshal
from collections import Counter
from collections.abc import Container, Iterator
from itertools import groupby
from typing import TypeAlias

from aggregator.audit.findings import About, Book, Finding, What
from aggregator.audit.truth import Truth
from aggregator.timeseries.base import ReadingStore, Sample, StoredReading
from aggregator.timeseries.lines import samples_of
from ledger.batch import LEAVES_PER_BATCH
from ledger.kinds import kind_name
from ledger.reading import Reading, Waveform

_MASK = 2**64 - 1
_BY_CONTENT = 2  # the last version of marshal whose bytes follow from nothing but the values

_Due: TypeAlias = dict[tuple[object, ...], Sample]  # frames that there ought to be, by where


class Frames:
    """The frames of every waveform whose row is as it ought to be; `judge` when all rows are known."""

    def __init__(self, truth: Truth, store: ReadingStore) -> None:
        self._truth, self._store = truth, store
        self._beyond = truth.log.size * LEAVES_PER_BATCH
        self._sums: dict[int, int] = {}
        self._shown: dict[int, tuple[int, str, int]] = {}  # copy, kind, time

    def expect(self, stored: StoredReading, copy: int, reading: Reading) -> None:
        """The reading stands there as this copy, so its frames have to, if it has any."""
        if isinstance(reading.value, Waveform):
            self._sums[stored.ref] = sum(map(_share, samples_of(stored, copy))) & _MASK
            self._shown[stored.ref] = (copy, kind_name(reading.kind), reading.sensor_time_ns)

    def judge(self, book: Book, reported: Container[int]) -> None:
        """Every reading whose frames differ, and every run of frames of no reading, is found.

        `reported` are the refs of which there is a finding already: their frames are part of that.
        """
        sums = dict.fromkeys(self._sums, 0)
        strangers, last = False, 0
        for sample in self._store.samples():
            if sample.ref in sums:
                sums[sample.ref] = (sums[sample.ref] + _share(sample)) & _MASK
            elif sample.ref is not None and sample.ref >= self._beyond:
                last = max(last, sample.ref)
            else:
                strangers = strangers or self._is_strange(sample.ref, reported)
        if last:  # of an entry that the log had not come to, and may have by now
            self._truth.log.look_again()
            strangers = strangers or self._is_strange(last, reported)
        differing = {ref for ref, expected in self._sums.items() if sums[ref] != expected and ref not in reported}
        if differing:  # by an erasure, if it came between a look at the rows and one at the frames
            self._truth.learn_erasures()
            differing = {ref for ref in differing if not self._truth.is_leaving(ref)}
        if differing or strangers:
            self._tell(differing, book, reported)

    def _tell(self, differing: set[int], book: Book, reported: Container[int]) -> None:
        """Reads all frames once more, to say which are wrong."""
        due = self._due(differing) if differing else {}
        total = Counter(sample.ref for sample in due.values())
        wrong: Counter[int | None] = Counter()
        strangers: list[Sample] = []
        for sample in self._store.samples():
            owed = due.pop(_where(sample), None)
            if owed is not None:
                wrong[owed.ref] += _share(owed) != _share(sample)
            elif sample.ref in differing or sample.ref not in self._sums:
                strangers.append(sample)
        self._truth.log.look_again()
        strangers = [item for item in strangers if item.ref in differing or self._is_strange(item.ref, reported)]
        missing = Counter(sample.ref for sample in due.values())
        claimed = {sample.ref for sample in strangers}
        for ref in sorted(differing):
            told = {f"{wrong[ref]} of {total[ref]} drawn frames differ": wrong[ref]}
            told[f"{missing[ref]} of {total[ref]} drawn frames are missing"] = missing[ref]
            detail = "; ".join(text for text, count in told.items() if count)
            # With all of its own in place, those that only claim to be are what differs, and are told below.
            # If its row is gone as well, that was an erasure.
            if detail or (total[ref] and ref not in claimed):
                self._add(ref, detail or "its drawn frames were read twice, and were others the second time", book)
        for run in _runs(strangers):
            first = run[0]
            of = "no ref" if first.ref is None else f"the ref {first.ref}"
            detail = f"{len(run)} frames, up to {run[-1].time_ns} ns, that claim {of} and are not its own"
            place = (first.device, first.kind, first.time_ns, first.where)
            book.add(Finding(What.EXTRA, About.FRAMES, None, detail, *place))

    def _due(self, differing: set[int]) -> _Due:
        """The frames of these readings, from their rows, which were found genuine."""
        due: _Due = {}
        for row in self._store.rows():
            if row.ref is None or row.ref not in differing or row.body is None or row.salt is None:
                continue
            index, leaf = divmod(row.ref, LEAVES_PER_BATCH)
            batch = self._truth.batch(index)
            if batch.is_leaf(leaf, row.body, row.salt):
                stored = StoredReading(row.ref, batch.device, row.body, row.salt)
                due.update((_where(sample), sample) for sample in samples_of(stored, self._shown[row.ref][0]))
        return due

    def _add(self, ref: int, detail: str, book: Book) -> None:
        device, (_, kind, time_ns) = self._truth.batch(ref // LEAVES_PER_BATCH).device, self._shown[ref]
        book.withdraw_sound(device, kind)
        where = f"waveform WHERE ref = {ref}"
        book.add(Finding(What.CHANGED, About.READING, ref, detail, device, kind, time_ns, where))

    def _is_strange(self, ref: int | None, reported: Container[int]) -> bool:
        """Whether frames that claim that ref, of no waveform that stands there, can be of none at all.

        Those of a reading of which there is a finding already are part of that; and of some entries nothing is known.
        """
        if ref is None:
            return True
        index = ref // LEAVES_PER_BATCH
        if self._truth.is_batch(index):
            # Of what the view has not come to, frames may be there before all of them are, and before their reading.
            known = self._truth.batch(index).is_known and not self._truth.is_leaving(ref) and index < self._truth.due
            return known and ref not in reported
        return self._truth.is_looked_at(index)


def _share(sample: Sample) -> int:
    shown = hash(sample[1:4]), sample.time_ns, sample.copy, sample.ref, sample.values
    return hash(marshal.dumps(shown, _BY_CONTENT)) & _MASK


def _where(sample: Sample) -> tuple[object, ...]:
    return sample.device, sample.source, sample.kind, sample.time_ns, sample.copy


def _runs(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Samples of one series and one claimed ref that follow each other."""
    for _, run in groupby(samples, lambda sample: (*_where(sample)[:3], sample.copy, sample.ref)):
        yield list(run)
