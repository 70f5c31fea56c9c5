"""The view made again from the start, out of the log and the payloads, with the aggregator running or stopped.

Whoever wants it leaves a request (`view.Request`). The projection that runs takes it up; where none does, the request
is taken up here, by the same `Projection`, so it makes no difference who is killed or started meanwhile.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from aggregator.config import AggregatorConfig
from aggregator.patience import Patience
from aggregator.portions import LogWalk
from aggregator.projection import Projection
from aggregator.timeseries.base import StoreAwayError
from aggregator.timeseries.opening import open_store
from aggregator.view import LOCK, REQUEST, Request, View, ViewRecord, read_request, read_view
from ledger.writer.files import try_lock
from vitalseal.errors import UserError

SHOW_EVERY_S = 0.5

# How far it is: the view, and how many entries it shall have.
Progress = Callable[[View, int], None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was done: the view afterwards, and what came into it in `seconds`. Not `whole`: we were told to stop."""

    view: View
    readings: int
    seconds: float
    whole: bool


def entries_at_stake(config: AggregatorConfig) -> int:
    """How many entries the store would have to give up for a rebuild: none if it cannot be read, or is at it already.

    Raises:
        UserError: it is away, so nobody knows.
    """
    request = read_request(config.data)
    held = _entries_held(config)
    return 0 if held is None or (request is not None and request.begun) else held


def rebuild(config: AggregatorConfig, progress: Progress, stopping: Event) -> Rebuilt:
    """The view has been made again, up to what was published when it was asked for; or `stopping` is set.

    One that was begun already, and whose store can be read, is gone on with. One that the store will not begin is not
    wanted any more; one that it will not end goes on when the store does.

    Raises:
        UserError: the store will not do, whatever is tried.
        StorageError, LedgerError: the log cannot be read.
    """
    started_s = time.monotonic()
    with closing(LogWalk(config.data)) as walk:
        checkpoint = walk.published()
    request = read_request(config.data)
    if request is None or not request.begun or _entries_held(config) is None:
        request = Request(checkpoint.size if checkpoint else 0)
        request.write(config.data)
    before = read_view(config.data).readings if request.begun else 0
    while (request := read_request(config.data)) is not None and not stopping.is_set():
        held = try_lock(config.data / LOCK)
        if held is None:
            progress(read_view(config.data), request.size)
            stopping.wait(SHOW_EVERY_S)
            continue
        with held:
            try:
                _fill(config, progress, stopping)
            except UserError as error:
                raise _given_up(config, error) from None
    view = read_view(config.data)
    return Rebuilt(view, view.readings - before, time.monotonic() - started_s, whole=request is None)


def _fill(config: AggregatorConfig, progress: Progress, stopping: Event) -> None:
    """Under the lock: the request has been met, or `stopping` is set."""
    request = read_request(config.data) or Request()
    patience = Patience(ViewRecord(config.data, lambda view: progress(view, request.size)), stopping)
    try:
        opened = patience(lambda: open_store(config), opening=True)
        with opened as store, closing(Projection(config.data, store, patience)) as projection:
            while read_request(config.data) is not None and not stopping.is_set():
                projection.catch_up()
    except StoreAwayError:
        return  # only raised because it is to stop


def _given_up(config: AggregatorConfig, error: UserError) -> UserError:
    """What to say of a rebuild that the store will not do; under the lock, so nobody takes it up meanwhile."""
    request = read_request(config.data)
    if request is not None and request.begun:
        return UserError(
            f"{error}; the store was emptied already: as soon as that is mended, the running aggregator fills it by "
            "itself, or its next start does"
        )
    # Whoever reads that it failed does not expect the store to be emptied when it is mended.
    (config.data / REQUEST).unlink(missing_ok=True)
    return UserError(f"{error}; the view is not made again: ask for it once more when that is mended")


def _entries_held(config: AggregatorConfig) -> int | None:
    """The store's cursor, None if there is no store or it cannot be read any more."""
    try:
        with open_store(config, readonly=True) as store:
            return store.cursor()
    except UserError:
        return None
    except StoreAwayError as error:
        raise UserError(f"{error}; a rebuild needs it: see to it, and try again") from None
