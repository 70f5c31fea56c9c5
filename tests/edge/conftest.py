"""An edge agent for tests: its configuration, key and a source that yields what a test feeds it."""

import asyncio
import contextlib
import dataclasses
import random

import pytest

from edge.agent import Agent
from edge.clock import Moment
from edge.config import BatchingConfig, BrokerConfig, EdgeConfig
from edge.database import Owner
from edge.key import create_key, load_key
from edge.outbox import Outbox
from edge.seal import Sealer
from edge.source import Chunk, Measured
from edge.window import Backoff, Pace
from ledger.info import Clock
from ledger.keys import key_id
from ledger.reading import Scalar
from tests.edge.standin import ORIGIN, POLICY_TEXT, StandIn, policy

SOURCE_ID = bytes(range(8))
# Seconds become hundredths: the same machine, faster.
QUICK = Pace(Backoff(0.1, 0.1, 0.5), Backoff(0.1, 0.1, 0.5), Backoff(0.1, 0.1, 0.5))


IN_2027_NS = 1_800_000_000 * 10**9
BOOT_ID = b"boot".ljust(16)


class HandClock:
    """A clock that a test sets: `now` is what it says, and time passes only where a test says so."""

    def __init__(self, wall_ns=IN_2027_NS, clock=Clock.SYNCHRONISED, boot_id=BOOT_ID):
        self.now = Moment(wall_ns, 50 * 10**9, boot_id, clock, 1000 if clock == Clock.SYNCHRONISED else None)

    def read(self):
        return self.now

    def passes(self, seconds):
        """Both clocks go on."""
        self.steps(seconds, monotonic_s=seconds)

    def steps(self, seconds, *, monotonic_s=0, clock=None):
        """The wall clock is set, and its state with it."""
        self.now = dataclasses.replace(
            self.now,
            wall_ns=self.now.wall_ns + round(seconds * 10**9),
            monotonic_ns=self.now.monotonic_ns + round(monotonic_s * 10**9),
            clock=self.now.clock if clock is None else clock,
        )


class FedSource:
    """Yields what is fed; its cursor is the count of readings so far, and it can replay them all."""

    def __init__(self, name="fed", source_id=SOURCE_ID, description="a test"):
        self.name = name
        self.source_id = source_id
        self.description = description
        self.items = []
        self.ended = False
        self.chunk = 50
        self._more = asyncio.Event()

    def feed(self, count, *, start=None):
        """`count` more heart rates."""
        start = len(self.items) if start is None else start
        self.items += [measured(start + at) for at in range(count)]
        self._more.set()

    def end(self):
        self.ended = True
        self._more.set()

    async def readings(self, cursor):
        at = int(cursor or 0)
        while True:
            self._more.clear()
            while at < len(self.items):
                items = self.items[at : at + self.chunk]
                at += len(items)
                yield Chunk(tuple(items), str(at).encode())
            if self.ended:
                return
            await self._more.wait()


def measured(at):
    return Measured(1, 1_700_000_000_000_000_000 + at * 10**9, Scalar(60 + at % 40, 0))


@pytest.fixture
def directory(tmp_path):
    """Key and policy are there."""
    create_key(tmp_path / "edge.key")
    (tmp_path / "policy.txt").write_text(POLICY_TEXT)
    return tmp_path


@pytest.fixture
def signer(directory):
    return load_key(directory / "edge.key")


@pytest.fixture
def owner(directory, signer):
    """Whose outbox a test's is."""
    return owner_of(directory, signer)


def owner_of(directory, signer, device="dev-1"):
    return Owner(device, ORIGIN, key_id(signer.algorithm, signer.public_key), directory / "edge.key")


@pytest.fixture
def source():
    return FedSource()


def make_config(directory, broker=None, **others):
    """The configuration of a quick agent on `broker`; without one, on a port where nobody listens."""
    where = BrokerConfig(port=1)
    if broker:
        named = isinstance(broker, BrokerConfig)
        where = broker if named else BrokerConfig(port=broker.port, protocol=broker.protocol)
    return EdgeConfig(
        device="dev-1",
        origin=ORIGIN,
        key=directory / "edge.key",
        policy=directory / "policy.txt",
        data=directory / "data",
        broker=where,
        batching=BatchingConfig(max_readings=100, max_age_s=0.05, commit_s=0.02),
        directory=directory,
        **others,
    )


@pytest.fixture
def agent_for(directory, signer):
    """Makes agents on one outbox."""

    def make(broker, *sources, pace=QUICK, companions=(), clock=None, signer=signer, **others):
        return Agent(
            make_config(directory, broker, **others),
            signer=signer,
            policy=policy(),
            sources=sources,
            companions=companions,
            rng=random.Random(1),
            pace=pace,
            clock=clock,
        )

    return make


@pytest.fixture
async def standin(broker, signer):
    """A good aggregator on `broker`."""
    async with StandIn(broker, signer) as standin:
        yield standin


@pytest.fixture
def path(directory):
    """Where the outbox is."""
    return directory / "outbox.db"


@pytest.fixture
def outbox(path, owner):
    """An outbox with a source."""
    outbox = Outbox(path, owner)
    outbox.register(SOURCE_ID, "a test")
    with contextlib.closing(outbox):
        yield outbox


@pytest.fixture
def sealer(signer):
    """Seals with the device's key."""
    return Sealer(signer, ORIGIN)
