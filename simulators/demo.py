"""The whole pipeline on one machine: broker, aggregator, devices, status page; then the account of all of it.

    <data>/            the aggregator's data: log/, policy.txt, trust.txt, readings.db; proofs/ at the end
    <data>/broker/     the broker's configuration and certificates, as `aggregator init` makes them
    <data>/devices/    one directory for each device, enrolled with a one-time token
    <data>/witnesses/  three of them, of which two have to cosign each checkpoint
    <data>/logs/       what broker and aggregator say

Every program is a process of its own, the same as in production, and is started again when it dies: kill any of
them, and the account at the end still has to come out even. None of them outlives this process.
"""

import logging
import os
import secrets
import sys
import webbrowser
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from aggregator.authority import FOLDER as BROKER
from aggregator.setup import CONFIG, Identity, initialise
from dashboard.server import StatusServer
from ledger.console import stop_signals
from ledger.writer.create import POLICY, POLICY_PQ
from simulators.account import Account, settle
from simulators.broker import HOST, PROTOCOLS, Choice, check_free, choose, free_port, start_broker
from simulators.fleet import Target, lay_out
from simulators.pipeline import Pipeline
from simulators.terminal import make_view
from simulators.witnesses import QUORUM, lay_out_witnesses, stop_witnesses
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

DEVICES = "devices"
WITNESSES = "witnesses"
LOGS = "logs"
DEFAULT_PORT = 8765
# Some three hundred readings a second from six devices, in six messages: far from what amqtt can carry.
SPEED = 40.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says; `seconds` None: until Ctrl-C, `port` None: the usual one, or another."""

    data: Path
    devices: int
    seconds: float | None
    port: int | None
    browser: bool
    broker: Choice = "auto"


def run_demo(settings: Settings) -> Account:
    """The account of a run that is over; nothing that it started is left. Call it in the main thread.

    Raises:
        UserError: it could not be set up, or a program does not stay up.
        KeyboardInterrupt: asked to stop a second time.
    """
    data = settings.data
    check_free(settings.port)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        view = stack.enter_context(make_view())
        _make_directories(data)
        broker_kind, broker_port = choose(settings.broker), free_port()
        # Fresh, as every log's name must be: two histories under one name are what auditors look for.
        origin = f"demo.vitalseal.example/{secrets.token_hex(6)}"
        witnesses = lay_out_witnesses(data / WITNESSES, [data / POLICY, data / POLICY_PQ])
        stack.callback(stop_witnesses, witnesses)
        initialise(
            data / CONFIG,
            data,
            origin,
            HOST,
            broker_port,
            PROTOCOLS[broker_kind],
            witnesses=[witness.lines for witness in witnesses],
            quorum=QUORUM,
            quiet_interval_s=1.0,
            identity=Identity(desk_port=free_port()),
        )
        broker = start_broker(data / LOGS, port=broker_port, choice=broker_kind, made=data / BROKER)
        stack.callback(broker.stop)
        target = Target(data, origin, HOST, broker.port, broker.protocol, desk=data / CONFIG)
        fleet = lay_out(data / DEVICES, target, count=settings.devices, speed=SPEED, loop=True)
        pipeline = Pipeline(data, data / LOGS / "aggregator.log", broker, fleet, view, witnesses)
        stack.callback(pipeline.stop)
        page = StatusServer(lambda: pipeline.snapshot, _page_port(settings.port))
        url = stack.enter_context(page).url
        logger.info("status page: %s", url)
        if settings.browser and _has_display():
            webbrowser.open(url)
        pipeline.start(stop)
        pipeline.run_sources(settings.seconds, stop)
        undrained = pipeline.drain()
        pipeline.end()
        account = settle(data, {device.name: device.outbox for device in fleet.devices}, pipeline.show_verified)
        pipeline.show(f"verified {account.verified:,} of {account.readings:,} readings")
        return replace(account, problems=(*undrained, *account.problems))


def _make_directories(data: Path) -> None:
    """`data` was empty or not there, and has room for logs."""
    try:
        if data.exists() and any(data.iterdir()):
            raise UserError(f"{data}: is not empty; name another directory with --data, or remove this one")
        (data / LOGS).mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{error.filename or data}: {error.strerror or error}; name a directory with --data") from None


def _page_port(wanted: int | None) -> int:
    """The port asked for, else the usual one, else any."""
    if wanted is not None:
        return wanted
    try:
        check_free(DEFAULT_PORT)
    except UserError:
        port = free_port()
        logger.info("port %d is taken; the status page is on %d", DEFAULT_PORT, port)
        return port
    return DEFAULT_PORT


def _has_display() -> bool:
    return sys.platform in {"darwin", "win32"} or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
