"""What is asked of a store that may be away: asked again until it answers, for as long as it takes.

One line in the log says when it goes away, one when it is back; `view.json` says since when and why. Whoever asks keeps
what it was about to write, so nothing is lost by an outage of any length.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from aggregator.timeseries.base import StoreAwayError
from aggregator.view import ViewRecord
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0  # half a minute after it is back at the latest, the view moves again
MAX_ASKED_S = 300.0  # of what a store may ask for itself: it must not put us off for ever

T = TypeVar("T")


class Patience:
    """Calls of a store, made again while it is away; `stopping` ends the waiting."""

    def __init__(self, record: ViewRecord, stopping: threading.Event) -> None:
        self.record = record
        self.stopping = stopping
        self.back_at_s = time.monotonic()  # since when it has answered; what was asked before then may still come true
        self._away = False

    def __call__(self, work: Callable[[], T], *, opening: bool = False) -> T:
        """What `work` gives; `opening` a store does not show that it is back.

        Raises:
            StoreAwayError: the store is away, and we are to stop.
            UserError: it will not do, whatever is tried; `view.json` says so.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                done = work()
            except StoreAwayError as error:
                self._gone(str(error))
                # Jitter, so that several aggregators do not come back to one server in step.
                asked_s = min(error.after_s or 0.0, MAX_ASKED_S)
                if self.stopping.wait(max(asked_s, wait_s * random.uniform(0.5, 1.0))):  # noqa: S311 - no secret
                    raise
                wait_s = min(2 * wait_s, MAX_WAIT_S)
            except UserError as error:
                self._note_away(str(error), wont=True)
                raise
            else:
                if not opening:
                    self._back()
                return done

    def _gone(self, why: str) -> None:
        if not self._away:
            logger.warning("the store is away: %s; the view stands still until it is back, the log does not", why)
        self._away = True
        self._note_away(why, wont=False)

    def _note_away(self, why: str, *, wont: bool) -> None:
        view = self.record.view
        since = time.time() if view.away_since is None else view.away_since
        self.record.note(away_since=since, why=why.removeprefix(f"{view.store}: "), wont=wont)

    def _back(self) -> None:
        since = self.record.view.away_since
        if since is None:
            return
        logger.info("the store is back after %.0f s", time.time() - since)
        self._away = False
        self.back_at_s = time.monotonic()
        self.record.note(away_since=None, why="", wont=False)
