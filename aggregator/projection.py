"""The projection: a process of its own that walks the log and writes readings, with proof references, to a store.

It reads the published tree and, read-only, the payloads. A store that is away delays only the view, for however long:
the portion at hand is kept and written when it is back. The cursor lies in the store and is the last thing that is
written of a portion, so it may be killed anywhere:

    1  batches and readings    again after a crash: the same rows
    2  refused points          a line each in `refused-points.ndjson`, synced; once, however often they are refused
    3  erased readings         gone from the store, and from a `readings.db` of before; what was gone stays gone
    4  the cursor

A write that was given up on may still come true later. Of readings it makes the same rows; but it could bring one back
that was erased meanwhile, so a while after the store was away everything that was ever erased is erased once more.

After a restore batches may lack their payloads until their devices send them again. The cursor passes them by, so that
what is here is shown; the log's database numbers the payloads that come back, and each batch among them that the cursor
has passed and the store lacks is projected then. Nothing of that needs a place in the store: looked at again from the
first number at every start, it finds what is there already. (Killed between steps 1 and 2 of such a batch, its refused
points are in no file; they are missing, and the audit says so.)
"""

import logging
import os
import sqlite3
import sys
import threading
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO

from aggregator.config import AggregatorConfig
from aggregator.patience import Patience
from aggregator.portions import LogWalk, Portion
from aggregator.refused import RefusedPoints
from aggregator.side_process import parent_gone
from aggregator.timeseries.base import ReadingStore, StoreAwayError
from aggregator.timeseries.opening import erase_unused, open_store
from aggregator.view import LOCK, REFUSED, REQUEST, Request, ViewRecord, read_request
from ledger.batch import LEAVES_PER_BATCH
from ledger.checkpoint import parse_checkpoint
from ledger.entry import Erased
from ledger.errors import LedgerError, MalformedError
from ledger.note import parse_note
from ledger.writer.files import try_lock
from ledger.writer.storage import StorageError
from vitalseal import config as configuration
from vitalseal import log
from vitalseal.errors import UserError

logger = logging.getLogger("aggregator.projection")  # not "__main__", by which nobody would know us

POLL_S = 0.25  # how long the view may lag behind a checkpoint that was just published
LOOK_EVERY_S = 10.0  # how often the store is asked whether it still has what was written, while nothing is new
FINISH_WITHIN_S = 10.0  # what is behind by more than this when the aggregator stops is projected after its next start
END_WITHIN_S = 30.0  # a store that answers a byte at a time, or has to drop a measurement, must not hold up the rest
LAST_ENTRIES = 64  # of a store, among which a batch is looked for to see whose it is; most entries are one
LATE = 128  # payloads that came back, looked at before what is new gets its turn again
# Longer than any server, given up on after `timeout_s`, still holds a write that it will do in the end.
LATE_WRITE_S = 900.0


