"""What `vitalseal aggregator init` makes: a log with its keys, an empty registry, a configuration."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from aggregator.enrolment import FOLDER
from aggregator.registry import Registry
from ledger.errors import MalformedError
from ledger.writer.create import create_log, load_witnesses
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError

CONFIG = "aggregator.toml"


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
) -> None:
    """Makes `data` a log named `origin` and writes `config`; raises UserError if either is there already.

    `witnesses` are files of policy lines, as each witness's operator hands out; `quorum` of them have to cosign.
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
            f"client_id = {json.dumps(client_id)}\n",
            encoding="utf-8",
        )
    except (StorageError, MalformedError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or data}: {error.strerror or error}") from None
