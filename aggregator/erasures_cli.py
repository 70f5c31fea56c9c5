"""`vitalseal erase`: finds readings, asks, records what is to be erased, and waits until the running aggregator has."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

from aggregator import registry
from aggregator.choosing import add_selection, chosen_kinds, chosen_window
from aggregator.config import AggregatorConfig
from aggregator.console import told
from aggregator.erased_notices import TELL_FOR_NS
from aggregator.erasure_search import Found, search
from aggregator.erasures import Request, record, requests
from aggregator.export.selection import of_kinds, of_patient
from aggregator.registry import Registry
from aggregator.setup import CONFIG
from aggregator.status import is_running, read_status
from aggregator.timeseries.base import Selection
from aggregator.view import read_view, view_fault
from ledger.console import show_progress
from ledger.entry import CLOSING
from ledger.reading import format_time
from ledger.writer.local import FROZEN
from ledger.writer.reader import LocalReader
from vitalseal import config as configuration
from vitalseal.errors import UserError

DONE, NOT_YET = 0, 1
MAX_REASON = 200
LOOK_EVERY_S = 0.25
PATIENCE_S = 60.0  # without any progress; a backup that is being taken, or a quorum that is away, may last longer
_YES = "erase"


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Delete readings and their salts for ever: from the payloads, the reading database, the gateways' outboxes, "
        "and out of the reach of every backup. An entry on the log says which leaves of which batches; every other "
        "reading's proof still verifies. What is found is said first, and what cannot be reached at the end."
    )
    parser.epilog = (
        "Exit codes: 0 done, or recorded for an aggregator that does not run; 1 not done while we waited, it goes on; "
        "2 a wrong call, input or state, and nothing recorded. The last line on stdout is for scripts: "
        "erase: readings=N batches=N entries=N state=done|recorded|dry-run."
    )
    parser.add_argument(
        "--config", type=Path, default=Path(CONFIG), metavar="FILE", help="the aggregator's (%(default)s)"
    )
    add_selection(parser, required=False)
    parser.add_argument("--reason", metavar="TEXT", help="why; kept in the registry, never on the log")
    parser.add_argument("--dry-run", action="store_true", help="say what would be erased, and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask; needed where there is no terminal")
    parser.add_argument("--list", action="store_true", help="what was requested, and how far it is")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Erases, or says what would be erased or was."""
    config = configuration.load(args.config, AggregatorConfig)
    if not (config.data / registry.DATABASE).is_file():
        raise UserError(f"{config.data}: holds no {registry.DATABASE}, so it is no aggregator's data directory")
    with told(config.data), closing(Registry(config.data)) as opened:
        if args.list:
            return _list(requests(opened))
        window, kinds = chosen_window(args), chosen_kinds(args)
        if args.patient is None and args.device is None:
            raise UserError("--patient or --device says whose readings are to be erased; --list what was")
        reason = _reason(args.reason, needed=not args.dry_run)
        with LocalReader(config.data) as log:
            _check_open(config.data, log)
            parts = _parts(opened, args.patient, window)
            found = search(log, opened.keys(), of_kinds(parts, kinds), show_progress())
        _show(found)
        if args.dry_run or not found.readings:
            return _end(found, (), "dry-run" if args.dry_run else "done")
        _confirm(found, yes=args.yes)
        ids = record(opened, found.targets, reason, time.time_ns())
        return _follow(config, opened, found, ids, args.patient)


def _reason(text: str | None, *, needed: bool) -> str:
    if text is None and needed:
        raise UserError("--reason is wanted: whoever asks later why these readings are gone finds it in --list")
    text = text or ""
    if needed and not (0 < len(text) <= MAX_REASON and text.isprintable()):
        raise UserError(f"--reason: not 1 to {MAX_REASON} printable characters")
    return text


def _check_open(data: Path, log: LocalReader) -> None:
    if (data / FROZEN).exists():
        raise UserError(f"{data}: this log is frozen, nothing can be put on it; erase by deleting the directory")
    if any(True for _ in log.of_type(CLOSING)):
        raise UserError(f"{data}: this log is closed, nothing can be put on it; erase by deleting the directory")


def _parts(opened: Registry, patient: str | None, window: Selection) -> list[Selection]:
    """What is to be looked for; raises UserError if nobody of that name is known."""
    if patient is not None:
        parts = of_patient(opened.assignments(), patient, window)
        if not parts:
            raise UserError(f"--patient {patient}: no standing assignment at that time; `aggregator assign` lists them")
        return parts
    if all(key.device != window.device for key in opened.keys().values()):
        raise UserError(f"no device {window.device!r} is enrolled; `vitalseal aggregator devices` lists them all")
    return [window]


