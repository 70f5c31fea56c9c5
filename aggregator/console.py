"""What the aggregator's commands share: the configuration option, words read strictly, and errors in one line."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from aggregator.setup import CONFIG
from ledger.errors import LedgerError
from ledger.reading import MAX_SOURCE
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


def parse_source(text: str, option: str) -> bytes:
    """The source id that `text` spells in hex; raises UserError, which names `option`."""
    try:
        source = bytes.fromhex(text)
    except ValueError:
        source = b""
    if not 1 <= len(source) <= MAX_SOURCE:
        raise UserError(
            f"{option} {text!r}: not 1 to {MAX_SOURCE} bytes in hex; a source's id stands in its gateway's edge.toml"
        )
    return source


def parse_time(text: str, option: str) -> int:
    """The moment that `text` spells in RFC 3339, in Unix ns; raises UserError, which names `option`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text!r}: not a time such as 2026-11-21T08:00:00Z") from None
    if at.tzinfo is None:
        raise UserError(f"{option} {text!r}: has no zone; end it in Z or +01:00")
    if not 1900 <= at.year < 2262:
        raise UserError(f"{option} {text!r}: not between 1900 and 2262; leave --to out for an open end")
    return int(at.timestamp()) * 10**9 + at.microsecond * 1000
