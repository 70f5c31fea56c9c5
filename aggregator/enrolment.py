"""Which device keys are good: from the log, and from the folder where a registrar leaves new key events.

    <data>/enrolments/<device>.enrol       an enrolment, signed by the device and by a registrar in trust.txt
    <data>/enrolments/<device>.rotate      a rotation to a new key of the same device
    <data>/enrolments/<anything>.revoke    a revocation

An event found there is appended to the log once; the file name gives the device's name, which stays private.
"""

import logging
import time
from pathlib import Path

from aggregator.admission import Key
from aggregator.registry import Registry
from ledger.entry import parse_entry
from ledger.errors import LedgerError, MalformedError
from ledger.events import Enrolment, KeyEvent, Revocation, Rotation
from ledger.keystate import KeyRecord
from ledger.policy import parse_trust
from ledger.writer.create import TRUST
from ledger.writer.keybook import KeyBook
from ledger.writer.log import LogWriter
from ledger.writer.storage import Storage
from vitalseal.errors import UserError
from vitalseal.topics import check_device

logger = logging.getLogger(__name__)

FOLDER = "enrolments"
SUFFIX, ROTATE_SUFFIX, REVOKE_SUFFIX = ".enrol", ".rotate", ".revoke"
SUFFIXES: dict[str, type[KeyEvent]] = {SUFFIX: Enrolment, ROTATE_SUFFIX: Rotation, REVOKE_SUFFIX: Revocation}


class Keys:
    """The keys of the log, and which device holds each.

    `scan` and `renew` are called from one thread, which owns the registry; the rest from any.
    """

    def __init__(self, data: Path, writer: LogWriter, storage: Storage, registry: Registry) -> None:
        self._folder = data / FOLDER
        self._registry = registry
        try:
            trust = parse_trust((data / TRUST).read_bytes())
        except MalformedError as error:
            raise UserError(f"{data / TRUST}: {error}") from None
        self._origin = writer.origin
        self._storage = storage
        self._registrars = frozenset(key.public_key for key in trust)
        self._book = KeyBook(writer, storage, time.monotonic)
        self._keys: dict[bytes, Key] = {}
        self._devices: dict[str, tuple[bytes, ...]] = {}  # the same by device: asked for at every message
        # Of a key the registry is believed its device's name alone: the key itself is the one on the log.
        for key_id, key in registry.keys().items():
            if public := self._book.states.public_key(key_id):
                self._hold(key_id, Key(key.device, *public))
        # File name and time: a replaced file is read again. What may succeed yet is tried again, and told once.
        self._seen: set[tuple[str, int, int]] = set()
        self._told: set[tuple[str, int, int]] = set()
        self.scan()

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key_id: bytes) -> Key | None:
        """The enrolled key of this id."""
        return self._keys.get(key_id)

    def record(self, key_id: bytes) -> KeyRecord:
        """What the log says of the enrolled key `key_id`."""
        return self._book.states[key_id]

    def of(self, device: str) -> tuple[bytes, ...]:
        """The ids of `device`'s keys."""
        return self._devices.get(device, ())

    def name(self, key_id: bytes) -> str:
        """The device that holds this key, in words where that is not known."""
        key = self._keys.get(key_id)
        return key.device if key else f"the holder of key {key_id.hex()[:16]}"

    def devices(self) -> dict[str, tuple[bytes, ...]]:
        """The ids of the keys of every device."""
        return dict(self._devices)

    def renew(self, *, now: bool = False) -> None:
        """Commits the state of all keys, if that is due or `now` is asked for."""
        self._book.renew(now=now)

    def scan(self) -> None:
        """Takes in what is new in the folder; a file that is no good is named in the log once and left there."""
        if not self._folder.is_dir():
            return
        # Whatever the files are called, a key is enrolled before it is rotated, and rotated to before it is revoked.
        found = {suffix: sorted(self._folder.glob(f"*{suffix}")) for suffix in SUFFIXES}
        for path in (path for paths in found.values() for path in paths):
            try:
                state = path.stat()
            except OSError:
                continue  # gone since it was listed
            seen = (path.name, state.st_mtime_ns, state.st_ctime_ns)
            if seen in self._seen:
                continue
            try:
                self._take(path, path.read_bytes())
                self._seen.add(seen)
            except (LedgerError, UserError, OSError) as error:
                if isinstance(error, MalformedError):
                    self._seen.add(seen)
                if seen not in self._told:
                    logger.warning("key event %s not taken: %s", path.name, error)
                self._told.add(seen)

    def _take(self, path: Path, data: bytes) -> None:
        event = parse_entry(data)
        if not isinstance(event, (Enrolment, Rotation, Revocation)) or not isinstance(event, SUFFIXES[path.suffix]):
            raise UserError(f"not what its suffix {path.suffix} says")
        if event.origin != self._origin:
            raise UserError(f"made for the log {event.origin}")
        if event.registrar_key not in self._registrars:
            raise UserError(f"signed by a registrar that {TRUST} does not name")
        if isinstance(event, Revocation):
            self._revoke(event)
        else:
            self._add(check_device(path.stem), event)

    def _add(self, device: str, event: Enrolment | Rotation) -> None:
        if isinstance(event, Rotation) and (old := self._keys.get(event.old_key_id)) and old.device != device:
            raise UserError(f"its old key is that of {old.device}; a device keeps its name")
        if self._book.states.get(event.key_id) is None:
            head = self._storage.head_place(event.old_key_id) if isinstance(event, Rotation) else None
            if isinstance(event, Rotation) and head is not None and event.until <= (head.epoch, head.seq):
                raise UserError("its old key's chain is longer already than the rotation says")
            index = self._book.append([event])
            logger.info("enrolled %s, key %s, as entry %d", device, event.key_id.hex()[:16], index)
        # A crash between the append and this line is healed here: the file is still in the folder.
        key = Key(device, event.algorithm, event.public_key)
        known = self._keys.get(event.key_id)
        if known is not None and known.device != device:
            raise UserError(f"its key is that of {known.device}; a device keeps its name")
        if known is None:
            self._registry.add_device(event.key_id, key)
            self._hold(event.key_id, key)

    def _hold(self, key_id: bytes, key: Key) -> None:
        self._keys[key_id] = key
        self._devices[key.device] = (*self._devices.get(key.device, ()), key_id)

    def _revoke(self, event: Revocation) -> None:
        record = self._book.states.get(event.key_id)
        if record is not None and record.revoked is not None:
            return
        index = self._book.append([event])
        logger.warning("revoked key %s, as entry %d", event.key_id.hex()[:16], index)
