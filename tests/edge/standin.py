"""A stand-in for the aggregator: one log in memory, signed for real, and knobs to make it misbehave."""

import asyncio
import contextlib

import aiomqtt

from ledger import batch, checkpoint, merkle
from ledger.entry import BatchEntry
from ledger.envelope import parse_envelope
from ledger.messages import Placed, Reason, Receipt, Reject, Stored, parse_status
from ledger.note import NoteSigner
from ledger.policy import parse_policy
from vitalseal import topics

ORIGIN = "log.example/edge-tests"
LOG = NoteSigner(ORIGIN, b"log".ljust(32, b"\0"))
POLICY_TEXT = f"log {LOG.verifier}\nquorum none\n"


def policy():
    return parse_policy(POLICY_TEXT.encode())


class MemoryLog:
    """Entries and the checkpoints, proofs and receipts over them."""

    def __init__(self, signer=LOG, origin=ORIGIN):
        self.signer = signer
        self.origin = origin
        self.entries = []
        self.leaves = []

    def append(self, entry):
        self.entries.append(entry)
        self.leaves.append(merkle.hash_leaf(entry))
        return len(self.entries) - 1

    def read(self, level, index):
        return merkle.tree_root(self.leaves[index << level : (index + 1) << level])

    def root(self, size=None):
        return merkle.tree_root(self.leaves[:size])

    def checkpoint(self, size=None):
        size = len(self.leaves) if size is None else size
        return checkpoint.Checkpoint(self.origin, size, self.root(size)).sign(self.signer).encode()

    def receipt(self, places, old_size=0, size=None):
        """`places`: (epoch, seq, index) each."""
        size = len(self.leaves) if size is None else size
        placed = tuple(
            Placed(epoch, seq, index, tuple(merkle.prove_inclusion(index, size, self.read)))
            for epoch, seq, index in places
        )
        consistency = tuple(merkle.prove_consistency(old_size, size, self.read))
        return Receipt(self.checkpoint(size), old_size, consistency, placed)


class StandIn:
    """Takes one device's batches in order, answers as a good aggregator would, unless told otherwise."""

    def __init__(self, broker, signer):
        self.broker = broker
        self.log = MemoryLog()
        self.signer = signer
        self.headers = {}  # (epoch, seq): (header, index)
        self.bodies = {}  # (epoch, seq): reading bodies
        self.envelopes = {}  # (epoch, seq): every envelope received
        self.last = None
        self.statuses = []
        self.known_size = 0
        self.silent = False
        self.stores = True
        self.receipts = True
        self.reject_with = None
        self.lose = set()  # places whose next arrival is not noticed
        self.rejects = []
        self._changed = asyncio.Condition()
        self._ready = asyncio.Event()
        self._task = None

    @property
    def readings(self):
        """Every reading body on the log, in its order."""
        places = sorted(self.headers, key=lambda place: self.headers[place][1])
        return [body for place in places for body in self.bodies[place]]

    async def __aenter__(self):
        self._task = asyncio.create_task(self._run())
        async with asyncio.timeout(10):
            await self._ready.wait()
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def until(self, condition, timeout_s=20):
        """`condition()` holds; it is asked after every message."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(condition)

    async def _run(self):
        while True:
            try:
                # A publish into a broker that was killed waits for its time-out: a short one.
                async with aiomqtt.Client(self.broker.host, self.broker.port, timeout=1) as client:
                    await client.subscribe(topics.BATCHES, qos=1)
                    await client.subscribe(topics.STATUSES, qos=1)
                    self._ready.set()
                    async for message in client.messages:
                        await self._take(client, message)
            except aiomqtt.MqttError:
                await asyncio.sleep(0.05)

    async def _take(self, client, message):
        device = topics.device_of(str(message.topic))
        answers = []
        if str(message.topic).endswith("/status"):
            status = parse_status(message.payload)
            self.statuses.append(status)
            self.known_size = status.size
        else:
            answers = self._answers(message.payload)
        async with self._changed:
            self._changed.notify_all()
        for answer in answers:
            await client.publish(topics.receipt(device), answer.encode(), qos=1)

    def _answers(self, payload):
        envelope = parse_envelope(payload)
        header = envelope.header
        place = (header.epoch, header.seq)
        self.envelopes.setdefault(place, []).append(payload)
        if self.silent:
            return []
        if place in self.lose:
            self.lose.discard(place)
            return []
        if self.reject_with is not None:
            self.rejects.append(place)
            return [Reject(*place, self.reject_with, "as the test wants")]
        if place not in self.headers:
            if self.last is None and header.seq > 0:
                return self._out_of_order(place)
            try:
                batch.check_succession(header, self.last)
            except batch.VerificationError:
                return self._out_of_order(place)
            envelope.check_root()
            batch.check_header_signature(envelope.header_bytes, envelope.signature, 1, self.signer.public_key)
            index = self.log.append(BatchEntry(envelope.header_bytes, envelope.signature).encode())
            self.headers[place] = (envelope.header_bytes, index)
            self.bodies[place] = envelope.bodies[1:]
            self.last = (*place, batch.header_hash(envelope.header_bytes))
        known, index = self.headers[place]
        assert known == envelope.header_bytes, f"equivocation at {place}"
        answers = [Stored(*place, index)] if self.stores else []
        if self.receipts:
            answers.append(self.log.receipt([(*place, index)], self.known_size))
            self.known_size = len(self.log.entries)
        return answers

    def _out_of_order(self, place):
        self.rejects.append(place)
        return [Reject(*place, Reason.OUT_OF_ORDER, "as the test wants")]
