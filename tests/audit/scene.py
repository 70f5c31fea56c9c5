"""A log with everything that the audit has to cope with, its payloads, and a database that was projected from it."""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from aggregator.admission import Key
from aggregator.projection import Projection
from aggregator.registry import Registry
from aggregator.timeseries.base import ReadingStore
from aggregator.timeseries.embedded import EmbeddedStore
from ledger.reading import Absent, Reading, Scalar, Waveform, pack_samples
from tests.aggregator.devices import registrar
from tests.ledger.builders import NOW_NS, device
from tests.ledger.past import Past, id_of
from tests.writer.written import Written

NAMES = ("wrist-1", "wrist-2", "chest <b>")
BATCHES = 4  # of each device
SECOND = 10**9


def make_log(data: Path, on_half: Callable[[int], None] = lambda _size: None) -> Past:
    """A published log in `data` with payloads and names, in five checkpoints.

    `on_half` is called with its size when half of it is there.
    """
    past = Past()
    signers = [device(name) for name in NAMES]
    with Written(data, past) as log:
        for signer in signers:
            past.enrol(signer, registrar(data))
        past.state()
        with closing(Registry(data)) as registry:
            for name, signer in zip(NAMES, signers, strict=True):
                registry.add_device(id_of(signer), Key(name, signer.algorithm, signer.public_key))
        for number in range(BATCHES):
            for at, signer in enumerate(signers):
                past.seal(*readings(number, at), signer=signer)
                if at == 1:
                    past.fill(1)
            log.publish()
            if number == 1:
                past.seal(signer=signers[0])  # a heartbeat
                on_half(log.publish())
    return past


def readings(number: int, device_number: int) -> list[Reading]:
    """What a device has to say in its batch `number`: numbers, one identity twice, an absence, waveforms."""
    source = bytes([device_number + 1]) * 8
    start = NOW_NS - 3600 * SECOND + number * 60 * SECOND

    def scalar(kind: int, mantissa: int, at_ns: int, ordinal: int = 0, quality: int = 0, exponent: int = 0) -> Reading:
        return Reading(source, kind, at_ns, ordinal, 120, 5, Scalar(mantissa, exponent), quality)

    pulse = [scalar(1, 60 + 7 * number + at, start + at * SECOND, quality=at % 2) for at in range(3)]
    intervals = [scalar(11, 8000 + 31 * number + at, start, ordinal=at, exponent=-1) for at in range(3)]
    twice = [scalar(2, 97, start + SECOND), scalar(2, 97, start + SECOND)]
    absent = Reading(source, 2, start + 2 * SECOND, 0, None, 0, Absent(6), 64)
    wave = [
        Reading(source, 14, start + offset, 0, None, 0, _wave([number + at, -at, 7 * at, 9]), 0)
        for at, offset in enumerate((0, 20_000_000, 40 * SECOND))
    ]
    return [*pulse, *intervals, *twice, absent, *wave]


def _wave(samples: list[int]) -> Waveform:
    return Waveform(100_000_000, 13, (1, -3), (0, 0), 2, 2, pack_samples(samples, 2))


def project(data: Path, store: object) -> None:
    """Everything published is in `store`."""
    with closing(Projection(data, store)) as projection:
        projection.catch_up()


def copy_until(cut: int, data: Path, target: ReadingStore) -> None:
    """`target` has what the embedded store of `data` has of the first `cut` entries."""
    with EmbeddedStore(data, readonly=True) as store:
        batches = [batch for index in store.batch_indexes() if index < cut and (batch := store.batch(index))]
        target.write(batches, [item for item in store.readings() if item.log_index < cut], cut)


def chances(seed: int, count: int) -> Iterator[random.Random]:
    """`count` sources of chance, each its own."""
    return (random.Random(f"{seed} {number}") for number in range(count))
