"""The aggregator at work: three threads around one log writer.

    network    paho's: puts messages into the intake, and waits while that is full
    ingest     takes a group, one message of each device in turn, and lets `Ingest` commit, answer, acknowledge it
    publisher  every interval: takes in key events, and lets `Publisher` publish what is committed and send receipts

Without a quorum of witnesses nothing is published and no receipt goes out; batches go on being committed and answered
with `stored`.

Killed anywhere, nothing accepted is lost: what was committed is found by `LogWriter`, what was not was not
acknowledged, and the devices hold both until their receipts.
"""

import logging
import threading
import time
from collections.abc import Callable

from aggregator.config import AggregatorConfig
from aggregator.enrolment import Keys
from aggregator.erased_notices import ErasedNotices
from aggregator.erasures import Erasures
from aggregator.faults import FLOOD, Faults
from aggregator.floods import SHUT_OUT_S, Floods
from aggregator.ingest import Ingest
from aggregator.intake import SHARE_MESSAGES, Intake, Verdict
from aggregator.meter import Meter
from aggregator.mqtt import BrokerConnection, Message
from aggregator.outgoing import Outgoing
from aggregator.publisher import Publisher
from aggregator.registry import Registry
from aggregator.seldom import Seldom
from aggregator.status import write_status
from ledger.batch import Header
from ledger.envelope import split_head
from ledger.errors import MalformedError
from ledger.messages import Reason, Reject
from ledger.writer.create import POLICY, load_policy
from ledger.writer.local import LocalStorage
from ledger.writer.log import LogWriter
from ledger.writer.witnesses import Witnesses
from vitalseal.errors import UserError
from vitalseal.systemd import Heart

logger = logging.getLogger(__name__)

MANY_WAITING = 64  # entries that are not published yet, from which on the busy interval counts
TAKE_TIMEOUT_S = 0.2  # how soon an idle thread sees that it is to stop
TELL_OVER_EVERY_S, TOLD_DEVICES = 1.0, 10_000  # how often each device is told that its share is full
OVER_SHARE = f"{SHARE_MESSAGES} messages of this device, or as many bytes, wait already; send it again, slower"
BEAT_EVERY_S = 5.0  # how often the publisher says, for a watchdog, that it waits on purpose


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
        self._keys = Keys(config.data, writer, storage, registry)
        # From admission to commit no key may end: held by whoever appends batches or key events.
        self._order = threading.Lock()
        self._intake = Intake(lambda device: bool(self._keys.of(device)))
        self._seldom = Seldom(TELL_OVER_EVERY_S, TOLD_DEVICES)
        self._broker = BrokerConnection(config.broker, self._receive)
        self._floods, self._faults = Floods(config.data), Faults()
        outgoing, meter, faults = Outgoing(), Meter(), self._faults
        erased = ErasedNotices(registry, storage, self._keys, outgoing, meter, self._broker)
        self._ingest = Ingest(storage, writer, self._keys, outgoing, meter, faults, self._broker, erased.heard)
        self._publisher = Publisher(
            storage,
            writer,
            self._keys,
            registry,
            policy=load_policy(config.receipt_policy or config.data / POLICY),
            erasures=Erasures(config, registry, storage, writer),
            erased=erased,
            outgoing=outgoing,
            meter=meter,
            faults=faults,
            broker=self._broker,
            witnesses=witnesses,
            silent_after_s=config.silent_after_s,
        )
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._heart = Heart("ingest", "publisher")

    def run(self) -> None:
        """Serves until `stop`; raises what ended a thread (StorageError if the disk or the database refused)."""
        threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (self._take_in, self._publish)]
        with self._broker:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if self._failure:
                raise self._failure
            # The intake is empty by now, so this covers everything that was taken, and what is good of every key.
            self._keys.renew(now=True)
            while self._publish_once():
                pass

    def stop(self) -> None:
        """Lets `run` finish what was taken from the broker, publish it, and return."""
        self._stopping.set()

    def reconfigure(self, config: AggregatorConfig) -> None:
        """What `LIVE` names is as `config` says from the next turn on; raises StorageError, then nothing changed."""
        self._publisher.policy = load_policy(config.receipt_policy or config.data / POLICY)
        self._publisher.silent_after_s = config.silent_after_s
        self._config = config
        if self._witnesses:
            self._witnesses.timeout_s = config.witness_timeout_s

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to `run`, which raises it in the main thread
            self._failure = self._failure or error
        finally:
            self._stopping.set()

    def _receive(self, message: Message) -> None:
        """Network thread: waits while the intake is full. What is not taken any more stays with the broker."""
        if self._is_flood(message.device, len(message.payload)):
            self._intake.refused(message.device)
            self._refuse(message, "this device sends far too much and is shut out for some minutes; nothing is lost")
            return
        while not self._stopping.is_set():
            match self._intake.put(message, TAKE_TIMEOUT_S):
                case Verdict.TAKEN:
                    return
                case Verdict.OVER_QUOTA:
                    self._refuse(message, OVER_SHARE)
                    return

    def _is_flood(self, device: str, size: int) -> bool:
        """Whether `device`, one of ours, is shut out because it floods, as it may be from this message on."""
        if self._floods.is_shut_out(device):
            return True
        try:
            # Names without a key take up no memory here; they share a small place in the intake.
            if not self._keys.of(device) or not self._floods.found(device, size):
                return False
        except (UserError, OSError) as error:
            logger.error("the broker cannot be told to shut %s out: %s", device, error)  # noqa: TRY400 - says it all
        self._faults.add(device, FLOOD)
        logger.critical("%s FLOODS and is shut out for %.0f s; what it sends is thrown away", device, SHUT_OUT_S)
        return True

    def _refuse(self, message: Message, detail: str) -> None:
        """The message is forgotten; its device, if it is one of ours, is told so now and then."""
        message.acknowledge()
        if message.kind != "batch" or not self._keys.of(message.device) or not self._seldom.may(message.device):
            return
        try:
            header: Header | None = Header.decode(split_head(message.payload)[0])
        except MalformedError:
            header = None
        epoch, seq = (header.epoch, header.seq) if header else (None, None)
        self._broker.send(message.device, Reject(epoch, seq, Reason.OVER_QUOTA, detail).encode())

    def _take_in(self) -> None:
        # After a failure nothing more is taken on: what waits is not acknowledged, so it comes again.
        while not (self._stopping.is_set() and (self._failure or not self._intake)):
            group = self._intake.take(TAKE_TIMEOUT_S)
            with self._order:
                self._ingest.take(group)
            self._heart.beat("ingest")

    def _publish(self) -> None:
        last_s = 0.0
        while not self._pause(self._config.interval_s):
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

    def _pause(self, seconds: float) -> bool:
        """The publisher has waited for so long, or until `stop`; whether that was called."""
        until_s = time.monotonic() + seconds
        while not self._stopping.wait(max(0.0, min(until_s - time.monotonic(), BEAT_EVERY_S))):
            self._heart.beat("publisher")
            if time.monotonic() >= until_s:
                return False
        return True

    def _publish_once(self) -> bool:
        """What is committed is published, if a quorum can be had, and told of; whether anything was new."""
        published = self._publisher.publish()
        self._tell()
        return published

    def _tell(self) -> None:
        """Devices, the registry and `status.json` know how things are."""
        self._publisher.tell()
        self._publisher.note()
        write_status(self._config.data, self._publisher.status(self._intake, self._ingest))