def _show(found: Found) -> None:
    for line in found.lines():
        print(line)
    if found.first_ns is not None and found.last_ns is not None:
        span = f"from {format_time(found.first_ns)} to {format_time(found.last_ns)}"
        print(f"{found.readings} readings in {len(found.targets)} batches, {span}")
    else:
        print("no reading that is here matches")
    if found.missing:
        print(
            f"{found.missing} batches have lost readings since a restore; what comes back of them has to be erased anew"
        )
    for index in found.damaged:
        print(f"entry {index}: its payload is not what its device sealed; nobody can say what is in it")


def _confirm(found: Found, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("this cannot be undone: --yes if that is what you want, --dry-run to look first")
    print(f"This cannot be undone. Type {_YES} to erase these {found.readings} readings: ", end="", flush=True)
    if sys.stdin.readline().strip() != _YES:
        raise UserError("nothing was erased")


def _follow(config: AggregatorConfig, opened: Registry, found: Found, ids: Sequence[int], patient: str | None) -> int:
    """Waits for the running aggregator, and says what is left."""
    running = _runs(config.data)
    is_done = running and _wait(config, opened, ids)
    mine = _mine(opened, ids)
    if is_done:
        print("erased: from the payloads and the reading database; the log says so")
    elif running:
        print(f"recorded, and not done yet: {_what_waits(config, mine)}; the aggregator goes on, --list says how far")
    else:
        print("recorded; no aggregator runs here, so it is done when one is started")
    _say_the_rest(config, patient)
    _end(found, mine, "done" if is_done else "recorded")
    return DONE if is_done or not running else NOT_YET


def _runs(data: Path) -> bool:
    try:
        return is_running(read_status(data))
    except UserError:
        return False  # none has ever run here


def _wait(config: AggregatorConfig, opened: Registry, ids: Sequence[int]) -> bool:
    """Whether all is done, while that made progress; the view may lag behind a little."""
    progress = show_progress("batches and entries")
    before, since_s = -1, time.monotonic()
    while True:
        mine = _mine(opened, ids)
        done = sum(request.done_at_ns is not None for request in mine)
        last = max((request.entry_index or 0 for request in mine), default=0)
        cursor = min(read_view(config.data).cursor, last + 1)
        progress(done + (cursor > last), len(ids) + 1)
        if done == len(ids) and cursor > last:
            return True
        far = done + cursor + sum(request.entry_index is not None for request in mine)
        if far != before:
            before, since_s = far, time.monotonic()
        elif time.monotonic() - since_s > PATIENCE_S:
            return False
        time.sleep(LOOK_EVERY_S)


def _mine(opened: Registry, ids: Sequence[int]) -> list[Request]:
    return requests(opened, "id BETWEEN ? AND ? ORDER BY id", ids[0], ids[-1])


def _what_waits(config: AggregatorConfig, mine: Sequence[Request]) -> str:
    if any(request.entry_index is None for request in mine):
        return "not all of it is on the log"
    if any(request.done_at_ns is None for request in mine):
        return (
            "somebody reads the payloads (a backup?), the checkpoint waits for its quorum, or keys of backups are away"
        )
    last = max(request.entry_index or 0 for request in mine) + 1
    fault = view_fault(read_view(config.data), last, time.time())
    return f"the reading database still has them: {fault or 'it is behind the log'}"


def _say_the_rest(config: AggregatorConfig, patient: str | None) -> None:
    """What this has no power over."""
    days = TELL_FOR_NS // (86_400 * 10**9)
    left = [
        f"gateways: told when they are connected, now or within {days} days; then they forget the whole batches",
        "the copy of the keys of backups: it opens older ones until the next backup replaces it",
        "proofs that were handed out, and copies of the data directory that are no backups of ours",
        "mirrors of the log: there is nothing private in them",
    ]
    if config.influx is not None:
        left.insert(1, "InfluxDB's own files: until its next compaction, and in its own backups")
    if patient is not None:
        left.append("the record of who wore which sensor when: it stays in the registry")
    print("out of its reach, or not yet:")
    for line in left:
        print(f"    {line}")
    print(
        "when it is done, take a backup with --keys-copy: from those taken before, no reading of these sources comes "
        "back, also none that was not erased"
    )


def _list(found: Sequence[Request]) -> int:
    """A line for each call of the command."""
    for (at_ns, reason), together in groupby(found, lambda request: (request.requested_at_ns, request.reason)):
        group = list(together)
        readings = sum(len(request.target.leaves) for request in group)
        waiting = sum(request.done_at_ns is None for request in group)
        logged = [request.entry_index for request in group if request.entry_index is not None]
        state = "done" if not waiting else f"WAITING: {waiting} batches, {len(group) - len(logged)} not on the log"
        entries = f", entries {min(logged)} to {max(logged)}" if logged else ""
        print(f"{format_time(at_ns)}  {readings} readings in {len(group)} batches{entries}: {state} ({reason})")
    if not found:
        print("nothing was ever requested")
    return DONE


def _end(found: Found, mine: Sequence[Request], state: str) -> int:
    entries = len({request.entry_index for request in mine if request.entry_index is not None})
    print(f"erase: readings={found.readings} batches={len(found.targets)} entries={entries} state={state}")
    return DONE
