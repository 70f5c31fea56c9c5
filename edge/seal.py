"""Sealing: batch info, fresh secret, signature. What comes out never changes again."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.batch import SECRET_SIZE, Anchor, Notice, SealedBatch, seal
from ledger.info import BatchInfo, Clock, Source
from ledger.keys import Signer

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# systemd-timesyncd makes this file when the clock has been set from the network since boot, and others imitate it.
_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


@dataclass(frozen=True, slots=True)
class Link:
    """The next place in the device's chain: where a batch goes, and what it points back to."""

    epoch: int
    seq: int
    previous: bytes | None
    anchor: Anchor | None


class Sealer:
    """Seals for one device and one log. Times are arguments so that tests can set them."""

    def __init__(
        self,
        signer: Signer,
        origin: str,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._signer = signer
        self._origin = origin
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._boot_id = boot_id()

    def seal(
        self,
        link: Link,
        *,
        readings: Sequence[bytes],
        sensor_times_ns: Sequence[int],
        sources: Sequence[Source],
        notice: Notice | None = None,
    ) -> SealedBatch:
        """`readings`, with the sensor time of each, sealed at `link`; `sources` are those that occur in them.

        The secret is drawn here, once: sealing again would make another batch, so the caller commits this one
        before it is shown to anyone.
        """
        info = BatchInfo(
            boot_id=self._boot_id,
            sealed_at_ns=self._wall_ns(),
            monotonic_ns=self._monotonic_ns(),
            clock=clock_state(),
            clock_error_ns=None,
            first_ns=min(sensor_times_ns, default=None),
            last_ns=max(sensor_times_ns, default=None),
            sources=tuple(sorted(sources, key=lambda source: source.source)),
        )
        return seal(
            self._signer,
            origin=self._origin,
            epoch=link.epoch,
            seq=link.seq,
            previous=link.previous,
            anchor=link.anchor,
            info=info,
            readings=readings,
            secret=secrets.token_bytes(SECRET_SIZE),
            notice=notice,
        )


def boot_id() -> bytes:
    """16 bytes within which monotonic times compare: the kernel's boot id, elsewhere random for this process."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text("ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return secrets.token_bytes(16)


def clock_state() -> Clock:
    """SYNCHRONISED where the system says so; otherwise UNKNOWN, because silence is no evidence either way."""
    return Clock.SYNCHRONISED if _SYNCHRONISED.exists() else Clock.UNKNOWN