class Projection:
    """Moves `store` up to the published tree of the log in `data`, in one thread.

    Whoever uses it has the lock (`view.LOCK`), or is alone anyway.
    """

    def __init__(self, data: Path, store: ReadingStore, patience: Patience | None = None) -> None:
        """`patience` is how a store that is away is waited for; by default without an end."""
        self._data = data
        self._store = store
        self._patience = patience or Patience(ViewRecord(data), threading.Event())
        self._record = self._patience.record
        self._walk = LogWalk(data)
        self._refused = RefusedPoints(data)
        self._returned = 0  # the number up to which payloads that came back were looked at
        self._is_ours = False  # whether the store was seen to be of this log
        self._reached: int | None = None  # the cursor that was seen in the store first, or written there since
        self._never_there: set[int] = set()  # erased readings that were not written since the store was cleared
        self._looked_at_s = float("-inf")  # when the store was seen to have everything
        self._erased_at_s = float("-inf")  # since when the store had answered when erasing again was begun
        self._erase_again: list[Erased] = []  # what is left of it
        if self._record.view.store != store.title:
            # Another store than before: what was said of that one is not about this one.
            self._record.note(store=store.title, cursor=0, level_at=0.0)

    def close(self) -> None:
        """Releases the log."""
        self._walk.close()

    def catch_up(self, within_s: float | None = None) -> int:
        """Projects every published entry that the store lacks; returns how many there were.

        Ends early, between two portions, when `within_s` have passed; without them, when it is to stop.

        Raises:
            StoreAwayError: the store is away, and it is to stop.
            UserError: the store will not do, or it is another log's.
            StorageError, LedgerError: the log cannot be read, or is not what its root says.
        """
        until_s = None if within_s is None else time.monotonic() + within_s
        done = self._project_new(until_s)
        while self._may_go_on(until_s) and (numbered := self._walk.returned(self._returned, LATE)):
            done += self._project_late([index for _, index in numbered])
            self._returned = numbered[-1][0]
            done += self._project_new(until_s)
        self._erase_late()
        self._record.beat()
        return done

    def _may_go_on(self, until_s: float | None) -> bool:
        return not self._patience.stopping.is_set() if until_s is None else time.monotonic() < until_s

    def _project_new(self, until_s: float | None) -> int:
        """Projects what lies behind the cursor, and takes up requests to begin anew."""
        done = 0
        while self._may_go_on(until_s):
            self._begin_anew()
            checkpoint = self._walk.published()
            if checkpoint is None:
                self._end_request(0)
                break
            if self._seems_level(checkpoint.size):
                break
            start = self._ask_cursor(checkpoint.origin)
            self._end_request(start)
            if start >= checkpoint.size:
                self._is_level()
                break
            for portion in self._walk.portions(range(start, checkpoint.size), checkpoint.origin):
                self._write(portion)
                # Somebody else may have emptied the store, or put an older copy in its place: while it was away, say.
                if not self._patience(partial(self._move_cursor, portion.end, portion.start)):
                    self._patience.stopping.wait(POLL_S)  # one that keeps nothing at all is not asked without a pause
                    break
                readings = self._record.view.readings + len(portion.readings)
                self._record.note(cursor=portion.end, readings=readings)
                done += portion.entries
                if not self._may_go_on(until_s) or self._is_asked():
                    break
        return done

    def _project_late(self, indexes: list[int]) -> int:
        """Projects those batches that the cursor had passed before their payloads came back."""
        checkpoint = self._walk.published()
        cursor = self._cursor_now()
        # Where the cursor has not been yet, it finds the payload when it comes by.
        late = sorted(index for index in indexes if index < cursor and self._lacks(index))
        if checkpoint is None or not late:
            return 0
        # The cursor has passed what erased them: a payload that the aggregator has not come to is taken as if it had.
        without: dict[int, set[int]] = {}
        for _, erased in self._walk.erased():
            without.setdefault(erased.log_index, set()).update(erased.leaves)
        for portion in self._walk.portions(late, checkpoint.origin, without):
            self._write(portion)
            self._record.note(readings=self._record.view.readings + len(portion.readings))
        return len(late)

    def _write(self, portion: Portion) -> None:
        """Everything of `portion` but the cursor is in the store."""
        for stored in portion.readings:
            self._never_there.discard(stored.ref)
        refused = self._patience(partial(self._store.write, portion.batches, portion.readings, None))
        if new := self._refused.add(refused):
            logger.error("the store refused %d points; %s names them", new, REFUSED)
            self._record.note(refused=len(self._refused))
        for erased in portion.erased:
            if not _refs(erased) <= self._never_there:
                self._patience(partial(self._store.erase, erased.log_index, erased.leaves))
            self._patience(partial(erase_unused, self._data, self._store, erased.log_index, erased.leaves))

    def _begin_anew(self) -> None:
        """A request for a rebuild that stands is taken up."""
        request = read_request(self._data)
        if request is None or request.begun:
            return
        logger.info("the view is made again from the start")
        self._patience(self._store.clear)
        self._reached = 0
        self._never_there = {ref for _, erased in self._walk.erased() for ref in _refs(erased)}
        self._record.note(cursor=0)
        # The last of it: whoever is killed before clears the store once more, and nothing was projected yet.
        Request(request.size, begun=True).write(self._data)
        self._looked_at_s = float("-inf")

    def _end_request(self, cursor: int) -> None:
        """One that was taken up has been met, if there are so many entries in the store again."""
        request = read_request(self._data)
        if request is not None and request.begun and cursor >= request.size:
            (self._data / REQUEST).unlink(missing_ok=True)
            logger.info("the view is made again, with %d entries", cursor)

    def _is_asked(self) -> bool:
        request = read_request(self._data)
        return request is not None and not request.begun

    def _seems_level(self, size: int) -> bool:
        """Whether there is nothing new, and the store was asked not long ago."""
        lately = time.monotonic() - self._looked_at_s < LOOK_EVERY_S
        return lately and self._record.view.cursor >= size

    def _is_level(self) -> None:
        self._looked_at_s = time.monotonic()
        self._record.note(level_at=time.time())

    def _move_cursor(self, cursor: int, of: int | None = None) -> bool:
        """The cursor is `cursor`, if it was at `of` until now; whether it was."""
        if of is not None and self._store.cursor() != of:
            return False
        self._store.write((), (), cursor)
        self._reached = cursor
        return True

    def _cursor_now(self) -> int:
        return self._patience(self._store.cursor)

    def _ask_cursor(self, origin: str) -> int:
        """The store's cursor, of a store that is of the log `origin`."""
        cursor, known = self._cursor_now(), self._record.view.cursor
        if self._reached is None:  # so that a journal does not end with why it stood still
            logger.info("the view goes on at %d in %s", cursor, self._store.title)
        if self._reached is not None and cursor > self._reached:
            # A cursor that was given up on has come true after all, maybe in a store that was cleared since.
            cursor = self._reached
            self._patience(partial(self._move_cursor, cursor))
        self._reached = cursor
        if cursor < known:
            logger.warning("the store had %d entries and has %d: what it lacks is projected again", known, cursor)
            self._returned, self._is_ours, self._never_there = 0, False, set()
        if cursor and not self._is_ours:
            self._patience(partial(self._check_origin, cursor, origin))
        self._is_ours = True
        if not cursor:
            self._refused.begin_anew()
            self._record.note(cursor=0, readings=0, refused=0)
        elif cursor != known:
            self._record.note(cursor=cursor)
        return cursor

    def _check_origin(self, cursor: int, origin: str) -> None:
        """The store's last batch is of no other log; raises UserError. Whether it is true is the audit's question."""
        for index in range(cursor - 1, max(-1, cursor - 1 - LAST_ENTRIES), -1):
            try:
                batch = self._store.batch(index)
                found = batch and parse_checkpoint(parse_note(batch.checkpoint, "checkpoint").text).origin
            except MalformedError:
                continue
            if found and found != origin:
                raise UserError(
                    f"{self._store.title}: holds the readings of the log {found}; give {origin} a place of its own, or "
                    "empty this one with `vitalseal aggregator rebuild`"
                )
            if found:
                return

    def _lacks(self, index: int) -> bool:
        return self._patience(partial(self._store.batch, index)) is None

    def _erase_late(self) -> None:
        """All once more, when the store has answered for long enough since it was away or we began.

        One entry at a time: what is new does not wait for it, nor does whoever wants us to stop.
        """
        back_at_s = self._patience.back_at_s
        if self._erased_at_s != back_at_s and time.monotonic() - back_at_s >= LATE_WRITE_S:
            cursor = self._record.view.cursor
            self._erase_again = [erased for index, erased in self._walk.erased() if index < cursor]
            self._erased_at_s = back_at_s
        if self._erase_again and not self._patience.stopping.is_set():
            erased = self._erase_again[-1]
            self._patience(partial(self._store.erase, erased.log_index, erased.leaves))
            del self._erase_again[-1]


