"""The key book: events and key states as an independent reading of the format has them, and never half of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.entry import KEY_STATE, KeyStateEntry, parse_entry
from ledger.errors import LedgerError, VerificationError
from ledger.events import Enrolment, KeyEvent, enrol, revoke, rotate
from ledger.keys import Ed25519Signer
from ledger.policy import parse_trust
from ledger.writer.create import REGISTRAR_KEY, TRUST, create_log, load_signer
from ledger.writer.keybook import STATE_EVERY_S, KeyBook, newest_state, read_states
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import StorageError, Submission
from tests.ledger.builders import Device, SecureElement, device
from tests.ledger.past import Past, Place, id_of

from .logs import ORIGIN, closing, commitments, fsck, open_writer

ONE, TWO, THREE, ENDED, CHIP = (*map(device, ("one", "two", "three", "ended")), SecureElement())


class Clock:
    """A monotonic clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class House:
    """A log, its key book, and what the format says that must be on the log."""

    def __init__(self, data: Path, storage: LocalStorage) -> None:
        self.data, self.storage = data, storage
        self.clock = Clock()
        self.writer = open_writer(storage, data)
        self.book = KeyBook(self.writer, storage, self.clock)
        self.registrar: Ed25519Signer = load_signer(data / REGISTRAR_KEY).key
        self.past = Past(ORIGIN)

    def enrol(self, signer: Device) -> Enrolment:
        return enrol(signer, self.registrar, ORIGIN)

    def fill(self, count: int) -> None:
        self.past.fill(count)
        self.writer.append([Submission(entry) for entry in self.past.entries[-count:]])

    def check(self) -> None:
        """Every entry is the one that the format asks for, and the published log is sound, registrars included."""
        assert list(self.storage.entries(0, self.writer.size)) == self.past.entries
        self.writer.publish()
        assert fsck(self.data, parse_trust((self.data / TRUST).read_bytes())) == len(self.past.entries)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    create_log(tmp_path / "data", ORIGIN)
    return tmp_path / "data"


@pytest.fixture
def house(data: Path) -> Iterator[House]:
    with LocalStorage(data) as storage:
        yield House(data, storage)


def test_every_event_is_followed_by_the_state_of_all_keys(house: House) -> None:
    """Enrolled, rotated, revoked: one entry for the event and one for what is now good of every key."""
    by = house.registrar
    assert house.book.append([house.enrol(ONE)]) == 0
    house.past.enrol(ONE, by)
    house.past.state()
    house.check()
    house.fill(3)
    assert house.book.append([house.enrol(CHIP)]) == 5
    house.past.enrol(CHIP, by)
    house.past.state()
    house.check()
    house.book.append([rotate(ONE, TWO, by, ORIGIN, (0, 7))])
    house.past.rotate(ONE, TWO, (0, 7), by)
    house.past.state()
    house.check()
    house.book.append([revoke(id_of(CHIP), by, ORIGIN, (2, 0), 3)])
    house.past.revoke(CHIP, (2, 0), 3, by)
    house.past.state()
    house.check()
    records = {record.key_id: (record.enrolled, record.until, record.revoked) for record in house.book.states}
    assert records == {id_of(ONE): (0, (0, 7), None), id_of(CHIP): (5, (2, 0), 9), id_of(TWO): (7, None, None)}


def test_events_of_one_group_share_a_state(house: House) -> None:
    """What is appended together is checked one after the other, committed together, and stated once."""
    by = house.registrar
    events = [house.enrol(ONE), house.enrol(CHIP), rotate(ONE, TWO, by, ORIGIN, (0, 0))]
    assert house.book.append([*events, revoke(id_of(TWO), by, ORIGIN, (0, 0), 1)]) == 0
    house.past.enrol(ONE, by)
    house.past.enrol(CHIP, by)
    house.past.rotate(ONE, TWO, (0, 0), by)
    house.past.revoke(TWO, (0, 0), 1, by)
    house.past.state()
    house.check()


