"""`vitalseal edge init | run | status`."""

import argparse
import asyncio
import dataclasses
import json
import signal
import time
import tomllib
from pathlib import Path
from typing import Any

from edge.agent import Agent
from edge.config import EdgeConfig, load
from edge.courier import reason_name
from edge.database import locked
from edge.key import load_key
from edge.outbox_reader import OutboxReader
from edge.setup import SourceSpec, enrolment, initialise, read_policy, registrar_signer, write_enrolment
from edge.source import make_source
from ledger.keys import key_id
from vitalseal import log
from vitalseal.errors import UserError

_RUN_EPILOG = """Stops in good order on SIGTERM or Ctrl-C: what was read is committed, what is under way is waited
for some seconds, the rest stays in the outbox. A broker that is away is no error: readings are kept, and it is
tried again."""


# A rollback cannot be mended in place: what the log holds behind the copy is not in it, and a place is used once.
_OUTDATED = """
THIS OUTBOX IS NOT THE LATEST ONE OF ITS KEY: the aggregator says that the log holds another batch in a place that
this outbox wants. Either the outbox is an older copy (a restored backup or SD image), or another agent runs with the
same key. Nothing more of it can be delivered.
What to do: if neither can be, ask whoever runs the aggregator first, for a reject is not signed. Otherwise stop the
agent; see that no other one has the key; move {path} away, with -wal and -shm beside it, and
keep them: readings that never reached the log are only there. Then start the agent: it begins a new epoch, whose first
batch says that an outbox was lost. If this comes again, the copy's count of epochs was old, too: do the same again."""


def register(parser: argparse.ArgumentParser) -> None:
    """The three commands and their arguments."""
    commands = parser.add_subparsers(dest="edge_command", metavar="init|run|status", required=True)

    init = commands.add_parser(
        "init",
        help="write a configuration and a device key",
        description="Writes a configuration and, beside it, a fresh device key; overwrites nothing.",
    )
    _config(init)
    init.add_argument("--device", required=True, help="name in MQTT topics: a-z, 0-9, '-' and '_'")
    init.add_argument("--origin", required=True, help="origin of the log, as in its checkpoints")
    init.add_argument("--policy", required=True, type=Path, help="tlog-policy file that receipts must satisfy")
    init.add_argument(
        "--broker",
        default="127.0.0.1:1883",
        metavar="HOST:PORT",
        help="the MQTT broker (default %(default)s)",
    )
    init.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=TYPE[:key=value,...]",
        help="a sensor, for instance  wrist=lines:path=wrist.ndjson  (may be given several times)",
    )
    init.add_argument(
        "--registrar",
        type=Path,
        metavar="KEYFILE",
        help="note key (PRIVATE+KEY+...) that enrols the device; needs --enrolments",
    )
    init.add_argument("--enrolments", type=Path, metavar="DIR", help="where to put <device>.enrol")
    init.set_defaults(run=_init)

    run = commands.add_parser(
        "run", help="collect, seal, publish, keep until receipted", description="Runs the agent.", epilog=_RUN_EPILOG
    )
    _config(run)
    run.add_argument(
        "--exit-when-done",
        action="store_true",
        help="end once every source is finished and every reading has a verified receipt",
    )
    run.add_argument("--verbose", action="store_true", help="log more")
    run.set_defaults(run=_run)

    status = commands.add_parser(
        "status", help="how far the readings have come", description="Shows how far the readings have come."
    )
    _config(status)
    status.add_argument("--json", action="store_true", help="one JSON object instead of lines for people")
    status.set_defaults(run=_status)


def make_agent(config: EdgeConfig) -> Agent:
    """The agent that `config` describes; inside a running event loop. Raises UserError."""
    sources = [
        make_source(
            source.type,
            name=source.name,
            source_id=source.source_id,
            options=source.options,
            directory=config.directory,
        )
        for source in config.sources
    ]
    return Agent(
        config,
        signer=load_key(config.key),
        policy=read_policy(config.policy, config.origin),
        sources=sources,
    )


def parse_source(text: str) -> SourceSpec:
    """`NAME=TYPE[:key=value,...]`; a value is TOML where it reads as such (numbers, true), else text."""
    name, equals, rest = text.partition("=")
    kind, _, options = rest.partition(":")
    if not (name and equals and kind):
        raise UserError(f"--source {text!r}: give it as NAME=TYPE or NAME=TYPE:key=value,...")
    table: dict[str, Any] = {}
    for part in filter(None, options.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key in table:
            raise UserError(f"--source {text!r}: {part!r} is not a key=value, or is there twice")
        table[key] = _toml_value(value)
    return SourceSpec(name, kind, table)


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("edge.toml"), metavar="FILE", help="default %(default)s")


