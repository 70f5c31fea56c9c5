"""`vitalseal aggregator rebuild`."""

import argparse
import sys
import time
from pathlib import Path

from aggregator.config import AggregatorConfig
from aggregator.console import Commands, add_command, told
from aggregator.rebuild import Progress, entries_at_stake, rebuild
from aggregator.view import View
from ledger.console import stop_signals
from vitalseal import config as configuration
from vitalseal.cli import EXIT_INTERRUPTED
from vitalseal.errors import UserError

SHOWN_EVERY_S = 0.1


def register(commands: Commands) -> None:
    """Adds the command and its arguments."""
    summary = "empty the reading store and fill it again from the log, aggregator running or not"
    again = add_command(commands, "rebuild", summary, _rebuild)
    again.add_argument("--yes", action="store_true", help="also if the store holds something")


def _rebuild(args: argparse.Namespace) -> int:
    config = configuration.load(args.config, AggregatorConfig)
    with told(config.data), stop_signals() as stopping:
        if (held := entries_at_stake(config)) and not args.yes:
            raise UserError(
                f"the store holds {held} entries; they are deleted and made again from the log, and until then charts "
                "and queries miss readings: --yes if that is what you want"
            )
        done = rebuild(config, _progress(), stopping)
    if not done.whole:
        print(_unfinished(done.view, args.config), file=sys.stderr)
        return EXIT_INTERRUPTED
    counts = f"entries={done.view.cursor} readings={done.view.readings}"
    print(f"rebuild: {counts} seconds={done.seconds:.1f} rate={done.readings / done.seconds:.0f}/s")
    return 0


def _unfinished(view: View, config: Path) -> str:
    return (
        f"vitalseal: {view.cursor} entries are in the store again; the running aggregator goes on with it, or else its "
        f"next start, or vitalseal aggregator rebuild --config {config}"
    )


def _progress() -> Progress:
    """Entries, readings and the rate so far on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return lambda _view, _size: None
    started_s = shown_s = time.monotonic()
    begun = -1

    def show(view: View, size: int) -> None:
        nonlocal begun, shown_s
        begun = view.readings if begun < 0 else min(begun, view.readings)
        if time.monotonic() - shown_s < SHOWN_EVERY_S and view.cursor < size:
            return
        shown_s = time.monotonic()
        rate = (view.readings - begun) / max(time.monotonic() - started_s, 1e-3)
        text = f"{view.cursor:,} of {size:,} entries, {view.readings:,} readings, {rate:,.0f}/s"
        if view.away_since is not None:
            text = f"the store {'will not take any' if view.wont else 'is away'}: {view.why}"
        end = "\n" if view.cursor >= size else ""
        print(f"\r\x1b[K{text}", end=end, file=sys.stderr, flush=True)

    return show
