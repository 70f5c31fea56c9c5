"""Keeps what the broker believes in step with the log, and every certificate and list of the authority fresh.

The keys on the log say who is revoked; admission goes by them at once, and here they become the broker's lists. All of
it follows from the log and `desk.db`, so it is done from the start, again and again, and nothing is lost by a crash.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from aggregator.authority import CRL_EVERY, Authority
from aggregator.desk_records import DeskRecords
from aggregator.device_keys import DeviceKeys
from aggregator.floods import read_floods
from aggregator.probe import Probe
from ledger.reading import format_time
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

FILE = "broker.json"
STATE_EVERY_S = 60.0  # the file is renewed at least so often; half an hour old, it says that nobody keeps the lists
STALE_AFTER_S = 1800.0
CRL_WARNING = timedelta(days=7)
SERVER_WARNING = timedelta(days=14)
FORGET_AFTER = timedelta(days=30)  # expired certificates stay on record a while, for whoever asks what happened

ASK_EVERY_S = 5.0  # how often the broker is asked whether it goes by its lists, until it does
UNSEEN_AFTER_S = 30.0  # by then whoever is to tell it has

# Tells the broker to read its files again; None, or why it could not be told.
Tell = Callable[[], str | None]
# Asks the broker whether it refuses the probe, which its present lists revoke; None, or why that is not known.
Ask = Callable[[Probe], str | None]


@dataclass(frozen=True)
class BrokerState:
    """How the broker's files are. Times are Unix seconds.

    `untold` is why the broker could not be told to read the present files; None if it was, or somebody else tells it.
    `unseen` is why it is not known to go by them, since `changed_at`; None if it was seen to.
    """

    updated_at: float
    crl_until: float
    server_until: float
    revoked_devices: int
    untold: str | None = None
    unseen: str | None = None
    changed_at: float = 0.0


class Upkeep:
    """Keeps the broker's files of the log in `data`; one thread at a time uses it."""

    def __init__(
        self,
        data: Path,
        authority: Authority,
        records: DeskRecords,
        keys: DeviceKeys,
        tell: Tell,
        ask: Ask,
        now: Callable[[], datetime],
    ) -> None:
        self._data = data
        self._authority = authority
        self._records = records
        self._keys = keys
        self._tell = tell
        self._ask = ask
        self._now = now
        self._revoked: list[tuple[int, datetime]] = []
        self._first = True
        self._untold: str | None = "not told yet"  # what an earlier process wrote, the broker may not have been told
        self._state: BrokerState | None = None
        self._denied: set[str] = set()
        self._probe: Probe | None = None  # revoked by the lists that revoke and deny what is above
        self._unseen: str | None = None
        self._asked_at: datetime | None = None

    def follow(self) -> bool:
        """Lists and certificates are what log and clock ask for, and the broker is told; whether any had to change.

        Raises:
            UserError, StorageError, OSError: the disk refuses; done again, it goes on where it stopped.
        """
        now = self._now()
        revoked = self._revoked
        if self._keys.refresh() or self._first or self._is_stale(now):
            revoked = self._revoke(now)
            self._first = False
        denied = {*self._keys.ended(), *read_floods(self._data, now.timestamp())}
        probe = self._probe
        if probe is None or (denied, revoked) != (self._denied, self._revoked) or _is_old(probe, now):
            probe = self._authority.probe(now)
            self._denied, self._revoked, self._probe = denied, revoked, probe
            self._unseen, self._asked_at = "not asked yet", None
        # Both, whatever the first one says.
        lists = self._authority.keep_lists(denied, [*revoked, (probe.serial, probe.made_at)], now)
        if certificates := self._authority.keep_certificates(now):
            self._probe = None  # another one, of the next turn, shows that these were read
        changed = certificates or lists
        if changed:
            self._untold = "not told yet"
        if self._untold is not None:
            self._say(self._tell())
        elif self._unseen is not None and _is_due(self._asked_at, now):
            self._unseen, self._asked_at = self._ask(probe), now
        self._write_state(now, probe)
        return changed

    def _is_stale(self, now: datetime) -> bool:
        return self._state is None or not 0 <= now.timestamp() - self._state.updated_at < STATE_EVERY_S

    def _revoke(self, now: datetime) -> list[tuple[int, datetime]]:
        """Every certificate of a gateway whose key is no longer good is revoked, since when that was first seen."""
        self._records.forget(now - FORGET_AFTER)
        revoked = []
        for issued in self._records.valid(now):
            record = self._keys.current(issued.key_id)
            if issued.revoked_at is not None:
                revoked.append((issued.serial, issued.revoked_at))
            elif record is not None and record.until is not None:
                self._records.revoke(issued.serial, now)
                revoked.append((issued.serial, now))
                logger.warning("revoked a certificate of %s, serial %x", issued.device, issued.serial)
        return revoked

    def _say(self, untold: str | None) -> None:
        """Not being able to tell the broker, and having told it after all, are one line each in the log."""
        if untold is not None and untold != self._untold:
            logger.warning("the broker could not be told to read its files again: %s; trying again", untold)
        elif untold is None and self._state is not None and self._state.untold is not None:
            logger.info("the broker reads its files again")
        self._untold = untold

    def _write_state(self, now: datetime, probe: Probe) -> None:
        state = BrokerState(
            now.timestamp(),
            self._authority.crl_until.timestamp(),
            self._authority.server_until.timestamp(),
            len(self._keys.ended()),
            self._untold,
            self._unseen,
            probe.made_at.timestamp(),
        )
        if self._state and not self._is_stale(now) and replace(state, updated_at=self._state.updated_at) == self._state:
            return
        temporary = self._data / f".{FILE}"
        temporary.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
        temporary.rename(self._data / FILE)
        self._state = state


