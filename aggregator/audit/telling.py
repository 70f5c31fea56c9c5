"""What a person reads of an audit: the verdict in a sentence, and the lines on a terminal."""

from collections.abc import Iterator
from typing import Any

from aggregator.audit.auditor import Outcome
from aggregator.audit.findings import What
from aggregator.audit.words import counted

RESULTS = ("ok", *(what.value for what in What))


def verdict_on(outcome: Outcome) -> str:
    """What came of it, in one sentence that begins with the most important words."""
    if outcome.log is None:
        return (
            f"THE LOG IS NOT SOUND: {outcome.fault}. No row was looked at, because whatever were said of one would "
            "rest on nothing."
        )
    counts = outcome.book.counts()
    found = counts["checked"] - counts["ok"]
    rows = counted(counts["checked"], "row")
    if found:
        kinds = ", ".join(f"{counts[what]} {what}" for what in What if counts[what])
        are = "is" if found == 1 else "are"
        verdict = f"NOT AS LOGGED: {found} of {rows}, there or missing, {are} not as the log says: {kinds}."
    elif not outcome.is_proven:
        verdict = f"NOT PROVEN: none of {rows} differs from the log, but not everything could be proven."
    elif counts["checked"]:
        verdict = _as_logged(outcome, outcome.log.size, rows)
    elif outcome.start:
        verdict = "NOTHING NEW: there was nothing to look at that came after the last audit that passed."
    else:
        verdict = "NOTHING TO LOOK AT: there was no row, and none that the log asks for."
    return f"{verdict} Older rows were not looked at." if outcome.start else verdict


def _as_logged(outcome: Outcome, size: int, rows: str) -> str:
    if outcome.start:
        new = counted(outcome.until - outcome.start, "new entry", "new entries")
        return f"AS LOGGED, OF WHAT IS NEW: all of {rows} of {new} are as the log says."
    ends = "" if outcome.until == size else f", of entries 0 to {outcome.until - 1} of {size},"
    return f"AS LOGGED: all of {rows}{ends} are as the log says."


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
    yield f"  audited: {report['audited_at']}, by vitalseal {report['version']}"
    yield from _where(report)
    if log is not None:
        reach = f"{entries['from']} to before {entries['until']}"
        yield f"  log: {log['origin']}, read from {report['audited']['log']}"
        yield f"    size {log['size']}, root {log['root']}; {log['quorum']}"
        yield (
            f"  readings: the entries from {reach} commit to {entries['readings']}: {entries['looked_at']} looked at, "
            f"{entries['erased']} erased, {entries['not_checked']} not checked"
        )
    if report["erasures"]:
        yield f"  {report['erasures']}"
    yield f"  judged by: policy {keys['policy_sha256']}, trust {keys['trust_sha256'] or 'none given'}"
    yield from _table(report)
    for text in report["not_checked"]:
        yield f"  not checked: {text}"
    yield "audit: " + " ".join(f"{name}={count}" for name, count in counts.items())


def plain(text: str) -> str:
    """`text` with nothing in it that moves a cursor or turns its direction: it may come from anybody."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _told(finding: dict[str, Any]) -> str:
    of = " ".join(filter(None, (finding["device"], finding["kind"], finding["time"] and f"at {finding['time']}")))
    parts = [f"{finding['what'].upper()} {finding['subject']}", of, finding["detail"]]
    if finding["failure"]:
        parts.append(f"it fails {finding['failure']}")
    if finding["where"]:
        parts.append(f"found at {finding['where']}")
    return "; ".join(filter(None, parts))


def _where(report: dict[str, Any]) -> Iterator[str]:
    """Which file or server that was, exactly."""
    audited = report["audited"]
    yield f"  database: {report['database']}; {audited['where']}"
    if "size" in audited:
        hashed = f", SHA-256 {audited['sha256']}" if audited["sha256"] else ""
        yield f"    {audited['size']} bytes, written to last at {audited['modified']}{hashed}"
        for note in audited["notes"]:
            yield f"    {note}"


def _table(report: dict[str, Any]) -> Iterator[str]:
    series = report["series"]
    if not series:
        return
    rows = [[f"device, as the {report['named_by']} names its key", "kind", *RESULTS]]
    for row in series:
        device = f"{row['device']} ({_keys_in_words(row['key_ids'])})"
        rows.append([device, row["kind"], *(str(row[result]) for result in RESULTS)])
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for device, kind, *numbers in rows:
        counts = [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
        yield "  ".join(["", device.ljust(widths[0]), kind.ljust(widths[1]), *counts])


def _keys_in_words(key_ids: list[str]) -> str:
    return f"key {', '.join(key_ids)}" if key_ids else "no key of these entries"
