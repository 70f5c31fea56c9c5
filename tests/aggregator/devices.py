"""A device as the aggregator sees it: seals batches of its chain, well or badly."""

from dataclasses import dataclass, field
from pathlib import Path

from aggregator.enrolment import FOLDER
from ledger.batch import Anchor, Notice, SealedBatch, header_hash, seal
from ledger.envelope import format_envelope
from ledger.events import ChainPlace, KeyEvent, enrol, revoke, rotate
from ledger.info import BatchInfo, Clock, Source
from ledger.keys import ED25519, EcdsaP256Signer, Ed25519Signer, key_id
from ledger.reading import Reading, Scalar
from ledger.writer.create import REGISTRAR_KEY, load_signer

ORIGIN = "test.example/log"
START_NS = 1_764_000_000 * 10**9


def registrar(data: Path) -> Ed25519Signer:
    """The registrar whom the log in `data` trusts."""
    return load_signer(data / REGISTRAR_KEY).key


def drop(data: Path, name: str, event: KeyEvent) -> None:
    """Leaves `event` where the aggregator looks for it."""
    (data / FOLDER).mkdir(exist_ok=True)
    (data / FOLDER / name).write_bytes(event.encode())


@dataclass
class Device:
    """A device with a chain of its own; deterministic from `number`."""

    name: str
    number: int
    origin: str = ORIGIN
    algorithm: int = ED25519
    seq: int = 0
    epoch: int = 0
    previous: bytes | None = None
    anchor: Anchor | None = None
    sealed: list[SealedBatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        signer = Ed25519Signer if self.algorithm == ED25519 else EcdsaP256Signer
        self.signer = signer(bytes([self.number]) * 32)
        self.key_id = key_id(self.algorithm, self.signer.public_key)
        self.source = bytes([self.number]) * 8

    def enrol(self, data: Path) -> None:
        """Leaves a signed enrolment where the aggregator looks for it."""
        drop(data, f"{self.name}.enrol", enrol(self.signer, registrar(data), self.origin))

    def rotate(self, data: Path, number: int, until: ChainPlace) -> "Device":
        """Leaves a rotation to the key `number` there; the same device with that key and a chain of its own."""
        new = Device(self.name, number, self.origin)
        drop(data, f"{self.name}.rotate", rotate(self.signer, new.signer, registrar(data), self.origin, until))
        return new

    def revoke(self, data: Path, until: ChainPlace, name: str = "lost") -> None:
        """Leaves a revocation of its key there, under any name."""
        drop(data, f"{name}.revoke", revoke(self.key_id, registrar(data), self.origin, until, 1))

    def reading(self, at_ns: int, value: int) -> Reading:
        """What it measures."""
        return Reading(self.source, 1, at_ns, 0, None, 5, Scalar(value, 0))

    def batch(
        self,
        count: int = 3,
        *,
        value: int = 70,
        notice: Notice | None = None,
        window: tuple[int, int] | None = None,
        at_ns: int = START_NS,
    ) -> bytes:
        """The next batch of the chain, as an envelope; its times are from `at_ns` on."""
        first = at_ns + self.seq % 10**6 * 1000 * 10**9
        times = [first + at * 10**9 for at in range(count)]
        readings = [self.reading(at, value).encode() for at in times]
        info = BatchInfo(
            bytes(16),
            first,
            7,
            Clock.UNKNOWN,
            None,
            times[0] if times else None,
            times[-1] if times else None,
            (Source(self.source, "chest strap"),) if times else (),
            window,
        )
        batch = seal(
            self.signer,
            origin=self.origin,
            epoch=self.epoch,
            seq=self.seq,
            previous=self.previous,
            anchor=self.anchor,
            info=info,
            readings=readings,
            secret=bytes([value]) * 32,
            notice=notice,
        )
        self.previous = header_hash(batch.header)
        self.seq += 1
        self.sealed.append(batch)
        return format_envelope(batch)
