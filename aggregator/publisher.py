"""What happens once an interval: publishing, receipts, the registry's view of the log, a look for `status.json`.

Used from one thread; what it shares with the ingest thread has its own locks, and none is held while proofs are made.
"""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from aggregator.enrolment import Keys
from aggregator.erased_notices import ErasedNotices
from aggregator.erasures import Erasures
from aggregator.faults import Faults
from aggregator.ingest import Ingest
from aggregator.intake import Intake
from aggregator.meter import Known, Meter, Waiting
from aggregator.mqtt import BrokerConnection
from aggregator.notices import Activity, Notices, activity
from aggregator.outgoing import Outgoing
from aggregator.registry import Registry, commit_assignments
from aggregator.status import Status
from ledger.errors import LedgerError
from ledger.keystate import KeyRecord
from ledger.messages import Receipt, Wanted
from ledger.note import parse_note
from ledger.policy import Policy
from ledger.writer.log import LogWriter
from ledger.writer.storage import Storage
from ledger.writer.witnesses import Witnesses
from vitalseal.errors import UserError

logger = logging.getLogger(__name__)

ASK_EVERY_S = 60.0  # for payloads that were lost: a device is to send them at an easy pace
ASK_FOR = 32  # of one device at a time; with large batches, 8 MB
REGISTRY_AGAIN_S = 30.0  # a registry that was locked for longer than SQLite waits is left alone for so long
PORTIONS = 4  # of receipts at a time; then the next checkpoint is due
KNOW_EVERY_S = 5.0  # how old what `status` says of gaps and silent devices may be

_Made = TypeVar("_Made")