def _init(args: argparse.Namespace) -> int:
    host, colon, port = args.broker.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit()):
        raise UserError(f"--broker {args.broker!r}: give it as HOST:PORT")
    if (args.registrar is None) != (args.enrolments is None):
        raise UserError("--registrar and --enrolments go together")
    sources = [parse_source(text) for text in args.source]
    directory = args.config.parent.resolve()
    for source in sources:
        # Finds unknown types and wrong options before anything is written.
        make_source(source.type, name=source.name, source_id=bytes(8), options=source.options, directory=directory)
    registrar = None if args.registrar is None else registrar_signer(args.registrar)
    config = initialise(
        args.config,
        device=args.device,
        origin=args.origin,
        policy=args.policy,
        broker_host=host.strip("[]"),
        broker_port=int(port),
        sources=sources,
    )
    print(f"{args.config}: device {config.device}, key id {_key_id(config)}")
    if registrar is None:
        print("next: have a registrar enrol the key; the log takes no batch before that")
    else:
        path = write_enrolment(args.enrolments, config.device, enrolment(config, registrar))
        print(f"{path}: enrolment, for the aggregator")
    print(f"then: vitalseal edge run --config {args.config}")
    return 0


def _run(args: argparse.Namespace) -> int:
    log.set_up(verbose=args.verbose)
    asyncio.run(_run_agent(load(args.config), exit_when_done=args.exit_when_done))
    return 0


async def _run_agent(config: EdgeConfig, *, exit_when_done: bool) -> None:
    agent = make_agent(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.stop)
    await agent.run(exit_when_done=exit_when_done)


def _status(args: argparse.Namespace) -> int:
    config = load(args.config)
    running = locked(config.outbox) if config.outbox.exists() else False
    with OutboxReader(config.outbox) as reader:
        counts, anchor, reject = reader.counts(), reader.anchor(), reader.last_reject()
        outdated = reader.outdated() is not None
        oldest_ns = reader.oldest_unstored_ns()
        report: dict[str, Any] = {
            "device": config.device,
            "key_id": _key_id(config),
            "origin": config.origin,
            "running": running,
            "connected": running and reader.connected(),
            **dataclasses.asdict(counts),
            "oldest_unstored_s": None if oldest_ns is None else round((time.time_ns() - oldest_ns) / 1e9, 1),
            "checkpoint_size": None if anchor is None else anchor.size,
            "last_reject": None if reject is None else dataclasses.asdict(reject),
            "refused_input": reader.refused(),
            "outdated": outdated,
        }
    print(json.dumps(report) if args.json else _for_people(report))
    if outdated and not args.json:
        print(_OUTDATED.format(path=config.outbox))
    return 0


def _for_people(report: dict[str, Any]) -> str:
    state = "connected" if report["connected"] else "running, no broker" if report["running"] else "not running"
    oldest, size, reject = report["oldest_unstored_s"], report["checkpoint_size"], report["last_reject"]
    batches = (report["batches_sealed"], report["batches_stored"], report["batches_receipted"])
    lines = [
        ("device", f"{report['device']} ({state})"),
        ("key id", report["key_id"]),
        ("log", report["origin"]),
        ("accepted", f"{report['accepted']} readings"),
        ("  open", f"{report['unsealed']} readings"),
        ("  sealed", f"{report['sealed']} readings in {batches[0]} batches"),
        ("  stored", f"{report['stored']} readings in {batches[1]} batches"),
        ("  receipted", f"{report['receipted']} readings in {batches[2]} batches"),
        ("oldest unsent", "nothing waits" if oldest is None else f"{oldest} s"),
        ("checkpoint", "none verified yet" if size is None else f"size {size} is the largest verified"),
        ("last reject", "none" if reject is None else _reject(reject)),
    ]
    lines += [(f"refused from {name}", f"{count} pieces of input") for name, count in report["refused_input"].items()]
    return "\n".join(f"{label:<14} {value}" for label, value in lines)


def _reject(reject: dict[str, Any]) -> str:
    place = "no batch named" if reject["seq"] is None else f"batch {reject['epoch']}/{reject['seq']}"
    return f"{place}: {reason_name(reject['reason'])}: {reject['detail']}"


def _key_id(config: EdgeConfig) -> str:
    signer = load_key(config.key)
    return key_id(signer.algorithm, signer.public_key).hex()


def _toml_value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