def _refs(erased: Erased) -> set[int]:
    return {erased.log_index * LEAVES_PER_BATCH + leaf for leaf in erased.leaves}


def main() -> int:
    """Projects until standard input closes, which it does when the aggregator that started this ends, however."""
    stopping = parent_gone()
    threading.Thread(target=_end, args=(stopping,), daemon=True).start()
    log.set_up()
    try:
        config = configuration.load(Path(sys.argv[1]), AggregatorConfig)
        with ExitStack() as stack:
            if (held := _lock(config.data, stopping)) is None:
                return 0
            stack.enter_context(held)
            _run(config, stopping, stack)
    except StoreAwayError:
        return 0  # it is to stop, and what is wrong with the store was said when it went away
    except (UserError, StorageError, LedgerError, OSError, sqlite3.Error) as error:
        print(f"vitalseal: projection: {error}", file=sys.stderr)  # noqa: T201 - a program of its own
        return 2
    return 0


def _run(config: AggregatorConfig, stopping: threading.Event, stack: ExitStack) -> None:
    patience = Patience(ViewRecord(config.data), stopping)
    store = patience(lambda: stack.enter_context(open_store(config)), opening=True)
    projection = stack.enter_context(closing(Projection(config.data, store, patience)))
    while not stopping.is_set():
        if not projection.catch_up():
            stopping.wait(POLL_S)
    projection.catch_up(FINISH_WITHIN_S)


def _end(stopping: threading.Event) -> None:
    """Ends the process, whatever it is at, some time after it is to stop: it may be killed anywhere."""
    stopping.wait()
    time.sleep(END_WITHIN_S)
    os._exit(0)


def _lock(data: Path, stopping: threading.Event) -> IO[str] | None:
    """The lock of whoever fills the store, None if it is to stop before it is free."""
    waiting = False
    while (held := try_lock(data / LOCK)) is None:
        if not waiting:
            logger.info("another process fills the store; waiting for it to end")
        waiting = True
        if stopping.wait(POLL_S):
            return None
    return held


if __name__ == "__main__":
    sys.exit(main())
