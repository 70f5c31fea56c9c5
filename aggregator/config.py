"""Configuration of the aggregator: `aggregator.toml`."""

from dataclasses import dataclass, field
from pathlib import Path

from vitalseal.health import HealthConfig

# What SIGHUP brings into force; the rest takes a restart.
LIVE = frozenset({"interval_s", "quiet_interval_s", "witness_timeout_s", "receipt_policy", "silent_after_s"})


@dataclass(frozen=True)
class BrokerConfig:
    """Where the broker is."""

    host: str = "127.0.0.1"
    """Host name or address."""
    port: int = 1883
    """TCP port."""
    protocol: str = "auto"
    """"5", "3.1.1", or "auto": 5, and 3.1.1 where the broker has no 5."""
    client_id: str = "vitalseal-aggregator"
    """Names the persistent session; one aggregator per log, so one id."""
    ca: Path | None = None
    """The CA of broker and devices, in PEM. With it the connection is TLS, and the next two are needed as well."""
    certificate: Path | None = None
    """The aggregator's own certificate, in PEM."""
    certificate_key: Path | None = None
    """Its key, in PEM, readable by its owner only."""
    pid_file: Path | None = None
    """Where Mosquitto writes its process id, to be told by SIGHUP to read its lists again; none: someone else tells it,
    as deploy/ does."""

    def __post_init__(self) -> None:
        tls = (self.ca, self.certificate, self.certificate_key)
        if any(tls) and not all(tls):
            raise ValueError("ca, certificate and certificate_key belong together: give all of them, or none")
        if self.protocol not in {"auto", "5", "3.1.1"}:
            raise ValueError(f"protocol: {self.protocol!r} is not 'auto', '5' or '3.1.1'")
        if not 0 < self.port < 65536:
            raise ValueError(f"port: {self.port} is not a TCP port")


@dataclass(frozen=True)
class DeskConfig:
    """Where gateways are signed in, over HTTPS."""

    host: str
    """The name or address by which gateways reach it: one that the server's certificate is for. Stands in tokens."""
    port: int = 8884
    """TCP port, for gateways and here."""
    listen: str = "0.0.0.0"  # noqa: S104 - gateways are elsewhere; what comes in without a token or certificate is refused
    """The address to listen on."""

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port: {self.port} is not a TCP port")


@dataclass(frozen=True)
class InfluxConfig:
    """Where the readings go, if not into the embedded store: InfluxDB 1.8, 2 or 3."""

    url: str
    """Where it answers, e.g. "https://influx.clinic.example:8086"; the v2 write API and InfluxQL's /query are used."""
    bucket: str = "vitalseal"
    """The bucket (1.x: the database), with unlimited retention."""
    org: str = ""
    """The organisation; 1.x and 3 have none."""
    token_file: Path | None = None
    """A file whose first line is the token (1.x: user:password), readable by its owner only."""
    ca: Path | None = None
    """The CA of its certificate, in PEM, if it is none that this system trusts."""
    timeout_s: float = 30.0
    """Seconds that it may take to answer."""
    gzip: bool = False
    """Compress what is written: worth it over a slow line only."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url: {self.url!r} does not begin with http:// or https://")
        if not self.bucket:
            raise ValueError("bucket: is empty")
        if not 0.1 <= self.timeout_s <= 600:
            raise ValueError(f"timeout_s: {self.timeout_s} is not from 0.1 to 600 s")


@dataclass(frozen=True)
class BackupConfig:
    """What backups need."""

    keys: Path
    """The keys under which payloads are encrypted in backups, if they are to be on another volume than `data`
    (<data>/backup-keys.db)."""


@dataclass(frozen=True)
class AggregatorConfig:
    """One aggregator: one log, one broker."""

    data: Path
    """Directory of the log, its keys and databases, as `vitalseal aggregator init` made it."""
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    """The MQTT broker."""
    desk: DeskConfig | None = None
    """The enrolment desk; none where `init --plain` made no CA."""
    interval_s: float = 1.0
    """Seconds between checkpoints while many batches arrive; at least 0.1."""
    quiet_interval_s: float = 10.0
    """Seconds between checkpoints while few do: each is kept for ever (docs/storage.md). At least `interval_s`."""
    influx: InfluxConfig | None = None
    """The time-series database; none: the embedded store, <data>/readings.db."""
    backup: BackupConfig | None = None
    """Where the keys of backups are, if not in `data`."""
    guard: Path | None = None
    """Where the second copy of the last checkpoint's size and root is; best on another volume (<data>/guard)."""
    receipt_policy: Path | None = None
    """The policy that devices have; receipts carry the signature lines that it asks for (<data>/policy.txt)."""
    witness_timeout_s: float = 5.0
    """Seconds that a witness may take to answer, 0.1 to 60."""
    silent_after_s: float = 7200.0
    """Seconds without a batch or a heartbeat after which a device is overdue: twice a gateway's `heartbeat_s`."""
    health: HealthConfig = field(default_factory=HealthConfig)
    """Where `/healthz` and `/metrics` are answered; by default nowhere."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.interval_s <= 3600:
            raise ValueError(f"interval_s: {self.interval_s} is not from 0.1 to 3600 s")
        if not self.interval_s <= self.quiet_interval_s <= 3600:
            raise ValueError(f"quiet_interval_s: {self.quiet_interval_s} is not from interval_s to 3600 s")
        if not self.silent_after_s > 0:
            raise ValueError(f"silent_after_s: {self.silent_after_s} is not more than 0 s")
        if not 0.1 <= self.witness_timeout_s <= 60:
            raise ValueError(f"witness_timeout_s: {self.witness_timeout_s} is not from 0.1 to 60 s")
