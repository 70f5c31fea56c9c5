"""An outcome as plain values, for `--json` and for the page that is filed; and the lines that a person reads."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aggregator.audit.auditor import Outcome
from aggregator.audit.findings import Finding, What
from ledger.note import VerifierKey
from ledger.policy import Policy
from ledger.reading import format_time
from ledger.report import describe_quorum
from vitalseal import __version__

MAX_TOLD = 50  # findings on a terminal; --json has all of them
RESULTS = ("ok", *(what.value for what in What))


@dataclass(frozen=True, slots=True)
class Keys:
    """By whose keys it was judged: the texts of policy and trust, and what is in them."""

    policy_text: bytes
    policy: Policy
    trust_text: bytes | None
    trust: tuple[VerifierKey, ...] | None

    @property
    def digest(self) -> str:
        """One hash for both texts."""
        trust = b"" if self.trust_text is None else hashlib.sha256(self.trust_text).digest()
        return hashlib.sha256(hashlib.sha256(self.policy_text).digest() + trust).hexdigest()


def describe(outcome: Outcome, keys: Keys, at_s: int, findings: Iterable[Finding]) -> dict[str, Any]:
    """Everything that is to be said of `outcome`, which was come to at `at_s` (Unix seconds), with these `findings`."""
    return {
        "result": "proven" if outcome.is_proven else "not proven",
        "verdict": _verdict(outcome),
        "fault": outcome.fault,
        "version": __version__,
        "audited_at": format_time(at_s * 10**9),
        "log": _log_fields(outcome),
        "database": outcome.store,
        "entries": {"from": outcome.start, "until": outcome.until, "readings": outcome.readings},
        "keys": _key_fields(keys),
        "counts": outcome.book.counts(),
        "rows": {about.value: count for about, count in sorted(outcome.book.sound.items())},
        "series": list(_series(outcome)),
        "findings": [finding_fields(finding) for finding in findings],
        "unproven": [
            {"ref": item.ref, "device": item.device, "kind": item.kind, "step": item.step, "reason": item.reason}
            for item in outcome.book.unproven
        ],
        "gaps": outcome.gaps,
        "not_checked": [*outcome.not_checked, *_always_unchecked(keys)],
    }


def finding_fields(finding: Finding) -> dict[str, Any]:
    """One finding; `time` is the sensor time of what ought to be there."""
    return {
        "what": finding.what.value,
        "subject": finding.subject,
        "about": finding.about.value,
        "number": finding.number,
        "device": finding.device,
        "kind": finding.kind,
        "time": None if finding.time_ns is None else format_time(finding.time_ns),
        "time_ns": finding.time_ns,
        "where": finding.where,
        "detail": finding.detail,
        "failure": finding.failure or None,
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The summary for a person, the verdict first; the last line is for scripts."""
    log, keys, entries = report["log"], report["keys"], report["entries"]
    findings, counts = report["findings"], report["counts"]
    yield report["verdict"]
    for finding in findings:
        yield f"  {_told(finding)}"
    if more := counts["checked"] - counts["ok"] - len(findings):
        yield f"  ... and {more} more: --json lists all of them"
    for gap in report["gaps"]:
        yield f"  NOT PROVEN: {gap}"
    yield f"  database: {report['database']}"
    if log is not None:
        reach = f"{entries['from']} to before {entries['until']}"
        yield f"  log: {log['origin']}, size {log['size']}, root {log['root']}; {log['quorum']}"
        yield f"  looked at: {entries['readings']} readings of the entries from {reach}"
    yield f"  judged by: policy {keys['policy_sha256']}, trust {keys['trust_sha256'] or 'none given'}"
    yield from _table(report["series"])
    for text in report["not_checked"]:
        yield f"  not checked: {text}"
    yield "audit: " + " ".join(f"{name}={count}" for name, count in counts.items())


