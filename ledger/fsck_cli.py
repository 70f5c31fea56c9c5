"""`vitalseal ledger fsck`: recompute a log."""

import argparse
from pathlib import Path

from ledger.console import OK, UNPROVEN, WRONG, fail, parse_file, show_progress
from ledger.errors import LedgerError, MalformedError
from ledger.fsck import LogReport, fsck
from ledger.policy import parse_policy, parse_trust
from ledger.writer.files import list_files, read_file


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = "Recompute a whole log from its entries: every tile, hash, chain and device signature."
    parser.epilog = "Exit codes: 0 everything follows, 1 something does not, 2 the call is wrong."
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="the log's public directory (with `checkpoint` in it)"
    )
    parser.add_argument("--policy", type=Path, required=True, help="tlog-policy that the checkpoint must satisfy")
    parser.add_argument("--trust", type=Path, help="vkeys of the registrars whose enrolments count (without: any)")
    parser.set_defaults(run=_fsck)


def _fsck(args: argparse.Namespace) -> int:
    public = args.directory
    if not public.is_dir():
        return fail(f"{public}: is not a directory", WRONG)
    try:
        policy = parse_file(args.policy, parse_policy)
        trust = None if args.trust is None else parse_file(args.trust, parse_trust)
        paths = list_files(public)
    except (MalformedError, OSError) as error:
        return fail(error, WRONG)
    try:
        report = fsck(lambda path: read_file(public, path), policy, trust=trust, paths=paths, progress=show_progress())
    except LedgerError as error:
        return fail(f"{public}: {error}", UNPROVEN)
    except OSError as error:
        return fail(error, WRONG)
    _show(report)
    return OK


def _show(report: LogReport) -> None:
    verified = report.checkpoint
    print(f"{verified.checkpoint.origin}: size {verified.checkpoint.size}, root {verified.checkpoint.root.hex()}")
    print(f"  entries: {', '.join(f'{count} {name}' for name, count in sorted(report.entries.items())) or 'none'}")
    print(f"  readings committed to: {report.readings}, by {len(report.chains)} of {len(report.keys)} enrolled keys")
    for key, chain in sorted(report.chains.items()):
        print(f"  key {key.hex()[:16]}: unbroken to epoch {chain.epoch} seq {chain.seq}")
    if report.ahead:
        print(
            f"  {report.ahead} tiles lie ahead of the checkpoint: one is about to be published, or a writer was stopped"
        )
    print("  every tile, bundle, chain and signature follows from the entries")
