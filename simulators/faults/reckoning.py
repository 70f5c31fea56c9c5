"""What was accepted, held against the leaves of the log.

    accepted   every reading whose commit returned: counted in the outboxes
    in log     those of them that a leaf holds: every payload is read back, and its leaves are recomputed to the root
               that the device signed, in an entry of the public log, which is itself recomputed from its entries first
    gaps       readings that devices declare lost, in headers that they signed; as many as their outboxes dropped
    stated     where a sensor can state its series again: the log holds all of it, up to the last reading that it holds.
               An outbox that lost readings and says nothing is found out by this

Nothing is taken from what a running program said of itself. Nothing may run any more.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge.config import load
from edge.outbox_reader import OutboxReader
from edge.source import Measured, make_source
from edge.sources.lines import LinesOptions, LinesSource, parse_line
from ledger.batch import Header, NoticeKind
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import LedgerError, VerificationError
from ledger.fsck import fsck, open_log
from ledger.info import BatchInfo, Clock
from ledger.leaves import Leaf, check_leaves
from ledger.policy import parse_policy, parse_trust
from ledger.reading import Reading
from ledger.writer.create import POLICY, TRUST
from ledger.writer.files import list_files, read_file
from ledger.writer.payload import parse_payload
from ledger.writer.reader import PUBLIC, LocalReader
from simulators.sources import RecordingSource, SyntheticSource

# A series without end is walked this much farther than what is on the log and what is declared lost, before what the
# log holds besides is a stranger.
_AHEAD = 1000


@dataclass(frozen=True, slots=True)
class Ledgered:
    """A device as the log knows it, and every outbox that ever accepted readings in its name."""

    name: str
    key_ids: frozenset[bytes]
    config: Path
    outboxes: tuple[Path, ...]


@dataclass(slots=True)
class Reckoning:
    """What came out of all devices. `problems` is empty exactly if everything held.

    `doubled` readings are in one more leaf each. `restated` are these, and those that another leaf holds under another
    receipt time, because their sensor stated them to a copy as well. Both are problems unless an outbox was copied.
    `unclean` is how many headers declare a window that the device cannot vouch for; `clocks` counts batches by the
    state of their gateway's clock.
    """

    accepted: int = 0
    in_log: int = 0
    gaps: int = 0
    doubled: int = 0
    restated: int = 0
    unclean: int = 0
    batches: int = 0
    entries: int = 0
    notices: Counter[str] = field(default_factory=Counter)
    clocks: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """All of it in one line."""
        numbers = [
            f"{self.accepted} accepted",
            f"{self.in_log} in {self.batches} batches of a log of {self.entries} entries",
            f"{self.gaps} declared lost",
        ]
        for count, what in (
            (self.unclean, "unclean stops declared"),
            (self.doubled, "in a second leaf as well, because a copy held them, too"),
            (self.restated - self.doubled, "stated a second time by their sensor, to a copy"),
        ):
            if count:
                numbers.append(f"{count} {what}")
        return ", ".join(numbers)


@dataclass(slots=True)
class _Logged:
    """What the log holds of one device."""

    bodies: Counter[bytes] = field(default_factory=Counter)
    lost: int = 0


def reckon(data: Path, devices: Sequence[Ledgered], *, twice: bool = False) -> Reckoning:
    """The account of `devices` with the log in `data`; `twice`: outboxes were copied, so readings may be twice."""
    found = Reckoning()
    logged = {device.name: _Logged() for device in devices}
    names = {key_id: device.name for device in devices for key_id in device.key_ids}
    try:
        for header, leaves in _batches(data, found):
            name = names.get(header.key_id)
            if name is None:
                found.problems.append(f"the log has a batch of key {header.key_id.hex()[:16]}, which no device has")
                continue
            _read_batch(header, leaves, logged[name], found)
    except LedgerError as error:
        found.problems.append(f"the log: {error}")
    for device in devices:
        _compare(device, logged[device.name], found, twice=twice)
        _compare_with_sensors(device, logged[device.name], found, twice=twice)
    return found


def _batches(data: Path, found: Reckoning) -> Iterator[tuple[Header, Sequence[Leaf | bytes]]]:
    """Header and leaves of every batch on the public log, both shown to be what the log commits to."""
    public = data / PUBLIC
    policy = parse_policy((data / POLICY).read_bytes())
    trust = parse_trust((data / TRUST).read_bytes())

    def fetch(path: str) -> bytes | None:
        return read_file(public, path)

    report = fsck(fetch, policy, trust=trust, paths=list_files(public))
    found.entries = report.log.size
    found.notices.update(report.notices)
    tree = open_log(fetch, policy)[1]
    with LocalReader(data) as log:
        for index in range(tree.size):
            parsed = parse_entry(tree.entry(index))
            if isinstance(parsed, BatchEntry):
                header = Header.decode(parsed.header)
                payload = log.payload(index)
                if payload is None:
                    raise VerificationError(f"entry {index}: its payload is gone")
                leaves = parse_payload(payload)
                check_leaves(header, leaves)
                yield header, leaves


def _read_batch(header: Header, leaves: Sequence[Leaf | bytes], logged: _Logged, found: Reckoning) -> None:
    found.batches += 1
    info, *readings = leaves
    if not isinstance(info, Leaf) or not all(isinstance(leaf, Leaf) for leaf in readings):
        raise VerificationError(f"batch {header.epoch}/{header.seq}: a leaf was erased, and nobody asked for that")
    logged.bodies.update(leaf.body for leaf in readings if isinstance(leaf, Leaf))
    found.clocks[Clock(BatchInfo.decode(info.body).clock).name.lower()] += 1
    if header.notice is not None and header.notice.kind == NoticeKind.GAP:
        if header.notice.lost is None:
            found.unclean += 1
        else:
            logged.lost += header.notice.lost


def _compare(device: Ledgered, logged: _Logged, found: Reckoning, *, twice: bool) -> None:
    """Each accepted reading is in exactly one leaf, or in a gap that its device has signed."""
    kept: Counter[bytes] = Counter()
    dropped = forgotten = 0
    for path in device.outboxes:
        with OutboxReader(path) as reader:
            bodies, counts = Counter(reader.bodies()), reader.counts()
        dropped += counts.dropped
        forgotten += counts.accepted - counts.dropped - bodies.total()
        kept |= bodies  # a copy holds the same commits, not new ones
    missing, surplus = kept - logged.bodies, logged.bodies - kept
    doubled = sum(count for body, count in surplus.items() if body in kept)
    # What was deleted after its receipt can only be counted here; that it is the right thing, the sensors say.
    strangers = surplus.total() - doubled - forgotten
    found.accepted += kept.total() + forgotten + dropped
    found.in_log += kept.total() - missing.total() + forgotten
    found.gaps += logged.lost
    found.doubled += doubled
    for count, what in (
        (missing.total(), "accepted readings are in no leaf"),
        (strangers, "readings on the log that it never accepted"),
        (-strangers, "readings that it deleted are in no leaf"),
        (0 if twice else doubled, "readings in more than one leaf"),
    ):
        if count > 0:
            found.problems.append(f"{device.name}: {count} {what}")
    if dropped != logged.lost:
        found.problems.append(f"{device.name}: {dropped} readings were dropped, {logged.lost} are declared lost")


def _compare_with_sensors(device: Ledgered, logged: _Logged, found: Reckoning, *, twice: bool) -> None:
    """What each sensor stated is on the log without a hole, up to the last of it that is, but for declared gaps."""
    by_source: dict[bytes, Counter[bytes]] = {}
    for body, count in logged.bodies.items():
        reading = Reading.decode(body)
        by_source.setdefault(reading.source, Counter())[_statement(body)] += count
    holes = 0
    for source_id, series in _sensors(device.config):
        on_log = by_source.get(source_id, Counter())
        stated = _stated_so_far(on_log, source_id, series, logged.lost)
        holes += (stated - on_log).total()
        surplus = on_log - stated
        if strangers := sum(count for statement, count in surplus.items() if statement not in stated):
            found.problems.append(f"{device.name}: {strangers} readings on the log that no sensor stated")
        if again := surplus.total() - strangers:
            found.restated += again
            if not twice:
                found.problems.append(f"{device.name}: {again} statements of a sensor are on the log once more")
    if holes > logged.lost:
        found.problems.append(
            f"{device.name}: {holes} readings that a sensor stated are missing in the midst of the log, and "
            f"{logged.lost} are declared lost"
        )


def _stated_so_far(on_log: Counter[bytes], source_id: bytes, series: Iterator[Measured], lost: int) -> Counter[bytes]:
    """The series up to the last statement of it that the log holds."""
    remaining = on_log.copy()
    left = remaining.total()
    before: list[bytes] = []
    stated: Counter[bytes] = Counter()
    for _ in range(left + lost + _AHEAD):
        measured = next(series, None)
        if measured is None or not left:
            break
        before.append(measured.received(source_id, measured.sensor_time_ns).encode())
        if remaining[before[-1]] > 0:
            remaining[before[-1]] -= 1
            left -= 1
            stated.update(before)
            before.clear()
    return stated


def _sensors(config: Path) -> Iterator[tuple[bytes, Iterator[Measured]]]:
    """The sensors of the device configured in `config` that can state everything again."""
    edge = load(config)
    for item in edge.sources:
        source = make_source(
            item.type, name=item.name, source_id=item.source_id, options=item.options, directory=edge.directory
        )
        if isinstance(source, RecordingSource | SyntheticSource):
            yield source.source_id, source.statements()
        elif isinstance(source, LinesSource):
            path = edge.directory / LinesOptions(**item.options).path
            yield source.source_id, map(parse_line, path.read_bytes().splitlines())


def _statement(body: bytes) -> bytes:
    """What the sensor said, without the moment at which the gateway heard it."""
    return replace(Reading.decode(body), gateway_offset_ns=0).encode()
