"""`vitalseal verify FILE... --policy POLICY [--trust TRUST] [--strict] [--json]`: the auditor's command.

Exit codes: 0 every file is proven, 1 one is well formed but not proven, 2 one is malformed or the call is wrong.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ledger.completeness import MAX_RANGE_FILE, RANGE_FORM, VerifiedRange, verify_range
from ledger.console import parse_file
from ledger.errors import MalformedError
from ledger.keys import ALGORITHM_NAMES
from ledger.kinds import kind_name, kind_unit
from ledger.note import VerifierKey
from ledger.policy import Policy, parse_policy, parse_trust
from ledger.proof import MAX_PROOF_FILE, ProofFile, parse_proof_file, read_proof
from ledger.reading import format_time
from ledger.report import Step, UnprovenError
from ledger.status import STATUS_FORM, KeyStatus, verify_status
from ledger.verify import VerifiedReading, verify_leaf

PROVEN, UNPROVEN, MALFORMED = 0, 1, 2

Proven: TypeAlias = VerifiedReading | KeyStatus | VerifiedRange


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "Exit codes: 0 all proven, 1 one is well formed but not proven, 2 one is malformed or the call is wrong. "
        "What a proof shows: the holder of the device key committed to this value before the witnesses' time, and "
        "it has not changed since. That the sensor measured it, and when, is the key holder's statement. "
        "A key-status proof that step 7 needs is taken from FILE... or, under the name key-<id>.tlog-proof, from "
        "beside the proof; like every file it counts only as far as it is proven."
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a .tlog-proof file: of a reading, of a device's whole range, of a key's status",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        required=True,
        help="C2SP tlog-policy: which logs and witnesses count, from someone you trust",
    )
    parser.add_argument("--trust", type=Path, help="vkeys of the registrars whose enrolments count (step 7)")
    parser.add_argument("--strict", action="store_true", help="fail unless every step was checked and passed")
    parser.add_argument("--json", action="store_true", help="one JSON object per file")
    parser.set_defaults(run=run)


@dataclass(slots=True)
class _Job:
    """One call: what to verify by, and what was proven of keys so far."""

    policy: Policy
    trust: tuple[VerifierKey, ...] | None
    strict: bool
    statuses: list[KeyStatus] = field(default_factory=list)

    def verify(self, file: ProofFile) -> Proven:
        """What `file` proves; raises MalformedError or UnprovenError."""
        if file.form == STATUS_FORM:
            return verify_status(file, self.policy)
        trust, statuses, strict = self.trust, self.statuses, self.strict
        if file.form == RANGE_FORM:
            return verify_range(file, self.policy, trust=trust, statuses=statuses, strict=strict)
        return verify_leaf(read_proof(file), self.policy, trust=trust, statuses=statuses, strict=strict)

    def learn(self, file: ProofFile) -> None:
        """Takes in the key status that `file` proves, if it is of that form and proves it."""
        if file.form == STATUS_FORM:
            try:
                self.statuses.append(verify_status(file, self.policy))
            except (MalformedError, UnprovenError):
                return  # told where it is reported, if it was named; a stranger beside a proof is nobody's business


def run(args: argparse.Namespace) -> int:
    """Checks every file and returns the worst exit code."""
    try:
        policy = parse_file(args.policy, parse_policy)
        trust = None if args.trust is None else parse_file(args.trust, parse_trust)
    except MalformedError as error:
        if args.json:
            print(json.dumps({"file": str(args.policy), "result": "malformed", "error": str(error), "steps": []}))
        else:
            print(f"vitalseal: {error}", file=sys.stderr)
        return MALFORMED
    job = _Job(policy, trust, args.strict)
    files = [(path, _read(path)) for path in args.files]
    for _, file in files:
        if isinstance(file, ProofFile):
            job.learn(file)
    for beside in _beside(args.files) if trust is not None else ():
        if isinstance(file := _read(beside), ProofFile):
            job.learn(file)
    show = _show_json if args.json else _show_text
    return max(_check(path, file, job, show) for path, file in files)


def _read(path: Path) -> ProofFile | MalformedError:
    """The file, parsed; or what is wrong with it."""
    try:
        return parse_file(path, _parse, MAX_RANGE_FILE)
    except MalformedError as error:
        return error


def _parse(data: bytes) -> ProofFile:
    """Only a range may be larger than other proofs."""
    file = parse_proof_file(data, limit=MAX_RANGE_FILE)
    if file.form != RANGE_FORM and len(data) > MAX_PROOF_FILE:
        raise MalformedError(f"proof: {len(data)} bytes, more than the {MAX_PROOF_FILE} allowed")
    return file


def _beside(files: list[Path]) -> Iterator[Path]:
    """Key-status proofs that lie beside `files` without being among them.

    Nobody named them, so only regular files are opened: another kind might not end, or never begin.
    """
    named = set(files)
    for folder in dict.fromkeys(path.parent for path in files):
        for path in sorted(folder.glob("key-*.tlog-proof")):
            if path not in named and os.path.isfile(path):  # noqa: PTH113 - `is_file` raises in a folder without x
                yield path


def _check(path: Path, file: ProofFile | MalformedError, job: _Job, show: Any) -> int:
    try:
        if isinstance(file, MalformedError):
            raise file
        proven = job.verify(file)
    except MalformedError as error:
        told = str(error)
        show(path, "malformed", None, (), told if told.startswith(f"{path}: ") else f"{path}: {told}")
        return MALFORMED
    except UnprovenError as error:
        show(path, "unproven", None, error.steps, f"{path}: {error}")
        return UNPROVEN
    show(path, "proven", proven, proven.steps, None)
    return PROVEN


def _show_text(path: Path, result: str, proven: Proven | None, steps: tuple[Step, ...], error: str | None) -> None:
    if error is not None:
        print(f"vitalseal: {error}", file=sys.stderr)
    if not steps:
        return
    print(f"{path}: {result.upper()}")
    if isinstance(proven, VerifiedReading):
        print(f"  {_statement(proven)}")
    if proven is not None:
        print(f"  {proven.claim()}")
    for step in steps:
        print(f"  {step.number}  {step.result:<11}  {step.title}: {step.detail}")


def _show_json(path: Path, result: str, proven: Proven | None, steps: tuple[Step, ...], error: str | None) -> None:
    report: dict[str, Any] = {"file": str(path), "result": result}
    if error is not None:
        report["error"] = error
    match proven:
        case VerifiedReading():
            report |= _reading_fields(proven)
        case VerifiedRange():
            report |= _range_fields(proven)
        case KeyStatus():
            report |= _status_fields(proven)
    report["steps"] = [
        {"step": step.number, "title": step.title, "result": step.result, "detail": step.detail} for step in steps
    ]
    print(json.dumps(report))


def _reading_fields(proven: VerifiedReading) -> dict[str, Any]:
    return {
        "statement": _statement(proven),
        "claim": proven.claim(),
        "key_id": proven.header.key_id.hex(),
        "algorithm": ALGORITHM_NAMES[proven.algorithm],
        "epoch": proven.header.epoch,
        "seq": proven.header.seq,
        "leaf_index": proven.leaf_index,
        **_log_fields(proven),
        **_leaf_fields(proven),
    }


def _range_fields(proven: VerifiedRange) -> dict[str, Any]:
    return {
        "claim": proven.claim(),
        "key_id": proven.key_id.hex(),
        "algorithm": ALGORITHM_NAMES[proven.algorithm],
        "epoch": proven.epoch,
        "first": proven.first,
        "last": proven.last,
        "readings": proven.readings,
        "gaps": proven.gaps,
        "disclosed": [
            {"seq": shown.seq, "leaf_index": shown.leaf_index, "statement": shown.reading.describe()}
            for shown in proven.disclosed
        ],
        **_log_fields(proven),
    }


def _log_fields(proven: VerifiedReading | VerifiedRange) -> dict[str, Any]:
    return {
        "index": proven.index,
        "origin": proven.checkpoint.origin,
        "size": proven.checkpoint.size,
        "root": proven.checkpoint.root.hex(),
        "logged_by": proven.logged_by,
        "witnesses": proven.witnesses,
    }


def _status_fields(proven: KeyStatus) -> dict[str, Any]:
    record = proven.record
    return {
        "claim": proven.claim(),
        "key_id": record.key_id.hex(),
        "registrar_key": proven.registrar_key.hex(),
        "enrolled": record.enrolled,
        "until": record.until,
        "revoked": record.revoked,
        "origin": proven.origin,
        "as_of_size": proven.size,
        "logged_by": proven.logged_by,
    }


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
