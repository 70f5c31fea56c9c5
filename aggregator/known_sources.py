"""Which sensors a log has readings of, told by its batches themselves: a database could be behind, or away."""

import time
from dataclasses import dataclass

from ledger.errors import MalformedError
from ledger.info import BatchInfo
from ledger.leaves import Leaf
from ledger.writer.payload import parse_payload
from ledger.writer.reader import LocalReader

LOOK_FOR_S = 5.0  # a person waits for it; a sensor that is worn now is found at once, for the newest batch is the first


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the batches told of a source id: whether it is `there`.

    `alike` are other ids that begin with it, in order, not all of them where it is there. `whole`: every batch of the
    log was looked at, so that what was not found is not there.
    """

    there: bool
    alike: tuple[bytes, ...]
    whole: bool


def look_for(source: bytes, log: LocalReader) -> Look:
    """Looks through the payloads of `log` for readings of `source`, newest first, for `LOOK_FOR_S` at most."""
    alike: set[bytes] = set()
    until_s = time.monotonic() + LOOK_FOR_S
    whole = not log.missing_payload_count()
    for index in range(log.size() - 1, -1, -1):
        if time.monotonic() > until_s:
            whole = False
            break
        payload = log.payload(index)
        # Most batches are of others, and are not taken apart.
        if payload is None or source not in payload:
            continue
        found = _sources(payload)
        if found is None:
            whole = False
            continue
        if source in found:
            return Look(there=True, alike=tuple(sorted(alike)), whole=whole)
        alike |= {other for other in found if other.startswith(source)}
    return Look(there=False, alike=tuple(sorted(alike)), whole=whole)


def _sources(payload: bytes) -> set[bytes] | None:
    """The sources of a batch by its leaf 0; None where that is damaged or gone, so that nobody can say."""
    try:
        info = parse_payload(payload)[0]
        return {item.source for item in BatchInfo.decode(info.body).sources} if isinstance(info, Leaf) else None
    except (MalformedError, IndexError):
        return None
