"""Mosquitto with exactly the files that `aggregator init` makes."""

import signal
from pathlib import Path

from tests.brokers import BrokerProcess, Mosquitto


class TlsMosquitto(BrokerProcess):
    """The broker of `folder`, which listens on `port` because its configuration says so."""

    protocol = "5"

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder.parent)
        self.port = port
        self._folder = folder
        self._program = Mosquitto(folder.parent).command()[0]

    def command(self) -> list[str]:
        """Nothing but the generated configuration."""
        return [self._program, "-c", str(self._folder / "mosquitto.conf")]

    def read_again(self) -> None:
        """As someone does who watches its files."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
