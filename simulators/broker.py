"""An MQTT broker on the loopback interface for a machine that has none running, as a child process.

`mosquitto` if it is installed, else amqtt (MQTT 3.1.1, fine to some 400 messages a second; it does not redeliver after
a reconnect, which the agents' resending covers). Neither is trusted with anything: kill it, and nothing is lost.

With the files that `aggregator init` made for a broker, clients need a certificate; with mosquitto each then has its
own topics only, as in production. Without them it is open to every user of this machine, so for demonstrations only.
"""

import asyncio
import contextlib
import getpass
import logging
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from aggregator.mosquitto import CA_FILE, CONF, SERVER_FILE, SERVER_KEY_FILE
from simulators.process import Child
from vitalseal.errors import UserError

HOST = "127.0.0.1"
READY_WITHIN_S = 15.0
STOP_WITHIN_S = 5.0
MAX_CONNECTIONS = 10_000
_FIRST_PORT, _PORTS, _TRIES = 10_000, 20_000, 100
# Debian puts servers where only root's PATH looks.
_SERVER_PATH = "/usr/sbin:/usr/local/sbin"
# CONNECT (3.1.1, clean session, keep-alive 10 s, client id "ready"), the beginning of a good CONNACK, DISCONNECT.
_CONNECT = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x0a\x00\x05ready"
_CONNACK = b"\x20\x02\x00\x00"
_DISCONNECT = b"\xe0\x00"

Kind = Literal["mosquitto", "amqtt"]
Choice = Kind | Literal["auto"]
# As `edge.toml` spells it. amqtt leaves a client that speaks MQTT 5 without an answer, so better not to try.
PROTOCOLS: dict[Kind, str] = {"mosquitto": "auto", "amqtt": "3.1.1"}


class Broker(Protocol):
    """A running broker; `child` restarts it on the same port if it dies. `protocol` as in `edge.toml`."""

    kind: Kind
    protocol: str
    port: int
    child: Child

    def stop(self) -> None:
        """The process is gone."""
        ...


class _LocalBroker:
    def __init__(self, kind: Kind, port: int, child: Child, config: Path | None) -> None:
        self.kind = kind
        self.protocol = PROTOCOLS[kind]
        self.port = port
        self.child = child
        self._config = config  # read again at every restart, so it stays until the end

    def stop(self) -> None:
        self.child.stop(STOP_WITHIN_S)
        if self._config is not None:
            self._config.unlink(missing_ok=True)


def choose(choice: Choice) -> Kind:
    """The broker that will be started for `choice`; raises UserError where there is none."""
    if choice == "mosquitto" or (choice == "auto" and _mosquitto()):
        if _mosquitto() is None:
            raise UserError("mosquitto is neither on the PATH nor in /usr/sbin")
        return "mosquitto"
    if find_spec("amqtt") is None:
        raise UserError("no MQTT broker: in vitalseal's clone, type  pip install '.[all]', or install mosquitto")
    return "amqtt"


def start_broker(
    folder: Path,
    *,
    port: int | None = None,
    choice: Choice = "auto",
    settings: Sequence[str] = (),
    made: Path | None = None,
) -> Broker:
    """A broker that answers on 127.0.0.1; its log and, for mosquitto, its configuration are in `folder`.

    Without `port` a free one is taken. `settings` are further lines of mosquitto's configuration; amqtt takes none.
    `made` is the folder of a broker that `aggregator init` made for this port: then TLS, and mosquitto's configuration
    is the one that is there.

    Raises:
        UserError: the port is taken, no broker is installed, or it does not answer.
    """
    check_free(port)
    port, kind, config = port or free_port(), choose(choice), None
    if kind == "amqtt":
        command = [sys.executable, "-P", "-m", "simulators.broker", str(port), *([] if made is None else [str(made)])]
    elif made is not None:
        command = [_mosquitto() or kind, "-c", str(made / CONF)]
    else:
        config = folder / CONF
        config.write_text("\n".join([_mosquitto_config(port), *settings, ""]), encoding="utf-8")
        command = [_mosquitto() or kind, "-c", str(config)]
    broker = _LocalBroker(kind, port, Child(f"broker ({kind})", command, folder / "broker.log"), config)
    broker.child.start()
    try:
        _wait_until_ready(broker.child, port, _answers if made is None else _listens)
    except BaseException:
        broker.stop()
        raise
    return broker


def _mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SERVER_PATH)


def check_free(port: int | None) -> None:
    """Nobody listens on the port; None is always free. Raises UserError."""
    if port is None:
        return
    try:
        with socket.socket() as probe:
            # What the servers do: connections of an earlier run that are still timing out do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except OSError as error:
        raise UserError(f"port {port} on {HOST} cannot be used: {error.strerror}; choose another, or none") from None


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago; raises UserError if none is found.

    Below those that the kernel gives to outgoing connections, which would take it while a server restarts.
    """
    for _ in range(_TRIES):
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise UserError(f"no free port on {HOST}")


def _wait_until_ready(child: Child, port: int, ready: Callable[[int], bool]) -> None:
    """The broker is `ready` on its port."""
    deadline_s = time.monotonic() + READY_WITHIN_S
    while not ready(port):
        if child.code() is not None:
            raise UserError(f"{child.name} did not start: {child.last_words()}")
        if time.monotonic() > deadline_s:
            raise UserError(
                f"{child.name} did not answer on port {port} within {READY_WITHIN_S:.0f} s (see {child.log})"
            )
        time.sleep(0.02)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(_CONNECT)
            answer = connection.recv(len(_CONNACK))
            connection.sendall(_DISCONNECT)
            return answer == _CONNACK
    except OSError:
        return False


def _listens(port: int) -> bool:
    """A broker that wants certificates listens; we have none, and one of its clients' would throw that client off."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def _mosquitto_config(port: int) -> str:
    # The queue limit is mosquitto's way of losing messages silently; a restarting aggregator needs more than 1000.
    # The user is ours: started by root it would become another, and the kernel then forgets to end it with us.
    return f"""listener {port} {HOST}
allow_anonymous true
persistence false
user {getpass.getuser()}
max_queued_messages 10000
log_dest stderr
log_type error
log_type warning"""


def _amqtt_config(port: int, made: Path | None) -> dict[str, Any]:
    listener: dict[str, Any] = {"type": "tcp", "bind": f"{HOST}:{port}", "max_connections": MAX_CONNECTIONS}
    if made is not None:
        files = {"cafile": CA_FILE, "certfile": SERVER_FILE, "keyfile": SERVER_KEY_FILE}
        listener |= {"ssl": True} | {key: str(made / name) for key, name in files.items()}
    return {
        "listeners": {"default": listener},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }


async def _serve_amqtt(port: int, made: Path | None) -> None:
    from amqtt.broker import Broker as AmqttBroker

    broker = AmqttBroker(_amqtt_config(port, made))
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await broker.start()
    await stopped.wait()
    await broker.shutdown()


if __name__ == "__main__":
    # It reports every client that goes away as an error, with a traceback.
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run(_serve_amqtt(int(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None))
