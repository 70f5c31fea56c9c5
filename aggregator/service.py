"""The aggregator at work: three threads around one log writer.

    network    paho's: puts messages into a bounded queue and waits while it is full
    ingest     takes a group, admits each, commits the group durably, answers `stored`, acknowledges
    publisher  every interval: takes in key events and assignments, publishes what is committed, sends receipts

Without a quorum of witnesses nothing is published and no receipt goes out; batches go on being committed and answered
with `stored`.

Killed anywhere, nothing accepted is lost: what was committed is found by `LogWriter`, what was not was not
acknowledged, and the devices hold both until their receipts.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from aggregator.admission import Admission, Admitted, Rejected, Repeated
from aggregator.config import AggregatorConfig
from aggregator.enrolment import Keys
from aggregator.meter import Meter
from aggregator.mqtt import BrokerConnection, Message
from aggregator.outgoing import RECENT, Outgoing, Owed
from aggregator.registry import Registry, commit_assignments
from aggregator.status import write_status
from ledger.entry import EQUIVOCATION, Equivocation, parse_entry
from ledger.errors import LedgerError
from ledger.note import parse_note
from ledger.receipt import Reason, Receipt, Reject, Stored, parse_status
from ledger.tiles import TileReader
from ledger.writer.create import POLICY, load_policy
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Submission
from ledger.writer.witnesses import Witnesses

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 1024  # messages between network and ingest; `mqtt` cuts each at 256 KB, so at most 256 MB
GROUP_LIMIT = 256  # batches in one commit: an fsync for each would be the bottleneck
MANY_WAITING = 64  # entries that are not published yet, from which on the busy interval counts
TAKE_TIMEOUT_S = 0.2  # how soon an idle thread sees that it is to stop


class Service:
    """One running aggregator; it owns `registry`, and is the only user of `writer` and `storage` while it runs."""

    def __init__(
        self,
        config: AggregatorConfig,
        storage: LocalStorage,
        writer: LogWriter,
        registry: Registry,
        witnesses: Witnesses | None = None,
    ) -> None:
        self._config = config
        self._storage = storage
        self._writer = writer
        self._registry = registry
        self._witnesses = witnesses
        self._quorum_is_there = True
        self._mended = False  # the public tree, since it was last found whole
        self._policy = load_policy(config.receipt_policy or config.data / POLICY)
        self._keys = Keys(config.data, writer, storage, registry)
        self._admission = Admission(writer.origin, storage, self._keys.find, self._keys.record)
        # From admission to commit no key may end: held by whoever appends batches or key events.
        self._order = threading.Lock()
        # Keys whose clone is on the log: one piece of evidence convicts a key, and a clone must not fill the log.
        self._convicted = {entry.header.key_id for entry in _evidence(storage)}
        self._queue: queue.Queue[Message] = queue.Queue(QUEUE_LIMIT)
        self._lock = threading.Lock()  # guards the three below
        self._outgoing = Outgoing()
        self._meter = Meter()
        self._heard: set[str] = set()  # devices whose status has come since the start
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._broker = BrokerConnection(config.broker, self._receive)

    def run(self) -> None:
        """Serves until `stop`; raises what ended a thread (StorageError if the disk or the database refused)."""
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._ingest, self._publish)]
        with self._broker:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self._failure:
                raise self._failure
            # The queue is empty by now, so this covers everything that was taken, and what is good of every key.
            self._keys.renew(now=True)
            while self._publish_once():
                pass

    def stop(self) -> None:
        """Lets `run` finish what was taken from the broker, publish it, and return."""
        self._stopping.set()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to `run`, which raises it in the main thread
            self._failure = self._failure or error
        finally:
            self._stopping.set()

    def _receive(self, message: Message) -> None:
        """Network thread: waits while the queue is full. What is not taken any more stays with the broker."""
        while not self._stopping.is_set():
            try:
                self._queue.put(message, timeout=TAKE_TIMEOUT_S)
            except queue.Full:
                continue
            return

    def _ingest(self) -> None:
        # After a failure nothing more is taken on: what is queued is not acknowledged, so it comes again.
        while not (self._stopping.is_set() and (self._failure or self._queue.empty())):
            if group := self._take_group():
                self._process(group)

    def _take_group(self) -> list[Message]:
        """What is queued, at most `GROUP_LIMIT`; waits a moment for the first."""
        group: list[Message] = []
        try:
            group.append(self._queue.get(timeout=TAKE_TIMEOUT_S))
            while len(group) < GROUP_LIMIT:
                group.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return group

    def _process(self, group: list[Message]) -> None:
        """Admits `group`, commits what is new in one transaction, then answers and acknowledges all of it."""
        admitted: list[tuple[str, Admitted]] = []
        answers: list[tuple[str, Stored | Reject]] = []
        evidence: list[Submission] = []
        with self._order:
            for message in group:
                if message.kind == "batch":
                    decision = self._admission.admit(message.device, message.payload)
                    if isinstance(decision, Admitted):
                        admitted.append((message.device, decision))
                        continue
                    if isinstance(decision, Rejected):
                        evidence += self._convict(message.device, decision)
                    if answer := self._answer(message.device, decision):
                        answers.append((message.device, answer))
                else:
                    self._hear(message)
            if submissions := [item.submission for _, item in admitted] + evidence:
                first = self._writer.append(submissions)
                self._admission.committed()
                answers += self._stored(first, admitted)
        for device, answer in answers:
            self._broker.send(device, answer.encode())
        for message in group:
            message.acknowledge()

    def _convict(self, device: str, decision: Rejected) -> list[Submission]:
        """The evidence for the log, the first time that a key signed two headers for one place."""
        if decision.evidence is None or (key := decision.evidence.header.key_id) in self._convicted:
            return []
        self._convicted.add(key)
        logger.critical(
            "%s signed two headers for epoch %d seq %d: its key was cloned, or its outbox restored from an old copy;"
            " the evidence goes on the log",
            device,
            decision.epoch,
            decision.seq,
        )
        return [Submission(decision.evidence.encode())]

    def _answer(self, device: str, decision: Repeated | Rejected) -> Stored | Reject | None:
        """What the device is told at once; nothing where another message of the same group will tell it."""
        if isinstance(decision, Rejected):
            known = device if self._keys.of(device) else "an unknown device"
            if self._meter.may_tell(known, decision.reason, time.monotonic()):
                logger.warning("batch of %s rejected: %s: %s", known, decision.reason.name.lower(), decision.detail)
                if decision.reason is Reason.WRONG_ANCHOR:
                    logger.critical(
                        "%s has verified a checkpoint that this log does not know: if that is so for others too, this "
                        "log was restored from an old copy and is forking; stop it",
                        known,
                    )
            return Reject(decision.epoch, decision.seq, decision.reason, decision.detail)
        if decision.index is None:
            return None
        with self._lock:
            self._outgoing.owe(device, Owed(decision.epoch, decision.seq, decision.index))
        return Stored(decision.epoch, decision.seq, decision.index)

    def _stored(self, first: int, admitted: list[tuple[str, Admitted]]) -> list[tuple[str, Stored | Reject]]:
        answers: list[tuple[str, Stored | Reject]] = []
        with self._lock:
            for index, (device, item) in enumerate(admitted, first):
                header = item.header
                answers.append((device, Stored(header.epoch, header.seq, index)))
                self._outgoing.owe(device, Owed(header.epoch, header.seq, index))
                self._meter.committed(index, header.count, item.sealed_at_ns)
        return answers

    def _hear(self, message: Message) -> None:
        """Takes in a device's own status: whether it is there, and from which checkpoint on it wants consistency."""
        if not message.payload:
            return  # an empty retained message clears the topic
        if not self._keys.of(message.device):
            return  # anyone may publish under a name; only devices with an enrolled key take up memory here
        try:
            status = parse_status(message.payload)
        except LedgerError as error:
            if self._meter.may_tell(message.device, Reason.MALFORMED, time.monotonic()):
                logger.warning("status of %s is not one: %s", message.device, error)
            return
        with self._lock:
            self._meter.heard(message.device, online=status.online)
            if status.online:
                if message.device not in self._heard:
                    self._owe_since(message.device, status.size)
                self._outgoing.heard(message.device, status.size)

    def _owe_since(self, device: str, size: int) -> None:
        """After a start: no checkpoint that `device` has verified covers its batches from `size` on: all are owed."""
        self._heard.add(device)
        for key_id in self._keys.of(device):
            for index, epoch, seq in self._storage.batches_since(key_id, size, RECENT):
                self._outgoing.owe(device, Owed(epoch, seq, index))

    def _publish(self) -> None:
        last_s = 0.0
        while not self._stopping.wait(self._config.interval_s):
            with self._order:
                self._keys.scan()
                self._keys.renew()
            now_s = time.monotonic()
            # A checkpoint is kept for ever, so few batches wait a little for more of them.
            many = self._writer.size - self._writer.checkpoint.size >= MANY_WAITING
            if many or now_s - last_s >= self._config.quiet_interval_s:
                last_s = now_s
                self._publish_once()
            else:
                self._tell()

    def _publish_once(self) -> bool:
        """What is committed is published, if a quorum can be had, and receipts are sent; whether anything was new."""
        commit_assignments(self._registry, self._writer)
        published = self._writer.publish()
        self._tell_of_quorum()
        if published:
            with self._lock:
                self._meter.published(self._writer.checkpoint.size, time.time_ns())
        self._tell()
        return published

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

    def _due(self, tree: TileReader, note: bytes) -> list[tuple[str, Receipt]]:
        """The receipts that can go out; a public tree that does not prove them is made again from the database."""
        try:
            receipts = self._outgoing.due(tree, note)
        except LedgerError as error:
            if self._mended:
                raise
            logger.critical("the public tree is damaged: %s; it is made again from the database", error)
            self._mended = True
            self._writer.mend()
            return []
        self._mended = False
        return receipts

    def _trimmed(self, note: bytes) -> bytes:
        """The checkpoint with the lines that devices ask for: a post-quantum one is fifty times a classical one."""
        return self._policy.trim(parse_note(note, "checkpoint")).encode() if note else note

    def _tell(self) -> None:
        """Devices get the receipts that the published tree has for them, and `status.json` says how things are."""
        tree, note = self._writer.reader(), self._trimmed(self._writer.note)
        with self._lock:
            receipts = self._due(tree, note)
            status = self._meter.status(
                origin=self._writer.origin,
                connected=self._broker.connected.is_set(),
                log_size=self._writer.size,
                checkpoint=self._writer.checkpoint,
                waiting_for_quorum=self._writer.waiting,
                witnesses=self._witnesses.states() if self._witnesses else [],
                enrolled=len(self._keys),
                queue=self._queue.qsize(),
                without_receipt=self._outgoing.waiting(),
                decisions=dict(self._admission.counts),
                now_ns=time.time_ns(),
            )
        for device, receipt in receipts:
            self._broker.send(device, receipt.encode())
        write_status(self._config.data, status)


def _evidence(storage: LocalStorage) -> Iterator[Equivocation]:
    """The equivocations that the log shows already."""
    for _, data in storage.of_type(EQUIVOCATION):
        if isinstance(entry := parse_entry(data), Equivocation):
            yield entry
