"""An outcome as plain values, for `--json` and for the page that is filed."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aggregator.audit.auditor import Outcome
from aggregator.audit.findings import Finding
from aggregator.audit.telling import RESULTS, verdict_on
from aggregator.audit.words import counted
from ledger.note import VerifierKey
from ledger.policy import Policy
from ledger.reading import format_time
from ledger.report import describe_quorum
from vitalseal import __version__

MAX_TOLD = 50  # findings on a terminal; --json has all of them


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


def describe(
    outcome: Outcome, keys: Keys, at_s: int, findings: Iterable[Finding], audited: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is to be said of `outcome`, which was come to at `at_s` (Unix seconds), with these `findings`.

    `audited` says which file or server that was.
    """
    return {
        "result": "proven" if outcome.is_proven else "not proven",
        "verdict": verdict_on(outcome),
        "fault": outcome.fault,
        "version": __version__,
        "audited_at": format_time(at_s * 10**9),
        "log": _log_fields(outcome),
        "database": outcome.store,
        "audited": audited,
        "entries": _entry_fields(outcome),
        "keys": _key_fields(keys),
        "counts": outcome.book.counts(),
        "rows": {about.value: count for about, count in sorted(outcome.book.sound.items())},
        "named_by": outcome.named_by,
        "series": list(_series(outcome)),
        "findings": [finding_fields(finding) for finding in findings],
        "unproven": [
            {"ref": item.ref, "device": item.device, "kind": item.kind, "step": item.step, "reason": item.reason}
            for item in outcome.book.unproven
        ],
        "erasures": _erasures(outcome),
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


def _series(outcome: Outcome) -> Iterator[dict[str, Any]]:
    found: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(RESULTS, 0))
    for (device, kind, result), count in outcome.book.series.items():
        found[device, kind][result] += count
    for (device, kind), counts in sorted(found.items()):
        yield {"device": device, "key_ids": outcome.key_ids.get(device, []), "kind": kind, **counts}


def _entry_fields(outcome: Outcome) -> dict[str, Any]:
    """Which entries; the last three numbers add up to that of the readings."""
    erased, _, unchecked = outcome.tally or (0, 0, 0)
    return {
        "from": outcome.start,
        "until": outcome.until,
        "readings": outcome.readings,
        "looked_at": outcome.readings - erased - unchecked,
        "erased": erased,
        "not_checked": unchecked,
    }


def _erasures(outcome: Outcome) -> str | None:
    tally = outcome.tally
    if tally is None or not tally.erased:
        return None
    were = "reading was" if tally.erased == 1 else "readings were"
    by = counted(tally.entries, "entry", "entries")
    return f"{tally.erased} {were} erased, by {by} of the log's operator"


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
        # An erasure is the operator's act, and has a line of its own.
        "notices": {kind: count for kind, count in sorted(log.report.notices.items()) if kind != "erased"},
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
