"""`vitalseal ledger fsck`: recompute a log."""

import argparse
from pathlib import Path

from ledger.console import OK, UNPROVEN, WRONG, fail, parse_file, show_progress
from ledger.errors import LedgerError, MalformedError
from ledger.fsck import LogReport, fsck
from ledger.policy import parse_policy, parse_trust
from ledger.service.fetch import log_reader


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Recompute a whole log from its entries: every tile, hash, chain and device signature."
    parser.epilog = "Exit codes: 0 everything follows, 1 something does not, 2 the call is wrong."
    parser.add_argument(
        "log", metavar="DIR|URL", help="the log's public directory (with `checkpoint` in it), or where it is served"
    )
    parser.add_argument("--policy", type=Path, required=True, help="tlog-policy that the checkpoint must satisfy")
    parser.add_argument("--trust", type=Path, help="vkeys of the registrars whose enrolments count (without: any)")
    parser.set_defaults(run=_fsck)


def _fsck(args: argparse.Namespace) -> int:
    try:
        policy = parse_file(args.policy, parse_policy)
        trust = None if args.trust is None else parse_file(args.trust, parse_trust)
    except MalformedError as error:
        return fail(error, WRONG)
    try:
        with log_reader(args.log) as (fetch, paths):
            report = fsck(fetch, policy, trust=trust, paths=paths, progress=show_progress())
    except LedgerError as error:
        return fail(f"{args.log}: {error}", UNPROVEN)
    except OSError as error:
        return fail(error, WRONG)
    _show(report)
    return OK


def _show(report: LogReport) -> None:
    checkpoint, log = report.checkpoint.checkpoint, report.log
    print(f"{checkpoint.origin}: size {checkpoint.size}, root {checkpoint.root.hex()}")
    print(f"  entries: {', '.join(f'{count} {name}' for name, count in sorted(log.entries.items())) or 'none'}")
    if log.size:
        print(f"  {log.bytes / log.size:.0f} bytes an entry")
    print(f"  readings committed to: {log.readings}, by {len(log.chains)} of {len(log.keys)} enrolled keys")
    for key, chain in sorted(log.chains.items()):
        print(f"  key {key.hex()[:16]}: unbroken to epoch {chain.epoch} seq {chain.seq}")
    if report.notices:
        print(f"  reported: {', '.join(f'{count} {kind}' for kind, count in sorted(report.notices.items()))}")
    if report.ahead:
        print(
            f"  {report.ahead} tiles lie ahead of the checkpoint: one is about to be published, or a writer was stopped"
        )
    print("  every tile, bundle, chain and signature follows from the entries")
