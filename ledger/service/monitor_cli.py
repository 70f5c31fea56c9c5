"""`vitalseal ledger monitor`: follow a log for ever."""

import argparse
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ledger.checkpoint import parse_checkpoint
from ledger.console import OK, UNPROVEN, WRONG, fail, parse_file, show_progress, stop_signals
from ledger.errors import LedgerError, MalformedError
from ledger.fsck import CHECKPOINT_PATH
from ledger.note import parse_note
from ledger.policy import Policy, parse_policy, parse_trust, verify_log_signature
from ledger.service.http_log import FetchError
from ledger.service.monitor import Monitor
from ledger.service.monitor_alarms import UNREACHABLE, Alarms, Event
from ledger.service.monitor_evidence import iso_time
from ledger.service.monitor_metrics import format_metrics
from ledger.service.monitor_state import EVIDENCE, MonitorState
from ledger.service.monitor_views import Look, View, check_distinct, look, open_view, open_witnesses
from ledger.writer.files import replace_file
from ledger.writer.storage import StorageError

INTERVAL_S = 30.0
STALLED_AFTER_S = 1800  # three times as long as an idle log is silent
LONG_WAY = 4096  # entries; a shorter way to catch up is over before anybody has read how far it is
LOOKING_AT_ONCE = 16

_DESCRIPTION = """Follow a log: read every new entry, recompute its tree, hold every checkpoint that is seen anywhere
against it, and say what is wrong. A monitor checks what witnesses do not: they see to it that a log only grows, and
never read an entry. Each device's chain, the signatures and the ends of keys, and the roots over all keys' states are
recomputed by monitors and by `fsck` alone."""

_EPILOG = f"""Seen are the log itself, each --also, and the last cosignature of every witness that the policy names with
a URL. Alarms that pass: unreachable, unwitnessed (no quorum), broken (what is served does not lead to the signed root),
stalled (nothing signed anew, unless the log was closed), shrunk (it shows less than before: an old copy, or worse).
Alarms that last: split-view (two signed checkpoints of different histories) and every entry that does not follow from
those before, by its kind (chain, ended-key, signature, ...). Of these the evidence is in DIR/{EVIDENCE}, for others to
verify; the alarm stands until its file is removed. Exit codes: with --once 0 no alarm stands, 1 one does; 2 the call is
wrong, or with --once the log cannot be read. Without --once it runs until SIGTERM or Ctrl-C, and then exits 0."""


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument(
        "log", metavar="DIR|URL", help="the log's public directory (with `checkpoint` in it), or where it is served"
    )
    parser.add_argument("--policy", type=Path, required=True, help="tlog-policy that its checkpoints must satisfy")
    parser.add_argument("--trust", type=Path, help="vkeys of the registrars whose enrolments count (without: any)")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="what it remembers, made if not there")
    parser.add_argument(
        "--also", nargs="+", action="extend", default=[], metavar="DIR|URL", help="other places that show the log"
    )
    parser.add_argument(
        "--interval", type=_seconds, default=INTERVAL_S, metavar="S", help="seconds between two rounds (%(default)g)"
    )
    parser.add_argument(
        "--stalled-after",
        type=_seconds,
        default=STALLED_AFTER_S,
        metavar="S",
        help="seconds without a new signature that are an alarm (%(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="one round, then an exit code that tells what came out")
    parser.add_argument("--json", action="store_true", help="every alarm and notice as a JSON object, one a line")
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="replaced after every round, for Prometheus")
    parser.set_defaults(run=_monitor)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _monitor(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("ledger").setLevel(logging.INFO)
    try:
        if args.metrics is not None and args.metrics.is_dir():
            raise MalformedError(f"--metrics {args.metrics}: is a directory")
        policy = parse_file(args.policy, parse_policy)
        trust = None if args.trust is None else parse_file(args.trust, parse_trust)
        registrars = None if trust is None else frozenset(key.public_key for key in trust)
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            log = open_view(stack, args.log, ahead=True)
            origin = _origin(policy, log)
            views = [log, *(open_view(stack, place) for place in args.also), *open_witnesses(stack, policy, origin)]
            check_distinct(views)
            state = stack.enter_context(MonitorState(args.state, origin, registrars))
            return _rounds(args, policy, views, state, stop)
    except (LedgerError, StorageError, OSError) as error:
        return fail(error, WRONG)


def _rounds(
    args: argparse.Namespace, policy: Policy, views: list[View], state: MonitorState, stop: threading.Event
) -> int:
    origin = state.memory.log.origin
    alarms = Alarms(state.evidence, _print_event if args.json else lambda _event: None)
    show = show_progress()
    monitor = Monitor(
        policy,
        state,
        alarms,
        stalled_after_s=int(args.stalled_after),
        stopped=stop.is_set,
        progress=lambda done, total: show(done, total) if total > LONG_WAY else None,
    )
    if not args.json:
        print(f"{origin}: followed from entry {state.memory.log.size} on, in {len(views)} views", flush=True)
    with ThreadPoolExecutor(LOOKING_AT_ONCE, thread_name_prefix="look") as threads:
        while True:
            looks = list(threads.map(lambda view: look(view, policy, origin), views))
            now = int(time.time())
            monitor.round(looks, now)
            if args.metrics is not None:
                replace_file(args.metrics, format_metrics(state.memory, alarms.standing, looks, now).encode())
            if args.once:
                return _result(args, state, alarms, looks[0])
            if stop.wait(args.interval):
                return OK


def _result(args: argparse.Namespace, state: MonitorState, alarms: Alarms, log: Look) -> int:
    """Says what stands after one round; the exit code for it."""
    memory = state.memory
    standing = alarms.standing
    if args.json:
        fields = [
            {"kind": a.kind, "subject": a.subject, "since": iso_time(a.since), "evidence": a.evidence} for a in standing
        ]
        _print_json({"event": "state", "size": memory.log.size, "root": memory.log.root().hex(), "alarms": fields})
    else:
        print(f"{memory.log.origin}: size {memory.log.size}, root {memory.log.root().hex()}")
        for alarm in standing:
            print(f"  {alarm.kind} ({alarm.subject}) since {iso_time(alarm.since)}: {alarm.message}")
        print(f"  alarms that stand: {len(standing) or 'none'}")
    if log.wrong is not None and log.wrong[0] == UNREACHABLE:
        return fail(f"{log.view.name}: cannot be read: {log.wrong[1]}", WRONG)
    return UNPROVEN if standing else OK


def _origin(policy: Policy, log: View) -> str:
    """The log that is followed: the one that the policy names, or of several the one whose checkpoint is there."""
    origins = {key.name for key, _ in policy.logs}
    if not origins:
        raise MalformedError("the policy names no log")
    if len(origins) == 1:
        return origins.pop()
    if (data := log.fetch(CHECKPOINT_PATH)) is None:
        raise FetchError(f"{log.name}: has no checkpoint, and the policy names several logs")
    note = parse_note(data, "checkpoint")
    verify_log_signature(note, policy)
    return parse_checkpoint(note.text).origin


def _print_event(event: Event) -> None:
    _print_json(event.fields())


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)
