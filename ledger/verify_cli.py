"""`vitalseal verify FILE... --policy POLICY [--trust TRUST] [--strict] [--json]`: the auditor's command.

Exit codes: 0 every file is proven, 1 one is well formed but not proven, 2 one is malformed or the call is wrong.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ledger.console import parse_file
from ledger.errors import MalformedError
from ledger.keys import ALGORITHM_NAMES
from ledger.kinds import kind_name, kind_unit
from ledger.policy import Policy, parse_policy, parse_trust
from ledger.proof import MAX_PROOF_FILE
from ledger.reading import format_time
from ledger.verify import Step, UnprovenError, VerifiedReading, verify_proof

PROVEN, UNPROVEN, MALFORMED = 0, 1, 2


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "Exit codes: 0 all proven, 1 one is well formed but not proven, 2 one is malformed or the call is wrong. "
        "What a proof shows: the holder of the device key committed to this value before the witnesses' time, and "
        "it has not changed since. That the sensor measured it, and when, is the key holder's statement."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .tlog-proof file")
    parser.add_argument(
        "--policy",
        type=Path,
        required=True,
        help="C2SP tlog-policy: which logs and witnesses count, from someone you trust",
    )
    parser.add_argument("--trust", type=Path, help="vkeys of registrars (step 7; read for its form in this version)")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail unless every step was checked and passed (step 7 is not, in this version of the format)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Checks every file and returns the worst exit code."""
    try:
        policy = parse_file(args.policy, parse_policy)
        if args.trust is not None:
            # Read for its form: without key-status proofs there is nothing yet that it could decide (step 7).
            parse_file(args.trust, parse_trust)
    except MalformedError as error:
        if args.json:
            print(json.dumps({"file": str(args.policy), "result": "malformed", "error": str(error), "steps": []}))
        else:
            print(f"vitalseal: {error}", file=sys.stderr)
        return MALFORMED
    show = _show_json if args.json else _show_text
    worst = PROVEN
    for path in args.files:
        worst = max(worst, _check(path, policy, args.strict, show))
    return worst


def _check(path: Path, policy: Policy, strict: bool, show: Any) -> int:  # noqa: FBT001 - passed through
    try:
        proven = parse_file(path, lambda data: verify_proof(data, policy, strict=strict), MAX_PROOF_FILE)
    except MalformedError as error:
        show(path, "malformed", None, (), str(error))
        return MALFORMED
    except UnprovenError as error:
        show(path, "unproven", None, error.steps, f"{path}: {error}")
        return UNPROVEN
    show(path, "proven", proven, proven.steps, None)
    return PROVEN


def _show_text(
    path: Path, result: str, proven: VerifiedReading | None, steps: tuple[Step, ...], error: str | None
) -> None:
    if error is not None:
        print(f"vitalseal: {error}", file=sys.stderr)
    if not steps:
        return
    print(f"{path}: {result.upper()}")
    if proven is not None:
        print(f"  {_statement(proven)}")
        print(f"  {proven.claim()}")
    for step in steps:
        print(f"  {step.number}  {step.result:<11}  {step.title}: {step.detail}")


def _show_json(
    path: Path, result: str, proven: VerifiedReading | None, steps: tuple[Step, ...], error: str | None
) -> None:
    report: dict[str, Any] = {"file": str(path), "result": result}
    if error is not None:
        report["error"] = error
    if proven is not None:
        report |= {
            "statement": _statement(proven),
            "claim": proven.claim(),
            "key_id": proven.header.key_id.hex(),
            "algorithm": ALGORITHM_NAMES[proven.algorithm],
            "epoch": proven.header.epoch,
            "seq": proven.header.seq,
            "leaf_index": proven.leaf_index,
            "index": proven.index,
            "origin": proven.checkpoint.origin,
            "size": proven.checkpoint.size,
            "root": proven.checkpoint.root.hex(),
            "logged_by": proven.logged_by,
            "witnesses": proven.witnesses,
        }
        report |= _leaf_fields(proven)
    report["steps"] = [
        {"step": step.number, "title": step.title, "result": step.result, "detail": step.detail} for step in steps
    ]
    print(json.dumps(report))


def _leaf_fields(proven: VerifiedReading) -> dict[str, Any]:
    """The reading or the batch info, field by field; bytes in hex, big integers as they are."""
    name, leaf = ("reading", proven.reading) if proven.reading is not None else ("info", proven.info)
    if leaf is None:
        return {}
    fields = json.loads(json.dumps(asdict(leaf), default=bytes.hex))
    if proven.reading is not None:
        fields |= {"kind_name": kind_name(proven.reading.kind), "unit": kind_unit(proven.reading.kind)}
    return {name: fields}


def _statement(proven: VerifiedReading) -> str:
    if proven.reading is not None:
        return proven.reading.describe()
    info = proven.info
    return f"batch info, sealed at {format_time(info.sealed_at_ns)} by the gateway's clock" if info else ""
