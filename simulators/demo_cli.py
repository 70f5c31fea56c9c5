"""`vitalseal demo`: the whole pipeline with one command, and the proof that nothing was lost."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from ledger.writer.create import POLICY, POLICY_PQ, TRUST
from simulators.account import Account
from simulators.cli import device_count, positive
from simulators.demo import DEFAULT_PORT, Settings, run_demo

OK, FAILED = 0, 1
DEFAULT_DEVICES = 6


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "Needs no server: it starts an MQTT broker, an aggregator and the devices as processes of their own, and "
        "ends them. Exit codes: 0 every accepted reading is in the log once, with a proof that verifies; "
        "1 something is not; 2 it could not be set up."
    )
    parser.add_argument("--seconds", type=positive, metavar="N", help="run the sources this long (until Ctrl-C)")
    parser.add_argument(
        "--devices", type=device_count, default=DEFAULT_DEVICES, metavar="N", help="how many devices (%(default)s)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="an empty or new directory (demo-data/<time>)")
    parser.add_argument(
        "--port", type=_port, metavar="P", help=f"of the status page ({DEFAULT_PORT}, or another if it is taken)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the status page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the demo and says what came out: the summary on stdout, everything else on stderr."""
    data = args.data or Path("demo-data") / time.strftime("%Y%m%d-%H%M%S")
    account = run_demo(Settings(data, args.devices, args.seconds, args.port, not args.no_browser))
    for problem in account.problems:
        print(f"vitalseal: demo: {problem}", file=sys.stderr)
    _tell_what_is_there(data, account)
    print(f"demo: {account.line()}", flush=True)
    return FAILED if account.problems else OK


def _tell_what_is_there(data: Path, account: Account) -> None:
    # A heart rate is what people know best; a broken run may have no proof at all.
    shown = sorted(account.proofs, key=lambda path: not path.name.startswith("heart_rate"))[:1]
    program = _program()
    commands = [f"{program} verify {path} --policy {data / POLICY} --trust {data / TRUST} --strict" for path in shown]
    commands += [f"{program} verify {path} --policy {data / POLICY_PQ}" for path in shown]
    commands.append(f"{program} ledger fsck {data / 'log'} --policy {data / POLICY}")
    print(f"\nEverything is in {data}, {len(account.proofs)} kinds of proof in {data / 'proofs'}.", file=sys.stderr)
    print("Check it yourself, with nothing of this running:", file=sys.stderr)
    for command in commands:
        print(f"  {command}", file=sys.stderr)
    print(file=sys.stderr, flush=True)


def _program() -> str:
    """How this program is called from where the user is: by its name, if the shell would find it, or by its path."""
    called = Path(sys.argv[0])
    if shutil.which("vitalseal") or called.name != "vitalseal":
        return "vitalseal"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)


def _port(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a TCP port")
    return number