def read_broker_state(data: Path) -> BrokerState | None:
    """How the broker's files were last, None if nobody has kept them yet; raises UserError."""
    path = data / FILE
    try:
        return BrokerState(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def broker_warnings(state: BrokerState | None, now_s: float) -> list[str]:
    """What somebody has to look after before devices are locked out, or a revoked one is not."""
    if state is None:
        return ["nobody has kept the broker's lists yet: start `vitalseal aggregator run`"]
    warnings = []
    if now_s - state.updated_at > STALE_AFTER_S:
        warnings.append("the broker's lists stand still: start `vitalseal aggregator run`, or see its log")
    for name, until, warning in (
        ("the list of revoked certificates", state.crl_until, CRL_WARNING),
        ("the server's certificate", state.server_until, SERVER_WARNING),
    ):
        left = until - now_s
        if left <= 0:
            warnings.append(f"{name} HAS EXPIRED: the broker lets nobody in")
        elif left < warning.total_seconds():
            warnings.append(f"{name} expires in {left / 86_400:.1f} days")
    if (fault := lists_fault(state, now_s)) is not None:
        warnings.append(fault)
    return warnings


def lists_fault(state: BrokerState | None, now_s: float) -> str | None:
    """Why a device that was revoked may still get in, or one that was signed in again may not; None if all is well."""
    if state is None:
        return None  # nobody has been revoked by anyone
    if state.untold is not None:
        return f"the broker could not be told to read its files again ({state.untold})"
    if state.unseen is not None and now_s - state.changed_at >= UNSEEN_AFTER_S:
        since = format_time(int(state.changed_at) * 10**9)
        return (
            f"THE BROKER is not known to go by its lists of {since}: {state.unseen}; have it read its files again,"
            " as `systemctl reload mosquitto` does"
        )
    return None


def _is_old(probe: Probe, now: datetime) -> bool:
    """A day has gone, and a fresh list is made anyway; or the clock was set back."""
    return not probe.made_at <= now < probe.made_at + CRL_EVERY


def _is_due(asked_at: datetime | None, now: datetime) -> bool:
    return asked_at is None or not 0 <= (now - asked_at).total_seconds() < ASK_EVERY_S
