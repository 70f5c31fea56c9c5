"""The options by which commands choose readings, and what they choose."""

import argparse

from aggregator.console import parse_source, parse_time
from aggregator.timeseries.base import Selection
from ledger.kinds import BY_NAME
from vitalseal.errors import UserError
from vitalseal.topics import check_device


def add_selection(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Whose readings, from which sensor, of which kinds, from when to when."""
    whose = parser.add_mutually_exclusive_group(required=required)
    whose.add_argument("--patient", metavar="P", help="what this patient wore, by the standing assignments")
    whose.add_argument("--device", metavar="D", help="what came from this gateway")
    parser.add_argument("--source", metavar="HEX", help="one sensor of the device, by its source id")
    parser.add_argument("--kind", action="append", default=[], metavar="K", help="a kind, by name; may be repeated")
    parser.add_argument("--from", dest="start", metavar="T", help="sensor time from this on, in RFC 3339")
    parser.add_argument("--to", dest="end", metavar="T", help="sensor time before this")


def chosen_window(args: argparse.Namespace) -> Selection:
    """Device, source and times of the call; raises UserError if they do not belong together."""
    if args.source is not None and args.device is None:
        raise UserError("--source goes with --device")
    source = None if args.source is None else parse_source(args.source, "--source")
    device = None if args.device is None else check_device(args.device)
    start = None if args.start is None else parse_time(args.start, "--from")
    end = None if args.end is None else parse_time(args.end, "--to")
    if start is not None and end is not None and end <= start:
        raise UserError("--to lies not after --from")
    return Selection(device=device, source=source, from_ns=start, to_ns=end)


def chosen_kinds(args: argparse.Namespace) -> list[int]:
    """The kinds of the call, none for all; raises UserError."""
    for name in args.kind:
        if name not in BY_NAME:
            raise UserError(f"--kind {name!r}: none of {', '.join(BY_NAME)}")
    return [BY_NAME[name].code for name in args.kind]
