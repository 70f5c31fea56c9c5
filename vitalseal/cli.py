"""`vitalseal`: finds the subcommand, imports only its room, turns mistakes into one line.

Each room that has commands has a module with `register(parser)`, which adds the arguments and sets
`run(args) -> int`. They are found by name here, so that this package imports none of them and `vitalseal verify`
never loads MQTT.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from vitalseal import __version__, log, systemd
from vitalseal.errors import UserError

# command: (module whose `register(parser)` fills it in, what it is for, extra that its dependencies come with)
COMMANDS = {
    "demo": ("simulators.demo_cli", "run the whole pipeline on real recordings, and verify all of it", "all"),
    "verify": (
        "ledger.verify_cli",
        "check proof files offline, without trusting anyone but the policy's keys",
        None,
    ),
    "ledger": ("ledger.cli", "check, prove, serve, witness and follow logs", None),
    "audit": ("aggregator.audit.cli", "hold a reading database against the log, row by row", "audit"),
    "export": ("aggregator.export.cli", "readings with their proofs: a zip, a FHIR bundle, Parquet", "audit"),
    "erase": ("aggregator.erasures_cli", "delete readings and salts everywhere, and say so on the log", "aggregator"),
    "edge": ("edge.cli", "the agent on the gateway: enroll, run, status, and what its keys need", "edge"),
    "aggregator": (
        "aggregator.cli",
        "the service beside the broker: init, run, status, assign, and what ends keys and logs",
        "aggregator",
    ),
    "simulate": ("simulators.cli", "fleets that replay real recordings, and faults on purpose", "edge"),
}

# What is looked for, without importing it, before a command of the extra runs.
LIBRARIES = {
    "edge": ("aiomqtt", "paho", "prometheus_client", "urllib3"),
    "audit": ("influxdb_client", "jinja2"),
    "aggregator": ("influxdb_client", "jinja2", "paho", "prometheus_client", "starlette", "urllib3", "uvicorn"),
    "all": (
        "aiomqtt",
        "influxdb_client",
        "jinja2",
        "paho",
        "prometheus_client",
        "starlette",
        "uvicorn",
        "urllib3",
        "rich",
    ),
}

EXIT_OK, EXIT_UNPROVEN, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE = 0, 1, 2, 130, 141


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line that ends in what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 fine, 1 not proven, 2 wrong call, input or state."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(
        prog="vitalseal",
        description="A transparency log for medical device data: readings that prove themselves.",
        epilog="Exit codes: 0 fine, 1 not proven, 2 malformed input or a wrong call. "
        "`vitalseal COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"vitalseal {__version__}")
    # The ledger imports nothing of ours: what its programs want of the front door comes with their arguments.
    parser.set_defaults(set_up_log=log.set_up, systemd=systemd)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for stream in (sys.stdout, sys.stderr):
        # A file name that the terminal cannot show must not turn "proven" into an exit code that says otherwise.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    try:
        for name, (module, summary, extra) in COMMANDS.items():
            sub = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
            if name == chosen:
                _import(module, name, extra).register(sub)
        args = parser.parse_args(argv)
        code = int(args.run(args))
        sys.stdout.flush()
    except UserError as error:
        print(f"vitalseal: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe left (`| head`): nothing is left to say and nobody to say it to. As the shell has it.
        _drop_stdout()
        return EXIT_PIPE
    except OSError as error:
        # What no room foresaw: a full disk under stdout, a file that vanished. Not "unproven", so not 1.
        _drop_stdout()
        print(f"vitalseal: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_USAGE
    return code


def _drop_stdout() -> None:
    """The interpreter does not try again at exit to write what could not be written."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _import(module: str, command: str, extra: str | None) -> ModuleType:
    """The room's command module; raises UserError if a library of its extra is not installed."""
    for library in LIBRARIES.get(extra or "", ()):
        if importlib.util.find_spec(library) is None:
            # Not by the package's name: it is on no index, and whoever takes the name there is a stranger.
            raise UserError(
                f"`vitalseal {command}` needs {library}: in vitalseal's clone, type  pip install '.[{extra}]'"
            )
    return importlib.import_module(module)
