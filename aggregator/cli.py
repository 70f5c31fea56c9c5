"""`vitalseal aggregator init | run | status`; the other subcommands have modules of their own."""

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

from aggregator import assign_cli, backup_cli, devices_cli, identity_cli, lifecycle_cli, rebuild_cli
from aggregator.config import LIVE, AggregatorConfig
from aggregator.console import add_command, told
from aggregator.health import format_metrics, health_server
from aggregator.last_seen import frozen_at
from aggregator.lifecycle import open_log
from aggregator.mqtt import CONTESTED
from aggregator.registry import Registry
from aggregator.service import Service
from aggregator.setup import initialise
from aggregator.side_process import SideProcess
from aggregator.status import ANSWERED, Status, glance, is_running, read_status
from aggregator.view import read_view, view_line
from ledger.writer.create import POLICY
from ledger.writer.local import FROZEN
from vitalseal import config as configuration
from vitalseal import log
from vitalseal.errors import UserError
from vitalseal.reload import Reload
from vitalseal.systemd import notify

logger = logging.getLogger(__name__)

STALE_AFTER_S = 5.0


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands and their arguments."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    init = add_command(commands, "init", "make a new log: keys, database, policy and trust files, configuration", _init)
    init.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory of the new log")
    init.add_argument("--origin", required=True, help="the log's name for ever, e.g. hospital.example/vitalseal")
    identity_cli.add_init_options(init)
    init.add_argument(
        "--witness",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a witness's policy lines, as `vitalseal ledger witness init` writes them; once for each witness",
    )
    init.add_argument(
        "--quorum", type=int, metavar="N", help="how many witnesses have to cosign (default: more than half)"
    )
    init.add_argument(
        "--guard", type=Path, metavar="FILE", help="second copy of the last checkpoint, best on another volume"
    )
    run = add_command(commands, "run", "take batches from the broker, log them, send receipts, fill the store", _run)
    run.add_argument("--verbose", action="store_true", help="log more")
    status = add_command(commands, "status", "what the aggregator is doing, at a glance", _status)
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--metrics", action="store_true", help="in Prometheus' text format")
    assign_cli.register(commands)
    identity_cli.register(commands)
    devices_cli.register(commands)
    lifecycle_cli.register(commands)
    backup_cli.register(commands)
    rebuild_cli.register(commands)


def _init(args: argparse.Namespace) -> int:
    identity = identity_cli.identity_of(args)
    host, port = identity_cli.broker_of(args)
    if args.quorum is not None and not args.witness:
        raise UserError("--quorum needs witnesses: name each with --witness FILE")
    initialise(
        args.config,
        args.data,
        args.origin,
        host,
        port,
        witnesses=args.witness,
        quorum=args.quorum,
        guard=args.guard,
        identity=identity,
    )
    print(f"made the log {args.origin} in {args.data}; start it with: vitalseal aggregator run --config {args.config}")
    if not args.witness:
        print(
            "NOBODY WITNESSES this log: its operator alone vouches that it shows everybody the same;"
            " --witness names who else does (docs/witness.md)"
        )
    if args.witness:
        print(f"first give {args.data / POLICY} to each witness: it names the log's key, and how many of them it needs")
    return 0


def _run(args: argparse.Namespace) -> int:
    log.set_up(verbose=args.verbose)
    config = _load(args.config)
    with told(config.data), ExitStack() as stack:
        opened = stack.enter_context(open_log(config))
        writer = opened.writer
        if writer.closed:
            raise UserError(f"the log {writer.origin} is closed; run its successor")
        registry = stack.enter_context(closing(Registry(config.data)))
        service = Service(config, opened.storage, writer, registry, opened.witnesses)

        def stop(*_: object) -> None:
            notify("STOPPING=1")
            service.stop()

        def reconfigure(changed: AggregatorConfig) -> None:
            with told(config.data):
                service.reconfigure(changed)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        Reload(args.config, _load, config, LIVE, reconfigure).on_hangup()
        logger.info("log %s at size %d in %s", writer.origin, writer.size, config.data)
        stack.enter_context(health_server(config))
        for process in _beside(args.config, config):
            stack.enter_context(process)
        notify("READY=1", f"STATUS={writer.origin}")
        service.run()
        logger.info("stopped at size %d", writer.checkpoint.size)
    return 0


