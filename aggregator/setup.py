"""What `vitalseal aggregator init` makes: a log with its keys, an empty registry, a configuration."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aggregator.authority import AGGREGATOR_FILE, AGGREGATOR_KEY_FILE, LOCAL, create_authority, group_id, is_local
from aggregator.authority import FOLDER as BROKER
from aggregator.certificates import check_host
from aggregator.config import DeskConfig
from aggregator.desk_records import DeskRecords
from aggregator.enrolment import FOLDER
from aggregator.mosquitto import CA_FILE, PID, STATE
from aggregator.registry import Registry
from ledger.errors import MalformedError
from ledger.writer.create import create_log, load_witnesses
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError

CONFIG = "aggregator.toml"
PLAIN_PORT, TLS_PORT = 1883, 8883  # as registered for MQTT


@dataclass(frozen=True, slots=True)
class Identity:
    """What a log needs so that broker, desk and gateways know each other.

    Attributes:
        hosts: names and addresses of this machine for gateways, the first of them in tokens; none: for itself alone.
        desk_port: where gateways are signed in.
        broker_group: the group of a broker that runs as another user; None: it runs as the aggregator's.
    """

    hosts: tuple[str, ...] = ()
    desk_port: int = DeskConfig.port
    broker_group: str | None = None

    def __post_init__(self) -> None:
        """Raises UserError if one of them cannot be."""
        for host in self.hosts:
            check_host(host)
        if self.broker_group is not None:
            group_id(self.broker_group)


def initialise(
    config: Path,
    data: Path,
    origin: str,
    broker_host: str,
    broker_port: int,
    broker_protocol: str = "auto",
    *,
    witnesses: Sequence[Path] = (),
    quorum: int | None = None,
    guard: Path | None = None,
    quiet_interval_s: float = 10.0,
    identity: Identity | None = None,
) -> None:
    """Makes `data` a log named `origin` and writes `config`; raises UserError if either is there already.

    `witnesses` are files of policy lines, as each witness's operator hands out; `quorum` of them have to cosign.
    With an `identity` broker and desk use TLS, and all that a Mosquitto needs is made; without, the broker is a plain
    one on this machine.
    """
    if not 0 < broker_port < 65536:
        raise UserError(f"broker port {broker_port}: not a TCP port")
    if config.exists():
        raise UserError(f"{config}: is there already; nothing was changed")
    try:
        named = [witness for path in witnesses for witness in load_witnesses(path)]
        create_log(data, origin, witnesses=named, quorum=quorum, guard=guard)
        (data / FOLDER).mkdir(exist_ok=True)
        Registry(data).close()
        tables = ""
        if identity is not None:
            names = tuple(dict.fromkeys((*identity.hosts, *([broker_host] if broker_host not in LOCAL else []))))
            create_authority(data, origin, names, broker_port, datetime.now(UTC), group=identity.broker_group)
            DeskRecords(data).close()
            tables = _identity_tables(data.resolve() / BROKER, identity)
        client_id = f"vitalseal-{hashlib.sha256(origin.encode()).hexdigest()[:12]}"
        config.parent.mkdir(parents=True, exist_ok=True)
        # JSON strings are TOML basic strings.
        config.write_text(
            f"data = {json.dumps(str(data.resolve()))}\ninterval_s = 1.0\nquiet_interval_s = {quiet_interval_s}\n"
            + (f"guard = {json.dumps(str(guard.resolve()))}\n" if guard else "")
            + "\n"
            f"[broker]\nhost = {json.dumps(broker_host)}\nport = {broker_port}\n"
            f"protocol = {json.dumps(broker_protocol)}\n"
            # Two aggregators with one client id would throw each other off a broker that they share.
            f"client_id = {json.dumps(client_id)}\n" + tables,
            encoding="utf-8",
        )
    except (StorageError, MalformedError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or data}: {error.strerror or error}") from None


def _identity_tables(folder: Path, identity: Identity) -> str:
    """The rest of `[broker]`, and `[desk]`."""
    broker = {
        "ca": folder / CA_FILE,
        "certificate": folder / AGGREGATOR_FILE,
        "certificate_key": folder / AGGREGATOR_KEY_FILE,
    }
    if identity.broker_group is None:
        broker["pid_file"] = folder / STATE / PID
    lines = [f"{name} = {json.dumps(str(path))}" for name, path in broker.items()]
    host = identity.hosts[0] if identity.hosts else LOCAL[0]
    lines += ["", "[desk]", f"host = {json.dumps(host)}", f"port = {identity.desk_port}"]
    if all(map(is_local, identity.hosts)):
        lines.append(f"listen = {json.dumps(LOCAL[0])}")
    return "\n".join([*lines, ""])
