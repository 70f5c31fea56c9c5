"""`vitalseal audit`: hold a reading database against the log, row by row.

Exit codes: 0 everything is as the log says and proven, 1 something is not, 2 malformed input, a wrong call, or a store
that is away.
"""

import argparse
import json
import os
import stat
import time
from pathlib import Path

from aggregator.audit.audited import Audited
from aggregator.audit.auditor import Outcome, Range, audit
from aggregator.audit.page import render
from aggregator.audit.proofs import Proofs
from aggregator.audit.public import PublicLog
from aggregator.audit.report import MAX_TOLD, describe
from aggregator.audit.sources import Call, sort_out
from aggregator.audit.state import Passed, forget, read_state, write_state
from aggregator.audit.telling import lines, plain
from aggregator.timeseries.base import StoreAwayError
from ledger.console import OK, UNPROVEN, WRONG, fail, show_progress
from ledger.errors import LedgerError, MalformedError
from ledger.writer.storage import StorageError


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Hold a database of readings against the log: every row that is missing, changed, extra or moved is named."
    )
    parser.epilog = (
        "Either a whole data directory (--data or --config), or a database alone with a public log (--log, --policy). "
        "Exit codes: 0 every row is as the log says, 1 something is not or could not be proven, 2 malformed input, a "
        "wrong call, or a database that is away. The last line on stdout is for scripts: "
        "`audit: checked=N ok=N missing=N changed=N extra=N moved=N`."
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="an aggregator's data directory: log, payloads, names")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the same, with the database that it names")
    parser.add_argument("--influx-url", metavar="URL", help="the database is this InfluxDB")
    parser.add_argument("--bucket", metavar="NAME", help="its bucket, 1.x: database (vitalseal)")
    parser.add_argument("--org", metavar="NAME", help="its organisation, where it has some")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="its token (1.x: user:password) is in there")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="the CA of its certificate, in PEM")
    parser.add_argument("--database", type=Path, metavar="FILE", help="the database is this readings.db")
    parser.add_argument("--log", metavar="DIR|URL", help="the public log, for a database alone")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="tlog-policy by which the log is judged")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="vkeys of the registrars whose enrolments count")
    parser.add_argument("--until", type=_entries, metavar="N", help="leave out the entries from N on")
    parser.add_argument(
        "--incremental", action="store_true", help="only what came after the last audit that passed; says so"
    )
    parser.add_argument("--state", type=Path, metavar="FILE", help="where audits that pass are remembered")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report that can be filed")
    parser.add_argument("--json", action="store_true", help="one JSON object, with every finding")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    call = sort_out(args)
    try:
        return _audit(args, call)
    except MalformedError as error:
        return fail(error, WRONG)
    except LedgerError as error:
        return fail(f"{call.log}: {error}", UNPROVEN)
    except (StoreAwayError, StorageError) as error:
        return fail(error, WRONG)
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else error, WRONG)


def _audit(args: argparse.Namespace, call: Call) -> int:
    keys = call.keys()
    with call.open(keys) as (public, store, private):
        audited = Audited(call)
        passed = None
        if call.state is not None and args.incremental:
            passed = read_state(call.state, store.title, keys.digest)

        def check(log: PublicLog) -> None:
            if passed is not None and call.state is not None:
                passed.check(log, call.state)

        span = Range(0 if passed is None else passed.size, args.until)
        outcome = audit(public, store, private, span, check=check, progress=show_progress)
        findings = outcome.book.sorted_findings()
        told = findings if args.json else findings[:MAX_TOLD]
        report = describe(outcome, keys, int(time.time()), told, audited.fields())
        if args.html is not None:
            page = render(report, findings, Proofs(outcome, store, private))
            _write_private(args.html, page)
    # Before anything is printed: whoever reads that may stop in the middle.
    _remember(call, outcome, keys.digest, passed)
    if args.json:
        print(json.dumps(report))
    else:
        for line in lines(report):
            print(plain(line))
    return OK if outcome.is_proven else UNPROVEN


def _remember(call: Call, outcome: Outcome, keys: str, passed: Passed | None) -> None:
    """An audit that passed is where the next incremental one begins; one that looked at less changes nothing.

    One of everything that did not pass has the next one begin at the start, whether it was to be remembered or not.
    """
    if call.state is None:
        return
    if not outcome.is_proven:
        if passed is None:
            _forget(call.state, outcome, keys)
    elif call.remembers and outcome.until >= (passed.size if passed else 0):
        write_state(call.state, outcome, keys)


def _forget(state: Path, outcome: Outcome, keys: str) -> None:
    try:
        forget(state, outcome.store, keys)
    except OSError as error:
        fail(f"{state}: {error.strerror}: remove it, or the next incremental audit passes over it", UNPROVEN)


def _write_private(path: Path, page: str) -> None:
    """The page is readable by its owner only, before anything is in it: it may hold values of readings."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            os.fchmod(file.fileno(), 0o600)
        file.write(page.encode())


def _entries(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number
