"""The TLS certificate renews itself: over mutual TLS, at two thirds of its life, with a fresh key each time.

Whether it is time is asked of the certificate's own dates and the wall clock, where that can be right: synchronised,
or at least within those dates. Under any other clock the certificate counts as fresh when the agent started, and the
time that the agent runs says when. After a renewal nothing is due before a third of a life has really passed, so that
no clock, however wrong, asks again and again.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from edge import identity
from edge.config import EdgeConfig
from edge.desk import desk_of
from edge.tls import clock_state
from ledger.info import Clock
from vitalseal.errors import UserError

# Gateways that were enrolled in one go are not to renew in one go: each up to this part of a life earlier.
SPREAD = 0.05
# The wall clock may be set at any time, so a long wait is made of short ones.
LOOK_EVERY_S = 60.0
# How long a desk that does not answer is left alone: from and up to this, both less when a life is short.
RETRY_S, RETRY_CAP_S = 60.0, 3600.0

_log = logging.getLogger(__name__)


class Schedule:
    """When one certificate is to be renewed. No I/O: times are arguments, in seconds."""

    def __init__(self, validity: identity.Validity, running_s: float, early: float, *, renewed: bool) -> None:
        """`running_s` is monotonic, `early` from 0 to 1 is this gateway's place in the spread.

        `renewed`: the certificate was got at `running_s`; otherwise it was found then.
        """
        self._validity = validity
        self._life_s = max(0.0, validity.ends - validity.begins)
        self._share = 2 / 3 - SPREAD * early
        self._found_s = running_s
        self._not_before_s = running_s + self._life_s / 3 if renewed else running_s

    @property
    def life_s(self) -> float:
        """How long the certificate is good in all."""
        return self._life_s

    def wait_s(self, wall_s: float, running_s: float, clock: Clock) -> float:
        """How long until it is time; 0 when it is."""
        begins, ends = self._validity.begins, self._validity.ends
        if clock is Clock.SYNCHRONISED or begins <= wall_s <= ends:
            left_s = begins + self._life_s * self._share - wall_s
        else:
            left_s = self._life_s * self._share - (running_s - self._found_s)
        return max(0.0, left_s, self._not_before_s - running_s)


def renew(config: EdgeConfig) -> None:
    """The gateway has a fresh certificate for a fresh key; raises UserError, and then the old pair is as it was."""
    tls_files = config.broker.tls
    if tls_files is None:
        raise UserError("the configuration names no TLS identity")
    request = identity.prepare(tls_files, config.device)
    with desk_of(config) as desk:
        certificate = desk.renew(request)
    identity.install(tls_files, config.device, tls_files.ca.read_text("ascii"), certificate)


def renewing(config: EdgeConfig, certificate: Path) -> Callable[[object], Coroutine[Any, Any, None]]:
    """A companion of the agent that keeps `certificate` fresh."""

    async def keep_fresh(_agent: object) -> None:
        rng = random.SystemRandom()
        validity = await asyncio.to_thread(identity.validity, certificate)
        schedule = Schedule(validity, time.monotonic(), rng.random(), renewed=False)
        failures = 0
        while True:
            if wait_s := schedule.wait_s(time.time(), time.monotonic(), clock_state()):
                await asyncio.sleep(min(wait_s, LOOK_EVERY_S))
                continue
            try:
                await asyncio.to_thread(renew, config)
                validity = await asyncio.to_thread(identity.validity, certificate)
            except UserError as error:
                failures += 1
                if failures == 1:
                    _log.warning("the TLS certificate was not renewed: %s; it is tried again", error)
                await asyncio.sleep(_pause_s(failures, schedule.life_s) * rng.uniform(0.5, 1.0))
            else:
                failures = 0
                left = identity.ends_in(validity.ends, time.time())
                _log.info("the TLS certificate was renewed: the new one %s", left)
                schedule = Schedule(validity, time.monotonic(), rng.random(), renewed=True)

    return keep_fresh


def _pause_s(failures: int, life_s: float) -> float:
    """Between two tries: a hundredth of a life at first, a tenth at most, so that one third holds several."""
    return min(RETRY_CAP_S, life_s / 10, min(RETRY_S, life_s / 100) * 2.0 ** min(failures - 1, 16))
