"""Which device holds which key, and what the log says of them: read beside the running aggregator, by anyone.

The log knows keys and not names, the registry names: a key counts here when both have it.
"""

from contextlib import closing
from pathlib import Path

from aggregator.registry import Registry
from ledger.entry import parse_entry
from ledger.events import KEY_EVENT, Enrolment, Revocation, Rotation
from ledger.keystate import KeyRecord, KeyStates
from ledger.writer.create import load_log_keys
from ledger.writer.reader import LocalReader


class DeviceKeys:
    """The keys of the devices of the log in `data`, as of the last `refresh`."""

    def __init__(self, data: Path) -> None:
        """Raises StorageError if there is no log."""
        self._data = data
        self._log = LocalReader(data)
        self.states = KeyStates(load_log_keys(data).signers[0].verifier.name)
        self._successors: dict[bytes, bytes] = {}  # old key -> the one it was rotated to
        self._names: dict[bytes, str] = {}
        self.refresh()

    def close(self) -> None:
        """Releases the log's database."""
        self._log.close()

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.states.origin

    def refresh(self) -> bool:
        """Takes in what is new on the log and in the registry; whether anything was."""
        before = self.states.last_event, len(self._names)
        for index, data in self._log.of_type(KEY_EVENT):
            if index <= self.states.last_event:
                continue
            event = parse_entry(data)
            if isinstance(event, (Enrolment, Rotation, Revocation)):
                self.states.apply(index, event)
            if isinstance(event, Rotation):
                self._successors[event.old_key_id] = event.key_id
        if any(record.key_id not in self._names for record in self.states):
            # The aggregator notes the name after the key is on the log.
            with closing(Registry(self._data)) as registry:
                self._names = {key_id: key.device for key_id, key in registry.keys().items()}
        return (self.states.last_event, len(self._names)) != before

    def device(self, key_id: bytes) -> str | None:
        """Whose key it is."""
        return self._names.get(key_id) if self.states.get(key_id) is not None else None

    def current(self, key_id: bytes) -> KeyRecord | None:
        """The last key in the row of rotations that `key_id` stands in; None if it is not on the log."""
        while key_id in self._successors:
            key_id = self._successors[key_id]
        return self.states.get(key_id)

    def follows(self, old: bytes, new: bytes) -> bool:
        """The log has the rotation from `old` to `new`."""
        return self._successors.get(old) == new

    def is_device(self, name: str) -> bool:
        """A key of a device of this name is, or was, on the log."""
        return any(self._names.get(record.key_id) == name for record in self.states)

    def good(self, device: str) -> list[KeyRecord]:
        """The keys by which `device` may go on sealing, oldest first."""
        return [record for record in self.states if record.until is None and self._names.get(record.key_id) == device]

    def ended(self) -> set[str]:
        """The devices that have had keys and have none that is good."""
        held = {name for record in self.states if (name := self._names.get(record.key_id))}
        return held - {self._names.get(record.key_id) for record in self.states if record.until is None}

    def head(self, key_id: bytes) -> tuple[int, int] | None:
        """Epoch and sequence number of the last batch of this key on the log."""
        place = self._log.head_place(key_id)
        return (place.epoch, place.seq) if place else None
