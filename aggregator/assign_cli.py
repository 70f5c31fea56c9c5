"""`vitalseal aggregator assign`: who wears which sensor, from when to when."""

import argparse
import sys
import time
from contextlib import closing

from aggregator.config import AggregatorConfig
from aggregator.console import Commands, add_command, parse_source, parse_time, told
from aggregator.known_sources import look_for
from aggregator.registry import Registry
from ledger.reading import format_time
from ledger.writer.reader import LocalReader
from vitalseal import config as configuration
from vitalseal.errors import UserError

MAX_PATIENT = 200
_NAMED = 3  # ids that a refusal names: it is one line
_TOGETHER = "assign: SOURCE, PATIENT and --from belong together (alone, `assign` lists the records)"


def register(commands: Commands) -> None:
    """Adds the subcommand and its arguments."""
    assign = add_command(commands, "assign", "record who wears a sensor, or list all records", _assign)
    assign.add_argument("source", nargs="?", metavar="SOURCE", help="source id, in hex")
    assign.add_argument("patient", nargs="?", metavar="PATIENT", help="your name for the patient; stays private")
    assign.add_argument("--from", dest="start", metavar="TIME", help="RFC 3339, e.g. 2026-11-21T08:00:00Z")
    assign.add_argument("--to", dest="end", metavar="TIME", help="RFC 3339; without it, until further notice")
    assign.add_argument("--correct", type=int, metavar="ID", help="replace assignment ID, which stays on record")
    assign.add_argument("--reason", help="why it is corrected")
    assign.add_argument("--unknown", action="store_true", help="take a SOURCE that nothing was measured with yet")


def _assign(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    with closing(Registry(config.data)) as registry:
        if args.source is None:
            return _list(registry, args)
        return _record(config, registry, args)


def _list(registry: Registry, args: argparse.Namespace) -> int:
    if args.start or args.end or args.correct is not None or args.reason or args.unknown:
        raise UserError(_TOGETHER)
    for item in registry.assignments():
        end = "further notice" if item.to_ns is None else format_time(item.to_ns)
        span = f"{format_time(item.from_ns)} to {end}"
        corrected = f", corrects {item.corrects}: {item.reason}" if item.corrects is not None else ""
        logged = "not on the log yet" if item.log_index is None else f"entry {item.log_index}"
        print(f"{item.id}  {item.source.hex()}  {item.patient}  {span}  ({logged}{corrected})")
    return 0


def _record(config: AggregatorConfig, registry: Registry, args: argparse.Namespace) -> int:
    if args.patient is None or args.start is None:
        raise UserError(_TOGETHER)
    if (args.correct is None) != (args.reason is None):
        raise UserError("assign: --correct and --reason belong together")
    if not args.patient.isprintable() or not 1 <= len(args.patient) <= MAX_PATIENT:
        raise UserError(f"PATIENT: not 1 to {MAX_PATIENT} printable characters")
    if args.correct is not None and not 0 < args.correct < 2**63:
        raise UserError(f"--correct {args.correct}: no standing assignment of this source has that id")
    source = parse_source(args.source, "SOURCE")
    start_ns = parse_time(args.start, "--from")
    end_ns = None if args.end is None else parse_time(args.end, "--to")
    if not args.unknown:
        _check_known(config, registry, source)
    number = registry.assign(
        source,
        args.patient,
        start_ns,
        end_ns,
        now_ns=time.time_ns(),
        corrects=args.correct,
        reason=args.reason,
    )
    print(f"assignment {number} recorded; the running aggregator commits it to the log as a salted hash")
    return 0


def _check_known(config: AggregatorConfig, registry: Registry, source: bytes) -> None:
    """Raises UserError for an id with which nothing was measured: an export by it would miss what was, silently.

    One that was assigned before is known, so that whatever was recorded can be corrected. Where it cannot be told, that
    is a warning.
    """
    assigned = {item.source for item in registry.assignments()}
    if source in assigned:
        return
    with told(config.data), LocalReader(config.data) as log:
        look = look_for(source, log)
    if look.there:
        return
    alike = sorted({*look.alike, *(other for other in assigned if other.startswith(source))})
    nothing = f"SOURCE {source.hex()}: no reading on this log is of this source"
    if alike:
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        ids = ", ".join(other.hex() for other in alike[:_NAMED])
        raise UserError(f"{nothing}, but {ids}{more} begin so; --unknown records it all the same")
    if look.whole:
        raise UserError(
            f"{nothing}, and none begins so; ids stand in a gateway's edge.toml, --unknown takes one not worn yet"
        )
    print(
        f"vitalseal: SOURCE {source.hex()}: not found, but not every batch could be looked at; see that it is right",
        file=sys.stderr,
    )