@pytest.mark.parametrize(("revoked", "until"), [((0, 3), (0, 3)), ((0, 5), (0, 5)), ((1, 0), (0, 5))])
def test_key_ends_where_the_first_of_its_ends_says(house: House, revoked: Place, until: Place) -> None:
    """A revocation after a rotation can end a key earlier, never later."""
    by = house.registrar
    house.book.append([house.enrol(ONE)])
    house.past.enrol(ONE, by)
    house.past.state()
    house.book.append([rotate(ONE, TWO, by, ORIGIN, (0, 5))])
    house.past.rotate(ONE, TWO, (0, 5), by)
    house.past.state()
    house.book.append([revoke(id_of(ONE), by, ORIGIN, revoked, 1)])
    house.past.revoke(ONE, revoked, 1, by)
    house.past.state()
    house.check()
    assert house.book.states[id_of(ONE)].until == until


def flipped(event: Enrolment) -> Enrolment:
    data = event.encode()
    changed = parse_entry(data[:-1] + bytes([data[-1] ^ 1]))
    assert isinstance(changed, Enrolment)
    return changed


BAD: dict[str, Callable[[House], KeyEvent]] = {
    "enrolled already": lambda house: house.enrol(ONE),
    "rotated to an enrolled key": lambda house: rotate(TWO, ONE, house.registrar, ORIGIN, (0, 0)),
    "rotated from a stranger": lambda house: rotate(CHIP, THREE, house.registrar, ORIGIN, (0, 0)),
    "rotated from a revoked key": lambda house: rotate(TWO, CHIP, house.registrar, ORIGIN, (0, 0)),
    "rotated twice": lambda house: rotate(ENDED, CHIP, house.registrar, ORIGIN, (0, 0)),
    "revoked twice": lambda house: revoke(id_of(TWO), house.registrar, ORIGIN, (0, 0), 1),
    "revoked a stranger": lambda house: revoke(id_of(CHIP), house.registrar, ORIGIN, (0, 0), 1),
    "for another log": lambda _: enrol(CHIP, ONE, "other.example/log"),
    "badly signed": lambda house: flipped(house.enrol(CHIP)),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_invalid_event_keeps_its_whole_group_off_the_log(house: House, case: str, at: int) -> None:
    """Wherever in a group it stands, none of the group is committed, no key changes, and the next group is fine."""
    by = house.registrar
    ended = [house.enrol(ENDED), rotate(ENDED, TWO, by, ORIGIN, (0, 1)), revoke(id_of(TWO), by, ORIGIN, (0, 0), 1)]
    house.book.append([house.enrol(ONE), *ended])
    before = (house.writer.size, house.book.states.dump(), house.book.states.last_event)
    good = [house.enrol(THREE), revoke(id_of(THREE), by, ORIGIN, (0, 0), 2)]
    with pytest.raises(VerificationError):
        house.book.append([*good[:at], BAD[case](house), *good[at:]])
    assert (house.writer.size, house.book.states.dump(), house.book.states.last_event) == before
    house.book.append(good)
    house.writer.publish()
    assert fsck(house.data) == before[0] + 3


def test_invalid_only_because_of_its_own_group(house: House) -> None:
    """The same key twice in a group, and a revocation before its enrolment."""
    enrolment = house.enrol(ONE)
    for group in ([enrolment, enrolment], [revoke(id_of(ONE), house.registrar, ORIGIN, (0, 0), 1), enrolment]):
        with pytest.raises(VerificationError):
            house.book.append(group)
    assert house.writer.size == len(house.book.states) == 0


@pytest.mark.parametrize("between", [0, 5])
def test_event_without_its_state_is_completed_at_the_start(data: Path, between: int) -> None:
    """A crash between the two leaves an event that no state covers; the next start writes it, and only once."""
    with LocalStorage(data) as storage:
        house = House(data, storage)
        house.book.append([house.enrol(ONE)])
        house.writer.append([Submission(house.enrol(TWO).encode()), *commitments(0, between)])
    for _ in range(2):
        with LocalStorage(data) as storage:
            house = House(data, storage)
            assert house.writer.size == 2 + 1 + between + 1
            assert newest_state(storage, house.writer.size) == (
                house.writer.size - 1,
                house.book.states.entry(house.writer.size - 1),
            )
            house.writer.publish()
            assert fsck(data) == house.writer.size


def states_on(house: House) -> list[int]:
    return [index for index, _ in house.storage.of_type(KEY_STATE)]


def test_state_is_renewed_once_an_hour_if_there_is_anything_new(house: House) -> None:
    """A state follows an event at once, and other entries within an hour; silence needs no new one."""
    renew, clock = house.book.renew, house.clock
    assert not renew(now=True)
    house.book.append([house.enrol(ONE)])
    clock.now_s = STATE_EVERY_S
    assert not renew()
    assert not renew(now=True)
    house.fill(1)
    assert renew()
    house.fill(1)
    clock.now_s += STATE_EVERY_S - 1
    assert not renew()
    clock.now_s += 1
    assert renew()
    clock.now_s += 10 * STATE_EVERY_S
    assert not renew()
    house.fill(1)
    clock.now_s += 1
    assert renew()
    house.fill(1)
    assert renew(now=True)
    assert not renew(now=True)
    assert states_on(house) == [1, 3, 5, 7, 9]
    house.writer.publish()
    assert fsck(house.data) == 10


def test_log_without_a_key_states_so(house: House) -> None:
    """Entries alone are enough for a state: that there is no key yet."""
    house.fill(2)
    assert house.book.renew(now=True)
    house.past.state()
    house.check()


def test_closed_log_gets_no_state(house: House) -> None:
    """Its end is its last entry."""
    house.fill(2)
    house.writer.close(closing())
    assert not house.book.renew(now=True)
    with pytest.raises(StorageError, match="is closed"):
        house.book.append([house.enrol(ONE)])
    assert len(house.book.states) == 0
    house.writer.publish()
    assert fsck(house.data) == house.writer.size == 3


def test_states_as_of_a_size(house: House) -> None:
    """What was known of every key after the first n entries, for every n."""
    by = house.registrar
    events: list[KeyEvent] = [
        house.enrol(ONE),
        rotate(ONE, TWO, by, ORIGIN, (0, 4)),
        revoke(id_of(TWO), by, ORIGIN, (0, 0), 1),
    ]
    for event in events:
        house.book.append([event])
    for size in range(house.writer.size + 1):
        states = read_states(house.storage, ORIGIN, size)
        assert len(states) == min((size + 1) // 2, 2)
        found = newest_state(house.storage, size)
        if size < 2:
            assert found is None
            continue
        index, entry = found
        assert index == size - 1 - size % 2
        assert entry == read_states(house.storage, ORIGIN, index).entry(index)
    assert read_states(house.storage, ORIGIN).dump() == house.book.states.dump()


def test_state_of_a_log_that_batches_join_meanwhile(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's entries may come between the size that a state names and the state; it holds all the same."""
    append = LogWriter.append
    late = iter([commitments(100, 2), commitments(200, 1)])

    def joined(writer: LogWriter, group: list[Submission]) -> int:
        if isinstance(parse_entry(group[0].entry), KeyStateEntry):
            append(writer, next(late))
        return append(writer, group)

    monkeypatch.setattr(LogWriter, "append", joined)
    house.book.append([house.enrol(ONE)])
    house.book.append([house.enrol(TWO)])
    house.writer.publish()
    assert fsck(house.data) == 2 + 3 + 2
    assert not house.book.renew(now=True)


def test_book_of_a_log_that_holds_an_invalid_event_is_not_believed(house: House) -> None:
    """The database is trusted, so its book says what it says; the published log fails its check."""
    house.writer.append([Submission(flipped(house.enrol(ONE)).encode())])
    KeyBook(house.writer, house.storage, house.clock)
    house.writer.publish()
    with pytest.raises(LedgerError, match="entry 0"):
        fsck(house.data)
