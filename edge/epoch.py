"""The epoch of the device's chain, remembered beside the key: it rises when an outbox was lost.

An outbox that is gone took the end of the chain with it. A new one must not start again at (epoch, seq) places that
were used: two headers in one place are equivocation, and would condemn an honest device. The key outlives the data
directory more often than not, so the last epoch begun stands in a file next to it.
"""

from pathlib import Path

from edge import files
from ledger.batch import MAX_UINT32
from ledger.errors import MalformedError
from ledger.strict import parse_decimal
from vitalseal.errors import UserError


def start_epoch(key_file: Path) -> int:
    """The epoch for a new outbox under this key, never used before, and durably marked as used.

    The mark comes first: a crash between it and the outbox skips an epoch, which the format allows.
    """
    path = key_file.with_name(f"{key_file.name}.epoch")
    epoch = _last(path) + 1
    files.replace(path, f"{epoch}\n".encode())
    return epoch


def _last(path: Path) -> int:
    try:
        text = path.read_text("ascii").removesuffix("\n")
        return parse_decimal(text, f"{path}", limit=MAX_UINT32 - 1)
    except FileNotFoundError:
        return -1
    except (OSError, UnicodeDecodeError, MalformedError) as error:
        raise UserError(f"{path}: {error}; it must hold the last epoch, a decimal number") from None
