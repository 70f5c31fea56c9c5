"""What becomes of a group of messages: admitted, committed in one transaction, answered, acknowledged, in this order.

Killed before the commit, none of them was acknowledged, and they come again. Killed after it, the log has them, and
they are answered when they come again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from aggregator.admission import Admission
from aggregator.decisions import Admitted, Decision, Parked, Rejected, Repeated, Returned
from aggregator.enrolment import Keys
from aggregator.faults import REJECTS, Clocks, Faults
from aggregator.meter import Meter
from aggregator.mqtt import BrokerConnection, Message
from aggregator.outgoing import Outgoing, Owed, since
from aggregator.seldom import Seldom
from ledger.entry import EQUIVOCATION, Equivocation, parse_entry
from ledger.errors import LedgerError
from ledger.messages import Reason, Reject, Stored, parse_status
from ledger.writer.log import LogWriter
from ledger.writer.storage import Place, Storage, Submission

logger = logging.getLogger(__name__)

TELL_EVERY_S = 60.0  # a device that is rejected for one reason is named in the log this often
TOLD_NAMES = 10_000  # devices and reasons of which is remembered when they were named last

Answer: TypeAlias = Stored | Reject
Decided: TypeAlias = tuple[str, Decision]  # by which device


class Ingest:
    """Takes groups in; used from one thread, and by nobody else while a key event is being appended."""

    def __init__(
        self,
        storage: Storage,
        writer: LogWriter,
        keys: Keys,
        outgoing: Outgoing,
        meter: Meter,
        faults: Faults,
        broker: BrokerConnection,
        on_online: Callable[[str], None],
    ) -> None:
        """`on_online` is told of every device that says that it is there."""
        self._storage = storage
        self._writer = writer
        self._keys = keys
        self._outgoing = outgoing
        self._meter = meter
        self._faults = faults
        self._broker = broker
        self._on_online = on_online
        self.admission = Admission(writer.origin, storage, keys.find, keys.record)
        self._clocks = Clocks(storage)
        # Keys whose clone is on the log: one piece of evidence convicts a key, and a clone must not fill the log.
        self._convicted = {entry.header.key_id for entry in _evidence(storage)}
        self._seldom = Seldom(TELL_EVERY_S, TOLD_NAMES)

    def take(self, group: list[Message]) -> None:
        """Everything in `group` is durable or refused, then answered and acknowledged."""
        decided: list[Decided] = []
        for message in group:
            if message.kind == "batch":
                decided.append((message.device, self.admission.admit(message.device, message.payload)))
                decided += self.admission.followers()
            else:
                self._hear(message)
        decided += self.admission.late()
        for device, answer in self._commit(decided):
            self._broker.send(device, answer.encode())
        for message in group:
            message.acknowledge()

    def _commit(self, decided: list[Decided]) -> list[tuple[str, Answer]]:
        """What is new is on the log, in the order of the decisions, before the evidence; the answers, in that order."""
        admitted = [(device, item) for device, item in decided if isinstance(item, Admitted)]
        evidence = [
            Submission(item.evidence.encode())
            for device, item in decided
            if isinstance(item, Rejected) and item.evidence and self._convicts(device, item, item.evidence)
        ]
        index = -1
        if submissions := [*(item.submission for _, item in admitted), *evidence]:
            index = self._writer.append(submissions)
            self.admission.committed()
        answers: list[tuple[str, Answer]] = []
        for device, decision in decided:
            answer: Answer | None
            if isinstance(decision, Admitted):
                answer = self._stored(device, decision, index)
                index += 1
            else:
                answer = self._answer(device, decision)
            if answer:
                answers.append((device, answer))
        return answers

    def _convicts(self, device: str, decision: Rejected, evidence: Equivocation) -> bool:
        """Whether this is the first time that the key is seen to have signed two headers for one place."""
        if evidence.header.key_id in self._convicted:
            return False
        self._convicted.add(evidence.header.key_id)
        logger.critical(
            "%s signed two headers for epoch %d seq %d: its key was cloned, or its outbox restored from an old copy;"
            " the evidence goes on the log",
            device,
            decision.epoch,
            decision.seq,
        )
        return True

    def _stored(self, device: str, batch: Admitted, index: int) -> Stored:
        header = batch.header
        self._outgoing.owe(device, Owed(Place(header.key_id, header.epoch, header.seq), index))
        self._meter.committed(index, header.count, batch.info.sealed_at_ns)
        if fault := self._clocks.fault(batch.info, time.time_ns()):
            self._faults.add(device, fault)
        return Stored(header.epoch, header.seq, index)

    def _answer(self, device: str, decision: Repeated | Returned | Parked | Rejected) -> Answer | None:
        """What the device is told; nothing where it is the first copy of its batch that will be answered."""
        if isinstance(decision, Rejected):
            self._tell_of(device, decision)
            return Reject(decision.epoch, decision.seq, decision.reason, decision.detail)
        if isinstance(decision, Parked) or decision.index is None:
            return None
        if isinstance(decision, Returned) and self._storage.put_payload(decision.index, decision.payload):
            self._meter.returned()
        self._outgoing.owe(device, Owed(decision.place, decision.index))
        return Stored(decision.place.epoch, decision.place.seq, decision.index)

    def _tell_of(self, device: str, decision: Rejected) -> None:
        if decision.reason is Reason.UNKNOWN_KEY:
            self._meter.strange(device)
        known = device if self._keys.of(device) else "an unknown device"
        if known == device and (fault := REJECTS.get(decision.reason)):
            self._faults.add(device, fault)
        if not self._seldom.may((known, decision.reason)):
            return
        logger.warning("batch of %s rejected: %s: %s", known, decision.reason.name.lower(), decision.detail)
        if decision.reason is Reason.WRONG_ANCHOR:
            logger.critical(
                "%s has verified a checkpoint that this log does not know: if that is so for others too, this "
                "log was restored from an old copy and is forking; stop it",
                known,
            )

    def _hear(self, message: Message) -> None:
        """Takes in a device's own status: whether it is there, and from which checkpoint on it wants consistency."""
        if not message.payload:
            return  # an empty retained message clears the topic
        if not self._keys.of(message.device):
            return  # anyone may publish under a name; only devices with an enrolled key take up memory here
        try:
            status = parse_status(message.payload)
        except LedgerError as error:
            if self._seldom.may((message.device, "status")):
                logger.warning("status of %s is not one: %s", message.device, error)
            return
        self._meter.heard(message.device, online=status.online)
        if status.online and self._outgoing.heard(message.device, status.size):
            self._owe_since(message.device, status.size)
        if status.online:
            self._on_online(message.device)

    def _owe_since(self, device: str, size: int) -> None:
        """No checkpoint that `device` has verified covers its batches from index `size` on: all of them are owed."""
        for key_id in self._keys.of(device):
            head = self._storage.head_place(key_id)
            if head and (found := since(size, head, self._storage.find)):
                self._outgoing.owe_since(device, *found)


def _evidence(storage: Storage) -> Iterator[Equivocation]:
    """The equivocations that the log shows already."""
    for _, data in storage.of_type(EQUIVOCATION):
        if isinstance(entry := parse_entry(data), Equivocation):
            yield entry
