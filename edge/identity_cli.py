"""`vitalseal edge enroll | rotate`: how a gateway gets its identity, and a new signing key."""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import rotation
from edge.config import EdgeConfig, load
from edge.database import locked
from edge.key import load_key
from edge.setup import SourceSpec
from ledger.keys import key_id
from vitalseal.errors import UserError

if TYPE_CHECKING:
    from edge.agent import Agent

MAX_TOKEN_FILE = 4096
LOOK_EVERY_S = 0.2
MAX_WAIT_S = 86400.0

_ENROLL_EPILOG = """The token comes from `vitalseal aggregator token DEVICE`, and lets one key in, once. The private
keys are made here and stay here. Where this command was interrupted, give it again with the same token. A gateway that
is configured already (by `edge init`, say) keeps its sources; its key is enrolled as it is. The policy, which says what
receipts are believed, is the desk's word unless --policy names one that you got otherwise."""

_ROTATE_EPILOG = """The agent may run: it goes over to the new key by itself, and collects all the while. The desk
must be there. Batches that the old key has sealed are stored first; for these
it takes broker and aggregator."""


def register_enroll(parser: argparse.ArgumentParser, sources: Callable[[Path, list[str]], list[SourceSpec]]) -> None:
    """The arguments of `enroll`; `sources` reads those of --source."""
    parser.epilog = _ENROLL_EPILOG
    parser.add_argument("token", nargs="?", metavar="TOKEN", help="the one-time token; - reads it from standard input")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="read it from FILE: an argument is in the list of processes"
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=TYPE[:key=value,...]",
        help="a sensor of a new gateway, as for init (may be given several times)",
    )
    parser.add_argument(
        "--key",
        metavar="URI",
        help="make the signing key in a token: pkcs11:token=...;object=...?module-path=...&pin-source=file:...",
    )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="tlog-policy file instead of the desk's")
    parser.add_argument(
        "--again",
        action="store_true",
        help="a new key for a gateway whose old one was revoked; the old one's file is kept beside it",
    )
    parser.set_defaults(run=_enroll, read_sources=sources)


def register_rotate(parser: argparse.ArgumentParser, make_agent: "Callable[..., Agent]") -> None:
    """The arguments of `rotate`; `make_agent` makes one where none runs."""
    parser.epilog = _ROTATE_EPILOG
    parser.add_argument(
        "--wait", type=_wait, default=120.0, metavar="SECONDS", help="how long to wait for the outcome (default 120)"
    )
    parser.set_defaults(run=_rotate, make_agent=make_agent)


def _wait(text: str) -> float:
    """Seconds from 1 up to a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds <= MAX_WAIT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1 to {MAX_WAIT_S:.0f} seconds")
    return seconds


def _enroll(args: argparse.Namespace) -> int:
    from edge import identity
    from edge.enroll import BEFORE, Wanted, enroll
    from edge.token import parse_token

    token = parse_token(_read_token(args))
    wanted = Wanted(args.read_sources(args.config, args.source), args.key, args.policy)
    before = args.config.read_bytes() if args.config.exists() else None
    outcome = enroll(args.config, token, wanted, again=args.again)
    config = outcome.config
    signer = load_key(config.key)
    entry = (
        "was enrolled already; nothing was changed" if outcome.index is None else f"entry {outcome.index} of the log"
    )
    print(f"{args.config}: device {config.device}, key id {key_id(signer.algorithm, signer.public_key).hex()}, {entry}")
    if config.broker.tls is not None:
        ends = identity.ends_in(identity.validity(config.broker.tls.certificate).ends, time.time())
        print(f"{config.broker.tls.certificate}: {ends}; it renews itself while the agent runs")
    if before not in (None, args.config.read_bytes()):
        print(f"{args.config}{BEFORE}: the configuration as it was, with its comments")
    if not config.sources:
        print(f"next: describe a sensor in {args.config} (see `vitalseal edge init --help`, --source)")
    print(f"then: vitalseal edge run --config {args.config}")
    return 0


def _read_token(args: argparse.Namespace) -> str:
    if (args.token is None) == (args.token_file is None):
        raise UserError("enroll: give TOKEN, or - for standard input, or --token-file FILE")
    if args.token == "-":  # noqa: S105 - the usual name of standard input
        return sys.stdin.read(MAX_TOKEN_FILE)
    if args.token is not None:
        return str(args.token)
    try:
        with args.token_file.open(encoding="ascii", errors="replace") as file:
            return str(file.read(MAX_TOKEN_FILE))
    except OSError as error:
        raise UserError(f"{args.token_file}: {error.strerror or error}") from None


def _rotate(args: argparse.Namespace) -> int:
    config = load(args.config)
    if config.desk is None:
        raise UserError(f"{args.config}: names no [desk] to ask; `vitalseal edge enroll` writes it")
    running = config.outbox_file.exists() and locked(config.outbox_file)
    if not running:
        rotation.settle(config)
    key = rotation.request(config)
    print(f"device {config.device}: key {key[:16]} is to go")
    if running:
        state, text = _watch(config, key, args.wait)
    else:
        asyncio.run(_rotate_alone(config, args.make_agent, args.wait))
        state, text = rotation.answer(config, key)
    if state == rotation.DONE:
        print(f"done: {text}")
        return 0
    if state == rotation.FAILED:
        raise UserError(f"the key was not rotated, and the old one goes on: {text}")
    raise UserError(f"not done after {args.wait:g} s ({text}); the agent goes on with it, or the next one does")


def _watch(config: EdgeConfig, key: str, wait_s: float) -> tuple[str, str]:
    """How the request stands in the end, shown as it goes."""
    until, shown = time.monotonic() + wait_s, ""
    while True:
        state, text = rotation.answer(config, key)
        if state != rotation.WAITING or time.monotonic() > until:
            return state, text
        if text != shown:
            print(f"... {text}", flush=True)
            shown = text
        time.sleep(LOOK_EVERY_S)


async def _rotate_alone(config: EdgeConfig, make_agent: "Callable[..., Agent]", wait_s: float) -> None:
    """An agent without sources lives as long as the rotation takes."""

    async def once(agent: Any) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await rotation.serve_request(config, agent)
        agent.stop()

    await make_agent(config, collect=False, companions=[once]).run()
