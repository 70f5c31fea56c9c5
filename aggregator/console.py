"""What the aggregator's commands share: the configuration option, and errors of log and disk in one line."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from aggregator.setup import CONFIG
from ledger.errors import LedgerError
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name


def add_command(
    commands: Commands, name: str, summary: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """The parser of the command `name`, which `run` runs on an aggregator's configuration."""
    parser = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    parser.add_argument(
        "--config", type=Path, default=Path(CONFIG), metavar="FILE", help="configuration file (%(default)s)"
    )
    parser.set_defaults(run=run)
    return parser


@contextmanager
def told(data: Path) -> Iterator[None]:
    """What goes wrong with log or disk is one line."""
    try:
        yield
    except (StorageError, LedgerError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or data}: {error.strerror or error}") from None
