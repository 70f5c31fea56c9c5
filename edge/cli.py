"""`vitalseal edge init | enroll | run | status | rotate | recover`."""

import argparse
import asyncio
import json
import signal
import time
import tomllib
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from edge import identity, identity_cli, renewal, rotation
from edge.agent import Agent
from edge.config import LIVE, EdgeConfig, load
from edge.health import watching
from edge.key import load_key
from edge.recovery import recover
from edge.setup import SourceSpec, enrolment, initialise, read_policy, registrar_signer, write_enrolment
from edge.source import make_source
from edge.status import for_people, read_report
from edge.tls import file_context
from ledger.keys import key_id
from vitalseal import log
from vitalseal.errors import UserError
from vitalseal.reload import Reload
from vitalseal.systemd import notify

Companion: TypeAlias = Callable[[Agent], Coroutine[Any, Any, None]]

_RUN_EPILOG = """Stops in good order on SIGTERM or Ctrl-C: what was read is committed, what is under way is waited
for some seconds, the rest stays in the outbox. A broker that is away is no error: readings are kept, and it is
tried again."""


_OUTDATED = """
THIS OUTBOX IS NOT THE LATEST ONE OF ITS KEY: the aggregator says that the log holds another batch in a place that
this outbox wants. Either the outbox is an older copy (a restored backup or SD image), or another agent runs with the
same key. Nothing more of it can be delivered.
What to do: if neither can be, ask whoever runs the aggregator first, for a reject is not signed. Otherwise stop the
agent, see that no other one has the key, and run  vitalseal edge recover --config {config}"""

# A rollback cannot be mended in place: what the log holds behind the copy is not in it, and a place is used once.
_RECOVER = """This begins a new epoch in the outbox {outbox},
for an outbox that is older than what the log has of it (a restored backup, an image of the SD card). The first batch
of the epoch says that an outbox was lost; readings that were sealed and never stored are sealed anew, in the new epoch.
Readings that only the lost outbox had are not brought back. Do it only if `vitalseal edge status` calls the outbox
outdated, and no other agent runs with this key. There is no way back. To go on, add --yes."""


def register(parser: argparse.ArgumentParser) -> None:
    """The commands and their arguments."""
    names = "init|enroll|run|status|rotate|recover"
    commands = parser.add_subparsers(dest="edge_command", metavar=names, required=True)

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

    enroll = commands.add_parser(
        "enroll",
        help="get keys, certificate, policy and configuration with a one-time token",
        description="Enrols this gateway at an aggregator's desk, with a one-time token.",
    )
    _config(enroll)
    identity_cli.register_enroll(enroll, read_sources)

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

    rotate = commands.add_parser(
        "rotate",
        help="give the device a new signing key",
        description="Gives the device a new signing key; the old one and the new one sign, and the log says so.",
    )
    _config(rotate)
    identity_cli.register_rotate(rotate, make_agent)

    again = commands.add_parser(
        "recover",
        help="let an outbox that was restored from an old copy go on, in a new epoch",
        description="Begins a new epoch for an outbox that is older than what the log has of it.",
    )
    _config(again)
    again.add_argument("--yes", action="store_true", help="do it; without this the command explains")
    again.add_argument("--force", action="store_true", help="also where nothing shows that the outbox is outdated")
    again.set_defaults(run=_recover)


def make_agent(config: EdgeConfig, *, collect: bool = True, companions: Sequence[Companion] = ()) -> Agent:
    """The agent that `config` describes; inside a running event loop. Raises UserError.

    With `collect` false it has no sources: what the outbox holds already is delivered.
    """
    sources = [
        make_source(
            source.type,
            name=source.name,
            source_id=source.source_id,
            options=source.options,
            directory=config.directory,
        )
        for source in (config.sources if collect else ())
    ]
    if config.broker.tls is not None:
        file_context(config.broker.tls)  # what is wrong with the files is said now, and not by a state later
    return Agent(
        config,
        signer=load_key(config.key),
        policy=read_policy(config.policy, config.origin),
        sources=sources,
        companions=companions,
    )


def companions_of(config: EdgeConfig) -> list[Companion]:
    """What runs beside the agent of `config`: whoever watches it, and, where there is a desk, renewal and rotation."""
    found: list[Companion] = [watching]
    if config.desk is not None and config.broker.tls is not None:
        found += [renewal.renewing(config, config.broker.tls.certificate), rotation.rotating(config)]
    return found


def read_sources(config_path: Path, texts: Sequence[str]) -> list[SourceSpec]:
    """The sources that --source describes; unknown types and wrong options are found before anything is written."""
    specs = [parse_source(text) for text in texts]
    directory = config_path.parent.resolve()
    for spec in specs:
        make_source(spec.type, name=spec.name, source_id=bytes(8), options=spec.options, directory=directory)
    return specs


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
    sources = read_sources(args.config, args.source)
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
        try:
            path = write_enrolment(args.enrolments, config.device, enrolment(config, registrar))
        except UserError:
            # Half an `init` would stand in the way of the whole one; nobody has seen this key.
            args.config.unlink()
            config.key.unlink()
            raise
        print(f"{path}: enrolment, for the aggregator")
    print(f"then: vitalseal edge run --config {args.config}")
    return 0


def _run(args: argparse.Namespace) -> int:
    log.set_up(verbose=args.verbose)
    asyncio.run(_run_agent(args.config, exit_when_done=args.exit_when_done))
    return 0


async def _run_agent(path: Path, *, exit_when_done: bool) -> None:
    config = load(path)
    rotation.settle(config)
    agent = make_agent(config, companions=companions_of(config))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        notify("STOPPING=1")
        agent.stop()

    def reconfigure(changed: EdgeConfig) -> None:
        loop.call_soon_threadsafe(agent.reconfigure, changed)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    Reload(path, load, config, LIVE, reconfigure).on_hangup()
    await agent.run(exit_when_done=exit_when_done)


def _status(args: argparse.Namespace) -> int:
    config = load(args.config)
    key, key_why = None, ""
    try:
        key = bytes.fromhex(_key_id(config))
    except UserError as error:
        # A token that is not plugged in, say: the numbers are in the outbox all the same.
        key_why = str(error)
    report = read_report(config, key, key_why=key_why)
    ends_s = None if config.broker.tls is None else identity.validity(config.broker.tls.certificate).ends
    if args.json:
        print(json.dumps({**report.as_json(), "certificate_ends_s": ends_s}))
        return 0
    print(for_people(report))
    if ends_s is not None:
        print(f"{'certificate':<14} {identity.ends_in(ends_s, time.time())}")
    if report.outdated:
        print(_OUTDATED.format(config=args.config))
    return 0


def _recover(args: argparse.Namespace) -> int:
    config = load(args.config)
    if not args.yes:
        raise UserError(_RECOVER.format(outbox=config.outbox_file))
    recovered = recover(config, bytes.fromhex(_key_id(config)), force=args.force)
    print(f"epoch {recovered.epoch} begins; {recovered.readings} readings are sealed anew in it")
    print(f"then: vitalseal edge run --config {args.config}")
    return 0


def _key_id(config: EdgeConfig) -> str:
    signer = load_key(config.key)
    return key_id(signer.algorithm, signer.public_key).hex()


def _toml_value(text: str) -> Any:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
