"""Whose a key is: its device by the registry, the key itself by the log."""

from contextlib import closing
from pathlib import Path

from aggregator.registry import Registry
from ledger.keystate import KeyStates
from ledger.writer.keybook import read_states
from ledger.writer.reader import LocalReader
from ledger.writer.storage import StorageError

_SHOWN_DIGITS = 16  # of a key id that stands for a device's name


class Holders:
    """The keys of the log in `data`, read again when there is one that was not known."""

    def __init__(self, data: Path, log: LocalReader) -> None:
        self._data = data
        self._log = log
        self._origin = ""
        self._keys = KeyStates("")
        self._devices: dict[bytes, str] = {}
        self._nameless: set[bytes] = set()  # found without a name, and not looked for again for now

    def look_again(self, origin: str) -> None:
        """Keys of the log `origin`; one that nobody has named may have been named since."""
        self._origin = origin
        self._nameless.clear()

    def of(self, key_id: bytes, index: int) -> tuple[str, int, bytes]:
        """Device, algorithm and public key of whoever signed entry `index`; raises StorageError or UserError."""
        if key_id not in self._devices and key_id not in self._nameless:
            self._load()
            self._nameless.add(key_id)
        key = self._keys.public_key(key_id)
        if key is None:
            raise StorageError(f"entry {index}: its key {key_id.hex()} is not enrolled")
        # A key that the registry does not name any more is shown by its id.
        return self._devices.get(key_id, key_id.hex()[:_SHOWN_DIGITS]), *key

    def _load(self) -> None:
        self._keys = read_states(self._log, self._origin)
        with closing(Registry(self._data)) as registry:
            self._devices = {key_id: key.device for key_id, key in registry.keys().items()}
