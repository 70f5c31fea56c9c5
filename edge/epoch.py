"""The epochs of a key's chains, remembered beside the key: a chain must never begin where an earlier one did.

An outbox that is gone, or older than it should be, took the end of the chain with it. A new chain must not start again
at (epoch, seq) places that were used: two headers in one place are equivocation, and would condemn an honest device.
The key outlives the data directory more often than not, so the last epoch begun stands in a file next to it, a line for
each key that was ever there:

    <key id in hex> <epoch>

A single number, as the first version wrote it, is the epoch of a key that has not been named yet.
"""

from pathlib import Path

from edge import files
from ledger.batch import MAX_UINT32
from ledger.errors import MalformedError
from ledger.strict import parse_decimal
from vitalseal.errors import UserError

_UNNAMED = ""  # stands for the key of a file of the first version


def start_epoch(key_file: Path, key_id: bytes) -> int:
    """The epoch for a new chain of the key, never used before, and durably marked as used.

    The mark comes first: a crash between it and the outbox skips an epoch, which the format allows.
    """
    epochs = _read(key_file)
    last = max(epochs.get(key_id.hex(), -1), epochs.get(_UNNAMED, -1))
    _write(key_file, epochs, key_id, last + 1)
    return last + 1


def name_epoch(key_file: Path, key_id: bytes, epoch: int) -> None:
    """The mark says that the key's last epoch is `epoch` or later, and no key is unnamed in it any more."""
    epochs = _read(key_file)
    if _UNNAMED in epochs or epochs.get(key_id.hex(), -1) < epoch:
        _write(key_file, epochs, key_id, max(epoch, epochs.get(key_id.hex(), -1), epochs.get(_UNNAMED, -1)))


def _write(key_file: Path, epochs: dict[str, int], key_id: bytes, epoch: int) -> None:
    named = {key: last for key, last in epochs.items() if key != _UNNAMED} | {key_id.hex(): epoch}
    files.replace(_path(key_file), "".join(f"{key} {last}\n" for key, last in sorted(named.items())).encode())


def _read(key_file: Path) -> dict[str, int]:
    """The last epoch of each key."""
    path = _path(key_file)
    epochs = {}
    try:
        for line in path.read_text("ascii").removesuffix("\n").split("\n"):
            key, _, number = line.rpartition(" ")
            epochs[key] = parse_decimal(number, f"{path}", limit=MAX_UINT32 - 1)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, MalformedError) as error:
        raise UserError(f"{path}: {error}; each line must hold a key id and its last epoch, a decimal number") from None
    return epochs


def _path(key_file: Path) -> Path:
    return key_file.with_name(f"{key_file.name}.epoch")
