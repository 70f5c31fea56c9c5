"""Sealing: batch info, fresh secret, signature. What comes out never changes again."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from edge.clock import ClockReader, Segment, SystemClock
from ledger.batch import SECRET_SIZE, Anchor, Notice, SealedBatch, seal
from ledger.info import BatchInfo, Clock, Source
from ledger.keys import Signer, key_id


@dataclass(frozen=True, slots=True)
class Link:
    """The next place in the device's chain: where a batch goes, and what it points back to."""

    epoch: int
    seq: int
    previous: bytes | None
    anchor: Anchor | None


class Sealer:
    """Seals for one device and one log.

    Attributes:
        key_id: of the key that it seals with.
    """

    def __init__(self, signer: Signer, origin: str, clock: ClockReader | None = None) -> None:
        self._signer = signer
        self.key_id = key_id(signer.algorithm, signer.public_key)
        self._origin = origin
        self._clock = clock or SystemClock()

    def seal(
        self,
        link: Link,
        *,
        readings: Sequence[bytes],
        sensor_times_ns: Sequence[int],
        sources: Sequence[Source],
        segment: Segment | None = None,
        notice: Notice | None = None,
        window_ns: tuple[int, int] | None = None,
    ) -> SealedBatch:
        """`readings`, with the sensor time of each, sealed at `link`; `sources` are those that occur in them.

        The info states the time of sealing, and what was known of the clock when the readings were received: that of
        `segment`, None if nobody noted it. A notice has the clock of now, and a gap its window if that is known.

        The secret is drawn here, once: sealing again would make another batch, so the caller commits this one
        before it is shown to anyone.
        """
        now = self._clock.read()
        known = now if notice is not None else segment
        info = BatchInfo(
            boot_id=now.boot_id,
            sealed_at_ns=now.wall_ns,
            monotonic_ns=now.monotonic_ns,
            clock=Clock.UNKNOWN if known is None else known.clock,
            clock_error_ns=None if known is None else known.error_ns,
            first_ns=min(sensor_times_ns, default=None),
            last_ns=max(sensor_times_ns, default=None),
            sources=tuple(sorted(sources, key=lambda source: source.source)),
            window_ns=window_ns,
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
