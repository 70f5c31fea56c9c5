"""Too much from one device: counted, named, shut out; nobody else waits for long, and memory stays what it was."""

import random
import statistics
import threading
from contextlib import ExitStack

import pytest

from aggregator.floods import BURST, read_floods
from ledger.envelope import MAX_ENVELOPE
from ledger.messages import Reason
from tests.aggregator.gateway import until
from vitalseal import topics

from .scene import RESEND_S, Talk
from .wire import Flood, publish

# A flood is found within a second, the broker's lists follow within another, its queue to us is empty after two more.
# What another device sent meanwhile the broker may have dropped; it sends that again after 3 s of silence.
WORST_S = 2 * RESEND_S + 2.0
MEDIAN_S = 1.0
MORE_MEMORY_MB = 64  # the intake's bound, which a flood may fill for a moment


def malformed(rng, whole):
    """Payloads that are no envelope, each of another kind; `whole` is one."""
    return rng.choice(
        (
            lambda: rng.randbytes(rng.randrange(300)),
            lambda: whole[: rng.randrange(len(whole))],
            lambda: b"\x91" * rng.randrange(1, 5000),  # arrays in arrays
            lambda: (
                b"\x96\x01" + rng.choice((b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff"))
            ),
            lambda: b"\x96\x01\xc5" + rng.randbytes(40),
            lambda: whole + b"\x00",
            lambda: b"",
        )
    )()


def test_malformed_payloads_at_volume(scene, honest, culprit):
    """Two thousand of them, below what counts as a flood: each is refused and counted, by reason."""
    rng = random.Random(1)
    whole = Talk(scene, culprit).next_batch()
    payloads = [payload for payload in (malformed(rng, whole) for _ in range(2000)) if payload != whole]
    before, memory = scene.decisions(), scene.memory_mb()
    topic = topics.batch(culprit.name)
    with Flood(scene.port, culprit.context(), [publish(topic, payload, 1) for payload in payloads], times=1) as flood:
        waits = [honest.go_on() for _ in range(10)]
        flood.join()

    def refused():
        counts = scene.status()["decisions"]
        names = ("malformed", "over_quota", "bad_root")
        return sum(counts.get(name, 0) - before.get(name, 0) for name in names)

    until(lambda: refused() == len(payloads), "every one is counted")
    assert scene.memory_mb() - memory < MORE_MEMORY_MB
    assert max(waits) < WORST_S
    scene.sees(f"batch of {culprit.name} rejected: malformed: envelope: ")
    assert culprit.name not in read_floods(scene.data, 0)


def test_payload_that_is_too_large(scene, honest, culprit):
    """A little too large, and admission says so; larger than that, and the broker drops it, without a word."""
    with Talk(scene, culprit) as evil, scene.counting(too_large=1):
        evil.refused(b"x" * (MAX_ENVELOPE + 1), Reason.TOO_LARGE)
    scene.sees(f"batch of {culprit.name} rejected: too_large: ")
    packet = publish(topics.batch(culprit.name), b"x" * 2 * MAX_ENVELOPE, 1)
    with scene.counting(admitted=1, too_large=0, malformed=0):
        with Flood(scene.port, culprit.context(), [packet] * 50, times=1) as flood:
            flood.join()
        honest.go_on()


def small(talk):
    """Good ones: each the next of its chain, then those of which one before is missing; and then all of it again."""
    envelopes = [talk.next_batch(count=1) for _ in range(4000)]
    return envelopes[:2000] + envelopes[2001:]


def large(_talk):
    """As large as an envelope may be, and none."""
    return [b"x" * MAX_ENVELOPE]


@pytest.mark.parametrize("kind", [small, large])
def test_flood_by_an_enrolled_device(scene, honest, culprit, kind, record_testsuite_property):
    """As fast as the broker takes it: three others go on while it does, and the operator is told who it is."""
    with ExitStack() as stack:
        others = [honest, *(stack.enter_context(Talk(scene, scene.enrolled())) for _ in range(2))]
        with Talk(scene, culprit) as evil:
            packets = [publish(topics.batch(culprit.name), payload, 1) for payload in kind(evil)]
        memory = scene.memory_mb()
        waits, later = [], []
        shut_out = threading.Event()

        def measure(talk):
            while not shut_out.is_set():
                waits.append(talk.go_on())
            waits.append(talk.go_on())  # the broker's queue may be full still
            later.extend(talk.go_on() for _ in range(20))

        threads = [threading.Thread(target=measure, args=(talk,)) for talk in others]
        with Flood(scene.port, culprit.context(), packets * (64 // len(packets) + 1)) as flood:
            for thread in threads:
                thread.start()
            scene.sees(f"{culprit.name} FLOODS and is shut out for 600 s")
            shut_out.set()
            for thread in threads:
                thread.join()
            assert flood.is_alive()
        median, worst = statistics.median(later), max(waits + later)
        said = f"{flood.sent} messages sent; others waited {worst:.2f} s at worst, {median:.3f} s in the end (median)"
        record_testsuite_property(f"flood of {kind.__name__} batches", said)
        assert flood.sent > BURST / 9  # a large one counts as nine
        assert worst < WORST_S
        assert median < MEDIAN_S
        assert scene.memory_mb() - memory < MORE_MEMORY_MB
        for talk in others:
            talk.all_receipted()
            assert talk.rejects() == []
    assert f"{culprit.name} FLOODS and is shut out until " in scene.command("status")
    assert "times shut out for ten minutes" in scene.command("devices", culprit.name)
    # It is out: what it sends now, the broker does not take.
    with Talk(scene, culprit) as evil:
        assert evil.publish(topics.batch(culprit.name), b"more") == "Not authorized"
