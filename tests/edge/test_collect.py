"""Collecting: whatever a source gave is accepted, also in the moment of stopping."""

import asyncio
import random

import pytest

from edge import collect
from edge.collect import Collector
from edge.source import Chunk
from tests.edge.conftest import HandClock, measured


class Radio:
    """Cannot replay: what it yields and nobody accepts is gone. It gives one chunk per turn of the event loop."""

    name = "radio"
    source_id = b"12345678"
    description = "a test"

    def __init__(self, stop_at=None):
        self.given = []
        self.stop_at = stop_at
        self.collector = None

    async def readings(self, _cursor):
        while True:
            if len(self.given) == self.stop_at:
                self.collector.stop()
            self.given.append(measured(len(self.given)).sensor_time_ns)
            yield Chunk((measured(len(self.given) - 1),))
            await asyncio.sleep(0)


def collector(source, accept, commit_s=0.001):
    async def cursor(_name):
        return None

    return Collector([source], commit_s=commit_s, cursor=cursor, accept=accept, clock=HandClock(), rng=random.Random(1))


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("stop_at", [1, 2, 3])
async def test_stopping_accepts_everything_that_was_given(monkeypatch, stop_at, turns):
    """However many turns a commit takes: until its task has ended, a source may still give something."""
    monkeypatch.setattr(collect, "URGENT_READINGS", 1)
    accepted = []

    async def accept(deliveries):
        for _ in range(turns):
            await asyncio.sleep(0)
        accepted.extend(time_ns for delivery in deliveries for _, time_ns, _ in delivery.readings)

    source = Radio(stop_at)
    source.collector = collector(source, accept)
    async with asyncio.timeout(10):
        await source.collector.run()
    assert accepted == source.given


async def test_stopping_while_the_queue_is_full_accepts_what_was_given(monkeypatch):
    """A source that is held back has given its last chunk already."""
    monkeypatch.setattr(collect, "MAX_QUEUED_BYTES", 1)
    accepted = []
    committing, go_on = asyncio.Event(), asyncio.Event()

    async def accept(deliveries):
        committing.set()
        await go_on.wait()
        accepted.extend(time_ns for delivery in deliveries for _, time_ns, _ in delivery.readings)

    source = Radio()
    running = collector(source, accept)
    task = asyncio.create_task(running.run())
    async with asyncio.timeout(10):
        await committing.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        running.stop()
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
        await task
    assert accepted == source.given


async def test_chunks_without_readings_fill_the_queue_too(monkeypatch):
    """A stream of nonsense into a disk that is full must not become a queue without end."""
    monkeypatch.setattr(collect, "MAX_QUEUED_BYTES", 5000)
    given = 0

    class Nonsense(Radio):
        async def readings(self, _cursor):
            nonlocal given
            while given < 1000:
                given += 1
                yield Chunk((), str(given).encode(), refused=1)
                await asyncio.sleep(0)

    async def accept(_deliveries):
        await asyncio.Event().wait()

    task = asyncio.create_task(collector(Nonsense(), accept).run())
    for _ in range(3000):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert given < 100


async def test_source_that_fails_is_a_trouble_until_it_gives_something():
    """In words that hold no reading; and a source may say so itself."""
    found = []

    class Failing(Radio):
        tries = 0

        async def readings(self, cursor):
            found.append(self.collector.troubles())
            self.tries += 1
            if self.tries == 1:
                raise PermissionError(13, "Permission denied", "wrist.ndjson")
            async for chunk in super().readings(cursor):
                found.append(self.collector.troubles())
                yield chunk

    async def accept(_deliveries):
        pass

    source = Failing(2)
    source.collector = collector(source, accept)
    async with asyncio.timeout(10):
        await source.collector.run()
    failed = {source.name: "wrist.ndjson: Permission denied"}
    assert found[:3] == [{}, failed, failed]
    assert source.collector.troubles() == {}
    source.trouble = "out of reach"
    assert source.collector.troubles() == {source.name: "out of reach"}
