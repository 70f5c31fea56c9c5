"""Which device keys are enrolled: from the log, and from the folder where a registrar leaves new enrolments.

    <data>/enrolments/<device>.enrol      a key event signed by the device and by a registrar in trust.txt

An enrolment found there is appended to the log once; the file name gives the device's name, which stays private.
"""

import logging
from pathlib import Path

from aggregator.admission import Key
from aggregator.registry import Registry
from ledger.entry import parse_entry
from ledger.errors import LedgerError, MalformedError
from ledger.events import Enrolment
from ledger.policy import parse_trust
from ledger.writer.create import TRUST
from ledger.writer.log import LogWriter
from ledger.writer.storage import Storage, Submission
from vitalseal.errors import UserError
from vitalseal.topics import check_device

logger = logging.getLogger(__name__)

FOLDER = "enrolments"
SUFFIX = ".enrol"


class Keys:
    """The enrolled keys. `scan` is called from one thread, which owns the registry; the rest from any."""

    def __init__(self, data: Path, writer: LogWriter, storage: Storage, registry: Registry) -> None:
        self._folder = data / FOLDER
        self._writer = writer
        self._registry = registry
        try:
            trust = parse_trust((data / TRUST).read_bytes())
        except MalformedError as error:
            raise UserError(f"{data / TRUST}: {error}") from None
        self._registrars = frozenset(key.public_key for key in trust)
        self._logged = {
            entry.key_id for _, body in storage.key_events() if isinstance(entry := parse_entry(body), Enrolment)
        }
        self._keys = {key_id: key for key_id, key in registry.keys().items() if key_id in self._logged}
        self._seen: set[tuple[str, int, int]] = set()  # file name and time: a replaced file is read again
        self.scan()

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key_id: bytes) -> Key | None:
        """The enrolled key of this id."""
        return self._keys.get(key_id)

    def of(self, device: str) -> list[bytes]:
        """The ids of `device`'s keys."""
        return [key_id for key_id, key in list(self._keys.items()) if key.device == device]

    def scan(self) -> None:
        """Takes in what is new in the folder; a file that is no good is named in the log once and left there."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                state = path.stat()
                seen = (path.name, state.st_mtime_ns, state.st_ctime_ns)
                if seen in self._seen:
                    continue
                self._seen.add(seen)
                self._take(check_device(path.stem), path.read_bytes())
            except (LedgerError, UserError, OSError) as error:
                logger.warning("enrolment %s not taken: %s", path.name, error)

    def _take(self, device: str, data: bytes) -> None:
        enrolment = parse_entry(data)
        if not isinstance(enrolment, Enrolment):
            raise UserError("not an enrolment")
        if enrolment.origin != self._writer.origin:
            raise UserError(f"made for the log {enrolment.origin}")
        if enrolment.registrar_key not in self._registrars:
            raise UserError(f"signed by a registrar that {TRUST} does not name")
        enrolment.check()
        key_id = enrolment.key_id
        if key_id not in self._logged:
            index = self._writer.append([Submission(data)])
            self._logged.add(key_id)
            logger.info("enrolled %s, key %s, as entry %d", device, key_id.hex()[:16], index)
        # A crash between the append and this line is healed here: the file is still in the folder.
        key = Key(device, enrolment.algorithm, enrolment.public_key)
        known = self._keys.get(key_id)
        if known is not None and known.device != device:
            raise UserError(f"its key is that of {known.device}; a device keeps its name")
        if known is None:
            self._registry.add_device(key_id, key)
            self._keys[key_id] = key
