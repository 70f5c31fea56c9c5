"""What an audit finds, and what it counts.

    missing   the log commits to it and the database does not have it
    changed   it is there, and not as the log says
    extra     it is there, and the log does not know it (or knows that it was erased)
    moved     it is there whole, under another device, source, kind, time or place

A finding names one row. Rows that could not be judged are not findings: they are told as not checked, and counted in
none of the five numbers.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import TypeAlias

from ledger.batch import LEAVES_PER_BATCH
from ledger.verify import STEPS

# The steps of `vitalseal verify` that a row can fail, by their numbers.
FORM, SIGNATURE, QUORUM, ENTRY, DEVICE, LEAF = range(1, 7)
TIME = 8

SHOWN = 10  # numbers in one line of text

Fault: TypeAlias = tuple[int, str]  # the step that fails, 0 for none; and why


class What(StrEnum):
    """What is the matter with a row."""

    MISSING = "missing"
    CHANGED = "changed"
    EXTRA = "extra"
    MOVED = "moved"


class About(StrEnum):
    """What kind of row it is."""

    READING = "reading"
    BATCH = "batch record"
    CHECKPOINT = "checkpoint record"
    PAYLOAD = "payload of batch"
    FRAMES = "drawn frames"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that is not as the log says.

    Attributes:
        number: the reading's ref, a record's log index or size; None where the row does not tell.
        device, kind, time_ns: of what ought to be there; of what is there, where nothing ought to be.
        where: how the row is found with the database's own tools; None if there is none.
        detail: what differs, in words; it may hold values of readings.
        step: the step of `vitalseal verify` that such a row fails, 0 if it fails none.
    """

    what: What
    about: About
    number: int | None
    detail: str
    device: str | None = None
    kind: str | None = None
    time_ns: int | None = None
    where: str | None = None
    step: int = 0

    @property
    def place(self) -> tuple[int, int] | None:
        """Log index and leaf, as far as it is about a batch."""
        if self.number is None or self.about is About.CHECKPOINT:
            return None
        return divmod(self.number, LEAVES_PER_BATCH) if self.about is About.READING else (self.number, 0)

    @property
    def subject(self) -> str:
        """Which row, in words."""
        if self.number is None:
            return str(self.about) if self.about is About.FRAMES else f"{self.about} without a ref"
        if self.about is not About.READING:
            return f"{self.about} {self.number}"
        return f"reading {self.number} (entry {self.number // LEAVES_PER_BATCH}, leaf {self.number % LEAVES_PER_BATCH})"

    @property
    def failure(self) -> str:
        """The step that it fails, in words; empty if none."""
        return f"step {self.step} ({STEPS[self.step - 1]})" if self.step else ""

    def order(self) -> tuple[object, ...]:
        """Findings are told by log index and leaf; what has none comes last."""
        about = list(About).index(self.about)
        index, leaf = self.place or (self.number if self.number is not None else 1 << 63, -1)
        return index, leaf, about, self.what, self.where or "", self.detail


def first_few(numbers: Iterable[int]) -> str:
    """`numbers` in words, not more than a line of them."""
    shown = list(islice(map(str, numbers), SHOWN + 1))
    return ", ".join(shown[:SHOWN]) + (", ..." if len(shown) > SHOWN else "")


@dataclass(frozen=True, slots=True)
class Unproven:
    """A reading whose row is as the log says and that a verifier would not prove all the same."""

    ref: int
    device: str
    kind: str
    step: int
    reason: str


@dataclass(slots=True)
class Book:
    """Everything found so far.

    `sound` counts rows that are as the log says, by what they are; `series` counts readings by device, kind and what
    became of them; `unchecked` are the reasons why rows of readings could not be judged, by log index.
    """

    findings: list[Finding] = field(default_factory=list)
    unproven: list[Unproven] = field(default_factory=list)
    sound: Counter[About] = field(default_factory=Counter)
    series: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    unchecked: dict[int, tuple[int, str]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Takes in one finding."""
        self.findings.append(finding)
        if finding.about is About.READING:
            self.series[finding.device or "?", finding.kind or "?", finding.what] += 1

    def sound_reading(self, device: str, kind: str) -> None:
        """Counts a reading whose row is as the log says."""
        self.sound[About.READING] += 1
        self.series[device, kind, "ok"] += 1

    def withdraw_sound(self, device: str, kind: str) -> None:
        """A reading that was counted as being as the log says is not."""
        self.sound[About.READING] -= 1
        self.series[device, kind, "ok"] -= 1

    def not_checked(self, log_index: int, why: str) -> None:
        """Counts a row of the batch that nothing proves or disproves."""
        self.unchecked[log_index] = (self.unchecked.get(log_index, (0, why))[0] + 1, why)

    def counts(self) -> dict[str, int]:
        """The five numbers and their sum, under the names that scripts read."""
        found = Counter(finding.what for finding in self.findings)
        ok = self.sound.total()
        return {"checked": ok + found.total(), "ok": ok, **{what.value: found[what] for what in What}}

    def sorted_findings(self) -> list[Finding]:
        """By log index and leaf."""
        return sorted(self.findings, key=Finding.order)
