"""What `vitalseal aggregator init` makes: a log with its keys, an empty registry, a configuration."""

import json
from pathlib import Path

from aggregator.enrolment import FOLDER
from aggregator.registry import Registry
from ledger.errors import MalformedError
from ledger.writer.create import create_log
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError

CONFIG = "aggregator.toml"


def initialise(
    config: Path, data: Path, origin: str, broker_host: str, broker_port: int, broker_protocol: str = "auto"
) -> None:
    """Makes `data` a log named `origin` and writes `config`; raises UserError if either is there already."""
    if config.exists():
        raise UserError(f"{config}: is there already; nothing was changed")
    try:
        create_log(data, origin)
        (data / FOLDER).mkdir(exist_ok=True)
        Registry(data).close()
        config.parent.mkdir(parents=True, exist_ok=True)
        # JSON strings are TOML basic strings.
        config.write_text(
            f"data = {json.dumps(str(data.resolve()))}\ninterval_s = 1.0\n\n"
            f"[broker]\nhost = {json.dumps(broker_host)}\nport = {broker_port}\n"
            f"protocol = {json.dumps(broker_protocol)}\n",
            encoding="utf-8",
        )
    except (StorageError, MalformedError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or data}: {error.strerror or error}") from None