def plain(text: str) -> str:
    """`text` with nothing in it that moves a cursor or turns its direction: it may come from anybody."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _verdict(outcome: Outcome) -> str:
    """What came of it, in one sentence that begins with the most important words."""
    counts = outcome.book.counts()
    checked, found = counts["checked"], counts["checked"] - counts["ok"]
    if outcome.log is None:
        return (
            f"THE LOG IS NOT SOUND: {outcome.fault}. No row was looked at, because whatever were said of one would "
            "rest on nothing."
        )
    if found:
        kinds = ", ".join(f"{counts[what]} {what}" for what in What if counts[what])
        return f"NOT AS LOGGED: {found} of {checked} rows, there or missing, are not as the log says: {kinds}."
    if not outcome.is_proven:
        return f"NOT PROVEN: none of {checked} rows differs from the log, but not everything could be proven."
    if not checked:
        return "NOTHING TO LOOK AT: there was no row, and none that the log asks for."
    ends = (
        ""
        if outcome.start == 0 and outcome.until == outcome.log.size
        else (f", of entries {outcome.start} to {outcome.until - 1} of {outcome.log.size}")
    )
    return f"AS LOGGED: all of {checked} rows{ends} are as the log says."


def _told(finding: dict[str, Any]) -> str:
    of = " ".join(filter(None, (finding["device"], finding["kind"], finding["time"] and f"at {finding['time']}")))
    parts = [f"{finding['what'].upper()} {finding['subject']}", of, finding["detail"]]
    if finding["failure"]:
        parts.append(f"it fails {finding['failure']}")
    if finding["where"]:
        parts.append(f"found at {finding['where']}")
    return "; ".join(filter(None, parts))


def _table(series: list[dict[str, Any]]) -> Iterator[str]:
    if not series:
        return
    rows = [["device", "kind", *RESULTS]]
    rows += [[row["device"], row["kind"], *(str(row[result]) for result in RESULTS)] for row in series]
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for device, kind, *numbers in rows:
        counts = [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
        yield "  ".join(["", device.ljust(widths[0]), kind.ljust(widths[1]), *counts])


def _series(outcome: Outcome) -> Iterator[dict[str, Any]]:
    found: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(RESULTS, 0))
    for (device, kind, result), count in outcome.book.series.items():
        found[device, kind][result] += count
    for (device, kind), counts in sorted(found.items()):
        yield {"device": device, "kind": kind, **counts}


def _log_fields(outcome: Outcome) -> dict[str, Any] | None:
    log = outcome.log
    if log is None:
        return None
    verified = log.report.checkpoint
    return {
        "origin": log.origin,
        "size": log.size,
        "root": log.root.hex(),
        "audited_root": outcome.root.hex(),
        "checkpoint": log.note.decode(),
        "log_keys": [str(key) for key in verified.log_keys],
        "logged_by": None if verified.logged_by is None else format_time(verified.logged_by * 10**9),
        "witnesses": list(verified.witnesses),
        "quorum": describe_quorum(verified.logged_by, verified.witnesses),
        "entries": dict(sorted(log.report.log.entries.items())),
        "notices": dict(sorted(log.report.notices.items())),
    }


def _key_fields(keys: Keys) -> dict[str, Any]:
    policy = keys.policy
    return {
        "policy_sha256": hashlib.sha256(keys.policy_text).hexdigest(),
        "policy": keys.policy_text.decode("utf-8", "backslashreplace"),
        "logs": [str(key) for key, _ in policy.logs],
        "witnesses": [f"{witness.name} {witness.key}" for witness in policy.witnesses],
        "quorum": None if policy.quorum is None else policy.quorum.name,
        "trust_sha256": None if keys.trust_text is None else hashlib.sha256(keys.trust_text).hexdigest(),
        "registrars": None if keys.trust is None else [str(key) for key in keys.trust],
    }


def _always_unchecked(keys: Keys) -> Iterator[str]:
    if keys.trust is None:
        yield "who enrolled the devices: no registrars were named (--trust), so any registrar's enrolment counted"
    if keys.policy.quorum is None:
        yield "when things were logged: the policy asks for no witness, so there is no time but the devices' own"
    yield "other columns, tables, tags and measurements that somebody may have added to the database"
    yield "whether a sensor measured what its device stated, and when: that is the device's statement"
