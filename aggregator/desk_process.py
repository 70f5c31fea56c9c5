"""The desk as a program: answers gateways, and once a second brings the broker's files in step with the log.

It is the only one that uses the CA's key and writes the broker's files; `aggregator run` starts it, and again if it
ends.
"""

import logging
import sys
import threading
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from aggregator.authority import FOLDER, Authority
from aggregator.config import AggregatorConfig
from aggregator.desk import Desk
from aggregator.desk_http import Counter
from aggregator.desk_records import DeskRecords
from aggregator.device_keys import DeviceKeys
from aggregator.mosquitto import CA_FILE, SERVER_FILE, SERVER_KEY_FILE, reload
from aggregator.probe import ask
from aggregator.side_process import parent_gone
from aggregator.upkeep import Upkeep
from ledger.errors import LedgerError
from ledger.service.http import Server
from ledger.writer.create import POLICY, REGISTRAR_KEY, load_signer
from ledger.writer.files import lock
from ledger.writer.storage import StorageError
from vitalseal import config as configuration
from vitalseal import log
from vitalseal.errors import UserError

logger = logging.getLogger("aggregator.desk_process")  # not "__main__", by which nobody would know us

KEEP_EVERY_S = 1.0
LOCK = ".desk.lock"  # two processes would write the broker's lists from two ideas of them


def main() -> int:
    """Runs until standard input closes, which it does when the aggregator that started this ends, however."""
    gone = parent_gone()
    log.set_up()
    try:
        config = configuration.load(Path(sys.argv[1]), AggregatorConfig)
        _run(config, gone)
    except (UserError, StorageError, LedgerError, OSError) as error:
        print(f"vitalseal: desk: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
        return 2
    return 0


def _run(config: AggregatorConfig, gone: threading.Event) -> None:
    data, folder, where = config.data, config.data / FOLDER, config.desk
    if where is None:
        raise UserError("the configuration has no [desk]")
    with ExitStack() as stack:
        stack.enter_context(lock(data / LOCK))
        authority = Authority(data)
        records = stack.enter_context(closing(DeskRecords(data)))
        keys = stack.enter_context(closing(DeviceKeys(data)))
        registrar = load_signer(data / REGISTRAR_KEY).key
        tell, see = partial(_tell, config.broker.pid_file), partial(ask, config.broker)
        upkeep = Upkeep(data, authority, records, keys, tell, see, _now)
        desk = Desk(data, authority, records, keys, registrar, upkeep, _now)
        keeper = Keeper(desk)
        keeper.keep()  # before anybody is shown a certificate that has expired meanwhile
        about = {
            "origin": keys.origin,
            "registrar": registrar.public_key.hex(),
            "policy": (data / POLICY).read_text("ascii"),
            "broker": {"host": config.broker.host, "port": config.broker.port},
        }
        server = Server(
            Counter(desk, authority.ca_pem, about).app,
            where.listen,
            where.port,
            tls_cert=folder / SERVER_FILE,
            tls_key=folder / SERVER_KEY_FILE,
            client_ca=folder / CA_FILE,
        )
        # Not in the main thread: there uvicorn would take the signals to itself.
        serving = threading.Thread(target=server.run_until_stopped, args=(_ready,), name="counter")
        serving.start()
        try:
            while serving.is_alive() and not gone.wait(KEEP_EVERY_S):
                if keeper.keep():
                    server.renew_certificate()
        finally:
            desk.stop()
            server.should_exit = True
            serving.join()


class Keeper:
    """Keeps the broker's files as often as it is asked to; what goes wrong is one line, and tried again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._fault: str | None = None

    def keep(self) -> bool:
        """Whether a file changed."""
        try:
            changed = self._desk.keep()
        except (UserError, StorageError, LedgerError, OSError) as error:
            if str(error) != self._fault:
                logger.error("the broker's files cannot be kept: %s; trying again", error)  # noqa: TRY400 - says it all
            self._fault = str(error)
            return False
        if self._fault is not None:
            logger.info("the broker's files are kept again")
            self._fault = None
        return changed


def _tell(pid_file: Path | None) -> str | None:
    """The broker is told to read its files again; without a `pid_file` whoever watches them tells it."""
    return None if pid_file is None else reload(pid_file)


def _ready(url: str) -> None:
    logger.info("the desk is at %s", url)


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