class Publisher:
    """Publishes a log and tells its devices; `policy` is the one that devices have.

    A registry that cannot be had now (somebody else has locked it, say) holds up what is to be written there, and
    nothing else.
    """

    def __init__(
        self,
        storage: Storage,
        writer: LogWriter,
        keys: Keys,
        registry: Registry,
        *,
        policy: Policy,
        erasures: Erasures,
        erased: ErasedNotices,
        outgoing: Outgoing,
        meter: Meter,
        faults: Faults,
        broker: BrokerConnection,
        witnesses: Witnesses | None,
        silent_after_s: float,
    ) -> None:
        self.policy = policy
        self.silent_after_s = silent_after_s
        self._storage = storage
        self._writer = writer
        self._keys = keys
        self._registry = registry
        self._outgoing = outgoing
        self._meter = meter
        self._faults = faults
        self._broker = broker
        self._witnesses = witnesses
        self._notices = Notices(registry, storage)
        self._erasures = erasures
        self._erased = erased
        self._quorum_is_there = True
        self._mended: set[str] = set()  # for what the public tree was made again since it last proved that
        self._known = Known()
        self._known_s = self._asked_s = float("-inf")
        self._registry_away_until_s: float | None = None  # None while it is there

    def publish(self) -> bool:
        """What is committed is published, if a quorum can be had; whether anything was new."""
        self._in_registry(lambda: commit_assignments(self._registry, self._writer))
        self._in_registry(self._erasures.work)
        published = self._writer.publish()
        self._tell_of_quorum()
        if published:
            self._meter.published(self._writer.checkpoint.size, time.time_ns())
        return published

    def tell(self) -> None:
        """Devices get the receipts that the published tree has for them, and are asked for what was lost."""
        tree, note = self._writer.reader(), self._trimmed(self._writer.note)
        for _ in range(PORTIONS):
            # What would be dropped is not built: it stays owed, and nobody has to ask for it again.
            receipts: list[tuple[str, Receipt]] = []
            if self._broker.has_room():
                receipts = self._proven("receipts", partial(self._outgoing.due, tree, note), receipts)
            for device, receipt in receipts:
                self._broker.send(device, receipt.encode())
            self._outgoing.refill(self._storage.following, tree.size)
            if not receipts:
                break
        self._in_registry(lambda: self._proven("erasures", partial(self._erased.tell, tree, note), None))
        self._ask()

    def note(self) -> None:
        """The registry knows what was committed and counted since the last time, or a portion of it."""
        self._in_registry(self._note)

    def _note(self) -> None:
        now_s = time.monotonic()
        more = self._notices.walk(self._keys.name)
        self._notices.add_faults(self._faults.drain(), time.time_ns())
        if not more and now_s - self._known_s >= KNOW_EVERY_S:
            self._known_s = now_s
            totals = self._notices.totals()
            self._known = Known(
                totals.gaps,
                totals.second_headers,
                totals.new_epochs,
                totals.clock_faults,
                self._overdue(time.time_ns()),
                self._storage.missing_payload_count(),
            )

    def _in_registry(self, work: Callable[[], None]) -> None:
        """`work` is done, or left for later; both losing the registry and having it again are one line in the log."""
        now_s = time.monotonic()
        if self._registry_away_until_s is not None and now_s < self._registry_away_until_s:
            return
        try:
            work()
        except UserError as error:
            if self._registry_away_until_s is None:
                logger.error("%s; assignments, erasures and notices wait, the log does not", error)  # noqa: TRY400 - in one line
            self._registry_away_until_s = time.monotonic() + REGISTRY_AGAIN_S
        else:
            if self._registry_away_until_s is not None:
                logger.info("the registry is there again")
            self._registry_away_until_s = None

    def _overdue(self, now_ns: int) -> int:
        chains = activity(self._registry)
        return sum(
            is_overdue([(self._keys.record(key), chains.get(key)) for key in held], self.silent_after_s, now_ns)
            for held in self._keys.devices().values()
        )

    def status(self, intake: Intake, ingest: Ingest) -> Status:
        """How things are now."""
        parking = ingest.admission.parking
        return self._meter.status(
            origin=self._writer.origin,
            connected=self._broker.connected.is_set(),
            log_size=self._writer.size,
            checkpoint=self._writer.checkpoint,
            waiting_for_quorum=self._writer.waiting,
            witnesses=self._witnesses.states() if self._witnesses else [],
            enrolled=len(self._keys.devices()),
            waiting=Waiting(
                len(intake),
                intake.size,
                len(parking),
                parking.size,
                self._broker.outgoing(),
                self._outgoing.waiting(),
            ),
            known=self._known,
            dropped_answers=self._broker.dropped,
            broker_fault=None if self._broker.connected.is_set() else self._broker.fault,
            broker_contested=self._broker.is_contested(),
            decisions={**ingest.admission.counts, **intake.over_quota()},
            now_ns=time.time_ns(),
        )

    def _tell_of_quorum(self) -> None:
        """Losing the quorum and having it again are one line each in the log."""
        waiting = self._writer.waiting
        if (waiting is None) == self._quorum_is_there:
            return
        self._quorum_is_there = waiting is None
        if waiting is None:
            logger.info("a quorum of witnesses answers again, and everything is published")
        else:
            logger.error(
                "NO QUORUM of witnesses: the checkpoint of size %d waits, nothing is published, receipts are withheld,"
                " and batches go on being stored",
                waiting,
            )

    def _proven(self, what: str, make: Callable[[], _Made], nothing: _Made) -> _Made:
        """What `make` makes for devices; or nothing, where the public tree does not prove it: it is made again then.

        Once for each `what`: that one thing is proven again says nothing of another.
        """
        try:
            made = make()
        except LedgerError as error:
            if what in self._mended:
                raise
            logger.critical("the public tree is damaged: %s; it is made again from the database", error)
            self._mended.add(what)
            self._writer.mend()
            return nothing
        self._mended.discard(what)
        return made

    def _trimmed(self, note: bytes) -> bytes:
        """The checkpoint with the lines that devices ask for: a post-quantum one is fifty times a classical one."""
        return self.policy.trim(parse_note(note, "checkpoint")).encode() if note else note

    def _ask(self) -> None:
        """While payloads are missing, each device that is there is asked for some of its own now and then."""
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_EVERY_S or not self._storage.missing_payload_count():
            return
        self._asked_s = now_s
        for device in self._meter.online():
            # A message names no key: it is the device's newest chain that has lost something, one at a time.
            for key_id in reversed(self._keys.of(device)):
                if places := self._storage.missing_payloads(key_id, ASK_FOR):
                    self._broker.send(device, Wanted(tuple((at.epoch, at.seq) for at in places)).encode())
                    break


def is_overdue(keys: Iterable[tuple[KeyRecord, Activity | None]], silent_after_s: float, now_ns: int) -> bool:
    """Whether a device with these keys, one of them good, was heard once and is silent for too long by now.

    Only what is on the log counts, which heartbeats are too; not what its connection says.
    """
    known = list(keys)
    last_ns = max((chain.heard_ns for _, chain in known if chain), default=None)
    good = any(record.until is None for record, _ in known)
    return good and last_ns is not None and now_ns - last_ns > silent_after_s * 1e9
