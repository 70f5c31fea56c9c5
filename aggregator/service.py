"""The aggregator at work: three threads around one log writer.

    network    paho's: puts messages into a bounded queue and waits while it is full
    ingest     takes a group, admits each, commits the group durably, answers `stored`, acknowledges
    publisher  every interval: takes in enrolments and assignments, publishes what is committed, sends receipts

Killed anywhere, nothing accepted is lost: what was committed is found by `LogWriter`, what was not was not
acknowledged, and the devices hold both until their receipts.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable

from aggregator.admission import Admission, Admitted, Rejected, Repeated
from aggregator.config import AggregatorConfig
from aggregator.enrolment import Keys
from aggregator.meter import Meter
from aggregator.mqtt import BrokerConnection, Message
from aggregator.outgoing import RECENT, Outgoing, Owed
from aggregator.registry import Registry
from aggregator.status import write_status
from ledger.errors import LedgerError
from ledger.receipt import Reason, Reject, Stored, parse_status
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.storage import Submission

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 1024  # messages between network and ingest; `mqtt` cuts each at 256 KB, so at most 256 MB
GROUP_LIMIT = 256  # batches in one commit: an fsync for each would be the bottleneck
TAKE_TIMEOUT_S = 0.2  # how soon an idle thread sees that it is to stop


class Service:
    """One running aggregator; it owns `registry`, and is the only user of `writer` and `storage` while it runs."""

    def __init__(self, config: AggregatorConfig, storage: LocalStorage, writer: LogWriter, registry: Registry) -> None:
        self._config = config
        self._storage = storage
        self._writer = writer
        self._registry = registry
        self._keys = Keys(config.data, writer, storage, registry)
        self._admission = Admission(writer.origin, storage, self._keys.find)
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
            # The queue is empty by now, so this covers everything that was taken.
            self._publish_once()

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
        for message in group:
            if message.kind == "batch":
                decision = self._admission.admit(message.device, message.payload)
                if isinstance(decision, Admitted):
                    admitted.append((message.device, decision))
                elif answer := self._answer(message.device, decision):
                    answers.append((message.device, answer))
            else:
                self._hear(message)
        if admitted:
            first = self._writer.append([item.submission for _, item in admitted])
            self._admission.committed()
            answers += self._stored(first, admitted)
        for device, answer in answers:
            self._broker.send(device, answer.encode())
        for message in group:
            message.acknowledge()

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
        while not self._stopping.wait(self._config.interval_s):
            self._publish_once()

    def _publish_once(self) -> None:
        self._keys.scan()
        for number, commitment in self._registry.uncommitted():
            # Killed between these two, the change is committed twice: two equal statements, both true.
            self._registry.mark_committed(number, self._writer.append([Submission(commitment.encode())]))
        published = self._writer.publish()
        tree, note = self._writer.reader(), self._writer.note
        with self._lock:
            receipts = self._outgoing.due(tree, note)
            if published:
                self._meter.published(tree.size, time.time_ns())
            status = self._meter.status(
                origin=self._writer.origin,
                connected=self._broker.connected.is_set(),
                log_size=self._writer.size,
                checkpoint=self._writer.checkpoint,
                enrolled=len(self._keys),
                queue=self._queue.qsize(),
                without_receipt=self._outgoing.waiting(),
                decisions=dict(self._admission.counts),
                now_ns=time.time_ns(),
            )
        for device, receipt in receipts:
            self._broker.send(device, receipt.encode())
        write_status(self._config.data, status)
