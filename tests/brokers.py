"""Real brokers for tests, each a process of its own on a free loopback port: Mosquitto and amqtt.

`start()`, `stop()` (in good order), `kill()` (as in a power cut); `async up()` and `async down()` start and kill
without blocking a loop. The port stays, so a broker can go away and come back.

Run as a program this file is the amqtt broker: `python tests/brokers.py PORT`.
"""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from simulators.broker import HOST, free_port

RUNNING = " running"  # the end of the line by which either says that it listens


class BrokerProcess(ABC):
    """A broker; its output is in `directory`/broker.log."""

    host = HOST
    protocol = ""  # the newest that it speaks

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._log = directory / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    def start(self) -> None:
        """It listens."""
        read, write = socket.socketpair()
        with read, write, read.makefile("rb") as lines:
            # Its own words tell when it listens, so nobody has to guess and sleep. `tee` keeps them and goes on
            # reading afterwards, because a full pipe would stop the broker.
            process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert process.stdout is not None
            self._tee = subprocess.Popen(
                ["tee", "-a", "-p", str(self._log)], stdin=process.stdout, stdout=write, stderr=subprocess.DEVNULL
            )
            process.stdout.close()
            write.close()
            said = []
            for line in lines:
                said.append(line.decode())
                if said[-1].rstrip().endswith(RUNNING):
                    self._process = process
                    return
        process.wait(timeout=10)
        raise RuntimeError(f"{self.command()[0]} did not start:\n" + "".join(said))

    def stop(self, number: int = signal.SIGTERM) -> None:
        """The process that was started here, if it still runs, has ended by signal `number`."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=10)
            self._tee.wait(timeout=10)
            self._process = None

    def kill(self) -> None:
        """It is gone."""
        self.stop(signal.SIGKILL)

    def log(self) -> str:
        """What it said."""
        return self._log.read_text()

    async def up(self) -> None:
        """As `start`."""
        await asyncio.to_thread(self.start)

    async def down(self) -> None:
        """As `kill`."""
        await asyncio.to_thread(self.kill)


class Mosquitto(BrokerProcess):
    """Eclipse Mosquitto: MQTT 3.1.1 and 5."""

    protocol = "5"

    def __init__(self, directory: Path, *options: str) -> None:
        """`options` are further lines of its configuration file."""
        super().__init__(directory)
        places = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin"
        self._program = shutil.which("mosquitto") or shutil.which("mosquitto", path=places)
        if self._program is None:
            raise RuntimeError("mosquitto is missing: run  apt-get install mosquitto  (`make test` does)")
        self._config = directory / "mosquitto.conf"
        lines = [f"listener {self.port} {HOST}", "allow_anonymous true", "persistence false", "user root", *options]
        self._config.write_text("\n".join([*lines, ""]))

    def command(self) -> list[str]:
        """With a line for every packet."""
        return [str(self._program), "-v", "-c", str(self._config)]


class Amqtt(BrokerProcess):
    """amqtt: MQTT 3.1.1 only."""

    protocol = "3.1.1"

    def command(self) -> list[str]:
        """This file."""
        return [sys.executable, "-u", __file__, str(self.port)]


async def _serve_amqtt(port: int) -> None:
    from amqtt.broker import Broker

    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listeners = {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}}
    await Broker({"listeners": listeners, "plugins": plugins}).start()
    print(f"amqtt{RUNNING}", flush=True)  # noqa: T201 - what `start` waits for
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_amqtt(int(sys.argv[1])))
