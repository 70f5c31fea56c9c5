"""What the aggregator's commands share: the configuration option, words read strictly, and errors in one line."""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from aggregator.setup import CONFIG
from ledger.errors import LedgerError
from ledger.reading import MAX_SOURCE
from ledger.writer.storage import StorageError
from vitalseal.errors import UserError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION = re.compile(r"[.,]([0-9]+)(?=[Zz+-])")  # of the second: what stands right before the zone

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
    # The standard library drops what is finer than a microsecond, and sensor times are in ns.
    fraction = match[1] if (match := _FRACTION.search(text)) else ""
    if len(fraction) > 9:
        raise UserError(f"{option} {text!r}: finer than a nanosecond")
    return (at.replace(microsecond=0) - _EPOCH) // timedelta(seconds=1) * 10**9 + int(fraction.ljust(9, "0"))
