"""The keys of a log as its writer knows them: the one way by which key events and key states get on the log.

A key state is appended behind every key event, and again when entries have come since the last one and a while has
passed, so that "this key was good" can be shown for what was logged meanwhile. Used from one thread; `states` may be
read from any.
"""

from collections.abc import Callable, Sequence

from ledger.entry import KEY_STATE, KeyStateEntry, parse_entry
from ledger.events import KEY_EVENT, Enrolment, KeyEvent, Revocation, Rotation
from ledger.keystate import KeyStates
from ledger.writer.log import LogWriter
from ledger.writer.storage import Notable, Storage, Submission

# At most this old is the newest key state of a log that goes on; a day is what the format promises.
STATE_EVERY_S = 3600.0


class KeyBook:
    """Every key of the log and its state."""

    def __init__(self, writer: LogWriter, storage: Storage, now_s: Callable[[], float]) -> None:
        """`now_s` is a monotonic clock. A key event without its key state, which a crash leaves, is completed."""
        self.states = read_states(storage, writer.origin)
        self._writer = writer
        self._now_s = now_s
        self._stated_s = now_s()
        self._stated_at = max((index for index, _ in storage.of_type(KEY_STATE)), default=-1)
        if self.states.last_event > self._stated_at:
            self._state()

    def append(self, events: Sequence[KeyEvent]) -> int:
        """Commits `events` and the key state after them; the index of the first.

        Raises:
            VerificationError: one of them cannot come next; none was committed.
            MalformedError: one of its keys is unusable.
        """
        trial = KeyStates(self.states.origin)
        trial.load(self.states.dump(), self.states.last_event)
        for number, event in enumerate(events):
            trial.check(event)
            trial.apply(self.states.last_event + 1 + number, event)
        first = self._writer.append([Submission(event.encode()) for event in events])
        for index, event in enumerate(events, first):
            self.states.apply(index, event)
        self._state()
        return first

    def renew(self, *, now: bool = False) -> bool:
        """Commits a key state if entries have come since the last one, and a while has passed or `now` is asked for."""
        if self._writer.closed or self._writer.size <= self._stated_at + 1:
            return False
        if not now and self._now_s() - self._stated_s < STATE_EVERY_S:
            return False
        self._state()
        return True

    def _state(self) -> None:
        """Only this thread appends key events, so whatever index the entry gets, no key event lies between."""
        state = self.states.entry(self._writer.size)
        self._stated_at = self._writer.append([Submission(state.encode())])
        self._stated_s = self._now_s()


def read_states(storage: Notable, origin: str, size: int | None = None) -> KeyStates:
    """The states of all keys after the log's first `size` entries, or all of them."""
    states = KeyStates(origin)
    for index, data in storage.of_type(KEY_EVENT):
        event = parse_entry(data)
        if isinstance(event, (Enrolment, Rotation, Revocation)) and (size is None or index < size):
            states.apply(index, event)
    return states


def newest_state(storage: Notable, size: int) -> tuple[int, KeyStateEntry] | None:
    """Index and content of the last key state among the first `size` entries."""
    found = [(index, data) for index, data in storage.of_type(KEY_STATE) if index < size]
    if not found:
        return None
    index, data = found[-1]
    entry = parse_entry(data)
    return (index, entry) if isinstance(entry, KeyStateEntry) else None