def _beside(path: Path, config: AggregatorConfig) -> Iterator[SideProcess]:
    """What runs beside the service; each is started when it is asked for."""
    view = "the view stands still, the log does not"
    yield SideProcess("projection", "aggregator.projection", str(path.resolve()), if_it_ends=view)
    if config.desk is not None:
        closed = "nobody can be signed in, and the broker's lists stand still"
        yield SideProcess("desk", "aggregator.desk_process", str(path.resolve()), if_it_ends=closed)


def _load(path: Path) -> AggregatorConfig:
    return configuration.load(path, AggregatorConfig)


def _status(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    if (config.data / FROZEN).exists():
        end = frozen_at(config.data)
        raise UserError(
            f"{end.origin} is FROZEN at size {end.size}, because it was restored from a copy that is too old; restore "
            "it with a mirror that has all of it, or go on with `vitalseal aggregator succeed`"
        )
    status = read_status(config.data)
    alive = is_running(status)
    view = read_view(config.data)
    if args.metrics:
        sys.stdout.write(format_metrics(status, view))
        return 0
    if args.json:
        told = identity_cli.warnings(config)
        print(json.dumps({**asdict(status), "running": alive, "view": asdict(view), "warnings": told}))
        return 0
    age = time.time() - status.updated_at
    state = "running" if alive and age < STALE_AFTER_S else f"NOT RUNNING, last seen {age:.0f} s ago"
    lines = {
        "aggregator": f"{status.origin}, {state}",
        "broker": _broker_line(status) if alive else "-",
        "devices": f"{status.devices_online} online of {status.devices_enrolled} enrolled",
        "log": f"{status.log_size} entries, published {status.published_size}, root {status.published_root[:16]}",
        "witnesses": _witness_line(status),
        "readings": f"{status.readings} since start, {status.readings_per_s}/s now",
        "view": view_line(view, status.published_size),
        "receipts": f"{status.without_receipt} batches wait for theirs",
        "proof after": _seconds(status.latency_p50_s) + " (median), " + _seconds(status.latency_p95_s) + " (95 %)",
        **glance(status),
        "rejected": _rejected_line(status),
    }
    for name, text in lines.items():
        print(f"{name:>12}  {text}")
    for warning in identity_cli.warnings(config):
        print(f"{'WARNING':>12}  {warning}")
    return 0


def _broker_line(status: Status) -> str:
    text = "connected" if status.connected else "NOT CONNECTED"
    if status.broker_fault:
        text += f": {status.broker_fault}"
    if status.broker_contested:
        text += f"; it {CONTESTED}"
    return text


def _rejected_line(status: Status) -> str:
    rejects = {name: str(count) for name, count in status.decisions.items() if name not in ANSWERED}
    if status.strangers and "unknown_key" in rejects:
        rejects["unknown_key"] += f" (as {', '.join(status.strangers)}: not enrolled here, or no longer known)"
    return ", ".join(f"{name} {count}" for name, count in sorted(rejects.items())) or "none"


def _witness_line(status: Status) -> str:
    if not status.witnesses:
        return "NONE: nobody but its operator vouches that this log shows everybody the same (quorum none)"
    answering = [witness for witness in status.witnesses if witness["ok"]]
    text = f"{len(answering)} of {len(status.witnesses)} answer"
    for witness in status.witnesses:
        if not witness["ok"]:
            text += f"; {witness['name']}: {witness['error'] or 'not asked yet'}"
    if status.waiting_for_quorum is not None:
        text += f"; NO QUORUM, checkpoint of size {status.waiting_for_quorum} waits and receipts are withheld"
    return text


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"
