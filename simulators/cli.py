"""`vitalseal simulate fleet | load | faults`."""

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

from aggregator.config import AggregatorConfig
from aggregator.setup import CONFIG
from aggregator.status import is_running, read_status
from ledger.errors import LedgerError
from ledger.policy import parse_policy
from ledger.writer.create import POLICY
from simulators.faults import cli as faults_cli
from simulators.fleet import Fleet, Target, lay_out, wait_until_enrolled
from vitalseal import config as configuration
from vitalseal import log
from vitalseal.errors import UserError

OK, UNDELIVERED = 0, 1
DEVICES = "devices"
# A receipt that went astray is asked for again within half a minute, and once more within another.
DRAIN_WITHIN_S = 120.0
STOP_WITHIN_S = 15.0
LOOK_EVERY_S = 0.25
TELL_EVERY_S = 5.0
MAX_BACKLOG = 100_000_000  # some ten gigabytes of outbox
MAX_DEVICES = 1000  # each is a process of some 40 MB


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands and their arguments."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    fleet = commands.add_parser(
        "fleet",
        help="many devices that replay recordings, against a running aggregator",
        description="Lays out devices in the folder `devices` of the aggregator's data, enrols each with a token at "
        "its desk (without a desk, with the registrar's key), and runs each as an edge agent of its own that replays "
        "real recordings or made-up signals (marked as demo data).",
        epilog="Exit codes: 0 every accepted reading has its verified receipt, 1 some have not, 2 the call is wrong.",
    )
    fleet.add_argument(
        "--config", type=Path, default=Path(CONFIG), metavar="FILE", help="the aggregator's (%(default)s)"
    )
    fleet.add_argument("--devices", type=device_count, default=6, metavar="N", help="how many (%(default)s)")
    fleet.add_argument(
        "--speed", type=positive, default=1.0, metavar="S", help="how much faster than life (%(default)s)"
    )
    fleet.add_argument("--seconds", type=positive, metavar="N", help="stop the sources after this long (never)")
    fleet.add_argument("--exit-when-done", action="store_true", help="play every recording once, then end")
    fleet.set_defaults(run=_fleet)
    load = commands.add_parser(
        "load",
        help="a gateway with a backlog, which goes on measuring while it drains",
        description="Starts a broker, an aggregator and one agent whose outbox holds a backlog, and measures how fast "
        "that drains, how long live readings wait meanwhile, and how much memory the agent takes.",
        epilog="The last line on stdout is  load: backlog=N live=N seconds=S rate=R receipted_s=S live_median_s=S "
        "live_worst_s=S resident_mb=M : readings, seconds until the backlog was stored and until it had its receipts, "
        "readings stored a second, how long the oldest live reading waited to be stored. Exit code 2: it does not "
        "drain.",
    )
    load.add_argument("--backlog", type=_backlog, default=100_000, metavar="N", help="readings (%(default)s)")
    load.add_argument("--speed", type=positive, default=10.0, metavar="S", help="of the live sensor (%(default)s)")
    load.add_argument("--data", type=Path, metavar="DIR", help="a new directory, which stays (a temporary one)")
    load.set_defaults(run=_load)
    faults_cli.register(commands.add_parser("faults", help="programs killed and lied to, and what comes of it"))


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    number = float(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def device_count(text: str) -> int:
    """A number of devices, for argparse."""
    number = int(text)
    if not 1 <= number <= MAX_DEVICES:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {MAX_DEVICES}")
    return number


def _backlog(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_BACKLOG:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {MAX_BACKLOG}")
    return number


def _load(args: argparse.Namespace) -> int:
    from simulators.load import run_load

    log.set_up()
    drained = run_load(args.backlog, args.speed, _say_on_terminal, args.data)
    print(drained.line(), flush=True)
    return OK


def _say_on_terminal(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def _fleet(args: argparse.Namespace) -> int:
    log.set_up()
    config = configuration.load(args.config, AggregatorConfig)
    # Before anything is laid out: enrolments that nobody takes would be in the way of the next attempt.
    if not is_running(read_status(config.data)):
        raise UserError(
            f"no aggregator runs on {config.data}; start it: vitalseal aggregator run --config {args.config}"
        )
    broker = config.broker
    desk = args.config if config.desk else None
    target = Target(config.data, _origin(config.data), broker.host, broker.port, broker.protocol, desk)
    directory = config.data / DEVICES
    fleet = lay_out(directory, target, count=args.devices, speed=args.speed, loop=not args.exit_when_done)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    fleet.enrol()
    wait_until_enrolled(fleet, config.data)
    try:
        fleet.start()
        _run_sources(fleet, args.seconds, stop)
        fleet.finish()
        drained = _drain(fleet)
    finally:
        fleet.stop(STOP_WITHIN_S)
    print(f"fleet: devices={len(fleet.devices)} {_progress(fleet)}")
    if not drained:
        print(f"vitalseal: fleet: without a verified receipt: {fleet.unfinished()}", file=sys.stderr)
    return OK if drained else UNDELIVERED


def _run_sources(fleet: Fleet, seconds: float | None, stop: threading.Event) -> None:
    """The sources have run for `seconds`, or to their end, or until `stop`."""
    started_s = told_s = time.monotonic()
    while not (fleet.done or stop.wait(LOOK_EVERY_S)):
        now_s = time.monotonic()
        if seconds is not None and now_s - started_s >= seconds:
            return
        fleet.supervise()
        if now_s - told_s >= TELL_EVERY_S:
            told_s = now_s
            print(f"{now_s - started_s:.0f} s  {_progress(fleet)}", file=sys.stderr)


def _drain(fleet: Fleet) -> bool:
    """Every agent has ended by itself, within a bounded time."""
    deadline_s = time.monotonic() + DRAIN_WITHIN_S
    while not fleet.done and time.monotonic() < deadline_s:
        fleet.supervise()
        time.sleep(LOOK_EVERY_S)
    return fleet.done


def _progress(fleet: Fleet) -> str:
    counts = [device.counts() for device in fleet.devices if device.outbox.exists()]
    return f"accepted={sum(c.accepted for c in counts)} receipted={sum(c.receipted for c in counts)}"


def _origin(data: Path) -> str:
    """The origin of the log in `data`, from its own policy."""
    path = data / POLICY
    try:
        return parse_policy(path.read_bytes()).logs[0][0].name
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; is {data} an aggregator's data directory?") from None
    except LedgerError as error:
        raise UserError(f"{path}: {error}") from None
