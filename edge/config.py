"""`edge.toml` as one frozen dataclass; every key with its unit and default."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ledger.batch import MAX_READINGS, check_origin
from ledger.errors import MalformedError
from ledger.info import MAX_SOURCES
from vitalseal import config as configuration
from vitalseal.health import HealthConfig
from vitalseal.topics import check_device

PROTOCOLS = ("auto", "5", "3.1.1")
# Half of what a batch can describe: readings of sources that left the configuration may still be waiting.
MAX_CONFIGURED = MAX_SOURCES // 2
# A full waveform (16 KB of samples) must fit a batch, and a batch with its descriptions a 256 KB envelope.
MIN_BATCH_BYTES, MAX_BATCH_BYTES = 20_000, 200_000
MIN_SOURCE_ID, MAX_SOURCE_ID = 8, 16
# Three windows of 4 MB and their overhead; a petabyte is more than any gateway has.
MIN_OUTBOX_MB, MAX_OUTBOX_MB = 16, 10**9

# What SIGHUP brings into force; the rest takes a restart.
LIVE = frozenset({"batching", "outbox", "keep_days", "heartbeat_s", "health"})

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the CA's certificate, the device's certificate, and its private key."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Where batches go.

    Attributes:
        host: name or address; default 127.0.0.1.
        port: TCP port; default 1883.
        protocol: "5", "3.1.1", or "auto" (default): 5, and 3.1.1 where the broker refuses it.
        keepalive_s: seconds of silence after which the connection is probed; default 30.
        ca: PEM file of the CA whose certificate the broker must show; default none: no TLS.
        certificate, certificate_key: PEM files of the device's own TLS identity, which is renewed by itself. All
            three or none; `edge enroll` writes them.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    protocol: str = "auto"
    keepalive_s: int = 30
    ca: Path | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None

    def __post_init__(self) -> None:
        """Each value is one that can work; raises ValueError."""
        if len({path is None for path in (self.ca, self.certificate, self.certificate_key)}) > 1:
            raise ValueError("ca, certificate and certificate_key go together: all three, or none")
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol: {self.protocol!r} is not one of {', '.join(PROTOCOLS)}")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not from 1 to 65535")
        if not 5 <= self.keepalive_s <= 65535:
            raise ValueError(f"keepalive_s: {self.keepalive_s} is not from 5 to 65535")

    @property
    def tls(self) -> TlsFiles | None:
        """The TLS identity, None where MQTT goes without."""
        if self.ca is None or self.certificate is None or self.certificate_key is None:
            return None
        return TlsFiles(self.ca, self.certificate, self.certificate_key)


@dataclass(frozen=True, slots=True)
class DeskConfig:
    """Where the TLS certificate is renewed and the signing key rotated: the aggregator's enrolment desk.

    Attributes:
        host: name or address.
        port: TCP port.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """The port is one; raises ValueError."""
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not from 1 to 65535")


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """When a batch closes: at the first of these, and only while the windows have room.

    Attributes:
        max_readings: default 512; at most 4095.
        max_bytes: bytes of readings; default 65536.
        max_age_s: seconds since the oldest reading in it was accepted; default 1.0.
        commit_s: longest that readings wait for others before the commit that accepts them; default 0.25, at most
            1.0. A longer wait spares a memory card, a shorter one loses less at a power cut.
    """

    max_readings: int = 512
    max_bytes: int = 65536
    max_age_s: float = 1.0
    commit_s: float = 0.25

    def __post_init__(self) -> None:
        """Each value is one that can work; raises ValueError."""
        if not 1 <= self.max_readings <= MAX_READINGS:
            raise ValueError(f"max_readings: {self.max_readings} is not from 1 to {MAX_READINGS}")
        if not MIN_BATCH_BYTES <= self.max_bytes <= MAX_BATCH_BYTES:
            raise ValueError(f"max_bytes: {self.max_bytes} is not from {MIN_BATCH_BYTES} to {MAX_BATCH_BYTES}")
        if not 0.0 < self.max_age_s <= 3600.0:
            raise ValueError(f"max_age_s: {self.max_age_s} is not above 0 and at most 3600")
        if not 0.0 < self.commit_s <= 1.0:
            raise ValueError(f"commit_s: {self.commit_s} is not above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class OutboxConfig:
    """How much the outbox may hold.

    Attributes:
        max_mb: megabytes (10^6 bytes) of the disk; default 1024, at least 16. Over it, batches with a receipt are
            deleted early; then the oldest readings that are not sealed go, and the device's chain says so.
    """

    max_mb: int = 1024

    def __post_init__(self) -> None:
        """The windows and some readings fit; raises ValueError."""
        if not MIN_OUTBOX_MB <= self.max_mb <= MAX_OUTBOX_MB:
            raise ValueError(f"max_mb: {self.max_mb} is not from {MIN_OUTBOX_MB} to {MAX_OUTBOX_MB}")

    @property
    def max_bytes(self) -> int:
        """The same in bytes."""
        return self.max_mb * 10**6


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One sensor.

    Attributes:
        name: 1 to 64 of a-z, 0-9, '-' and '_'; unique; its place in the input is kept under this name.
        type: name of an entry point in the group `vitalseal.sources`.
        id: 8 to 16 random bytes in hex, made by `edge init`; goes into every reading, so it must stay.
        options: whatever the type wants; default none.
    """

    name: str
    type: str
    id: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name and id are well formed; raises ValueError."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} is not 1 to 64 of a-z, 0-9, '-' and '_'")
        if not re.fullmatch(r"([0-9a-f]{2})+", self.id) or not MIN_SOURCE_ID <= len(self.id) // 2 <= MAX_SOURCE_ID:
            raise ValueError(f"id: {self.id!r} is not {MIN_SOURCE_ID} to {MAX_SOURCE_ID} bytes in lower-case hex")

    @property
    def source_id(self) -> bytes:
        """The id's bytes."""
        return bytes.fromhex(self.id)


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """All that one agent needs. Paths count from the configuration file's directory.

    Attributes:
        device: the device's name in MQTT topics.
        origin: of the log that batches are sealed for; no receipt of another log is ever believed.
        key: file with the device key, or with the PKCS#11 URI of one in a token; mode 0600.
        policy: C2SP tlog-policy file: the log key, the witnesses and the quorum that a receipt must show.
        data: directory for the outbox and evidence; made if it is not there.
        broker, batching, outbox: see there; every key has a default.
        desk: see there; default none: nothing renews the certificate. Needs the broker's three TLS files.
        keep_days: days of running time for which a batch is kept after its verified receipt; default 7.
        heartbeat_s: seconds of running time after which a device that had nothing to seal says so in its chain, so that
            a dropped tail of it can be seen; default 3600, from 10 to 86400.
        health: see `vitalseal.health`; default: nowhere.
        sources: see `SourceConfig`; at most 64; default none.
        directory: where relative paths in source options count from; default the configuration file's.
    """

    device: str
    origin: str
    key: Path
    policy: Path
    data: Path
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    batching: BatchingConfig = field(default_factory=BatchingConfig)
    outbox: OutboxConfig = field(default_factory=OutboxConfig)
    desk: DeskConfig | None = None
    keep_days: float = 7.0
    heartbeat_s: float = 3600.0
    health: HealthConfig = field(default_factory=HealthConfig)
    sources: tuple[SourceConfig, ...] = ()
    directory: Path = Path()

    def __post_init__(self) -> None:
        """The values fit together; raises ValueError or UserError."""
        check_device(self.device)
        try:
            check_origin(self.origin)
        except MalformedError as error:
            raise ValueError(str(error)) from None
        if self.desk is not None and self.broker.tls is None:
            raise ValueError("desk: needs ca, certificate and certificate_key in [broker]")
        if not 0.0 <= self.keep_days <= 36500.0:
            raise ValueError(f"keep_days: {self.keep_days} is not from 0 to 36500")
        if not 10.0 <= self.heartbeat_s <= 86400.0:
            raise ValueError(f"heartbeat_s: {self.heartbeat_s} is not from 10 to 86400")
        if len(self.sources) > MAX_CONFIGURED:
            raise ValueError(f"sources: {len(self.sources)}, more than the {MAX_CONFIGURED} allowed")
        for what in ("name", "id"):
            values = [getattr(source, what) for source in self.sources]
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ValueError(f"sources: two have the {what} {twice!r}")

    @property
    def outbox_file(self) -> Path:
        """The outbox file."""
        return self.data / "outbox.db"

    @property
    def evidence(self) -> Path:
        """The directory in which a log's contradictions are kept."""
        return self.data / "evidence"


def load(path: Path) -> EdgeConfig:
    """The configuration in `path`; raises UserError."""
    config = configuration.load(path, EdgeConfig)
    return config if config.directory.is_absolute() else replace(config, directory=path.parent.resolve())
